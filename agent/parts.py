"""What a node is made of, put together in the order in which one part needs another.

State; keeper and workers (they hold the handles that mounts and restores hang on); image mounts;
networks, told which are in use; containers and mount targets, adopted. ``close`` is the reverse and
leaves containers, mounts, keeper and networks in use as they are; ``end`` removes all of it, once
no container runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import agent
from agent import warm_store
from agent.cache_space import CacheSpace
from agent.captures import Captures
from agent.containers import Containers, Tools
from agent.failed_reads import FailedReads
from agent.filler import choose_filler
from agent.long_call import LongCall
from agent.mount_targets import MountTargets
from agent.observation import GLANCE_S
from agent.pulled import Pulled
from agent.shown_mounts import ShownMount, shown_mounts, view_of
from agent.starts import Starter, StartTools
from agent.state import State
from agent.values import STORE_VARIABLE, FillerName, MountView
from agent.weights_volumes import WeightsVolumes
from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from hotstart.core.progress import Progress
from hotstart.core.run import run
from hotstart.kernel.cgroup import Group, hierarchies
from hotstart.store.signing import NodeKey, PublicKey, load_trusted
from hotstart.store.stack import Store
from lazyfs import patience
from lazyfs.cache import Cache
from lazyfs.descriptor_room import check_start, raise_limit
from lazyfs.device_handles import KIND
from lazyfs.eviction import Evictor
from lazyfs.fill_client import FillClient
from lazyfs.image_mounts import ImageMounts
from lazyfs.keeper_guard import KeeperGuard, WorkerCommand, module_command
from lazyfs.mount_stats import MountStats
from lazyfs.program_version import version_of
from lazyfs.served_devices import FANOTIFY
from lazyfs.stores import StorePool
from runtime.capture import Capturer, Subject
from runtime.cgroup_primer import CgroupPrimer
from runtime.cold_proof import ColdProof
from runtime.cold_start import ColdStarter, ColdStartTools
from runtime.left_capture import end_trials
from runtime.links import root_id
from runtime.network import NetworkPool
from runtime.readiness import wait_ready
from runtime.restore import Restorer, RestoreTools
from runtime.runc import Programs
from runtime.thaw import ThawTools
from snapshotter.criu import CriuFront, locate
from snapshotter.fingerprint import HostFingerprint, collect
from snapshotter.page_client import PageClient

log = get_logger(__name__)

_AWS = "AWS_"
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SOURCES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Any of these says where credentials are; others, such as AWS_CA_BUNDLE, say nothing of them."""
FILL_WORKER, PAGE_WORKER = "lazyfs.worker", "snapshotter.page_worker"


