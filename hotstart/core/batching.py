"""Groups of things that have a size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def in_batches(
    items: Iterable[Item], limit: int, size_of: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Yield the items in order, in groups of at most ``limit``; a larger one is its own group."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and size + size_of(item) > limit:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += size_of(item)
    if batch:
        yield batch
