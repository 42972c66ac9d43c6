"""Snapshots of this node's containers, and the name under which a later run finds a stateless one.

The capture itself is runtime's. Here a container's record becomes its subject, and a published
stateless snapshot gets the reserved name of its image and way of starting. That name is a help:
if it cannot be written the snapshot is published all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agent.containers import Containers
from agent.long_call import CallPhases, LongCall
from agent.records import ContainerRecord
from agent.stateless_names import stateless_name
from agent.values import SnapshotReport, Statefulness
from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError
from hotstart.core.log import get_logger
from hotstart.core.phases import Phases
from hotstart.store.manifest import ImageManifest
from hotstart.store.publishing import current, retire
from hotstart.store.stack import Store
from runtime.capture import Captured, Capturer, NotEnded, ProveStateless, Subject
from runtime.container_spec import ContainerSpec
from runtime.rehearsal import ExpectedGolden
from runtime.runc import NotRunning

log = get_logger(__name__)


class NotedProof:
    """One proof of statelessness; ``difference`` is how a cold start answered differently."""

    def __init__(self, prove: ProveStateless) -> None:
        self._prove = prove
        self.difference: str | None = None

    def __call__(self, subject: Subject, expected: Sequence[ExpectedGolden], /) -> str | None:
        """Prove, and note what came of it."""
        try:
            self.difference = self._prove(subject, expected)
        except HotstartError as err:
            self.difference = str(err)
            raise
        return self.difference


class Captures:
    """Captures containers of one node. Any number at once, of different containers."""

    def __init__(
        self,
        containers: Containers,
        capturer: Callable[[ProveStateless], Capturer],
        prove: ProveStateless,
        open_store: Callable[[str], Store],
    ) -> None:
        """``capturer`` makes one that takes a given proof of statelessness."""
        self._containers = containers
        self._capturer = capturer
        self._prove = prove
        self._open_store = open_store

    def snapshot(
        self,
        store_url: str,
        container: str,
        *,
        reference: str,
        goldens: tuple[str, ...],
        statefulness: Statefulness,
        leave_running: bool,
        call: LongCall[Any],
    ) -> SnapshotReport:
        """Capture a running container; return when the snapshot is published.

        The container ends unless ``leave_running``; its ports are then gone too. A caller who goes
        away before the snapshot is published ends the capture; the container then goes on.
        """
        phases = CallPhases(call)
        record = self._containers.record(container)
        subject = self._subject(record)
        store = self._open_store(store_url)
        proof = NotedProof(self._prove)
        try:
            captured = self._capturer(proof).capture(
                subject,
                store,
                reference,
                goldens=goldens,
                statefulness=statefulness,
                leave_running=leave_running,
                progress=call,
                phases=phases,
            )
        except NotEnded as err:
            name_stateless(store, record, err.captured)
            raise
        if not leave_running:
            self._containers.await_finish(container)
        name_stateless(store, record, captured)
        reason = stateful_reason(record.spec, statefulness, proof.difference)
        return _report(captured, reason if captured.config.stateful else "", phases)

    def _subject(self, record: ContainerRecord) -> Subject:
        """Return what the capture needs to know. Raises NotRunning for an ended container."""
        if record.network is None:
            raise NotRunning(record.name)
        image = Digest.parse(record.image_digest)
        content = bytes(self._open_store(record.store_url).blobs.read(image))
        return Subject(
            directory=self._containers.directory(record.name),
            spec=record.spec,
            network=record.network,
            image=ImageManifest.parse(content),
            image_reference=record.image_reference,
            start_key=record.start_key,
        )


def stateful_reason(spec: ContainerSpec, statefulness: Statefulness, difference: str | None) -> str:
    """Return why a snapshot is stateful; ``difference`` None: no cold start was tried."""
    if statefulness == "stateful":
        return "it was declared so"
    if difference is not None:
        return f"a cold start does not answer the same: {difference}"
    if spec.volumes:
        return "it has volumes, which a cold start cannot be tried with"
    return "no golden request says what a cold start would have to answer"


def name_stateless(store: Store, record: ContainerRecord, captured: Captured) -> None:
    """Let later runs of the same image, started the same way, find a stateless snapshot."""
    if captured.config.stateful or not record.start_key:
        return
    image, key = Digest.parse(record.image_digest), Digest(record.start_key)
    name = stateless_name(image, key, record.spec)
    try:
        before = current(store, name)
        if before is not None:
            retire(store, before.target)
        version = before.version if before else None
        store.references.swap(name, captured.manifest.descriptor(), version)
    except HotstartError as err:
        log.warning("stateless_name_not_written", container=record.name, reason=err)


def _report(captured: Captured, reason: str, phases: Phases) -> SnapshotReport:
    elapsed_ms = phases.total_ms()
    manifest = captured.manifest
    report = SnapshotReport(
        reference=captured.reference,
        digest=str(manifest.descriptor().digest),
        verdict=captured.config.verdict,
        stateless=not captured.config.stateful,
        size_bytes=sum(device.size_bytes for device in manifest.devices),
        uploaded_bytes=captured.uploaded_bytes,
        frozen_ms=round(captured.frozen_ms, 2),
        elapsed_ms=round(elapsed_ms, 2),
        phases=phases.report(elapsed_ms),
        stateful_reason=reason,
    )
    log.info(
        "container_captured",
        reference=report.reference,
        verdict=report.verdict,
        stateful_reason=reason,
        frozen_ms=report.frozen_ms,
        **report.phases,
    )
    return report
