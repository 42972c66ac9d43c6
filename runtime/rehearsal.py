"""Rehearsal: a snapshot proves itself before anybody can use it, and shows what it needs first.

For each golden request (or once, if there is none) the snapshot is restored from nothing, apart
from the world: a network with a loopback alone, volumes copied on write, nothing published. It
must become ready and answer as the frozen process did; else the snapshot fails with the
difference. What is touched on the way becomes the start bundle: file pages through a second,
recorded mount with the read-ahead and file validation that restores use, memory pages through the
page worker. Everything made here is gone at the end of each rehearsal.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from hotstart.core.phases import Phases
from hotstart.core.progress import Progress, ProgressSink
from hotstart.core.span import PAGE
from hotstart.kernel.mounts import overlay
from hotstart.store.page_runs import Run
from hotstart.store.trace import merge
from runtime.bundle import exec_process
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec, Volume
from runtime.execution import execute
from runtime.golden_client import send
from runtime.image_access import Mounted
from runtime.links import Network
from runtime.loaded_snapshot import LoadedSnapshot
from runtime.restore import RestoreTools
from runtime.runc import Runc
from runtime.snapshot_files import DUMP
from runtime.thaw import Thawed, ThawPlan, thaw
from snapshotter.bundle_builder import MemoryExtent, Recording
from snapshotter.condemn import failure_of
from snapshotter.golden import Answer, GoldenRequest, compare

log = get_logger(__name__)

_AT_ONCE = 3


class RehearsalFailed(HotstartError):
    """The restored process did not do what the frozen one did; nothing is published."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the rehearsal of the snapshot failed: {reason}; nothing is published")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ExpectedGolden:
    """A golden request and what the frozen process answered."""

    request: GoldenRequest
    answer: Answer


