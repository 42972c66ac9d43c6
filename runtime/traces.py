"""Traces of first starts: found in the store, recorded through a mount's marks, saved again.

A trace lies in the store under the reserved reference of its image. It is a help, never a need:
one that is missing, damaged or of another image counts as none, and one that cannot be saved is
logged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from hotstart.core.errors import HotstartError, IntegrityError, NotFound
from hotstart.core.log import get_logger
from hotstart.store.leased import leased
from hotstart.store.stack import Store
from hotstart.store.trace import Trace
from hotstart.store.traces import add_trace, read_trace
from runtime.loaded_image import LoadedImage

log = get_logger(__name__)

_FIRST_SECONDS = 10.0
"""How long a container that never says it is ready is taken to be starting."""


class Recorder(Protocol):
    """What is used of ``FillClient``: notes first touches of an image that keeps its marks."""

    def record_start(self, name: str) -> None:
        """Begin to note what is touched of the mounted image ``name`` (its manifest in hex)."""

    def record_stop(self, name: str) -> Trace:
        """End the recording and return it."""


def find_trace(store: Store, image: LoadedImage) -> Trace | None:
    """Return the trace recorded for this image, or None."""
    try:
        trace = read_trace(store, image.digest)
    except (NotFound, IntegrityError) as err:  # a reference whose blob is gone, or damage
        log.warning("trace_unusable", image=image.reference, error=err)
        return None
    if trace is None or not trace.spans:
        return None
    known = {device.device_id for device in image.manifest.devices}
    return trace if known.issuperset(trace.device_ids) else None


def save_trace(store: Store, image: LoadedImage, trace: Trace) -> bool:
    """Add a trace to what earlier starts touched; returns whether that has become more."""
    try:
        with leased(store, (image.digest,)) as writer:
            union = add_trace(writer.store, image.digest, trace, image.manifest.devices)
    except HotstartError as err:
        log.warning("trace_not_saved", image=image.reference, error=err)
        return False
    if union is None:
        return False
    log.info("trace_saved", image=image.reference, spans=len(union.spans), pages=union.pages)
    return True


class TraceRecording:
    """One recording of one start; ends once, by ``finish`` or by ``abandon``."""

    def __init__(self, recorder: Recorder, image: LoadedImage) -> None:
        self._recorder = recorder
        self._image = image
        self._name = image.digest.hex
        self._lock = threading.Lock()
        self._running = False

    def start(self) -> None:
        """Begin; raises what the recorder does."""
        self._recorder.record_start(self._name)
        self._running = True

    def finish(self, store: Store) -> bool:
        """End and save what was touched; returns whether something was saved."""
        trace = self._stop()
        return bool(trace is not None and trace.spans and save_trace(store, self._image, trace))

    def finish_later(self, store: Store, ended: Callable[[float], bool] | None = None) -> None:
        """Save in the background: what was touched until now, or at first by a container.

        ``ended`` waits for so many seconds and tells whether the container has ended: for one
        without a probe.
        """

        def run() -> None:
            if ended is not None:
                ended(_FIRST_SECONDS)
            self.finish(store)

        threading.Thread(target=run, name="trace-recording", daemon=True).start()

    def abandon(self) -> None:
        """End and forget. Idempotent."""
        self._stop()

    def _stop(self) -> Trace | None:
        with self._lock:
            running, self._running = self._running, False
        if not running:
            return None
        try:
            return self._recorder.record_stop(self._name)
        except HotstartError as err:
            log.warning("recording_lost", image=self._image.reference, error=err)
            return None
