"""Writes golden files that are missing; never replaces one. Run: python -m tests.golden.write"""

import sys
import tempfile
from pathlib import Path

from hotstart.store.descriptor import Descriptor
from hotstart.store.object_list import ObjectList
from hotstart.store.ready_map_header import encode_header
from hotstart.store.references import ReferenceName, encode_reference
from tests.store import samples

HERE = Path(__file__).parent
NAME = ReferenceName.parse("team/app:v1")
TARGET = Descriptor.of("application/vnd.oci.image.manifest.v1+json", b"x", {"note": "ü"})


def ready_map():
    with tempfile.TemporaryDirectory() as directory:
        return samples.ready_map(Path(directory))


GOLDEN = {
    "image-manifest.v1": lambda: samples.image().to_bytes(),
    "snapshot-manifest.v1": lambda: samples.snapshot().to_bytes(),
    "snapshot-config.v2": lambda: samples.snapshot_config_v2().to_bytes(),
    "lease.v1": lambda: samples.lease().to_bytes(),
    "reference.v1": lambda: encode_reference(NAME, TARGET),
    "chunk-table.v1": lambda: samples.table(5)[0].content,
    "object-list.v1": lambda: ObjectList("s3://b/p", [("b", "2", 9), ("\u00e4", "1", 5)]).encode(),
    "trace.v1": lambda: samples.trace().encode(),
    "relocation.v1": lambda: samples.relocation().encode(),
    "bundle.v1": lambda: samples.bundle()[0],
    "bundle-index.v1": lambda: samples.bundle_index().encode(),
    "pack.v1": lambda: samples.pack()[0],
    "ready-map.v1": ready_map,
    "ready-map-header.v1": lambda: encode_header("ab" * 32, 7, bytes(range(16))),
}


def main():
    for name, make in GOLDEN.items():
        path = HERE / name
        if not path.exists():
            path.write_bytes(make())
            sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
