"""What the fill worker can be asked: devices to serve, prefetches, recordings, counters.

Owns the engine, the dispatcher and the sets it serves. Methods may be called from any thread; the
control socket (control_server.py) and the entry point (worker.py) are its only callers. One lock
guards the books; a set is attached and detached under a lock of its name, because attaching may
read and verify a whole device, for which other sets don't wait.
"""

from __future__ import annotations

import base64
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from hotstart.core.errors import Conflict, HotstartError, NotFound, Unavailable
from hotstart.core.log import get_logger
from hotstart.core.span import PAGE, Span
from hotstart.kernel import fanotify
from hotstart.kernel.keeper_client import HandleSet, KeeperClient
from hotstart.store.ready_map import ReadyMap
from lazyfs.crash_points import Passage, no_crash
from lazyfs.device import Device
from lazyfs.device_handles import KIND, DeviceMeta, device_set_name
from lazyfs.fanotify_filler import DeviceSet, Dispatcher
from lazyfs.fetcher import Fetcher
from lazyfs.fill_engine import PATIENCE_S, FillEngine
from lazyfs.fuse_set import FuseSet
from lazyfs.name_locks import NameLocks
from lazyfs.object_table import Table, open_object_table
from lazyfs.plans import EverythingPlan, plan_from_json, plan_to_json
from lazyfs.prefetch import Prefetcher, PrefetchJob
from lazyfs.pulls import Pulls
from lazyfs.read_around import ReadAround
from lazyfs.room import Room
from lazyfs.spec import DeviceSpec
from lazyfs.stores import StorePool, open_impatient
from lazyfs.table_reader import open_table
from lazyfs.touches import RecordingUnderWay, make_trace

log = get_logger(__name__)

Served: TypeAlias = DeviceSet | FuseSet

KEPT_JOBS = 256
"""Jobs whose end can still be asked for."""


class SetUnknown(NotFound):
    """The worker serves no device or recording of that name."""


class SetReplaced(Conflict):
    """Of two sets of one name another is held or served than the one that was asked for."""


class RecordingLost(Unavailable):
    """A recording has a hole: its beginning was noted by a worker that is gone."""


def _nothing() -> None:
    return None