def memory_extents(snapshot: LoadedSnapshot) -> list[MemoryExtent]:
    """Return where the memory files lie in the snapshot's device, by number."""
    device_id = snapshot.manifest.devices[0].device_id
    return [
        MemoryExtent(device_id, file.device_offset // PAGE, file.size_bytes // PAGE)
        for file in snapshot.config.memory_files
    ]


class Rehearsal:
    """Rehearses one snapshot that is in the store but not published. ``scratch`` is on disk."""

    def __init__(
        self,
        tools: RestoreTools,
        scratch: Path,
        snapshot: LoadedSnapshot,
        spec: ContainerSpec,
        progress: ProgressSink,
    ) -> None:
        self._tools = tools
        self._scratch = scratch
        self._snapshot = snapshot
        self._spec = spec
        self._progress = progress

    def run(self, goldens: Sequence[ExpectedGolden]) -> list[Recording]:
        """Rehearse once for each golden and return the recordings. Raises RehearsalFailed."""
        turns: Sequence[ExpectedGolden | None] = goldens or (None,)
        spec = self._snapshot.mount_spec()
        ahead = self._snapshot.config.read_ahead_kib
        recordings = []
        # Memory is read through the snapshot's usual mount, so that the recorded one sees only
        # what CRIU and the process read.
        memory = self._tools.images.mount(spec, read_ahead_kib=ahead)
        try:
            for number, golden in enumerate(turns):
                self._progress.update(Progress("rehearse", number, len(turns), "requests"))
                recordings.append(self._once(golden, memory))
        finally:
            memory.release()
        done = Progress("rehearse", len(turns), len(turns), "requests", finished=True)
        self._progress.update(done)
        return recordings

    def _once(self, golden: ExpectedGolden | None, memory: Mounted) -> Recording:
        snapshot, images = self._snapshot, self._tools.images
        ahead = snapshot.config.read_ahead_kib
        with ExitStack() as undo:
            own = undo.enter_context(
                images.mount_recording(snapshot.mount_spec(), read_ahead_kib=ahead)
            )
            image = undo.enter_context(
                images.mount_recording(snapshot.image_spec(), read_ahead_kib=ahead)
            )
            directory = self._directory(undo)
            network = self._tools.networks.isolated()
            undo.callback(self._tools.networks.release, network)
            plan = self._plan(directory, own.path, image.path, memory.path, network, undo)
            try:
                thawed = thaw(plan, self._tools.thaw, Phases(), undo)
                self._check(plan, thawed, golden)
            except HotstartError as err:
                if isinstance(err, RehearsalFailed):
                    raise
                raise RehearsalFailed(str(err)) from err
            touched = self._tools.thaw.pages.recording(thawed.session)
            # Of memory files the trace has what CRIU itself read, with the read-ahead that comes
            # with it: the page worker read through another mount.
            files = merge([own.stop(), image.stop()])
            return Recording(files, [Run(file, page, 1) for _, file, page in touched])

    def _plan(
        self,
        directory: ContainerDirectory,
        own: Path,
        image: Path,
        memory: Path,
        network: Network,
        undo: ExitStack,
    ) -> ThawPlan:
        config = self._snapshot.config
        volumes = tuple(
            replace(volume, host=str(self._copy_on_write(volume, directory, number, undo)))
            for number, volume in enumerate(self._spec.volumes)
        )
        spec = replace(
            self._spec,
            name=directory.name,
            argv=None,
            env=config.env,
            workdir=None,
            user=None,
            hostname=config.hostname,
            ports=(),
            volumes=volumes,
        )
        return ThawPlan(
            directory=directory,
            spec=spec,
            config=config,
            image=image,
            snapshot=own,
            memory=self._snapshot.memory_files(str(memory / DUMP), self._tools.cache),
            order=(),
            network=network,
            cgroup=self._tools.cgroup_parent.child(directory.name).path,
            resolv_conf="",
            record=True,
        )

    def _directory(self, undo: ExitStack) -> ContainerDirectory:
        self._scratch.mkdir(parents=True, exist_ok=True)
        directory = ContainerDirectory(self._scratch / f"rehearsal-{secrets.token_hex(4)}")
        undo.callback(directory.remove)
        directory.create()
        return directory

    def _copy_on_write(
        self, volume: Volume, directory: ContainerDirectory, number: int, undo: ExitStack
    ) -> Path:
        """Return a stand-in for a volume: what is written to it stays in the rehearsal.

        Raises RehearsalFailed for what can't be copied: a device would never end.
        """
        host = Path(volume.host)
        place = directory.path / f"volume-{number}"
        if not host.is_dir():
            if not host.is_file():
                raise RehearsalFailed(
                    f"the volume {volume.container} is neither a directory nor a file: what a "
                    "rehearsal does with it would reach the real one"
                )
            shutil.copy2(host, place)
            return place
        for name in ("upper", "work", "merged"):
            (place / name).mkdir(parents=True)
        # Unmounted with everything else below the directory, before that is deleted.
        overlay([host], place / "upper", place / "work", place / "merged")
        return place / "merged"

    def _check(self, plan: ThawPlan, thawed: Thawed, golden: ExpectedGolden | None) -> None:
        """Wait until it is ready, ask, compare. Raises RehearsalFailed, NotReady."""
        ready = self._snapshot.config.ready
        if ready is not None:
            timeout_s = plan.spec.ready_timeout_s
            self._tools.wait_ready(plan.directory, plan.network, ready, timeout_s)
        if golden is None:
            return
        answer = ask(golden.request, plan.directory, thawed.runc, plan.network)
        difference = compare(golden.request.expect, golden.answer, answer)
        if difference is not None:
            raise RehearsalFailed(f"a golden request was answered differently: {difference}")
        self._ask_at_once(plan, thawed, golden)

    def _ask_at_once(self, plan: ThawPlan, thawed: Thawed, golden: ExpectedGolden) -> None:
        """Have a few answered at the same time: a server may use other memory for each.

        A restored server meets clients that have waited for it, beside the readiness probe. Only
        what is touched counts here; the answers were compared one by one.
        """
        if golden.request.exec:
            return
        with ThreadPoolExecutor(_AT_ONCE, "rehearsal") as pool:
            asked = [
                pool.submit(ask, golden.request, plan.directory, thawed.runc, plan.network)
                for _ in range(_AT_ONCE)
            ]
        for one in asked:
            if (err := one.exception()) is not None:
                log.info("rehearsal_at_once", reason=str(err))
        lost = failure_of(plan.directory.criu)
        if lost is not None:
            raise RehearsalFailed(lost)


def ask(
    request: GoldenRequest, directory: ContainerDirectory, runc: Runc, network: Network
) -> Answer:
    """Send one golden request into a container. Raises GoldenUnanswered, or what exec raises."""

    def run_inside(argv: Sequence[str], timeout_s: float) -> tuple[int, bytes]:
        with execute(directory, runc, exec_process(directory, argv)) as execution:
            outcome = execution.communicate(timeout_s=timeout_s)
        return outcome.status, outcome.stdout

    return send(request, network.path, run_inside)
