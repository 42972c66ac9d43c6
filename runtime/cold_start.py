"""Cold start: from a reference to a container that is ready, without a snapshot.

manifest -> mount -> (pull | prefetch) -> network -> rootfs -> bundle -> create -> start -> ready.

What is fetched before the start depends on what is known of the image. All of it is local: start.
A trace of an earlier start exists: prefetch along it and start at once (faults overtake it).
Neither: pull the whole image first, since a start that discovers its files one by one waits for
the network a thousand times, and record a trace for the next. Whatever fails is undone, and
nothing of the container is left but its directory with log and exit status.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from hotstart.core.phases import Phases
from hotstart.kernel.cgroup import Group
from hotstart.kernel.pidfd import wait as wait_process
from hotstart.store.ready_map import is_complete
from hotstart.store.stack import Store
from hotstart.store.trace import Trace
from lazyfs.plans import EverythingPlan, Plan, TracePlan
from lazyfs.spec import MountSpec
from runtime.bundle import write_bundle
from runtime.conmon import Conmon
from runtime.container_directory import ContainerDirectory, running_process
from runtime.container_spec import ContainerSpec
from runtime.containers import tear_down
from runtime.dev_shm import mount_dev_shm
from runtime.image_access import CachePaths, Mounted
from runtime.links import Network
from runtime.loaded_image import LoadedImage, load_image
from runtime.memory_end import telling_of_memory
from runtime.network import NetworkPool
from runtime.oci_spec import Process, resolve_process
from runtime.readiness import parse_probe, wait_ready
from runtime.rootfs import mount_rootfs, write_host_files
from runtime.runc import Programs, Runc
from runtime.snapshot_files import write_criu_config
from runtime.traces import Recorder, TraceRecording, find_trace

log = get_logger(__name__)

TRACED_READ_AHEAD_KIB = 64
"""While recording and along a trace: more would fetch, and note, what nobody asked for."""

LOCAL_READ_AHEAD_KIB = 512


class ColdImages(Protocol):
    """Mounts images; lazyfs's ``ImageMounts`` fits."""

    def mount(self, spec: MountSpec, *, read_ahead_kib: int, keep_marks: bool = False) -> Mounted:
        """Mount the image, or use the mount that is there. Marks are kept for a recording."""


class Filler(Recorder, Protocol):
    """Fetches what will be needed; lazyfs's ``FillClient`` fits."""

    def prefetch(self, name: str, plan: Plan) -> int:
        """Begin to fetch for a mounted image; return the job's number at once."""

    def wait(self, job: int, check: Callable[[], object] | None = None) -> object:
        """Block until the job has ended. Raises what made it fail.

        What ``check``, called now and then, raises stops the job, and is raised.
        """


class Route(Enum):
    """What is fetched before the container starts."""

    LOCAL = "local"
    TRACED = "traced"
    PULLED = "pulled"


@dataclass(frozen=True, slots=True)
class ColdStartTools:
    """What an agent gives to every cold start."""

    programs: Programs
    images: ColdImages
    filler: Filler
    cache: CachePaths
    networks: NetworkPool
    cgroup_parent: Group


@dataclass(frozen=True, slots=True)
class ColdStarted:
    """A started container. Its owner releases the mount and the network after ``tear_down``."""

    pid: int
    network: Network
    mount: Mounted
    image: LoadedImage
    spec: ContainerSpec
    process: Process
    route: Route


