"""Bare CRIU beneath the page worker: a keeper with its worker, a dump, a lazy restore."""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hotstart.kernel.keeper_client import KeeperClient, KeeperGone
from snapshotter.dump_directory import DumpDirectory
from snapshotter.page_client import PageClient
from snapshotter.session_spec import MemoryFileSpec, SessionSpec
from tests.waiting import wait_until

TORTURE = Path(__file__).with_name("torture.py")
CRIU = "/opt/hotstart/criu/bin/criu"
PYTHON = "/usr/bin/python3"
PR_SET_CHILD_SUBREAPER = 36
_WRITTEN_DOWN = """#!/bin/bash
[ "$CRTOOLS_SCRIPT_ACTION" = post-restore ] || exit 0
stat=$(< /proc/$CRTOOLS_INIT_PID/stat)
fields=(${{stat##*) }})
echo $CRTOOLS_INIT_PID ${{fields[19]}} $(< /proc/sys/kernel/random/boot_id) > {process}
"""


def wait_for(condition, what, timeout_s=60.0):
    """As ``wait_until``, with the time that a restore may take on a busy machine."""
    return wait_until(condition, what, timeout_s)


@contextmanager
def keeper_with_page_worker(run_dir, held=()):
    """Yield (KeeperClient, PageClient); both processes end with the block.

    The keeper has the sets of ``held`` before the worker starts.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    keeper_file = Path(sys.modules["hotstart.kernel.keeper_client"].__file__).with_name("keeper.py")
    with ExitStack() as stack:
        log = stack.enter_context(open(run_dir / "keeper.log", "wb"))
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(keeper_file), str(run_dir), "{}"],
            stdout=log,
            stderr=log,
        )

        def end():
            process.kill()
            process.wait()

        stack.callback(end)

        def connect():
            try:
                return KeeperClient(run_dir / "keeper.sock")
            except KeeperGone:
                return None

        keeper = stack.enter_context(wait_for(connect, "keeper"))
        for one in held:
            keeper.put(one)
        argv = [sys.executable, "-m", "snapshotter.page_worker", "--run-dir", str(run_dir)]
        keeper.supervise("page", argv, {})
        client = PageClient(run_dir / "page.sock")
        client.ping()
        yield keeper, client


class Restored:
    """The torture program: dumped once, restored lazily as often as asked."""

    def __init__(self, directory, seed=7):
        # Restored processes become our children, so that we can collect them.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.directory = directory
        self.dump_dir = directory / "dump"
        self.dump_dir.mkdir()
        self.result = directory / "result"
        argv = ["setsid", PYTHON, "-S", "-E", str(TORTURE), str(self.result), str(seed)]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        wait_for(self.result.with_suffix(".ready").exists, "torture program")
        self._criu("dump", "-D", self.dump_dir, "-t", self.process.pid, "-o", "dump.log")
        self.process.wait()
        self.pid = 0

    def _criu(self, *words, check=True):
        done = subprocess.run([CRIU, *map(str, words), "-v4"], capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr

    def spec(self, session, work_dir, **more):
        files = tuple(
            MemoryFileSpec(str(self.dump_dir / name), (self.dump_dir / name).stat().st_size)
            for name in DumpDirectory(self.dump_dir).memory_files()
        )
        return SessionSpec(
            session,
            str(work_dir),
            str(self.dump_dir),
            files,
            process_file=str(work_dir / "process"),
            **more,
        )

    def restore(self, work_dir, *, check=True):
        self.result.unlink(missing_ok=True)
        self.result.with_suffix(".go").unlink(missing_ok=True)
        self._criu(
            "restore",
            "-D",
            self.dump_dir,
            "-W",
            work_dir,
            "-o",
            "restore.log",
            "--lazy-pages",
            "--restore-detached",
            "--pidfile",
            work_dir / "pid",
            "--action-script",
            self._written_down(work_dir),
            check=check,
        )
        pid_file = work_dir / "pid"
        self.pid = int(pid_file.read_text()) if check or pid_file.exists() else 0

    def _written_down(self, work_dir):
        """Return what has CRIU write down who the process is, before that runs."""
        script = work_dir / "written-down"
        script.write_text(_WRITTEN_DOWN.format(process=work_dir / "process"))
        script.chmod(0o700)
        return script

    def go(self):
        self.result.with_suffix(".go").touch()

    def outcome(self):
        wait_for(self.result.exists, "result of the torture program")
        return self.result.read_text()

    def end(self):
        """Kill and collect the process: its number must be free for the next restore."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid = 0