class FillService:
    """The fill worker without its process."""

    def __init__(
        self,
        keeper: KeeperClient,
        *,
        pulls: Pulls,
        patience_s: float = PATIENCE_S,
        passage: Passage = no_crash,
        room: Room | None = None,
        before_fuse: Callable[[], object] = _nothing,
    ) -> None:
        """``room`` is for a full disk; ``before_fuse`` is called before a mount."""
        self._before_fuse = before_fuse
        self._keeper = keeper
        self._room = room if room is not None else Room()
        self._pulls = pulls
        self._stores = StorePool(open_impatient)
        self._patient_stores = StorePool()
        self._fetcher = Fetcher(self._stores, passage)
        self._passage = passage
        self._engine = FillEngine(
            self._fetcher,
            patience_s=patience_s,
            on_complete=self._completed,
            around=ReadAround(),
            read_ahead=True,
        )
        self._prefetcher = Prefetcher(self._engine)
        self._dispatcher = Dispatcher()
        self._lock = threading.Lock()
        self._names = NameLocks()
        self._sets: dict[str, tuple[DeviceMeta, Served]] = {}
        self._jobs: dict[int, PrefetchJob] = {}
        # Numbers of two workers differ: a job of the one before is not mistaken for another.
        self._job_numbers = itertools.count(time.time_ns() // 1000)

    def take_over(self) -> int:
        """Serve every set that the keeper holds, devices first; go on with their pulls.

        A set that can't be served is logged and left: it must not keep others waiting.
        """
        names = sorted(self._keeper.names(KIND))
        for name in names:
            try:
                self._attach(name, None, resumed=True)
            except (HotstartError, OSError) as err:
                log.warning("set_not_served", name=name, error=str(err))
        for job, wanted in self._pulls.pending().items():
            served = [one for one in wanted if device_set_name(one) in self._sets]
            if served:
                self.prefetch(served, plan_to_json(EverythingPlan()), job)
        return len(self._sets)

    def attach(self, name: str, token: str) -> None:
        """Begin to serve a set of the keeper's; one that is served already is no error.

        Raises SetReplaced if the keeper's set, or one that is served, has another token.
        """
        self._attach(name, token, resumed=False)

    def _attach(self, name: str, token: str | None, *, resumed: bool) -> None:
        with self._names.holding(name):
            known = self._sets.get(name)
            if known is not None:
                _check_token(name, token, known[0])
                return
            meta, served = self._open_set(name, token)
            with self._lock:
                self._sets[name] = meta, served
            self._begin(meta, served, resumed=resumed)

    def _open_set(self, name: str, token: str | None) -> tuple[DeviceMeta, Served]:
        held = self._keeper.get(name)
        try:
            meta = DeviceMeta.from_json(held.meta)
            _check_token(name, token, meta)
            return meta, self._serve(meta, held)
        except BaseException:
            held.close()
            raise

    def _begin(self, meta: DeviceMeta, served: Served, *, resumed: bool) -> None:
        if meta.recording and not resumed:  # a resumed one has lost what it noted before
            served.touches.start()
        if isinstance(served, DeviceSet):
            self._dispatcher.add(served)
        if not meta.recording:
            self._engine.check_complete(served.device)

    def _serve(self, meta: DeviceMeta, held: HandleSet) -> Served:
        if meta.fuse_target:
            return self._serve_by_fuse(meta, held.fds[0])
        fd, group, journal = held.fds
        if meta.recording:
            device = self._served(device_set_name(meta.device.device_id))[1].device
            served = DeviceSet(
                device, group, journal, self._engine, self._passage, owns_device=False
            )
            os.close(fd)  # last: on failure the caller closes all three
            return served
        return DeviceSet(self._device(meta, fd), group, journal, self._engine, self._passage)

    def _serve_by_fuse(self, meta: DeviceMeta, fd: int) -> FuseSet:
        self._before_fuse()
        target = Path(meta.fuse_target)
        if not meta.recording:
            device = self._device(meta, fd)
            return FuseSet(device, self._engine, target, read_ahead_kib=meta.read_ahead_kib)
        device = self._served(device_set_name(meta.device.device_id))[1].device
        served = FuseSet(
            device,
            self._engine,
            target,
            owns_device=False,
            read_ahead_kib=meta.read_ahead_kib,
        )
        os.close(fd)
        return served

    def _device(self, meta: DeviceMeta, fd: int) -> Device:
        verified = Path(meta.ready_path).with_suffix(".verified")
        # What can't be verified again after a power loss is lost: that may take longer.
        patient = partial(_open_table, self._patient_stores, verified)
        ready: list[ReadyMap] = []
        self._room.attempt(lambda: ready.append(_open_ready(meta, fd, patient)), fd, 0)
        opener = partial(_open_table, self._stores, verified)
        return Device(meta.device, fd, ready[0], opener, self._room)

    def detach(self, name: str, token: str) -> None:
        """Stop serving a set that nobody reads any more; no error if it is not served.

        A request that comes late finds another token, and ends nothing.
        """
        with self._names.holding(name):
            meta, served = self._sets.get(name, (None, None))
            if meta is None or served is None or meta.token != token:
                return
            with self._lock:
                del self._sets[name]
            if not meta.recording:
                self._pulls.end(meta.device.device_id)
            self._stop_serving(served)

    def _stop_serving(self, served: Served) -> None:
        if isinstance(served, DeviceSet):
            self._dispatcher.remove(served)
        else:
            served.close()

    def mounted(self, name: str) -> None:
        """Learn that a device is mounted: its mark comes off as soon as it is complete."""
        with self._lock:
            meta, served = self._served(name)
            self._sets[name] = replace(meta, mounted=True), served
        if served.device.all_ready():
            self._unmark(name)

    def prefetch(
        self, device_ids: Sequence[str], plan: dict[str, Any], number: int | None = None
    ) -> int:
        """Begin a plan on those devices that are served; returns the job's number.

        That may be given; a job of this number that is known is not begun again.
        """
        with self._lock:
            if number in self._jobs:
                return number
            devices = {
                device_id: self._sets[name][1].device
                for device_id in device_ids
                if (name := device_set_name(device_id)) in self._sets
            }
            if number is None:
                number = next(self._job_numbers)
        parsed = plan_from_json(plan)
        if isinstance(parsed, EverythingPlan):
            absent = [one for one, device in devices.items() if not device.all_ready()]
            self._pulls.begin(number, absent)
        job = self._prefetcher.start(parsed, devices)
        with self._lock:
            self._jobs[number] = job
            while len(self._jobs) > KEPT_JOBS:
                del self._jobs[next(iter(self._jobs))]
        return number

    def job(self, number: int, wait_s: float = 0.0) -> dict[str, Any]:
        """Return how far a job is, after waiting for its end at most ``wait_s`` seconds."""
        with self._lock:
            job = self._jobs.get(number)
        if job is None:
            raise SetUnknown(f"no prefetch job {number}: the worker was restarted since")
        job.done.wait(wait_s)
        return job.to_json()

    def stop(self, number: int) -> None:
        """Have a job take no further task, here or in a successor; no error for an unknown one."""
        with self._lock:
            job = self._jobs.get(number)
        if job is not None:
            job.stop()
        self._pulls.give_up(number)

    def record_start(self, device_ids: Sequence[str]) -> None:
        """Begin to note what is touched on those devices' ordinary mounts."""
        with self._lock:
            logs = [self._served(device_set_name(one))[1].touches for one in device_ids]
            if any(log.active for log in logs):
                raise RecordingUnderWay("the touches of this image are being recorded already")
            for log in logs:
                log.start()

    def record_stop(self, names: Sequence[str]) -> str:
        """End noting on sets; return the trace of their devices, base64."""
        with self._lock:
            sets = [self._served(name)[1] for name in names]
        if not all(served.touches.active for served in sets):
            raise RecordingLost("the fill worker was replaced while it recorded: record again")
        touches = [served.touches.stop() for served in sets]
        trace = make_trace([served.device.device_id for served in sets], touches)
        return base64.b64encode(trace.encode()).decode()

    def warm(self, url: str) -> int:
        """Open connections to a store; returns how many answered."""
        return self._stores.warm(url)

    def lift_quarantine(self) -> int:
        """Let chunks that came wrong twice be fetched again; returns how many."""
        return self._fetcher.quarantine.lift()

    def failures(self) -> dict[str, Any]:
        """Return why a reader last got an error, by device id (reader_failures.py)."""
        return self._engine.failures.to_json()

    def stats(self) -> dict[str, Any]:
        """Return counters and sizes by device id."""
        with self._lock:
            sets = [served for meta, served in self._sets.values() if not meta.recording]
        told = {}
        for served in sets:
            with suppress(ValueError):  # closed meanwhile: nobody reads it any more
                told[served.device.device_id] = _device_stats(served.device)
        return told

    def close(self) -> None:
        """Stop serving. What is unanswered stays in the journals for a successor.

        Waits for no store: readers wait for the successor, and that for the end of this process.
        """
        self._dispatcher.close()
        with self._lock:  # a request under way may still bring a set
            sets = [served for _, served in self._sets.values()]
        for served in sets:
            if isinstance(served, FuseSet):
                served.close()
        self._engine.close(wait=False)

    def _served(self, name: str) -> tuple[DeviceMeta, Served]:
        served = self._sets.get(name)
        if served is None:
            raise SetUnknown(f"{name} is not served by this worker")
        return served

    def _completed(self, device: Device) -> None:
        """Called once by the engine when a device misses nothing more.

        The mark goes at once (the bytes are in the file); the disk is waited for elsewhere.
        """
        self._pulls.end(device.device_id)
        name = device_set_name(device.device_id)
        with self._lock:
            known = self._sets.get(name)
        if known is not None and known[0].mounted:
            self._unmark(name)
        self._engine.demand.submit(device.sync)

    def _unmark(self, name: str) -> None:
        """A complete, mounted device raises no more events: its reads stay in the kernel."""
        meta, served = self._sets.get(name, (None, None))
        if meta is None or not isinstance(served, DeviceSet):
            return  # let go meanwhile; and FUSE has no marks
        try:
            fanotify.unmark(served.group, meta.marked_path)
        except FileNotFoundError:
            return  # it came off before
        except OSError as err:
            log.warning("mark_not_removed", device=meta.device.device_id, error=str(err))


def _open_table(stores: StorePool, verified_head: Path, spec: DeviceSpec) -> Table:
    if spec.is_weights:
        return open_object_table(spec, verified_head.with_suffix(".objects"))
    return open_table(stores.get(spec.store_url).blobs, spec, verified_head)


def _check_token(name: str, token: str | None, meta: DeviceMeta) -> None:
    if token not in (None, meta.token):
        raise SetReplaced(f"{name}: another set has this name by now")


def _open_ready(meta: DeviceMeta, fd: int, opener: Callable[[DeviceSpec], Table]) -> ReadyMap:
    """Open the ready map; after another boot keep only what verifies."""
    ready = ReadyMap.open(Path(meta.ready_path), meta.device.device_id, meta.device.pages)
    if ready.needs_reverify:
        try:
            kept = ready.reverify(lambda span: _read(fd, span), opener(meta.device))
        except HotstartError as err:  # no chunk table, nothing to believe
            log.warning("ready_map_emptied", device=meta.device.device_id, reason=str(err))
        else:
            log.info("ready_map_reverified", device=meta.device.device_id, pages=kept)
    return ready


def _read(fd: int, span: Span) -> bytes:
    return os.pread(fd, span.length, span.offset)


def _device_stats(device: Device) -> dict[str, Any]:
    return {
        "bytes_total": device.spec.size_bytes,
        "bytes_local": min(device.spec.size_bytes, device.ready.ready_pages() * PAGE),
        "complete": device.complete,
        **device.counters.to_json(),
    }
