"""Makes a container that was restored without runc known to runc, when runc is first needed.

What runc knows of a container is its file state.json, private to the release that wrote it. So
runc writes it: a *stand-in* is created from the same bundle, in a control group of its own and
never started, and its state is taken over with the pids, namespaces, groups and streams of the
restored process. From then on exec, checkpoint, pause and all else work. Measured: 90 ms, which a
restore need not wait for. Needs root.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hotstart.core.log import get_logger
from hotstart.kernel.cgroup import Group
from hotstart.kernel.pidfd import ProcessIdentity
from runtime.bundle import read_config
from runtime.container_directory import ContainerDirectory, running_process
from runtime.direct_restore import ORDER_FILE
from runtime.runc import NotRunning, Runc, RuncFailed

log = get_logger(__name__)

_STATE = "state.json"


def adopt(directory: ContainerDirectory, runc: Runc) -> None:
    """Make the container known to runc, unless it is. Any number of callers at once.

    Raises NotRunning or RuncFailed; the container goes on as before.
    """
    if runc.knows_it():
        return
    with _locked(directory):
        if runc.knows_it():
            return
        process = running_process(directory)
        if process is None:
            raise NotRunning(directory.name)
        with _stand_in(directory, runc) as (text, group):
            _take_over(directory, runc, text, group, process)
    log.info("container_adopted", container=directory.name)


@contextmanager
def _locked(directory: ContainerDirectory) -> Iterator[None]:
    lock = os.open(directory.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def _stand_in(directory: ContainerDirectory, runc: Runc) -> Iterator[tuple[str, str]]:
    """Create the stand-in for the block; give its state.json and its control group's path."""
    place = directory.path / "stand-in"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    config = read_config(directory)
    group = Group.named(f"{config['linux']['cgroupsPath']}-stand-in")
    config["linux"]["cgroupsPath"] = group.path
    other = runc.elsewhere(place / "runc")
    try:
        fd = os.open(place / "config.json", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(config, file)
        other.create(place)
        yield (other.state_directory / _STATE).read_text(), group.path
    finally:
        # Not by runc, which waits for 100 ms after each signal; nothing else of it would be left.
        group.kill()
        group.remove()
        shutil.rmtree(place, ignore_errors=True)


def _take_over(
    directory: ContainerDirectory, runc: Runc, text: str, group: str, process: ProcessIdentity
) -> None:
    """Write the restored process's state from the stand-in's, whole or not at all."""
    state = json.loads(text)
    here = read_config(directory)["linux"]["cgroupsPath"]
    try:
        changes = {
            f"/proc/{state['init_process_pid']}/": f"/proc/{process.pid}/",
            group: here,
            str(directory.path / "stand-in"): str(directory.bundle),
        }
        state = _changed(state, changes) | {
            "init_process_pid": process.pid,
            "init_process_start": process.start_ticks,
            "external_descriptors": streams_of(directory),
        }
    except KeyError as err:
        raise RuncFailed(directory.name, "create", f"its state has no {err}") from err
    staged = runc.state_directory.with_name(f".{directory.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(mode=0o711, parents=True)
    (staged / _STATE).write_text(json.dumps(state))
    staged.rename(runc.state_directory)


def streams_of(directory: ContainerDirectory) -> list[str]:
    """Return what CRIU calls the pipes that the front of CRIU had as streams."""
    return (directory.criu / f"{ORDER_FILE}.streams").read_text().split("\n")


def _changed(value: Any, changes: Mapping[str, str]) -> Any:  # noqa: ANN401  # JSON
    """Return the value with each text in ``changes`` replaced, in every string of it."""
    if isinstance(value, str):
        for old, new in changes.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, list):
        return [_changed(one, changes) for one in value]
    if isinstance(value, dict):
        return {name: _changed(one, changes) for name, one in value.items()}
    return value
