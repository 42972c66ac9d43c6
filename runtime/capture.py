"""Capture: a running container becomes a snapshot that has proved itself.

golden answers live -> freeze and dump -> files into the store -> rehearsal -> start bundle
-> signed manifest -> reference. The reference is moved last: until then nothing points to what
was written.

If anything fails, the container goes on as it was (also when it was to be stopped). One that is to
be stopped is paused before the dump and stays so while the snapshot proves itself: what it answered
after the dump would be in no snapshot. It is ended only when the snapshot is published.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hotstart.core.errors import HotstartError, UserError
from hotstart.core.log import get_logger
from hotstart.core.phases import Phases
from hotstart.core.progress import Progress, ProgressSink
from hotstart.kernel.cgroup import Group
from hotstart.store.leased import Writer, leased
from hotstart.store.manifest import ImageManifest, SnapshotManifest
from hotstart.store.references import ReferenceName
from hotstart.store.signing import NodeKey, sign
from hotstart.store.snapshot_config import SnapshotConfig
from hotstart.store.stack import Store
from image_builder.options import BuiltTree
from runtime.adoption import adopt
from runtime.bundle import read_config
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.links import Network
from runtime.loaded_image import image_of
from runtime.loaded_snapshot import understand
from runtime.oci_spec import stop_signal_of
from runtime.rehearsal import ExpectedGolden, Rehearsal, ask, memory_extents
from runtime.restore import RestoreTools
from runtime.runc import Runc, RuncFailed
from runtime.snapshot_build import build_files
from runtime.snapshot_files import (
    DUMP,
    SnapshotFiles,
    merge_lower_upper,
    staged_files,
    write_criu_config,
)
from runtime.snapshot_manifest import (
    draft_manifest,
    hold_image,
    publish,
    put_config,
    snapshot_config,
)
from runtime.store_pages import StorePages
from runtime.thaw import environment, make_resident
from runtime.tracers import traced_by
from snapshotter.bundle_builder import make_bundle
from snapshotter.dump_directory import DumpDirectory, frozen_ms
from snapshotter.dump_reasons import explain
from snapshotter.golden import parse

log = get_logger(__name__)

READ_AHEAD_KIB = 32
"""Read-ahead of snapshot mounts, when recording and ever after: mapped files read around faults."""

_END_S = 20.0


class CaptureFailed(HotstartError):
    """The container cannot be captured; it still runs. ``reason`` is in plain words."""

    def __init__(self, container: str, reason: str) -> None:
        super().__init__(f"{container}: cannot be captured: {reason}; the container still runs")
        self.reason = reason


class NotEnded(HotstartError):
    """The snapshot is published (``captured``), but its container could not be ended."""

    def __init__(self, container: str, reason: str, captured: Captured) -> None:
        super().__init__(
            f"{container}: the snapshot is published, but the container could not be ended and "
            f"goes on: {reason}"
        )
        self.reason = reason
        self.captured = captured


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A running container, as its owner knows it.

    ``start_key`` names the way it was started, for those who look for a stateless snapshot of it.
    """

    directory: ContainerDirectory
    spec: ContainerSpec
    network: Network
    image: ImageManifest
    image_reference: str
    start_key: str = ""


@dataclass(frozen=True, slots=True)
class Captured:
    """What was published. ``frozen_ms`` is how long the container stood still for the dump."""

    reference: str
    manifest: SnapshotManifest
    config: SnapshotConfig
    uploaded_bytes: int
    frozen_ms: float


ProveStateless = Callable[[Subject, Sequence[ExpectedGolden]], str | None]
"""Starts the image cold, asks the goldens, returns how an answer differs (None: all are equal)."""


