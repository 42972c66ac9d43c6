"""A further program in a container: its three pipes to the caller and back, its exit status.

Three threads copy, so that none waits for another. The end of the program ends them; what a child
of the program still holds open is not waited for beyond a moment. A caller who goes away kills it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import IO, Any

from agent.calls import Output
from agent.long_call import LongCall
from agent.values import ExecSpec
from hotstart.core.errors import UserError
from runtime.bundle import exec_process
from runtime.container_directory import ContainerDirectory
from runtime.execution import execute
from runtime.runc import Runc

_PIECE = 64 * 1024
_LINGER_S = 2.0


def run_exec(
    directory: ContainerDirectory,
    runc: Runc,
    spec: ExecSpec,
    *,
    stdin: Iterator[bytes],
    output: Output,
    call: LongCall[Any],
) -> int:
    """Run the program to its end and return its exit status.

    Raises ProgramNotFound, RuncFailed, UserError for what cannot be, such as an unknown user.
    """
    _check(spec)
    process = exec_process(
        directory,
        spec.argv,
        env=spec.env,
        workdir=spec.workdir or None,
        user=spec.user or None,
    )
    said = bytearray()
    with execute(directory, runc, process) as execution:

        def pass_on(stream: str, data: bytes) -> None:
            if stream == "stderr" and not execution.await_start():
                said.extend(data)
            else:
                output(stream, data)

        call.on_cancel(execution.kill)
        call.check()  # it may have come while the program was started
        started = execution.process
        readers = [
            _thread(_copy_out, "stdout", _pipe(started.stdout), pass_on),
            _thread(_copy_out, "stderr", _pipe(started.stderr), pass_on),
        ]
        _thread(_copy_in, stdin, _pipe(started.stdin))
        status = execution.wait()
        for reader in readers:
            reader.join(_LINGER_S)
        execution.check_started(bytes(said))
    call.check()
    return status


def _check(spec: ExecSpec) -> None:
    """Raise UserError for what runc would take as something else, or refuse in its own words."""
    for entry in spec.env:
        if entry.find("=") < 1 or "\0" in entry:
            raise UserError(f"not an environment entry: {entry[:80]!r}", "write KEY=VALUE")
    if spec.workdir and not spec.workdir.startswith("/"):
        raise UserError(f"working directory {spec.workdir[:80]!r} is not absolute", "begin with /")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise AssertionError("execute makes three pipes")
    return stream


def _thread(work: Any, *arguments: object) -> threading.Thread:  # noqa: ANN401  # any function
    thread = threading.Thread(target=work, args=arguments, name="exec-pipe", daemon=True)
    thread.start()
    return thread


def _copy_out(stream: str, source: IO[bytes], output: Output) -> None:
    with contextlib.suppress(OSError, ValueError):  # closed at the end of the block
        while data := os.read(source.fileno(), _PIECE):
            output(stream, data)


def _copy_in(pieces: Iterator[bytes], target: IO[bytes]) -> None:
    """Feed the program; its end, or that of its stdin, ends this."""
    try:
        with contextlib.suppress(OSError, ValueError):
            for piece in pieces:
                target.write(piece)
                target.flush()
    finally:
        with contextlib.suppress(OSError, ValueError):
            target.close()
