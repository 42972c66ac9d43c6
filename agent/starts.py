"""Run and restore: which route a start takes, what it leaves in the record, what replaces what.

``run`` takes a stateless snapshot of the same image started the same way, where the store has one
under its reserved name and it can be had; else it starts cold. ``restore`` takes the snapshot it
was given; a cold start takes its place only for a stateless one, and says so. Time counts from the
moment the agent had the request (the LongCall's own).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from agent.container_errors import CloneRefused
from agent.containers import Containers
from agent.failed_reads import FailedReads
from agent.long_call import CallPhases, LongCall
from agent.records import ContainerRecord, HeldMount
from agent.start import Start
from agent.stateless_names import names_for, refuse_foreign, start_key
from agent.status import CallCancelled
from agent.values import FallbackRule, StartReport
from agent.weights_volumes import WeightsVolumes
from hotstart.core.digest import Digest
from hotstart.core.errors import Conflict, HotstartError, NotFound, UserError
from hotstart.core.log import get_logger
from hotstart.store.references import ReferenceName
from hotstart.store.signing import PublicKey
from hotstart.store.stack import Store
from runtime.cold_start import (
    LOCAL_READ_AHEAD_KIB,
    TRACED_READ_AHEAD_KIB,
    ColdStarter,
    Route,
)
from runtime.container_spec import ContainerSpec
from runtime.loaded_image import LoadedImage, image_of
from runtime.loaded_snapshot import (
    LoadedSnapshot,
    load_snapshot,
    require_image,
    require_memory,
)
from runtime.oci_spec import resolve_process
from runtime.readiness import parse_probe
from runtime.restore import Restorer, may_fall_back

log = get_logger(__name__)

Call = LongCall[Any]
Fetched = Callable[[], Mapping[str, int]]


class LimitsForeign(UserError):
    """A snapshot that nobody named has limits that nobody asked for."""


@dataclass(frozen=True, slots=True)
class StartTools:
    """What every start of one node uses. ``fetched``: bytes read of the store, by device.

    ``open_store`` tells its second argument when what was pulled stands in for the store.
    """

    containers: Containers
    cold: ColdStarter
    restorer: Callable[[], Restorer]
    open_store: Callable[[str, Callable[[str], None]], Store]
    trusted: Callable[[], Sequence[PublicKey]]
    fetched: Fetched
    weights: WeightsVolumes
    reads: FailedReads


@dataclass(slots=True)
class _Attempt:
    """One start while it goes on."""

    store: Store
    reference: str
    spec: ContainerSpec
    background_fill: bool
    call: Call
    phases: CallPhases
    fetched_before: Mapping[str, int]
    fallback_reason: str = ""
    start_key: str = ""

    def starts_cold(self, reason: HotstartError) -> None:
        """Tell everybody why a cold start takes the place of a restore."""
        self.fallback_reason = str(reason)
        self.call.notify(f"{self.reference}: starts cold: {reason}")
        log.info("snapshot_not_used", reference=self.reference, reason=reason)


def refuse_limits(snapshot: LoadedSnapshot, spec: ContainerSpec) -> None:
    """Raise LimitsForeign if a restore would bring limits that ``spec`` does not ask for."""
    config = snapshot.config
    pairs = {
        "--memory": (spec.memory_bytes, config.memory_bytes),
        "--cpus": (spec.cpus, config.cpus),
    }
    foreign = [flag for flag, (asked, kept) in pairs.items() if asked is None and kept is not None]
    if foreign:
        raise LimitsForeign(
            f"{snapshot.reference}: it was captured with {' and '.join(foreign)}, "
            "and this start asks for no such limit"
        )


def gained(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Return how much counters grew; one that is smaller than before began anew."""
    return sum(
        count - before.get(name, 0) if count >= before.get(name, 0) else count
        for name, count in after.items()
    )