class Parts:
    """Everything of one node. Made whole or not at all."""

    def __init__(self, root: Path, filler: FillerName, environment: Mapping[str, str]) -> None:
        """Put everything together and adopt what runs. Raises Unsupported, or what a part does."""
        self.root = root
        self._environment = environment
        self.stores = StorePool()
        self.pulled = Pulled(root / "pulled", self.stores.get)
        with ExitStack() as undo:
            self._open(root, filler, undo)
            self._closing = undo.pop_all()

    def _open(self, root: Path, filler: FillerName, undo: ExitStack) -> None:
        check_start(raise_limit())
        for name in ("run", "tmp", "containers", "mounts"):
            # Images and containers have set-user-id programs: none for the host's users.
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.programs = Programs.find()
        self.state = State(root / "state.db")
        undo.callback(self.state.close)
        self.guard = KeeperGuard(root / "run", worker_commands(root / "run", self._environment))
        self.guard.start()
        undo.callback(self.guard.close)
        self.cache = Cache(root)
        self.filler = FillClient(root / "run" / "fill.sock")
        self.glancing = FillClient(root / "run" / "fill.sock", away_s=0.0, answer_s=GLANCE_S)
        self.reads = FailedReads(self.filler.failures)
        self.pages = PageClient(root / "run" / "page.sock")
        chosen = choose_filler(root, filler, self.guard)
        self.images = ImageMounts(
            root, self.cache, self.guard, self.filler, filler=chosen, stores=self.stores
        )
        if chosen == FANOTIFY or not self.guard.names(KIND):
            self.guard.renew_workers()
        self.cgroup_parent = Group.named(f"/hotstart-{root_id(root)}")
        end_trials(root / "tmp", self.programs, self.cgroup_parent)  # they use mounts
        self.images.adopt()
        self.evictor = Evictor(root, self.images)
        self.cache.make_room = self.evictor.make_room
        self.networks = self._networks(root)
        undo.callback(self.networks.close)
        self.primer = CgroupPrimer(self.cgroup_parent)
        undo.callback(self.primer.close)
        self._open_routes(root)
        undo.callback(self.containers.close)
        there = {stat.manifest for stat in self.images.stats()}
        self.containers.adopt(there)
        self.targets = MountTargets(self.state, self.images)
        self.targets.adopt(there)
        self.space = CacheSpace(root, self.evictor)  # once all that is in use is known to be
        undo.callback(self.space.close)
        undo.callback(self.restores.warm().join)
        store_url = self._environment.get(STORE_VARIABLE)
        if store_url:
            warm_store.begin(store_url, self.stores, self.filler)

    def _networks(self, root: Path) -> NetworkPool:
        records = self.state.containers().values()
        in_use = [r.network for r in records if r.network is not None and r.stage == "running"]
        return NetworkPool(root, in_use=in_use)

    def _open_routes(self, root: Path) -> None:
        """Make the ways to *ready*: cold start, restore, capture."""
        self.key = node_key(root)
        self.containers = Containers(self._container_tools(root))
        cold = ColdStarter(
            ColdStartTools(
                self.programs,
                self.images,
                self.images,
                self.cache,
                self.networks,
                self.cgroup_parent,
            )
        )
        self.restores = RestoreRoute(lambda: self._restore_tools(root))
        proof = ColdProof(
            cold,
            self.networks,
            root / "tmp",
            programs=self.programs,
            cgroup_parent=self.cgroup_parent,
            store_of=self._store_of,
        )
        self.captures = Captures(
            self.containers,
            lambda prove: Capturer(self.restores.tools, root / "tmp", self.key, prove),
            proof,
            self.stores.get,
        )
        self.starter = Starter(
            StartTools(
                self.containers,
                cold,
                lambda: self.restores.restorer,
                self.pulled.store,
                self.trusted,
                self.fetched,
                WeightsVolumes(self.images, self.cache),
                self.reads,
            )
        )

    def _container_tools(self, root: Path) -> Tools:
        return Tools(
            root,
            self.state,
            self.programs,
            self.images,
            self.networks,
            self.pages,
            self.cgroup_parent,
            self.reads,
        )

    def _restore_tools(self, root: Path) -> RestoreTools:
        front = CriuFront(root / "criu", locate(self._environment))
        front.install()
        host = _fingerprint(front, self.programs)
        return RestoreTools(
            thaw=ThawTools(self.programs, front, self.pages),
            images=self.images,
            prefetcher=self.images,
            cache=self.cache,
            networks=self.networks,
            host=lambda: host,
            trusted=self.trusted,
            wait_ready=wait_ready,
            cgroup_parent=self.cgroup_parent,
            primer=self.primer,
            hold_handles=self.guard.refresh,
        )

    def trusted(self) -> Sequence[PublicKey]:
        """Return the keys whose snapshots may run: the node's own, and those in keys/trusted."""
        return load_trusted(self.root / "keys" / "trusted", self.key.public)

    def _store_of(self, subject: Subject) -> Store:
        """Return the store that a container's image came from."""
        return self.stores.get(self.containers.record(subject.spec.name).store_url)

    def fetched(self) -> Mapping[str, int]:
        """Return what was read of the store for each device that is served now, in bytes."""
        return {name: stats["fetched_bytes"] for name, stats in self.filler.stats().items()}

    def await_job(self, job: int, call: LongCall[Any], progress: Callable[[], Progress]) -> None:
        """Wait for a prefetch, passing its progress on. Raises its error, or CallCancelled.

        A call that is cancelled stops the prefetch.
        """

        def check() -> None:
            call.check()
            call.update(progress())

        self.filler.wait(job, check)

    def shown_mounts(self, stats: Iterable[MountStats]) -> list[ShownMount]:
        """Return those mounts that somebody uses, with their names."""
        return shown_mounts(stats, self.targets.rows(), self.containers.image_names())

    def mount_views(self) -> list[MountView]:
        """Return targets, then images that only containers use."""
        shown = self.shown_mounts(self.images.stats())
        return [view_of(mount, self.images.filler) for mount in shown]

    def close(self) -> None:
        """End the agent's side; containers, mounts and keeper go on."""
        self._closing.close()

    def end(self) -> None:
        """Unmount everything, end keeper and workers, remove networks. No container may run."""
        self.targets.umount_all()
        self.space.close()
        self.containers.close()
        self.networks.close(remove=True)
        self.images.unmount_all()
        self.guard.shutdown()
        self.pages.path.unlink(missing_ok=True)  # a page worker leaves it to its successor
        self.primer.close()
        self.cgroup_parent.remove()


