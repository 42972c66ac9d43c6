"""Which accesses of a device are a reader going through it, and how far ahead of it to fetch. Pure.

An *access* is a byte range that the kernel asks for: one read-ahead of one reader. Every such
request of an incomplete device comes here, whether its bytes are there or not, so that what a
reader does with what was fetched for it is seen, not guessed.

* *Sequential*: accesses that touch end to start, at least SEQUENTIAL_ACCESSES of them over
  PROVEN_BYTES. Once proven, a stream may skip a little, or see accesses slightly out of order
  (several threads that share one front).
* *Strided*: STRIDED_TERMS runs (of one or more touching accesses) that begin one after another at
  equal distances, forward or backward.
* Everything else is random and makes nothing happen. Nor does a reader that has met nothing
  absent: what it reads was brought by somebody who knew (a start bundle, a trace, a pull).

Many readers at once are many streams; those advanced longest ago are forgotten. The window of a
stream is some times what it has proven (GROWTH), up to the limit that the link sets. It shrinks
when a reader skips what was fetched for it; and each stream that ends having left more than it has
used makes the device *cautious*: windows halve and the proof asked for doubles, until streams use
what they are given again.

There is no clock in here: equal accesses give equal answers. Not thread-safe.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from hotstart.core.span import Span

SEQUENTIAL_ACCESSES = 3
STRIDED_TERMS = 4
PROVEN_BYTES = 192 << 10
GROWTH, FIRST_GROWTH, FIRST_BYTES = 4, 16, 8 << 20
"""Steeper for windows up to FIRST_BYTES: on a far link each step costs a round trip in which
nothing else flows. Not beyond: a reader of a few mebibytes is to bring a few times as much."""
UNIT_BYTES = 4 << 20
"""A wide window moves on in steps of this, so that requests stay large."""
SLACK_BYTES = 1 << 20
"""How far a proven stream may jump, or look back, and still be the same reader."""
MOST_STRIDE_BYTES = 64 << 20
MOST_STREAMS = 32
MOST_CAUTION = 6


@dataclass(slots=True, eq=False)
class Stream:
    """One reader. Offsets and lengths are device bytes; ``stride`` is 0 for a sequential one.

    ``start``: where the reader's present run began; ``position``: the end of what it has asked
    for; ``run``: how much it has proven; ``ahead``: the end of what was fetched for it.
    """

    start: int
    position: int
    run: int
    ahead: int
    accesses: int = 1
    stride: int = 0
    length: int = 0
    used: int = 0
    wasted: int = 0
    missed: bool = False
    behind: int = 0

    def left(self) -> int:
        """Return the bytes fetched for the reader that it has not come to."""
        if self.stride:
            terms = (self.ahead - self.start) // self.stride
            return max(0, terms) * self.length
        return max(0, self.ahead - self.position)


class Streams:
    """The readers of one device of ``size_bytes``."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.caution = 0
        self._streams: OrderedDict[int, Stream] = OrderedDict()
        self._numbers = itertools.count()
        self._retired: list[Stream] = []

    def note(
        self, access: Span, limit_bytes: int, *, missed: bool = True
    ) -> tuple[Stream | None, list[Span]]:
        """Take notice of an access: whose it is, and what to fetch for that reader now.

        None, and nothing, unless the reader is known by now. ``limit_bytes`` bounds the window;
        ``missed``: the access asked for something absent.
        """
        number = self._find(access)
        if number is None:
            number = self._begin(access)
        else:
            self._advance(self._streams[number], access)
        self._streams.move_to_end(number)
        stream = self._streams[number]
        stream.missed |= missed
        if not stream.missed or not self._is_proven(stream):
            return None, []
        return stream, list(self._wanted(stream, limit_bytes))

    def take_read(self, stream: Stream, lag_bytes: int, step_bytes: int) -> Span | None:
        """Return what a sequential reader has read and left ``lag_bytes`` behind, each byte once.

        At least ``step_bytes``, or None.
        """
        begin, end = max(stream.behind, stream.start), stream.position - lag_bytes
        if stream.stride or end - begin < step_bytes:
            return None
        stream.behind = end
        return Span(begin, end - begin)

    def take_retired(self) -> list[Stream]:
        """Return the streams forgotten since the last call: what waits for them may be dropped."""
        retired, self._retired = self._retired, []
        return retired

    def _is_proven(self, stream: Stream) -> bool:
        if stream.stride:
            return True
        proof = PROVEN_BYTES << self.caution
        return stream.accesses >= SEQUENTIAL_ACCESSES and stream.run >= proof

    def _find(self, access: Span) -> int | None:
        """Return the number of the stream that an access continues; strided ones first."""
        found, nearest = None, 0
        for number, stream in self._streams.items():
            distance = _distance(stream, access, proven=self._is_proven(stream))
            if distance is not None and (found is None or distance < nearest):
                found, nearest = number, distance
        return found

    def _begin(self, access: Span) -> int:
        """Open a stream for an access that continues none; it may be a term of a stride."""
        stream = Stream(access.offset, access.end, access.length, access.end)
        origin = self._progression(access)
        if origin is not None:
            stream.stride = access.offset - origin.start
            stream.length = max(access.length, origin.position - origin.start)
            stream.accesses = STRIDED_TERMS
            stream.ahead = access.offset
        number = next(self._numbers)
        self._streams[number] = stream
        while len(self._streams) > MOST_STREAMS:
            _, old = self._streams.popitem(last=False)
            self._retire(old)
        return number

    def _progression(self, access: Span) -> Stream | None:
        """Return the run before ``access`` if its start and two before lie at equal distances."""
        begun = {one.start: number for number, one in self._streams.items() if not one.stride}
        for start, number in reversed(begun.items()):
            stride = access.offset - start
            if begun.get(start - stride, number) >= number:
                continue  # most: this is asked for every random access
            if not access.length <= abs(stride) <= MOST_STRIDE_BYTES:
                continue
            before = [begun.get(start - term * stride, number) for term in range(STRIDED_TERMS - 1)]
            if all(earlier < later for later, earlier in itertools.pairwise(before)):
                return self._streams[number]
        return None

    def _advance(self, stream: Stream, access: Span) -> None:
        stream.accesses += 1
        if stream.stride:
            if (access.offset - stream.start) % stream.stride == 0:
                stream.used += stream.length if stream.start != access.offset else 0
                stream.start = access.offset
            stream.position = max(stream.position, access.end)
            stream.length = max(stream.length, access.end - stream.start)
            return
        skipped = access.offset - stream.position
        if skipped > SLACK_BYTES:
            stream.wasted += min(skipped, stream.left())
            stream.run //= 2
        gained = max(0, access.end - max(stream.position, access.offset))
        stream.used += min(gained, stream.left())
        stream.run += gained
        stream.position = max(stream.position, access.end)

    def _retire(self, stream: Stream) -> None:
        """Learn from a reader that is gone whether fetching ahead of it has paid."""
        wasted = stream.wasted + stream.left()
        if wasted > stream.used:
            self.caution = min(self.caution + 1, MOST_CAUTION)
        elif stream.used > 4 * wasted:
            self.caution = max(self.caution - 1, 0)
        self._retired.append(stream)

    def _wanted(self, stream: Stream, limit_bytes: int) -> Iterator[Span]:
        if stream.stride:
            yield from self._terms(stream, limit_bytes)
            return
        window = max(GROWTH * stream.run, min(FIRST_GROWTH * stream.run, FIRST_BYTES))
        window = min(limit_bytes, window >> self.caution)
        begin = max(stream.ahead, stream.position)
        end = min(self.size_bytes, stream.position + window)
        if end - begin >= min(UNIT_BYTES, window // 2) or begin < end == self.size_bytes:
            stream.ahead = end
            yield Span(begin, end - begin)

    def _terms(self, stream: Stream, limit_bytes: int) -> Iterator[Span]:
        """Yield the terms to come that were not fetched yet, nearest first."""
        count = min(limit_bytes // max(1, stream.length), GROWTH * stream.accesses >> self.caution)
        for term in range(1, count + 1):
            offset = stream.start + term * stream.stride
            if not 0 <= offset < self.size_bytes:
                return
            if (offset - stream.ahead) * stream.stride > 0:
                stream.ahead = offset
                yield Span(offset, min(stream.length, self.size_bytes - offset))


def _distance(stream: Stream, access: Span, *, proven: bool) -> int | None:
    """Return how far an access is from where a stream's next one is expected; None: another's."""
    if stream.stride:
        terms, rest = divmod(access.offset - stream.start, stream.stride)
        if rest == 0 and 1 <= terms <= STRIDED_TERMS:
            return 0
        within = stream.start <= access.offset <= max(stream.position, stream.start + stream.length)
        return 0 if within else None
    distance = abs(access.offset - stream.position)
    if access.offset <= stream.position <= access.end:
        return distance
    if proven and (
        stream.position - SLACK_BYTES <= access.offset <= max(stream.position, stream.ahead)
        or distance <= SLACK_BYTES
    ):
        return distance
    return None