class Capturer:
    """Captures containers of one agent root; ``scratch`` is ROOT/tmp."""

    def __init__(
        self,
        tools: RestoreTools,
        scratch: Path,
        key: NodeKey,
        prove_stateless: ProveStateless | None = None,
    ) -> None:
        self._tools = tools
        self._scratch = scratch
        self._key = key
        self._prove_stateless = prove_stateless

    def capture(
        self,
        subject: Subject,
        store: Store,
        reference: str,
        *,
        goldens: Sequence[str] = (),
        statefulness: str = "prove",
        leave_running: bool = False,
        progress: ProgressSink,
        phases: Phases,
    ) -> Captured:
        """Capture and publish as ``reference``; end the container unless ``leave_running``.

        Raises CaptureFailed, RehearsalFailed, GoldenInvalid, GoldenUnanswered, and what the store
        raises; the container then goes on. NotEnded: it goes on, and the snapshot is published.
        """
        name = ReferenceName.parse(reference)
        env = environment(subject.spec, self._tools.thaw.front)
        runc = Runc(self._tools.thaw.programs, subject.directory, env=env)
        adopt(subject.directory, runc)
        require_running(runc, subject)
        require_image(store, subject)
        # Held before the freeze: the image is borrowed whole, and a collector may have to end.
        with leased(store, (subject.image.descriptor().digest,)) as writer:
            hold_image(writer, subject.image)
            with phases.phase("resident"):
                make_resident(subject.directory, self._tools.thaw.pages)
            expected = self._ask_goldens(subject, runc, goldens, phases)
            with staged_files(self._scratch) as files, _goes_on_if_this_fails(subject, runc):
                if not leave_running:
                    runc.pause()
                with phases.phase("dump"):
                    frozen_ms = self._dump(subject, runc, files)
                captured = self._publish(
                    subject, writer, name, files, expected, statefulness, progress, phases
                )
        if not leave_running:
            _end(subject, runc, captured)
        return replace(captured, frozen_ms=frozen_ms)

    def _ask_goldens(
        self, subject: Subject, runc: Runc, goldens: Sequence[str], phases: Phases
    ) -> list[ExpectedGolden]:
        """Answers are taken live: they are what the snapshot will have to give."""
        requests = [
            parse(text.encode(), f"golden request {number}")
            for number, text in enumerate(goldens, 1)
        ]
        with phases.phase("goldens"):
            return [
                ExpectedGolden(request, ask(request, subject.directory, runc, subject.network))
                for request in requests
            ]

    def _dump(self, subject: Subject, runc: Runc, files: SnapshotFiles) -> float:
        """Dump the container, which goes on, or stays paused; return milliseconds.

        CRIU thaws the group of a paused container to seize its processes, and freezes it again
        before it lets go of them (its seize.c). Raises CaptureFailed.
        """
        directory = subject.directory
        files.write_hook(directory)
        write_criu_config(directory, files.hook)
        dump_log = directory.criu / "dump.log"
        dump_log.unlink(missing_ok=True)
        started = time.monotonic()
        try:
            runc.checkpoint(files.dump, directory.criu, "--file-locks", "--leave-running")
        except RuncFailed as err:
            reason = err.reason
            if dump_log.is_file():
                reason = str(explain(dump_log.read_text(errors="replace")))
            group = self._tools.cgroup_parent.child(directory.name)
            reason = traced_by(group.processes()) or reason
            raise CaptureFailed(directory.name, reason) from err
        finally:
            write_criu_config(directory)
        if not files.copied:
            raise CaptureFailed(directory.name, "its writable layer could not be copied")
        merge_lower_upper(directory, files)
        return frozen_ms(directory.criu) or (time.monotonic() - started) * 1e3

    def _publish(
        self,
        subject: Subject,
        writer: Writer,
        name: ReferenceName,
        files: SnapshotFiles,
        expected: list[ExpectedGolden],
        statefulness: str,
        progress: ProgressSink,
        phases: Phases,
    ) -> Captured:
        store = writer.store
        memory = DumpDirectory(files.dump).memory_files()
        with phases.phase("build"):
            paths = [f"{DUMP}/{file}".encode() for file in memory]
            built = build_files(files.path, store, paths, progress)
        config = self._config(subject, files, built, expected, store)
        draft = draft_manifest(subject.image, built, config, store)
        snapshot = understand(draft, str(name), store.url)
        with phases.phase("rehearsal"):
            rehearsal = Rehearsal(self._tools, self._scratch, snapshot, subject.spec, progress)
            recordings = rehearsal.run(expected)
        stateful = self._is_stateful(subject, expected, statefulness, phases)
        with phases.phase("bundle"):
            progress.update(Progress("start bundle", 0, None))
            devices = (*draft.devices, *subject.image.devices)
            parts = make_bundle(
                recordings,
                memory_extents(snapshot),
                [device.device_id for device in devices],
                StorePages(devices, store.blobs),
                store.blobs,
            )
            size = parts.bundle.size
            progress.update(Progress("start bundle", size, size, finished=True))
        final = replace(
            draft,
            config=put_config(replace(config, stateful=stateful), store),
            bundle=parts.bundle,
            bundle_index=parts.index,
        )
        with phases.phase("publish"):
            manifest = sign(final, self._key)
            # All that can fail comes before the reference is moved.
            kept = understand(manifest, str(name), store.url).config
            publish(writer, name, manifest)
        total = built.stats.uploaded_bytes + parts.bundle.size
        return Captured(str(name), manifest, kept, total, 0.0)

    def _config(
        self,
        subject: Subject,
        files: SnapshotFiles,
        built: BuiltTree,
        expected: Sequence[ExpectedGolden],
        store: Store,
    ) -> SnapshotConfig:
        image = image_of(store, subject.image_reference, subject.image)
        return snapshot_config(
            subject.spec,
            read_config(subject.directory)["process"],
            image_reference=subject.image_reference,
            stop_signal=stop_signal_of(image.config),
            dump=DumpDirectory(files.dump),
            built=built,
            goldens=expected,
            fingerprint=self._tools.host(),
            criu_version=str(self._tools.thaw.front.version),
            read_ahead_kib=READ_AHEAD_KIB,
            start_key=subject.start_key,
        )

    def _is_stateful(
        self,
        subject: Subject,
        expected: Sequence[ExpectedGolden],
        statefulness: str,
        phases: Phases,
    ) -> bool:
        """Declared, or proved: a cold start that answers the goldens equally will do as well."""
        if statefulness != "prove":
            return statefulness == "stateful"
        if not expected or self._prove_stateless is None or subject.spec.volumes:
            return True
        with phases.phase("cold_proof"):
            try:
                difference = self._prove_stateless(subject, expected)
            except HotstartError as err:
                difference = str(err)
        if difference is not None:
            log.info("snapshot_is_stateful", container=subject.directory.name, reason=difference)
        return difference is not None


