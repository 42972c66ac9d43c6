"""A directory with one of everything that an image has to keep."""

import os
import random
import socket
import stat
import struct
from pathlib import Path

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 6, 0xFFFFFFFF),
        (0x20, 4, 0xFFFFFFFF),
    )
)


def make_rich_tree(root: Path) -> Path:
    """Fill ``root`` and return it. Needs root and a file system with attributes and holes."""
    (root / "bin").mkdir(parents=True)
    (root / "empty-directory").mkdir(mode=0o700)
    (root / "empty").touch()
    (root / "small").write_bytes(b"small\n")
    (root / "exact-page").write_bytes(bytes(range(256)) * 16)
    (root / "large").write_bytes(random.Random(1).randbytes(3_000_001))
    (root / "one-more").write_bytes(b"x" * 4097)
    (root / "tool").write_bytes(b"#!/bin/sh\nexit 0\n")
    os.chown(root / "tool", 70_000, 4_000_000_000)
    (root / "tool").chmod(0o6755)
    (root / "empty-directory").chmod(0o1777)
    os.link(root / "large", root / "bin/hard-link")
    _special_files(root)
    _names(root)
    _attributes(root)
    _sparse(root)
    _times(root)
    return root


def _special_files(root: Path) -> None:
    os.symlink("../large", root / "bin/link")
    os.symlink("t" * 4000, root / "long-link")
    os.symlink("/" + "u/" * 2047, root / "longest-link")
    os.mkfifo(root / "fifo", 0o620)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o660, os.makedev(4095, 1048575))
    os.mknod(root / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(root)  # a socket's path has 107 bytes at most
        try:
            server.bind("socket")
        finally:
            os.chdir(here)


def _names(root: Path) -> None:
    base = os.fsencode(root)
    for name in (b"n" * 255, b"\xff\xfe not utf-8", b"-before-dot", b" ", b"new\nline", b"..."):
        with open(os.path.join(base, name), "wb") as file:
            file.write(name * 20)
    (root / "many").mkdir()
    for number in range(1500):
        (root / "many" / f"entry-{number:05}-{'x' * (number % 90)}").touch()


def _attributes(root: Path) -> None:
    os.setxattr(root / "tool", "security.capability", CAPABILITY)
    for name in ("small", "exact-page"):
        os.setxattr(root / name, "system.posix_acl_access", ACL)
    os.setxattr(root / "many", "system.posix_acl_default", ACL)
    os.setxattr(root / "large", "user.note", b"\0binary\xff" * 30)
    os.setxattr(root / "large", "user.empty", b"")
    os.setxattr(root / "empty-directory", "trusted.overlay.opaque", b"y")
    os.setxattr(root / "long-link", "trusted.mark", b"on a link", follow_symlinks=False)


def _sparse(root: Path) -> None:
    with open(root / "sparse", "wb") as file:
        file.truncate(10_000_000)
        os.pwrite(file.fileno(), b"start" * 2000, 8192)
        os.pwrite(file.fileno(), b"end", 9_999_997)
    with open(root / "all-hole", "wb") as file:
        file.truncate(5_000_000)
    with open(root / "huge", "wb") as file:
        file.truncate(5 << 30)
        os.pwrite(file.fileno(), b"middle", 5 << 29)


def _times(root: Path) -> None:
    os.utime(root / "small", ns=(0, -1_234_567_890_123_456_789))
    os.utime(root / "bin", ns=(0, 4_102_444_800_000_000_001))
    os.utime(root / "long-link", ns=(0, 1), follow_symlinks=False)
    os.utime(root / "large", ns=(0, -1))
