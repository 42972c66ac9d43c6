"""Makes a container that was restored without runc known to runc, when runc is first needed.

What runc knows of a container is its file state.json, private to the release that wrote it. So
runc writes it: a *stand-in* is created from the same bundle, in a control group of its own and
never started, and its state is taken over with the pids, namespaces, groups and streams of the
restored process. From then on exec, checkpoint, pause and all else work. Measured: 90 ms, which a
restore need not wait for.

The stand-in has an empty root and empty places instead of volumes, named by their paths, which the
state then has replaced: it depends on nothing that may have changed since the container was
started, and changes nothing of it. Needs root.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotstart.core.log import get_logger
from hotstart.kernel.cgroup import Group
from hotstart.kernel.pidfd import ProcessIdentity
from runtime.bundle import read_config
from runtime.container_directory import ContainerDirectory, running_process
from runtime.containers import end_group, stand_in_of
from runtime.direct_restore import ORDER_FILE
from runtime.runc import NotRunning, Runc, RuncFailed

log = get_logger(__name__)

_STATE = "state.json"
_NEEDED = ("init_process_pid", "init_process_start", "external_descriptors")


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
        try:
            with _stand_in(directory, runc) as made:
                _take_over(directory, runc, made, process)
        except (OSError, ValueError) as err:
            raise RuncFailed(directory.name, "create", f"its state: {err}") from err
    log.info("container_adopted", container=directory.name)


@dataclass(frozen=True, slots=True)
class _StandIn:
    """What runc wrote, and which texts in it stand for which of the container's."""

    state: dict[str, Any]
    stands_for: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def _locked(directory: ContainerDirectory) -> Iterator[None]:
    lock = os.open(directory.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def _stand_in(directory: ContainerDirectory, runc: Runc) -> Iterator[_StandIn]:
    """Create the stand-in for the block."""
    place = directory.path / "stand-in"
    config = read_config(directory)
    group = Group.named(config["linux"]["cgroupsPath"])
    other = runc.elsewhere(place / "runc")
    _end(place, stand_in_of(group))  # of an agent that died meanwhile
    try:
        stands_for = _furnish(place, config, directory)
        stands_for[stand_in_of(group).path] = group.path
        config["linux"]["cgroupsPath"] = stand_in_of(group).path
        fd = os.open(place / "config.json", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(config, file)
        other.create(place)
        yield _StandIn(json.loads((other.state_directory / _STATE).read_bytes()), stands_for)
    finally:
        _end(place, stand_in_of(group))


def _end(place: Path, group: Group) -> None:
    """Remove a stand-in. Not by runc, which waits for 100 ms after each signal."""
    end_group(group)
    shutil.rmtree(place, ignore_errors=True)


def _furnish(place: Path, config: dict[str, Any], directory: ContainerDirectory) -> dict[str, str]:
    """Make the stand-in's places and put them into its config; return what each stands for."""
    place.mkdir(mode=0o700)
    stands_for: dict[str, str] = {}

    def put(name: str, real: str, *, as_directory: bool) -> str:
        made = place / name
        if as_directory:
            made.mkdir()
        else:
            made.touch()
        stands_for[str(made)] = real
        return str(made)

    config["root"]["path"] = put("rootfs", config["root"]["path"], as_directory=True)
    own = (str(directory.dev), str(directory.shm))
    for number, mount in enumerate(config["mounts"]):
        source = mount["source"]
        if mount["type"] == "bind" and source not in own:
            # With a suffix, so that no name is the beginning of another.
            place_name = f"volume-{number}-"
            mount["source"] = put(place_name, source, as_directory=not os.path.isfile(source))
    config["process"] |= {"args": ["/proc/self/exe"], "cwd": "/"}
    stands_for[str(place)] = str(directory.bundle)
    return stands_for


def _take_over(
    directory: ContainerDirectory, runc: Runc, made: _StandIn, process: ProcessIdentity
) -> None:
    """Write the restored process's state from the stand-in's, whole or not at all."""
    lacking = [name for name in _NEEDED if name not in made.state]
    if lacking:
        raise RuncFailed(directory.name, "create", f"its state has no {', '.join(lacking)}")
    was = f"/proc/{made.state['init_process_pid']}/"
    state = _changed(made.state, {**made.stands_for, was: f"/proc/{process.pid}/"}) | {
        "init_process_pid": process.pid,
        "init_process_start": process.start_ticks,
        "external_descriptors": _streams_of(directory),
    }
    staged = runc.state_directory.with_name(f".{directory.name}.staged")
    for old in (staged, runc.state_directory):
        shutil.rmtree(old, ignore_errors=True)
    staged.mkdir(mode=0o711, parents=True)
    (staged / _STATE).write_text(json.dumps(state))
    staged.rename(runc.state_directory)


def _streams_of(directory: ContainerDirectory) -> list[str]:
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