@contextmanager
def _goes_on_if_this_fails(subject: Subject, runc: Runc) -> Iterator[None]:
    """Thaw the container if the block fails, whoever froze it: ``pause``, or CRIU when killed."""
    try:
        yield
    except BaseException:
        _thaw(subject, runc)
        raise


def _thaw(subject: Subject, runc: Runc) -> None:
    try:
        if runc.state().status == "paused":
            runc.resume()
    except (HotstartError, OSError) as err:
        name = subject.directory.name
        log.error("container_stays_frozen", container=name, reason=err)  # noqa: TRY400  # one line


def _end(subject: Subject, runc: Runc, captured: Captured) -> None:
    """Kill the paused container; block until the monitor has noted its exit, for a while.

    Raises NotEnded; the container then goes on.
    """
    try:
        Group.named(read_config(subject.directory)["linux"]["cgroupsPath"]).kill()
    except (HotstartError, OSError) as err:
        _thaw(subject, runc)
        raise NotEnded(subject.directory.name, str(err), captured) from err
    deadline = time.monotonic() + _END_S
    while not subject.directory.exit_file.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def require_running(runc: Runc, subject: Subject) -> None:
    """Raise UserError unless the container runs."""
    status = runc.state().status
    if status != "running":
        raise UserError(
            f"{subject.directory.name} is {status}, only a running container can be captured"
        )


def require_image(store: Store, subject: Subject) -> None:
    """Raise UserError unless the store holds the container's image too."""
    if not store.blobs.has(subject.image.bootstrap.digest):
        raise UserError(
            f"{store.url} does not hold the image of {subject.directory.name}",
            "capture into the store that the container was started from",
        )
