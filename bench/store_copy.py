"""A process that copies one store into another: ``python -m bench.store_copy``.

It is a process of its own because credentials are a process's environment, and only the far store
has any. Reads ``{"source": URL, "target": URL}`` from standard input; writes a JSON line
``{"done", "total"}`` for each blob. Blobs first, references after: whoever sees a reference finds
everything that it reaches.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from hotstart.core.digest import Digest
from hotstart.store.stack import Store, open_store

THREADS = 4


def copy(source: Store, target: Store) -> None:
    """Copy every blob and every reference; the target must have none of the references."""
    blobs = list(source.blobs.digests())
    total = sum(size for _, size in blobs)

    def copy_blob(blob: tuple[Digest, int]) -> int:
        digest, size = blob
        target.blobs.put(digest, source.blobs.read(digest))
        return size

    done = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for size in pool.map(copy_blob, blobs):
            done += size
            os.write(1, json.dumps({"done": done, "total": total}).encode() + b"\n")
    # Reserved names first: an image may need the relocations of its packs.
    for name in sorted(source.references.names(), key=lambda name: not name.is_reserved):
        target.references.swap(name, source.references.get(name).target, None)


if __name__ == "__main__":
    order = json.loads(sys.stdin.buffer.readline())
    copy(open_store(order["source"]), open_store(order["target"]))
