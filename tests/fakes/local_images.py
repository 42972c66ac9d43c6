"""Images without lazyfs: every device is filled whole before it is mounted; nothing is recorded.

Has the shape of runtime's Images, Prefetcher and CachePaths; real EROFS mounts, real bytes.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hotstart.kernel.erofs import mount_erofs
from hotstart.kernel.mounts import unmount
from hotstart.store import media_types, zstd_frame
from hotstart.store.chunk_table import ChunkTable
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import DeviceDescriptor, raw_size
from hotstart.store.page_runs import Run
from hotstart.store.ready_map import ReadyMap
from hotstart.store.trace import Trace, TraceSpan
from runtime.store_pages import StorePages


@dataclass
class LocalMount:
    path: Path

    def release(self):
        unmount(self.path, detach=True)

    def stop(self):
        return self.trace


class LocalImages:
    def __init__(self, root, fill):
        self.root = root
        self._fill = fill
        self.count = 0
        self.removals = 0
        self.prefetched = []
        for name in ("devices", "bootstraps", "mounts"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def device_path(self, device_id):
        return self.root / "devices" / f"{device_id}.dev"

    def ready_path(self, device_id):
        return self.root / "devices" / f"{device_id}.ready"

    def prepare(self, *specs):
        pass

    def is_local(self, spec):
        return True

    def stats(self):
        return []

    def mount(self, spec, *, read_ahead_kib):
        bootstrap = self.root / "bootstraps" / f"{spec.bootstrap.digest.hex}.erofs"
        self._fill.bootstrap(spec, bootstrap)
        for device in spec.devices:
            if not self.device_path(device.device_id).exists():
                self._fill.device(device, self.device_path(device.device_id))
                with ReadyMap.open(
                    self.ready_path(device.device_id), device.device_id, device.pages
                ) as ready:
                    ready.set(0, device.pages)
        self.count += 1
        target = self.root / "mounts" / f"{spec.manifest[:12]}-{self.count}"
        target.mkdir(exist_ok=True)
        mount_erofs(bootstrap, target, [self.device_path(d.device_id) for d in spec.devices])
        return LocalMount(target)

    @contextmanager
    def mount_recording(self, spec, *, read_ahead_kib):
        mounted = self.mount(spec, read_ahead_kib=read_ahead_kib)
        first = tuple(TraceSpan(0, n, 0, 1) for n, d in enumerate(spec.devices))
        mounted.trace = Trace(tuple(d.device_id for d in spec.devices), first)
        try:
            yield mounted
        finally:
            mounted.release()

    def prefetch(self, name, plan):
        self.prefetched.append(plan)
        return len(self.prefetched)

    def wait(self, job):
        return {"job": job, "stopped": ""}


class StoreFill:
    """Fills devices and bootstraps out of a store."""

    def __init__(self, store):
        self._store = store

    def bootstrap(self, spec, path):
        if not path.exists():
            stored = self._store.blobs.read(spec.bootstrap.digest)
            path.write_bytes(zstd_frame.decompress(stored, raw_size(spec.bootstrap)))

    def device(self, device, path):
        table = ChunkTable.of_bytes(self._store.blobs.read(device.table.digest))
        packs = tuple(Descriptor(media_types.PACK, digest, 0) for digest in table.packs)
        described = DeviceDescriptor(
            device.table, device.size_bytes, packs, device.head_length, device.head_digest
        )
        pages = StorePages((described,), self._store.blobs)
        with path.open("wb") as file:
            for first in range(0, device.pages, 4096):
                run = Run(0, first, min(4096, device.pages - first))
                file.write(pages.read(device.device_id, run))
