"""Trace: what a start touched, in order and with times; it drives prefetch and layout.

Bytes (docs/formats/trace.md): a head of 32 bytes, device ids (32 bytes each), then one zstd frame
of spans (24 bytes each) in order of time. Devices in spans are numbers into the device ids.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hotstart.store import zstd_frame
from hotstart.store.format_errors import FormatInvalid, check_version
from hotstart.store.page_runs import MAX_PAGE, MAX_RUN_PAGES, PageSet

MAGIC = b"HSTRACE\0"
VERSION = 1
MAX_SPANS = 4 << 20
MAX_DEVICES = 4096

_HEAD = struct.Struct("<8sHHIII8x")
_SPAN = struct.Struct("<IIQII")
_ID_BYTES = 32


class TraceInvalid(FormatInvalid):
    """Bytes are not a trace."""

    format_name = "trace"


@dataclass(frozen=True, slots=True, order=True)
class TraceSpan:
    """Pages of one device, first asked for ``at_ms`` after the start of the recording."""

    at_ms: int
    device: int
    first_page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Spans in order of time; ``device_ids`` gives the devices' numbers a meaning."""

    device_ids: tuple[str, ...]
    spans: tuple[TraceSpan, ...]

    @property
    def pages(self) -> int:
        """How many pages the spans hold in all."""
        return sum(span.pages for span in self.spans)

    def encode(self) -> bytes:
        """Return the bytes. Raises ValueError for a trace that no reader takes."""
        try:
            body = b"".join(
                _SPAN.pack(span.at_ms, span.device, span.first_page, span.pages, 0)
                for span in self.spans
            )
            stored = zstd_frame.compress(body)
            counts = (len(self.device_ids), len(self.spans), len(stored))
            head = _HEAD.pack(MAGIC, VERSION, 0, *counts)
            content = b"".join([head, *(bytes.fromhex(i) for i in self.device_ids), stored])
            if Trace.decode(content) != self:
                raise ValueError("the trace does not survive its encoding")
        except (struct.error, FormatInvalid) as err:
            raise ValueError(f"trace cannot be encoded: {err}") from err
        return content

    @classmethod
    def decode(cls, content: bytes) -> Trace:
        """Read the bytes. Raises TraceInvalid or FormatVersionUnknown."""
        if len(content) < _HEAD.size:
            raise TraceInvalid(f"{len(content)} bytes, a head has {_HEAD.size}")
        magic, version, reserved, devices, spans, stored = _HEAD.unpack_from(content)
        if magic != MAGIC:
            raise TraceInvalid("does not begin with the magic of a trace")
        check_version("trace", version, (VERSION,))
        start = _HEAD.size + _ID_BYTES * devices
        if reserved or any(content[24:32]) or devices > MAX_DEVICES or spans > MAX_SPANS:
            raise TraceInvalid("fields are not as this version writes them")
        if len(content) != start + stored:
            raise TraceInvalid(f"{len(content)} bytes, expected {start + stored}")
        ids = tuple(
            content[at : at + _ID_BYTES].hex() for at in range(_HEAD.size, start, _ID_BYTES)
        )
        return cls(ids, _decode_spans(content[start:], spans, devices))


def _decode_spans(stored: bytes, count: int, devices: int) -> tuple[TraceSpan, ...]:
    try:
        body = zstd_frame.decompress(stored, count * _SPAN.size)
    except zstd_frame.FrameInvalid as err:
        raise TraceInvalid(str(err)) from err
    entries = list(_SPAN.iter_unpack(body))
    if any(entry[4] for entry in entries):
        raise TraceInvalid("reserved fields are not as this version writes them")
    spans = tuple(TraceSpan(*entry[:4]) for entry in entries)
    last_ms = 0
    for number, span in enumerate(spans):
        if span.device >= devices or span.first_page > MAX_PAGE:
            raise TraceInvalid(f"span {number} is outside of every device")
        if not 0 < span.pages <= MAX_RUN_PAGES or span.at_ms < last_ms:
            raise TraceInvalid(f"span {number} is empty or out of order")
        last_ms = span.at_ms
    return spans


def merge(traces: Sequence[Trace]) -> Trace:
    """Return the union in order of time: each page once, when the earliest trace touched it."""
    ids = tuple(dict.fromkeys(device for trace in traces for device in trace.device_ids))
    number_of = {device: number for number, device in enumerate(ids)}
    renumbered = [
        TraceSpan(span.at_ms, number_of[trace.device_ids[span.device]], span.first_page, span.pages)
        for trace in traces
        for span in trace.spans
    ]
    # A stable sort by time alone: within one millisecond the recorded order stays.
    renumbered.sort(key=lambda span: span.at_ms)
    return Trace(ids, tuple(first_touches(renumbered)))


def first_touches(spans: Iterable[TraceSpan]) -> Iterable[TraceSpan]:
    """Yield the spans, or the parts of them, that touch pages for the first time."""
    seen: dict[int, PageSet] = {}
    for span in spans:
        pages = seen.setdefault(span.device, PageSet())
        for first, count in pages.add(span.first_page, span.pages):
            yield TraceSpan(span.at_ms, span.device, first, count)
