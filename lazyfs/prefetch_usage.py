"""What readers asked for of a device, and how much of what was prefetched.

While a device is incomplete the kernel asks for every page that its page cache lacks, whether the
page is on the device or not: the first read of a prefetched page is always seen, and counts as its
use, once. So does a read that waited for the page while it was on its way. A complete device raises
no more events; from then on the numbers stand still, and say what was used by then.

Pages that the kernel reads ahead by itself count as used: it asks for them before a reader does.
One byte a page, from the first read or prefetch on. Thread-safe.
"""

from __future__ import annotations

import threading

from hotstart.core.span import PAGE

JUDGED_BYTES = 1 << 20
"""Less than this is not judged: a reader may still come to it."""
WORTH = 32
"""What is brought of one stretch may be so many times what was read of it."""

_NOTHING, _BROUGHT, _READ = b"\0", b"\1", b"\2"
_BRING = bytes.maketrans(_NOTHING, _BROUGHT)


class PrefetchUsage:
    """Counts for one device of ``pages``."""

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self._states = bytearray()
        self._lock = threading.Lock()
        self._prefetched = 0
        self._used = 0
        self._read = 0

    def brought(self, first: int, pages: int) -> None:
        """Note that pages that nobody had asked for are on the device now."""
        with self._lock:
            self._begin()
            end = min(first + pages, self._pages)
            self._states[first:end] = self._states[first:end].translate(_BRING)
            self._prefetched += end - first

    def read(self, first: int, pages: int) -> None:
        """Note that a reader asked for pages."""
        with self._lock:
            self._begin()
            end = min(first + pages, self._pages)
            used = self._states.count(_BROUGHT, first, end)
            new = self._states.count(_NOTHING, first, end)
            if used or new:
                self._states[first:end] = _READ * (end - first)
                self._used += used
                self._read += used + new

    def _begin(self) -> None:
        if not self._states:
            self._states = bytearray(self._pages)

    @property
    def read_bytes(self) -> int:
        """Bytes of the pages that somebody has asked for."""
        return self._read * PAGE

    @property
    def prefetched_bytes(self) -> int:
        """Bytes that were brought before anybody asked for them."""
        return self._prefetched * PAGE

    @property
    def used_bytes(self) -> int:
        """Bytes of those that somebody has asked for since."""
        return self._used * PAGE

    @property
    def unused_bytes(self) -> int:
        """Bytes of those that nobody has asked for yet."""
        return (self._prefetched - self._used) * PAGE

    def is_wasted(self, first: int, pages: int) -> bool:
        """Tell whether hardly anything is read of these pages but much was brought and left."""
        with self._lock:
            unused = self._states.count(_BROUGHT, first, first + pages)
            read = self._states.count(_READ, first, first + pages)
        return unused * PAGE > JUDGED_BYTES and WORTH * read < unused
