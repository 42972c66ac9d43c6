"""Brings a frozen process back to life in a container directory of its own.

Everything it needs is mounted already: the image, and the snapshot with ``dump/``, ``upper/`` and
``shm/``. What is made here is undone by the caller's ExitStack unless the process runs: tmpfs,
overlay, page session. CRIU reads the dump through the mount; memory comes from the page worker.
Needs root.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hotstart.core.errors import HotstartError, UserError
from hotstart.core.phases import Phases
from hotstart.core.run import CommandFailed, run
from hotstart.kernel.cgroup import Group
from hotstart.store.page_runs import Run
from hotstart.store.snapshot_config import SnapshotConfig
from runtime.bundle import write_bundle
from runtime.conmon import Conmon, MonitorFailed
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.containers import end_processes
from runtime.dev_shm import mount_dev_shm
from runtime.direct_restore import DirectRestore
from runtime.links import Network
from runtime.rootfs import mount_rootfs, write_resolver
from runtime.runc import Programs, Runc, RuncFailed
from runtime.snapshot_files import DUMP, SHM, UPPER, remember_lower_upper, write_criu_config
from snapshotter.condemn import CRIU_ENDED, failure_of
from snapshotter.criu import CriuFront
from snapshotter.dump_reasons import explain
from snapshotter.page_sessions import SessionUnknown
from snapshotter.session_holder import SPEC_FILE
from snapshotter.session_spec import MemoryFileSpec, PageRun, SessionSpec

RESTORE_LOG = "restore.log"
_POLL_S = 0.005


class RestoreFailed(HotstartError):
    """CRIU or the page worker could not bring the process back; nothing of it runs."""

    def __init__(self, container: str, reason: str) -> None:
        super().__init__(f"{container}: the snapshot cannot be restored: {reason}")
        self.reason = reason


class PageSessions(Protocol):
    """What is used of ``PageClient``."""

    def open_session(self, spec: SessionSpec) -> str:
        """Begin a session."""

    def close(self, session: str, *, force: bool = False) -> None:
        """Forget it."""

    def background_fill(self, session: str) -> None:
        """Make everything resident."""

    def recording(self, session: str) -> list[tuple[float, int, int]]:
        """Return first touches: (milliseconds, memory file, page)."""

    def session_stats(self, session: str) -> dict[str, Any]:
        """Return state, failure and counters."""


@dataclass(frozen=True, slots=True)
class ThawTools:
    """What every restore of one agent uses."""

    programs: Programs
    front: CriuFront
    pages: PageSessions
    around_runc: bool = True
    """Start CRIU directly where this host can (direct_restore.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawPlan:
    """One restore. ``directory`` exists and is empty; paths are mounted trees.

    ``memory`` are the dump's memory files by number, ``order`` the working set in them. With
    ``record`` the page worker notes first touches. ``resolv_conf`` is the text for this network.
    """

    directory: ContainerDirectory
    spec: ContainerSpec
    config: SnapshotConfig
    image: Path
    snapshot: Path
    memory: tuple[MemoryFileSpec, ...]
    order: Sequence[Run]
    network: Network
    cgroup: str
    resolv_conf: str
    record: bool = False


@dataclass(frozen=True, slots=True)
class Thawed:
    """A process that runs again; ``session`` is its page session."""

    pid: int
    runc: Runc
    session: str


def thaw(plan: ThawPlan, tools: ThawTools, phases: Phases, undo: ExitStack) -> Thawed:
    """Restore the process and return once it runs. Raises RestoreFailed, UserError.

    ``undo`` gets what has to be undone if the caller gives up later.
    """
    directory = plan.directory
    check_volumes(plan.spec, plan.config)
    env = environment(plan.spec, tools.front)
    with ThreadPoolExecutor(1, thread_name_prefix="page-session") as beside:
        opening = beside.submit(_open_session, plan, tools.pages)
        try:
            with phases.phase("rootfs"):
                _mount(plan, undo)
            with phases.phase("bundle"):
                _write_bundle(plan)
        except BaseException:
            with suppress(HotstartError):
                tools.pages.close(opening.result(), force=True)
            raise
        with phases.phase("page_session"):
            session = opening.result()
    undo.callback(_close_session, tools.pages, session)
    runc = Runc(tools.programs, directory, env=env)
    # Before the session is closed: whoever waits for memory must be gone first.
    undo.callback(end_processes, runc, Group.named(plan.cgroup))
    with phases.phase("criu"):
        pid = _restore(plan, tools, env)
    return Thawed(pid, runc, session)


def check_volumes(spec: ContainerSpec, config: SnapshotConfig) -> None:
    """Raise UserError unless exactly the volumes of the frozen container are given again.

    What was read-only is so again, and nothing else is: a restored mount has its frozen mode.
    """
    given = {volume.frozen_as for volume in spec.volumes}
    missing = [volume for volume in config.volumes if volume not in given]
    if missing:
        raise UserError(
            f"{spec.name}: the snapshot had volumes at {', '.join(missing)}",
            "give each again with -v HOST:CONTAINER, or :ro after it where it was read-only",
        )
    foreign = sorted(given - set(config.volumes))
    if foreign:
        raise UserError(
            f"{spec.name}: the snapshot had no volume at {', '.join(foreign)}",
            "a restored process cannot be given a volume that it did not have",
        )


def environment(spec: ContainerSpec, front: CriuFront) -> dict[str, str]:
    """Return what runc, or CRIU without it, gets beside its own environment."""
    below_run = any(Path(volume.host).resolve().is_relative_to("/run") for volume in spec.volumes)
    return front.environment(plain_run=below_run)


def session_spec(plan: ThawPlan) -> SessionSpec:
    """Return the page session of a restore."""
    directory = plan.directory
    groups = Group.named(plan.cgroup).directories()
    return SessionSpec(
        session=f"{directory.name}-{secrets.token_hex(4)}",
        work_dir=str(directory.criu),
        dump_dir=str(plan.snapshot / DUMP),
        memory_files=plan.memory,
        order=tuple(PageRun(run.device, run.first_page, run.pages) for run in plan.order),
        record=plan.record,
        cgroup_procs=tuple(str(group / "cgroup.procs") for group in groups),
        process_file=str(directory.process_file),
    )


def make_resident(directory: ContainerDirectory, pages: PageSessions) -> None:
    """Bring all memory of a restored container in, so that it needs no page worker any more.

    A dump sees only what is there: pages that nobody has asked for yet would be lost to it. For a
    container that was started cold nothing happens. Blocks; raises RestoreFailed.
    """
    try:
        session = SessionSpec.from_json((directory.criu / SPEC_FILE).read_bytes()).session
    except FileNotFoundError:
        return
    with suppress(SessionUnknown):
        pages.background_fill(session)
        while pages.session_stats(session)["state"] in ("waiting", "restoring", "running"):
            time.sleep(_POLL_S)
    reason = failure_of(directory.criu)
    if reason is not None:
        raise RestoreFailed(directory.name, reason)


def _open_session(plan: ThawPlan, pages: PageSessions) -> str:
    return pages.open_session(session_spec(plan))


def _close_session(pages: PageSessions, session: str) -> None:
    with suppress(HotstartError):
        pages.close(session, force=True)


def _mount(plan: ThawPlan, undo: ExitStack) -> None:
    directory = plan.directory
    undo.callback(directory.unmount_all)
    mount_dev_shm(directory.dev, directory.shm)
    frozen_shm = plan.snapshot / SHM
    if plan.config.upper and any(frozen_shm.iterdir()):
        _copy_shm(frozen_shm, directory)
    lowers = [plan.image]
    if plan.config.upper:
        lowers.insert(0, plan.snapshot / UPPER)
        remember_lower_upper(directory, plan.snapshot / UPPER)
    mount_rootfs(lowers, directory.upper, directory.work, directory.rootfs)
    write_resolver(directory.rootfs, plan.resolv_conf)


def _copy_shm(frozen: Path, directory: ContainerDirectory) -> None:
    """Fill /dev/shm as the capture emptied it: owners, modes, times, fifos, holes."""
    try:
        run(["cp", "-a", "--sparse=always", "--", f"{frozen}/.", str(directory.shm)])
    except CommandFailed as err:
        raise RestoreFailed(directory.name, f"its /dev/shm: {err}") from err


def _write_bundle(plan: ThawPlan) -> None:
    """The process runs already in the dump; the bundle says what exec and limits start from."""
    config = plan.config
    image: Mapping[str, Any] = {
        "config": {
            "Entrypoint": list(config.argv),
            "Env": list(config.env),
            "WorkingDir": config.workdir,
            "User": config.user,
        }
    }
    write_bundle(
        plan.directory,
        plan.spec,
        image,
        netns=plan.network.path,
        cgroup=plan.cgroup,
        criu_config=write_criu_config(plan.directory),
        look_up_user=False,
    )


def _restore(plan: ThawPlan, tools: ThawTools, env: Mapping[str, str]) -> int:
    directory, dump = plan.directory, plan.snapshot / DUMP
    direct = DirectRestore(tools.programs, tools.front, directory)
    try:
        if tools.around_runc and direct.prepare():
            return direct.restore(dump, RESTORE_LOG, env)
        conmon = Conmon(tools.programs, directory, env=env)
        return conmon.restore(dump, directory.criu, ["--lazy-pages", "--file-locks"])
    except (RuncFailed, MonitorFailed, OSError) as err:
        raise RestoreFailed(directory.name, _reason(directory, err)) from err


def _reason(directory: ContainerDirectory, error: RuncFailed | MonitorFailed | OSError) -> str:
    failure = failure_of(directory.criu)
    log = directory.criu / RESTORE_LOG
    if log.is_file():
        found = explain(log.read_text(errors="replace"))
        if failure in (None, CRIU_ENDED) or not found.what.startswith("CRIU"):
            return str(found)
    return failure or (error.reason if isinstance(error, RuncFailed) else str(error))
