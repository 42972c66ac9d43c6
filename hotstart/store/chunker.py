"""Content-defined cutting on 4 KiB boundaries: the same bytes are cut at the same places.

A chunk ends after the first whole page, past the minimum length, whose XXH3-64 is divisible by a
number chosen for the average; at the latest at the maximum. So an insertion or a change moves
cuts only until the next common one, and every chunk is a whole number of pages (the last piece of
a buffer may be shorter; whoever stores it pads it). The rule is part of no format: readers take
chunks as the table says. Changing it only costs deduplication against older images.

Pages before the minimum are never hashed, which makes cutting faster than any chunk digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from xxhash import xxh3_64_intdigest

from hotstart.core.span import PAGE

AVERAGE = 128 << 10
"""Files of images. Smaller chunks deduplicate better and cost more requests."""
SMALL_AVERAGE = 32 << 10
"""Memory of snapshots, where single pages differ."""
_WINDOW = 8 << 20


def _limits(average: int, minimum: int | None, maximum: int | None) -> tuple[int, int, int]:
    """Return the minimum, the maximum and the divisor for an average, all checked."""
    low = average // 4 // PAGE * PAGE or PAGE if minimum is None else minimum
    high = average * 4 if maximum is None else maximum
    if not 0 < low <= average <= high or low % PAGE or average % PAGE or high % PAGE:
        raise ValueError(f"chunk limits {low} <= {average} <= {high} must be whole pages")
    return low, high, max(1, (average - low) // PAGE)


def cut_points(
    buffer: bytes | bytearray | memoryview,
    *,
    average: int = AVERAGE,
    minimum: int | None = None,
    maximum: int | None = None,
) -> list[int]:
    """Return where each chunk of ``buffer`` ends; the last one ends with the buffer.

    Limits are in bytes and multiples of 4096; by default a quarter and four times the average.
    """
    low, high, divisor = _limits(average, minimum, maximum)
    view = memoryview(buffer)
    cuts: list[int] = []
    start, size = 0, len(view)
    while start < size:
        start = _next_cut(view, start, min(start + high, size), low=low, divisor=divisor)
        cuts.append(start)
    return cuts


def _next_cut(view: memoryview, start: int, latest: int, *, low: int, divisor: int) -> int:
    for end in range(start + low, latest, PAGE):
        if xxh3_64_intdigest(view[end - PAGE : end]) % divisor == 0:
            return end
    return latest


def cut(
    read: Callable[[int], bytes],
    *,
    average: int = AVERAGE,
    minimum: int | None = None,
    maximum: int | None = None,
) -> Iterator[bytes]:
    """Yield the chunks of a stream; ``read(n)`` returns up to n bytes, and b"" at the end.

    Cuts are those of ``cut_points`` over the whole stream; memory stays below about 20 MiB.
    """
    _, high, _ = _limits(average, minimum, maximum)
    window = max(_WINDOW, 2 * high)
    rest = b""
    while True:
        rest = _fill(read, rest, window)
        ended = len(rest) < window
        start = 0
        for end in cut_points(rest, average=average, minimum=minimum, maximum=maximum):
            # A cut at the end of the window may be the window's doing: it is decided again.
            if end == len(rest) and not ended:
                break
            yield rest[start:end]
            start = end
        if ended:
            return
        rest = rest[start:]


def _fill(read: Callable[[int], bytes], rest: bytes, window: int) -> bytes:
    parts, size = [rest], len(rest)
    while size < window:
        part = read(window - size)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)
