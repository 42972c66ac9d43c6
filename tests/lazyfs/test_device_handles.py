"""What the agent does before the worker serves a device keeps nothing from the worker."""

import os
from dataclasses import replace

from hotstart.core.span import PAGE
from hotstart.store.ready_map import ReadyMap
from lazyfs.cache import Cache
from lazyfs.device_handles import DeviceMeta, open_fuse_device
from lazyfs.fill_service import _open_ready
from lazyfs.table_reader import open_table
from tests.lazyfs.small_device import CHUNK_PAGES, SmallDevice


def test_what_verifies_after_a_power_loss_is_won_back(tmp_path):
    small, cache = SmallDevice(tmp_path), Cache(tmp_path)
    spec = small.spec
    with cache.device_path(spec.device_id).open("wb") as file:
        file.write(small.content)
        file.seek(0)
        file.write(bytes(PAGE))  # the first chunk did not reach the disk
    path = cache.ready_path(spec.device_id)
    with ReadyMap.open(path, spec.device_id, spec.pages, boot_id=bytes(16)) as ready:
        ready.set(0, 3 * CHUNK_PAGES)
    held = open_fuse_device(cache, spec, tmp_path / "fuse")
    meta = DeviceMeta.from_json(held.meta)

    def opener(spec):
        return open_table(small.store.blobs, spec, tmp_path / "x.verified")

    with _open_ready(meta, held.fds[0], opener) as ready:
        assert ready.missing(0, CHUNK_PAGES) == 0
        assert ready.missing(CHUNK_PAGES, 2 * CHUNK_PAGES) < 0
        assert ready.missing(3 * CHUNK_PAGES, 1) >= 0
    os.close(held.fds[0])


def test_a_file_of_another_size_than_its_device_is_vouched_for_by_nothing(tmp_path):
    """A wrong manifest cuts it; the right one would find zeros where bytes were called ready."""
    small, cache = SmallDevice(tmp_path), Cache(tmp_path)
    spec = small.spec
    cache.device_path(spec.device_id).write_bytes(small.content)
    path = cache.ready_path(spec.device_id)
    with ReadyMap.open(path, spec.device_id, spec.pages) as ready:
        ready.set(0, spec.pages)
    for size_bytes in (spec.size_bytes - 1, spec.size_bytes):
        open_fuse_device(cache, replace(spec, size_bytes=size_bytes), tmp_path / "fuse").close()
    with ReadyMap.open(path, spec.device_id, spec.pages) as ready:
        assert ready.missing(0, spec.pages) == 0