class Starter:
    """Starts containers of one node. Any number at once."""

    def __init__(self, tools: StartTools) -> None:
        self._tools = tools

    def run(
        self,
        store_url: str,
        reference: str,
        *,
        spec: ContainerSpec,
        no_snapshot: bool,
        background_fill: bool,
        call: Call,
    ) -> StartReport:
        """Start a container from an image; return when it is ready."""
        attempt = self._attempt(store_url, reference, spec, background_fill, call)
        image = self._tools.cold.load(attempt.store, reference, attempt.phases)
        attempt.start_key = start_key(image, spec).hex
        snapshot = None if no_snapshot else self._stateless(image, attempt)
        if snapshot is not None:
            try:
                # The command is in the frozen process already, and is the same.
                bare = replace(spec, argv=None, env=(), workdir=None, user=None)
                return self._restore(snapshot, bare, attempt, alone=True)
            except HotstartError as err:
                refused = isinstance(err, Conflict) and not isinstance(err, CloneRefused)
                if refused or isinstance(err, CallCancelled) or call.cancelled:
                    raise
                attempt.starts_cold(err)
        return self._cold(image, attempt)

    def restore(
        self,
        store_url: str,
        reference: str,
        *,
        spec: ContainerSpec,
        fallback: FallbackRule,
        trust_unsigned: bool,
        allow_clones: bool,
        background_fill: bool,
        call: Call,
    ) -> StartReport:
        """Start a container from a snapshot; return when it is ready."""
        attempt = self._attempt(store_url, reference, spec, background_fill, call)
        with attempt.phases.phase("manifest"):
            snapshot = load_snapshot(
                attempt.store,
                reference,
                trusted=self._tools.trusted(),
                trust_unsigned=trust_unsigned,
            )
        if fallback == "allow" and snapshot.config.stateful:
            raise UserError(
                f"{reference} is stateful: a cold start cannot take its place",
                "leave --fallback out",
            )
        require_memory(snapshot, spec.memory_bytes)
        if not allow_clones:
            self._refuse_clones(snapshot)
        try:
            with attempt.phases.phase("fingerprint"):
                self._tools.restorer().check_host(snapshot)
            return self._restore(snapshot, spec, attempt, alone=not allow_clones)
        except HotstartError as err:
            if isinstance(err, NotFound):
                require_image(attempt.store, snapshot)
            given_up = call.cancelled or isinstance(err, Conflict | CallCancelled)
            if given_up or fallback == "forbid" or not may_fall_back(snapshot, err):
                raise
            attempt.starts_cold(err)
            return self._cold_in_place_of(snapshot, attempt)

    def _attempt(
        self, store_url: str, reference: str, spec: ContainerSpec, background_fill: bool, call: Call
    ) -> _Attempt:
        if spec.ready is not None:
            parse_probe(spec.ready)  # before a fallback could take it for the snapshot's fault
        phases = CallPhases(call)
        fetched = self._tools.fetched()
        store = self._tools.open_store(store_url, call.notify)
        return _Attempt(store, reference, spec, background_fill, call, phases, fetched)

    def _stateless(self, image: LoadedImage, attempt: _Attempt) -> LoadedSnapshot | None:
        """Return the stateless snapshot that may take the start's place, if all speaks for it."""
        names = names_for(image.digest, Digest(attempt.start_key), attempt.spec)
        with attempt.phases.phase("snapshot_lookup"):
            try:
                found = self._first(names, attempt.store)
                # Nobody knows the reserved name.
                snapshot = replace(found, reference=f"the snapshot of {attempt.reference}")
                refuse_foreign(snapshot, image.digest, attempt.start_key)
                require_memory(snapshot, attempt.spec.memory_bytes)
                refuse_limits(snapshot, attempt.spec)
                self._tools.restorer().check_host(snapshot)
                self._refuse_clones(snapshot)
            except NotFound:
                return None
            except HotstartError as err:
                attempt.starts_cold(err)
                return None
        return snapshot

    def _first(self, names: Sequence[ReferenceName], store: Store) -> LoadedSnapshot:
        """Return the first snapshot that is there. Raises NotFound for the last name."""
        *others, last = names
        for name in others:
            with suppress(NotFound):
                return load_snapshot(store, str(name), trusted=self._tools.trusted())
        return load_snapshot(store, str(last), trusted=self._tools.trusted())

    def _refuse_clones(self, snapshot: LoadedSnapshot) -> None:
        digest = str(snapshot.manifest.descriptor().digest)
        self._tools.containers.refuse_clones(digest, snapshot.reference)

    def _cold_in_place_of(self, snapshot: LoadedSnapshot, attempt: _Attempt) -> StartReport:
        """Start the snapshot's image as the frozen process was started."""
        config, spec = snapshot.config, attempt.spec
        image = image_of(attempt.store, config.image_reference, snapshot.image)
        entrypoint = (image.config.get("config") or {}).get("Entrypoint") or ()
        attempt.spec = replace(
            spec,
            argv=config.argv[len(entrypoint) :],
            env=config.env,
            workdir=config.workdir,
            user=config.user,
            hostname=spec.hostname or config.hostname,
            ready=spec.ready or config.ready,
            memory_bytes=spec.memory_bytes or config.memory_bytes,
            cpus=spec.cpus or config.cpus,
        )
        return self._cold(image, attempt)

    def _cold(self, image: LoadedImage, attempt: _Attempt) -> StartReport:
        spec = attempt.spec
        process = resolve_process(spec, image.config)
        record = ContainerRecord(
            spec=spec,
            stage="starting",
            store_url=attempt.store.url,
            reference=attempt.reference,
            digest=str(image.digest),
            image_reference=image.reference,
            image_digest=str(image.digest),
            route="cold",
            created_ns=time.time_ns(),
            argv=process.argv,
            stop_signal=process.stop_signal,
            start_key=start_key(image, spec).hex,
        )
        with (
            self._tools.containers.starting(record) as start,
            self._tools.weights.mounted(spec, attempt.call.notify) as weights,
            self._tools.reads.explaining(record, lambda: (image.mount_spec(), *weights.specs)),
        ):
            self._prepare(start, attempt)
            started = self._tools.cold.start(
                image,
                weights.spec,
                start.directory,
                attempt.phases,
                store=attempt.store,
                background_fill=attempt.background_fill,
            )
            ahead = LOCAL_READ_AHEAD_KIB if started.route is Route.LOCAL else TRACED_READ_AHEAD_KIB
            record = replace(
                record,
                stage="running",
                spec=weights.spec,
                network=started.network,
                mounts=(HeldMount(image.mount_spec(), ahead), *weights.held),
            )
            start.commit(record, (started.mount, *weights.mounts))
        return self._report(record, attempt)

    def _restore(
        self, snapshot: LoadedSnapshot, spec: ContainerSpec, attempt: _Attempt, *, alone: bool
    ) -> StartReport:
        config = snapshot.config
        record = ContainerRecord(
            spec=spec,
            stage="starting",
            store_url=attempt.store.url,
            reference=attempt.reference,
            digest=str(snapshot.manifest.descriptor().digest),
            image_reference=config.image_reference,
            image_digest=str(snapshot.manifest.subject.digest),
            route="restore",
            created_ns=time.time_ns(),
            argv=config.argv,
            stop_signal=config.stop_signal,
            start_key=attempt.start_key,
        )
        with (
            self._tools.containers.starting(record, alone=alone) as start,
            self._tools.weights.mounted(spec, attempt.call.notify) as weights,
            self._tools.reads.explaining(
                record, lambda: (snapshot.image_spec(), snapshot.mount_spec(), *weights.specs)
            ),
        ):
            self._prepare(start, attempt)
            restored = self._tools.restorer().restore(
                snapshot,
                weights.spec,
                start.directory,
                attempt.phases,
                background_fill=attempt.background_fill,
            )
            specs = (snapshot.image_spec(), snapshot.mount_spec())
            held = tuple(HeldMount(mount, config.read_ahead_kib) for mount in specs)
            record = replace(
                record,
                stage="running",
                spec=restored.spec,
                network=restored.network,
                mounts=(*held, *weights.held),
                session=restored.session,
            )
            start.commit(record, (*restored.mounts, *weights.mounts))
        return self._report(record, attempt)

    def _prepare(self, start: Start, attempt: _Attempt) -> None:
        """Let a cancellation, or a stop, end what waits for the container."""
        attempt.phases.also_check(start.check)
        attempt.call.on_cancel(start.kill)
        attempt.call.check()

    def _report(self, record: ContainerRecord, attempt: _Attempt) -> StartReport:
        ready_ms = attempt.phases.total_ms()
        containers, name = self._tools.containers, record.name
        if attempt.call.cancelled:
            containers.stop(name, grace_s=0)
            containers.remove(name)
            attempt.call.check()
        report = StartReport(
            container=containers.view(name),
            route=record.route,
            ready_ms=round(ready_ms, 2),
            phases=attempt.phases.report(ready_ms),
            marks=attempt.phases.marks(),
            fetched_bytes=gained(attempt.fetched_before, self._tools.fetched()),
            fallback_reason=attempt.fallback_reason,
            received_s=attempt.call.started_s,
        )
        log.info(
            "container_started",
            container=name,
            route=record.route,
            total_ms=report.ready_ms,
            fetched_bytes=report.fetched_bytes,
            **report.phases,
        )
        return report
