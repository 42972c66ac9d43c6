"""Wrappers that repeat what failed with StoreUnavailable, after growing and jittered waits.

Nothing else is repeated: denied, full, absent and wrong bytes stay what they are. All operations
may be repeated safely: blobs are immutable, and a compare-and-set that had gone through although
its answer was lost is recognised by what the reference then points to.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from hotstart.core.digest import Digest
from hotstart.core.log import get_logger
from hotstart.core.span import Span
from hotstart.store.blob_store import (
    BlobNotFound,
    BlobStore,
    Content,
    StoreBusy,
    StoredBlob,
    StoreUnavailable,
    Writable,
)
from hotstart.store.descriptor import Descriptor
from hotstart.store.lease_objects import LeaseEntry, LeaseObjects
from hotstart.store.references import (
    Reference,
    ReferenceChanged,
    ReferenceName,
    ReferenceNotFound,
    ReferenceStore,
)

log = get_logger(__name__)

_T = TypeVar("_T")


BUSY_DELAY_S = 1.0
"""The shortest wait before a store that asked for fewer requests is asked again."""


def jittered_s(
    longest_s: float, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """Return a random wait of up to ``longest_s``, so that callers who failed together part.

    At least half of it: full jitter would let some of them hammer a sick server.
    """
    return uniform(longest_s / 2, longest_s)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most ``attempts`` calls; before the n-th repetition a random wait of up to 2^n delays.

    No call begins later than ``total_s`` after the first one, so that a store that accepts requests
    and never answers is not given ``attempts`` timeouts. One that is busy is left alone for longer.
    """

    attempts: int = 5
    first_delay_s: float = 0.05
    max_delay_s: float = 3.0
    total_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform
    clock: Callable[[], float] = time.monotonic

    def call(self, operation: Callable[[], _T]) -> _T:
        """Return what ``operation`` returns; raise its last StoreUnavailable."""
        began_s = self.clock()
        for attempt in range(1, self.attempts):
            try:
                return operation()
            except StoreUnavailable as err:
                delay_s = self._delay_s(attempt, err)
                if self.clock() + delay_s - began_s >= self.total_s:
                    raise
                log.info("store_retry", attempt=attempt, delay_s=delay_s, reason=err)
                self.sleep(delay_s)
        return operation()

    def _delay_s(self, attempt: int, err: StoreUnavailable) -> float:
        longest = min(self.max_delay_s, self.first_delay_s * 2.0**attempt)
        delay_s = jittered_s(longest, self.uniform)
        return delay_s + BUSY_DELAY_S if isinstance(err, StoreBusy) else delay_s


ONCE = RetryPolicy(attempts=1)
"""For callers who repeat themselves, as the fill engine does: two loops would multiply."""


class RetryingBlobs:
    """Blobs whose operations are repeated while the store is unavailable."""

    def __init__(self, inner: BlobStore, policy: RetryPolicy) -> None:
        self._inner = inner
        self._policy = policy

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._inner.url

    def read(self, digest: Digest, span: Span | None = None) -> Content:
        """Return the bytes."""
        return self._policy.call(lambda: self._inner.read(digest, span))

    def size(self, digest: Digest) -> int:
        """Return the size in bytes."""
        return self._policy.call(lambda: self._inner.size(digest))

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there."""
        return self._policy.call(lambda: self._inner.has(digest))

    def put(self, digest: Digest, content: Writable, *, is_checked: bool = False) -> None:
        """Store ``content``."""
        self._policy.call(lambda: self._inner.put(digest, content, is_checked=is_checked))

    def remove(self, digest: Digest) -> None:
        """Remove the blob; absent after a lost answer means removed."""
        _after_lost_answer(
            self._policy, lambda: self._inner.remove(digest), BlobNotFound, lambda: True
        )

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """Yield each blob and its size; a listing that breaks is begun again."""
        return iter(self._policy.call(lambda: list(self._inner.digests())))

    def entries(self) -> Iterator[StoredBlob]:
        """Yield each blob with its time; a listing that breaks is begun again."""
        return iter(self._policy.call(lambda: list(self._inner.entries())))


class RetryingReferences:
    """References whose operations are repeated while the store is unavailable."""

    def __init__(self, inner: ReferenceStore, policy: RetryPolicy) -> None:
        self._inner = inner
        self._policy = policy

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._inner.url

    def get(self, name: ReferenceName) -> Reference:
        """Return what ``name`` points to now."""
        return self._policy.call(lambda: self._inner.get(name))

    def swap(self, name: ReferenceName, target: Descriptor, expected: str | None) -> Reference:
        """Replace ``name`` if it is at ``expected``."""
        swapped = _after_lost_answer(
            self._policy,
            lambda: self._inner.swap(name, target, expected),
            ReferenceChanged,
            lambda: self._points_to(name, target),
        )
        return swapped if swapped is not None else self.get(name)

    def remove(self, name: ReferenceName, expected: str) -> None:
        """Remove ``name`` if it is at ``expected``."""
        _after_lost_answer(
            self._policy,
            lambda: self._inner.remove(name, expected),
            ReferenceNotFound,
            lambda: True,
        )

    def names(self) -> Iterator[ReferenceName]:
        """Yield every name; a listing that breaks is begun again."""
        return iter(self._policy.call(lambda: list(self._inner.names())))

    def _points_to(self, name: ReferenceName, target: Descriptor) -> bool:
        try:
            return self.get(name).target == target.without_data()
        except ReferenceNotFound:
            return False


class RetryingLeases:
    """Leases whose operations are repeated while the store is unavailable."""

    def __init__(self, inner: LeaseObjects, policy: RetryPolicy) -> None:
        self._inner = inner
        self._policy = policy

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._inner.url

    def write(self, name: str, content: bytes) -> int:
        """Create or replace an object."""
        return self._policy.call(lambda: self._inner.write(name, content))

    def read(self, name: str) -> bytes | None:
        """Return an object's content, or None."""
        return self._policy.call(lambda: self._inner.read(name))

    def entries(self) -> list[LeaseEntry]:
        """Return every object."""
        return self._policy.call(self._inner.entries)

    def remove(self, name: str) -> None:
        """Remove an object."""
        self._policy.call(lambda: self._inner.remove(name))


def _after_lost_answer(
    policy: RetryPolicy,
    operation: Callable[[], _T],
    refusal: type[Exception],
    was_done: Callable[[], bool],
) -> _T | None:
    """Repeat a change; a refusal after an unanswered attempt may be that attempt's success.

    Returns None in that case. The first attempt's refusal is always a refusal.
    """
    unanswered = False

    def attempt() -> _T:
        nonlocal unanswered
        try:
            return operation()
        except StoreUnavailable:
            unanswered = True
            raise

    try:
        return policy.call(attempt)
    except refusal:
        if unanswered and was_done():
            return None
        raise
