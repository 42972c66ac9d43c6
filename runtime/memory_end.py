"""Whether a container that did not become ready ran out of memory: asked before its group goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hotstart.kernel.cgroup import Group
from runtime.containers import OUT_OF_MEMORY, out_of_memory
from runtime.readiness import NotReady


@contextmanager
def telling_of_memory(group: Group) -> Iterator[None]:
    """Have a NotReady out of the block say so if the container ran out of memory."""
    try:
        yield
    except NotReady as err:
        if not out_of_memory(group):
            raise
        raise NotReady(err.container, f"{err.reason} ({OUT_OF_MEMORY})", err.lines) from err
