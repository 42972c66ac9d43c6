"""Restore: from a reference to a process that answers as the frozen one did.

manifest -> signature -> fingerprint -> (image, snapshot, bundle, network at once) -> thaw -> ready.
A snapshot that cannot work here is refused before anything is made, with every reason. Whatever
fails later is undone, and raised as ``RestoreFailed`` or what it was; whether a cold start takes
its place is the caller's decision (``may_fall_back``): never for a stateful snapshot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hotstart.core.errors import HotstartError, Unsupported, UserError
from hotstart.core.log import get_logger
from hotstart.core.phases import Phases
from hotstart.kernel.cgroup import Group
from hotstart.store.signing import PublicKey
from hotstart.store.stack import Store
from runtime.background_fill import BackgroundFill
from runtime.bundle_fetches import BundleFetches
from runtime.cgroup_primer import CgroupPrimer
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.image_access import CachePaths, Images, Mounted, Prefetcher
from runtime.links import Network
from runtime.loaded_snapshot import LoadedSnapshot, load_snapshot
from runtime.memory_end import telling_of_memory
from runtime.network import NetworkPool
from runtime.thaw import ThawPlan, ThawTools, check_volumes, thaw
from snapshotter.fingerprint import HostFingerprint

log = get_logger(__name__)


class RestoreRefused(Unsupported):
    """The snapshot cannot run on this host; nothing was made. ``reasons`` has every one."""

    def __init__(self, reference: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{reference} cannot be restored here: {'; '.join(reasons)}")
        self.reasons = tuple(reasons)


class WaitReady(Protocol):
    """Blocks until a container's probe succeeds; raises NotReady."""

    def __call__(
        self, directory: ContainerDirectory, network: Network, probe: str, timeout_s: float, /
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class RestoreTools:
    """What an agent gives to every restore."""

    thaw: ThawTools
    images: Images
    prefetcher: Prefetcher
    cache: CachePaths
    networks: NetworkPool
    host: Callable[[], HostFingerprint]
    trusted: Callable[[], Sequence[PublicKey]]
    wait_ready: WaitReady
    cgroup_parent: Group
    primer: CgroupPrimer | None = None
    hold_handles: Callable[[], None] | None = None
    """Has the agent copy what page workers gave to the keeper (``KeeperGuard.refresh``)."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored container. Its owner releases mounts and network and closes the session."""

    pid: int
    session: str
    network: Network
    mounts: tuple[Mounted, ...]
    snapshot: LoadedSnapshot
    spec: ContainerSpec


def effective_spec(spec: ContainerSpec, snapshot: LoadedSnapshot) -> ContainerSpec:
    """Fill in what a restore inherits from the snapshot: probe, environment, limits, host name.

    Raises UserError for what a running process cannot be given any more.
    """
    config = snapshot.config
    if spec.argv is not None or spec.env or spec.workdir or spec.user:
        raise UserError(
            f"{spec.name}: a restored process has its command, environment and user already",
            "use hotstart run to start it differently",
        )
    return replace(
        spec,
        env=config.env,
        hostname=config.hostname,
        ready=spec.ready if spec.ready is not None else config.ready,
        memory_bytes=spec.memory_bytes or config.memory_bytes,
        cpus=spec.cpus or config.cpus,
    )


def may_fall_back(snapshot: LoadedSnapshot, error: HotstartError) -> bool:
    """Tell whether a cold start of the image may take the place of a failed restore."""
    return not snapshot.config.stateful and not isinstance(error, UserError)


class Restorer:
    """Restores snapshots into container directories. Any number at once."""

    def __init__(self, tools: RestoreTools) -> None:
        self._tools = tools
        self._bundles = BundleFetches(tools.prefetcher)
        self._rest = BackgroundFill(tools.prefetcher)

    def load(
        self, store: Store, reference: str, phases: Phases, *, trust_unsigned: bool = False
    ) -> LoadedSnapshot:
        """Read and verify a snapshot; raises RestoreRefused if this host will not do."""
        with phases.phase("manifest"):
            trusted = self._tools.trusted()
            snapshot = load_snapshot(
                store, reference, trusted=trusted, trust_unsigned=trust_unsigned
            )
        with phases.phase("fingerprint"):
            self.check_host(snapshot)
        return snapshot

    def check_host(self, snapshot: LoadedSnapshot) -> None:
        """Raise RestoreRefused with every reason against this host."""
        frozen = HostFingerprint.from_json(snapshot.config.fingerprint)
        needed = sum(file.size_bytes for file in snapshot.config.memory_files)
        reasons = frozen.reasons_against(self._tools.host(), needed_bytes=needed)
        if reasons:
            raise RestoreRefused(snapshot.reference, reasons)

    def restore(
        self,
        snapshot: LoadedSnapshot,
        spec: ContainerSpec,
        directory: ContainerDirectory,
        phases: Phases,
        *,
        background_fill: bool = False,
    ) -> Restored:
        """Restore into ``directory`` (made, empty) and return when it is ready.

        With ``background_fill`` the files' rest is fetched from then on; memory stays on demand,
        so that idle replicas share what they don't touch. Everything but the directory itself is
        undone on failure. Raises RestoreFailed, NotReady, PortInUse, UserError, and what mounting
        raises.
        """
        spec = effective_spec(spec, snapshot)
        check_volumes(spec, snapshot.config)
        primer = self._tools.primer
        with (
            ThreadPoolExecutor(1, thread_name_prefix="forward-ports") as beside,
            ExitStack() as undo,
            primer.awake() if primer else nullcontext(),
        ):
            prepared = self._prepare(snapshot, spec, beside, phases, undo)
            image, own, network, forwarded = prepared
            plan = self._plan(snapshot, spec, directory, image.path, own.path, network)
            thawed = thaw(plan, self._tools.thaw, phases, undo)
            with phases.phase("publish"):
                forwarded.result()
            if spec.ready is not None:
                group = Group.named(plan.cgroup)
                with phases.phase("ready"), telling_of_memory(group):
                    self._tools.wait_ready(directory, network, spec.ready, spec.ready_timeout_s)
            phases.mark("ready")
            undo.pop_all()
        if self._tools.hold_handles is not None:
            # The second holder of the userfaultfds; nobody waits for it.
            threading.Thread(target=self._tools.hold_handles, daemon=True).start()
        if background_fill and not self._is_local(snapshot):
            self._rest.after_demand(_names(snapshot), lambda: self._touches(snapshot))
        return Restored(thawed.pid, thawed.session, network, (image, own), snapshot, spec)

    def _is_local(self, snapshot: LoadedSnapshot) -> bool:
        """Tell whether nothing of either image is left to fetch."""
        images, specs = self._tools.images, (snapshot.mount_spec(), snapshot.image_spec())
        try:
            return all(images.is_local(one) for one in specs)
        except (HotstartError, OSError):
            return False  # the container runs: nothing may fail any more

    def _touches(self, snapshot: LoadedSnapshot) -> int:
        """Count what was asked for of both images, by whoever uses them."""
        names = _names(snapshot)
        return sum(one.faults for one in self._tools.images.stats() if one.manifest in names)

    def _prepare(
        self,
        snapshot: LoadedSnapshot,
        spec: ContainerSpec,
        beside: ThreadPoolExecutor,
        phases: Phases,
        undo: ExitStack,
    ) -> tuple[Mounted, Mounted, Network, Future[None]]:
        """Mount image and snapshot, begin the bundle, take a network: all at once.

        The last value is done when the network's ports, which are held already, lead to it.
        """
        ahead = snapshot.config.read_ahead_kib
        images, specs = self._tools.images, (snapshot.mount_spec(), snapshot.image_spec())
        plan = snapshot.bundle_plan()
        with phases.phase("prefetch"):
            # The bundle is on its way before anything else is asked of the store.
            images.prepare(*specs)
            if plan is not None:
                self._bundles.begin(specs[0].manifest, plan)
        with ThreadPoolExecutor(2, thread_name_prefix="restore") as pool, phases.phase("mount"):
            started = [pool.submit(images.mount, one, read_ahead_kib=ahead) for one in specs]
            # At once: a port in use, or one mount that fails, must not leave the others in use.
            undo.callback(_release, started)
            network, forwarded = self._network(spec, beside, undo)
            own, image = [future.result() for future in started]
        if plan is None:
            self._rest.at_once(_names(snapshot))
        return image, own, network, forwarded

    def _network(
        self, spec: ContainerSpec, beside: ThreadPoolExecutor, undo: ExitStack
    ) -> tuple[Network, Future[None]]:
        networks = self._tools.networks
        held = [networks.acquire()]
        undo.callback(lambda: networks.release(held[0]))
        held[0] = networks.hold(held[0], spec.ports)
        forwarded = beside.submit(networks.forward, held[0])
        undo.callback(wait, [forwarded])  # before it is released
        return held[0], forwarded

    def _plan(
        self,
        snapshot: LoadedSnapshot,
        spec: ContainerSpec,
        directory: ContainerDirectory,
        image: Path,
        own: Path,
        network: Network,
    ) -> ThawPlan:
        return ThawPlan(
            directory=directory,
            spec=spec,
            config=snapshot.config,
            image=image,
            snapshot=own,
            memory=snapshot.memory_files(str(own / "dump"), self._tools.cache),
            order=snapshot.memory_order,
            network=network,
            cgroup=self._tools.cgroup_parent.child(directory.name).path,
            resolv_conf=self._tools.networks.resolver.text,
        )


def _names(snapshot: LoadedSnapshot) -> tuple[str, str]:
    """Return what the mounts of the snapshot's own files and of its image are called."""
    return snapshot.mount_spec().manifest, snapshot.image_spec().manifest


def _release(started: Sequence[Future[Mounted]]) -> None:
    """Give back every mount that came about, once all have ended."""
    for future in started:
        if future.exception() is None:
            future.result().release()