class RestoreRoute:
    """What restores and captures need, made when first asked for: a host may lack CRIU."""

    def __init__(self, make: Callable[[], RestoreTools]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._tools: RestoreTools | None = None
        self._restorer: Restorer | None = None

    @property
    def tools(self) -> RestoreTools:
        """The tools. Raises Unsupported where CRIU is missing or unfit."""
        with self._lock:
            if self._tools is None:
                self._tools = self._make()
            return self._tools

    def warm(self) -> threading.Thread:
        """Make the tools beside everything else, so that no restore waits for it."""

        def make() -> None:
            try:
                _ = self.tools
            except HotstartError as err:
                log.warning("no_restores", reason=err)

        thread = threading.Thread(target=make, name="restore-tools", daemon=True)
        thread.start()
        return thread

    @property
    def restorer(self) -> Restorer:
        """The restorer. Raises as ``tools`` does."""
        tools = self.tools
        with self._lock:
            if self._restorer is None:  # one for all: it remembers which bundles have arrived
                self._restorer = Restorer(tools)
            return self._restorer


def node_key(root: Path) -> NodeKey:
    """Return the key that signs this node's snapshots; keys/node.pub is for other nodes to trust.

    Raises KeyFileInvalid.
    """
    key = NodeKey.load_or_create(root / "keys" / "node.ed25519")
    public, pem = root / "keys" / "node.pub", key.public.to_pem()
    if not public.exists() or public.read_bytes() != pem:
        staged = public.with_suffix(".staged")
        staged.write_bytes(pem)
        staged.replace(public)
    return key


def worker_commands(run_dir: Path, environment: Mapping[str, str]) -> tuple[WorkerCommand, ...]:
    """Return the workers' commands; they find packages and credentials where the agent did.

    The keeper outlives agents, and with it the variables of the first. An agent that has
    credentials brings its own, and none of an earlier one: a new key never goes with an old session
    token. One that was started without any leaves those with which its containers are being read.
    Raises UserError for a patience that is none.
    """
    env = {"PYTHONPATH": str(Path(agent.__file__).parents[1])}
    if environment.get(patience.VARIABLE):
        env[patience.VARIABLE] = f"{patience.patience_s(environment):g}"
    if any(environment.get(name) for name in _SOURCES):
        given = {name: value for name, value in environment.items() if name.startswith(_AWS)}
        env |= dict.fromkeys(_CREDENTIALS, "") | given
    commands = (
        module_command("fill", FILL_WORKER, run_dir),
        module_command("page", PAGE_WORKER, run_dir),
    )
    code = version_of(Path(agent.__file__).parents[1])
    return tuple(
        replace(command, argv=_safe(command.argv), env=env, kept=_AWS, code=code)
        for command in commands
    )


def _safe(argv: Sequence[str]) -> list[str]:
    """Return the command with -P: nothing is imported from the directory it is started in."""
    interpreter, *words = argv
    return [interpreter, "-P", *words]


def _fingerprint(front: CriuFront, programs: Programs) -> HostFingerprint:
    return collect(
        cgroup_mode=hierarchies().mode,
        criu=str(front.version),
        runc=_runc_version(programs.runc),
    )


def _runc_version(runc: str) -> str:
    """Return the number in ``runc version 1.1.5+ds1``."""
    words = run([runc, "--version"], check=False).text.split()
    return words[2] if len(words) > 2 else "unknown"  # the third word
