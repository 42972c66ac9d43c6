"""The guest's first file system: busybox, the modules that reach the root, and what mounts it.

The root is the host's own, read-only over 9p below an overlay whose writable layer is memory, so
that the checkout and its .venv are there as they are here. Written as a "newc" archive
(Documentation/driver-api/early-userspace/buffer-format.rst); modules are stored uncompressed.
"""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterable
from pathlib import Path

from tools.kernels.debian_kernels import Kernel

MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What the root needs; the rest the kernel asks modprobe for, in the root."""

BUSYBOX = Path("/bin/busybox")
INIT = Path(__file__).with_name("init.sh")


def build(kernel: Kernel, target: Path) -> None:
    """Write the archive for ``kernel`` to ``target``."""
    names = list(_in_order(kernel))
    modules = [(f"modules/{Path(name).name.removesuffix('.xz')}", name) for name in names]
    order = "".join(f"/{stored}\n" for stored, _ in modules).encode()
    with target.open("wb") as archive:
        for name in ("bin", "dev", "proc", "sys", "modules", "lower", "memory", "root"):
            archive.write(_entry(name, stat.S_IFDIR | 0o755))
        archive.write(_entry("init", stat.S_IFREG | 0o755, INIT.read_bytes()))
        archive.write(_entry("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes()))
        archive.write(_entry("modules/order", stat.S_IFREG | 0o644, order))
        for stored, name in modules:
            archive.write(_entry(stored, stat.S_IFREG | 0o644, _read(kernel.modules / name)))
        archive.write(_entry("TRAILER!!!", 0))


def _in_order(kernel: Kernel) -> Iterable[str]:
    """Yield the paths of modules, each after those that it depends on."""
    needs = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    paths = {Path(name).name.split(".")[0].replace("-", "_"): name for name in needs}
    seen = set()
    for module in MODULES:
        path = paths.get(module)
        if path is None:
            continue  # built in
        for name in (*reversed(needs[path]), path):
            if name not in seen:
                seen.add(name)
                yield name


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _entry(name: str, mode: int, content: bytes = b"") -> bytes:
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(head) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