class ColdStarter:
    """Starts images in container directories. Any number at once."""

    def __init__(self, tools: ColdStartTools) -> None:
        self._tools = tools

    def load(self, store: Store, reference: str, phases: Phases) -> LoadedImage:
        """Read the image's manifest and config. Raises what the store raises, NotAnImage."""
        with phases.phase("manifest"):
            return load_image(store, reference)

    def start(
        self,
        image: LoadedImage,
        spec: ContainerSpec,
        directory: ContainerDirectory,
        phases: Phases,
        *,
        store: Store,
        network: Network | None = None,
        background_fill: bool = True,
    ) -> ColdStarted:
        """Start in ``directory`` (made, empty) and return when the container is ready.

        ``network``: one that the caller owns, instead of one with published ports. Everything but
        the directory is undone on failure. Raises ImageWithoutCommand, NotReady, PortInUse,
        ProgramNotFound, UserError, and what mounting and fetching raise.
        """
        process = resolve_process(spec, image.config)
        if spec.ready is not None:
            parse_probe(spec.ready)
        with ExitStack() as undo:
            used = network if network is not None else self._network(spec, phases, undo)
            route, trace = self._route(store, image, phases)
            mount = self._mount(image, route, phases, undo)
            self._fetch(image, route, trace, phases)
            recording = self._record(image, spec, route, undo)
            pid = self._run(image, spec, directory, mount.path, used, phases, undo)
            phases.mark("started")
            self._wait_ready(spec, directory, used, phases)
            phases.mark("ready")
            if recording is not None and spec.ready is not None:
                # The first trace is there when the start is reported; later ones only add to it.
                (recording.finish if route is Route.PULLED else recording.finish_later)(store)
            elif recording is not None:
                recording.finish_later(store, lambda seconds: _ended_within(directory, seconds))
            undo.pop_all()
        if background_fill and route is Route.TRACED:
            self._tools.filler.prefetch(image.digest.hex, EverythingPlan())
        return ColdStarted(pid, used, mount, image, spec, process, route)

    def _network(self, spec: ContainerSpec, phases: Phases, undo: ExitStack) -> Network:
        """First of all: a port in use is refused before anything is fetched."""
        networks = self._tools.networks
        with phases.phase("network"):
            held = [networks.acquire()]
            undo.callback(lambda: networks.release(held[0]))
            held[0] = networks.publish(held[0], spec.ports)
        return held[0]

    def _route(
        self, store: Store, image: LoadedImage, phases: Phases
    ) -> tuple[Route, Trace | None]:
        with phases.phase("trace"):
            if self._all_local(image):
                return Route.LOCAL, None
            trace = find_trace(store, image)
            return (Route.TRACED, trace) if trace is not None else (Route.PULLED, None)

    def _all_local(self, image: LoadedImage) -> bool:
        cache = self._tools.cache
        return all(
            is_complete(
                cache.ready_path(device.device_id),
                device.device_id,
                device.pages,
                device=cache.device_path(device.device_id),
            )
            for device in image.mount_spec().devices
        )

    def _mount(self, image: LoadedImage, route: Route, phases: Phases, undo: ExitStack) -> Mounted:
        ahead = LOCAL_READ_AHEAD_KIB if route is Route.LOCAL else TRACED_READ_AHEAD_KIB
        with phases.phase("mount"):
            mount = self._tools.images.mount(
                image.mount_spec(), read_ahead_kib=ahead, keep_marks=route is Route.PULLED
            )
        undo.callback(mount.release)
        return mount

    def _fetch(self, image: LoadedImage, route: Route, trace: Trace | None, phases: Phases) -> None:
        name, filler = image.digest.hex, self._tools.filler
        if route is Route.PULLED:
            with phases.phase("pull"):
                filler.wait(filler.prefetch(name, EverythingPlan()), phases.check)
        elif trace is not None:
            with phases.phase("prefetch"):
                filler.prefetch(name, TracePlan(trace))

    def _record(
        self, image: LoadedImage, spec: ContainerSpec, route: Route, undo: ExitStack
    ) -> TraceRecording | None:
        if route is Route.LOCAL or (route is Route.TRACED and spec.ready is None):
            return None  # all of it came before; or nobody can tell where the start ends
        recording = TraceRecording(self._tools.filler, image)
        try:
            recording.start()
        except HotstartError as err:
            log.warning("start_not_recorded", image=image.reference, error=err)
            return None
        undo.callback(recording.abandon)
        return recording

    def _run(
        self,
        image: LoadedImage,
        spec: ContainerSpec,
        directory: ContainerDirectory,
        lower: Path,
        network: Network,
        phases: Phases,
        undo: ExitStack,
    ) -> int:
        tools = self._tools
        group = tools.cgroup_parent.child(directory.name)
        runc = Runc(tools.programs, directory)
        undo.callback(tear_down, directory, runc, group)
        with phases.phase("rootfs"):
            mount_rootfs([lower], directory.upper, directory.work, directory.rootfs)
            mount_dev_shm(directory.dev, directory.shm)
            hostname = spec.hostname or spec.name
            write_host_files(directory.rootfs, hostname, tools.networks.resolver.text)
        with phases.phase("bundle"):
            write_bundle(
                directory,
                spec,
                image.config,
                netns=network.path,
                cgroup=group.path,
                criu_config=write_criu_config(directory),
            )
        with phases.phase("create"):
            pid = Conmon(tools.programs, directory).create()
        with phases.phase("start"):
            runc.start()
        return pid

    def _wait_ready(
        self, spec: ContainerSpec, directory: ContainerDirectory, network: Network, phases: Phases
    ) -> None:
        group = self._tools.cgroup_parent.child(directory.name)
        if spec.ready is not None:
            with phases.phase("ready"), telling_of_memory(group):
                wait_ready(
                    directory,
                    network,
                    spec.ready,
                    spec.ready_timeout_s,
                    programs=self._tools.programs,
                )


def _ended_within(directory: ContainerDirectory, timeout_s: float) -> bool:
    process = running_process(directory)
    return process is None or wait_process(process, timeout_s)
