"""What this host can do for Hotstart, found by trying it, with the reason where it can't.

A probe makes the real thing in a scratch directory (a mark, a mount, a namespace), undoes it and
returns what it found in a few words; what it raises becomes the reason. All together take well
under a second. The slow one, a real dump and restore, is ``criu_check.self_test``. Probes that
need root say so to everyone else. Nothing is left behind, and nothing of the host is changed.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import HotstartError, Unsupported
from hotstart.core.run import CommandFailed, run
from hotstart.kernel import criu_check, fanotify, userfaultfd
from hotstart.kernel.cgroup import hierarchies
from hotstart.kernel.erofs import mount_erofs
from hotstart.kernel.loop import attach
from hotstart.kernel.mounts import MS_RDONLY, mount, mount_table, overlay, unmount
from hotstart.kernel.namespaces import call_in_network, create_network, remove_network

CACHE_FILE_SYSTEMS = ("ext4", "xfs", "btrfs")
"""File systems with FS_ALLOW_HSM (kernel 6.14), which EROFS can be mounted from as well."""

SMALLEST_MEMORY_BYTES = 512 << 20
SMALLEST_DISK_BYTES = 2 << 30

_UFFD_EVENTS = (
    userfaultfd.FEATURE_EVENT_FORK
    | userfaultfd.FEATURE_EVENT_REMAP
    | userfaultfd.FEATURE_EVENT_REMOVE
    | userfaultfd.FEATURE_EVENT_UNMAP
)
_CAP_SYS_RESOURCE = 24  # <linux/capability.h>
_TIMEOUT_S = 10.0
_NFT_NAT = "table ip probe { chain out { type nat hook postrouting priority 100; masquerade; }; }"


@dataclass(frozen=True, slots=True)
class Feature:
    """One ability of this host. ``reason`` says what was found, or why it is absent."""

    name: str
    present: bool
    reason: str
    needed_for: str
    required: bool


@dataclass(frozen=True, slots=True)
class Host:
    """What probes work with: an existing directory on the cache's file system, and a criu."""

    scratch: Path
    criu: Path


@dataclass(frozen=True, slots=True)
class Probe:
    """How one ability is found; ``find`` returns what is there or raises."""

    find: Callable[[Host], str]
    needed_for: str
    required: bool = True
    needs_root: bool = True


def probe(directory: Path, criu: Path) -> tuple[Feature, ...]:
    """Try everything. ``directory`` is the agent's root; it need not exist and is not made.

    Blocks for less than a second. Never raises for a missing ability.
    """
    return tuple(probe_one(name, directory, criu) for name in PROBES)


def probe_one(name: str, directory: Path, criu: Path) -> Feature:
    """Try one ability by its name (a key of PROBES)."""
    wanted = PROBES[name]
    try:
        if wanted.needs_root and os.geteuid() != 0:
            raise Unsupported("only root can tell: run as root")
        existing = _nearest_existing(directory)
        with tempfile.TemporaryDirectory(prefix=".hotstart-probe-", dir=existing) as scratch:
            found = wanted.find(Host(Path(scratch), criu))
    except (HotstartError, OSError) as err:
        return Feature(name, False, str(err), wanted.needed_for, wanted.required)
    return Feature(name, True, found, wanted.needed_for, wanted.required)


def _nearest_existing(directory: Path) -> Path:
    for path in (directory.absolute(), *directory.absolute().parents):
        if path.is_dir() and os.access(path, os.W_OK):
            return path
    return Path(tempfile.gettempdir())


def _root(_host: Host) -> str:
    if os.geteuid() != 0:
        raise Unsupported(f"this is user {os.geteuid()}, not root")
    return "root"


def _kernel(_host: Host) -> str:
    return os.uname().release


def _erofs(host: Host) -> str:
    if not _has_erofs():
        # A module is loaded by the first mount; the table does not list it before. That mount
        # itself fails before 6.12.
        with suppress(HotstartError, OSError):
            _erofs_file_backed(host)
        if not _has_erofs():
            raise Unsupported("the kernel has no EROFS (modprobe erofs)")
    return "in the kernel"


def _has_erofs() -> bool:
    return bool(re.search(r"\berofs$", Path("/proc/filesystems").read_text(), re.MULTILINE))


def _erofs_loop(host: Host) -> str:
    image, target = host.scratch / "image.erofs", host.scratch / "mnt"
    image.write_bytes(empty_erofs_image())
    target.mkdir()
    device, opened = attach(image)
    try:
        mount(str(device), target, "erofs", MS_RDONLY)
        unmount(target)
    finally:
        os.close(opened)
    return "mounted an image from a loop device"


def _erofs_file_backed(host: Host) -> str:
    image, target = host.scratch / "image.erofs", host.scratch / "mnt"
    image.write_bytes(empty_erofs_image())
    target.mkdir()
    mount_erofs(image, target)
    unmount(target)
    return "mounted an image from a file"


def empty_erofs_image() -> bytes:
    """Return the smallest EROFS image there is: one block, an empty root directory.

    Layout: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h (superblock at 1024,
    compact inode of 32 bytes, directory entries inline behind it).
    """
    nid = 36
    block = bytearray(4096)
    struct.pack_into("<IIIBBHQQII", block, 1024, 0xE0F5E1E2, 0, 0, 12, 0, nid, 1, 0, 0, 1)
    entries = struct.pack("<QHBxQHBx", nid, 24, 2, nid, 25, 2) + b"..."
    inline_layout = 2 << 1
    inode = (inline_layout, 0, 0o40755, 2, len(entries), 0, 0, 1, 0, 0, 0)
    struct.pack_into("<HHHHIIIIHHI", block, nid * 32, *inode)
    block[nid * 32 + 32 : nid * 32 + 32 + len(entries)] = entries
    return bytes(block)


def _fanotify(host: Host) -> str:
    path = host.scratch / "device"
    path.write_bytes(b"")
    group = fanotify.create_group()
    try:
        fanotify.mark(group, path)
    finally:
        os.close(group)
    return "marked a file"


def _fuse(_host: Host) -> str:
    os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    names = ("libfuse3.so.4", "libfuse3.so.3", "libfuse.so.2")
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return f"/dev/fuse and {name}"
    raise Unsupported("no libfuse; install fuse3")


def _overlay(host: Host) -> str:
    lower, upper, work, target = (host.scratch / name for name in ("l", "u", "w", "t"))
    for path in (lower, upper, work, target):
        path.mkdir()
    overlay([lower], upper, work, target)
    unmount(target)
    return "mounted one"


def _userfaultfd(_host: Host) -> str:
    os.close(userfaultfd.create(0).fd)
    return "opened one"


def _userfaultfd_events(_host: Host) -> str:
    os.close(userfaultfd.create(_UFFD_EVENTS).fd)
    return "fork, remap, remove and unmap"


def _in_new_network(host: Host, argv: list[str], stdin: bytes = b"") -> None:
    """Run a program in a network namespace that goes away with everything in it."""
    path = host.scratch / "net"
    create_network(path)
    try:
        call_in_network(path, lambda: run(argv, stdin=stdin, timeout_s=_TIMEOUT_S))
    except CommandFailed as err:
        raise Unsupported(str(err)) from err
    finally:
        remove_network(path)


def _network_namespaces(host: Host) -> str:
    create_network(host.scratch / "net")
    remove_network(host.scratch / "net")
    return "made one"


def _veth(host: Host) -> str:
    _in_new_network(
        host, ["ip", "link", "add", "name", "probe0", "type", "veth", "peer", "name", "probe1"]
    )
    return "made a pair"


def _nft_nat(host: Host) -> str:
    _in_new_network(host, ["nft", "-f", "-"], _NFT_NAT.encode())
    return "nft made a NAT chain"


def _program(*argv: str) -> Callable[[Host], str]:
    def find(_host: Host) -> str:
        try:
            text = run(argv, timeout_s=_TIMEOUT_S).text
        except CommandFailed as err:
            raise Unsupported(str(err)) from err
        return text.strip().splitlines()[0] if text.strip() else "installed"

    return find


def _criu(host: Host) -> str:
    found = criu_check.require_fit([str(host.criu)])
    try:
        run([str(host.criu), "check"], timeout_s=_TIMEOUT_S)
    except CommandFailed as err:
        raise Unsupported(f"{host.criu} check: {err}") from err
    return f"CRIU {found}"


def _cgroups(_host: Host) -> str:
    mode = hierarchies().mode
    if mode == "none":
        raise Unsupported("no cgroup file system is mounted below /sys/fs/cgroup")
    return mode


def _file_system_of(path: Path) -> str:
    resolved = path.resolve()
    found = [entry for entry in mount_table() if resolved.is_relative_to(entry.target)]
    return max(found, key=lambda entry: len(entry.target)).fstype


def _cache_file_system(host: Host) -> str:
    kind = _file_system_of(host.scratch)
    if kind not in CACHE_FILE_SYSTEMS:
        wanted = ", ".join(CACHE_FILE_SYSTEMS)
        raise Unsupported(f"{host.scratch.parent} is on {kind}; put the root on {wanted}")
    return f"{kind} at {host.scratch.parent}"


def _other_users(_host: Host) -> str:
    """CRIU asks for the limits of each process, by prlimit(2)."""
    match = re.search(r"^CapEff:\s+(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    if not match or not int(match[1], 16) >> _CAP_SYS_RESOURCE & 1:
        raise Unsupported("root lacks CAP_SYS_RESOURCE here")
    return "CAP_SYS_RESOURCE"


def _run_tmpfs(_host: Host) -> str:
    kind = _file_system_of(Path("/run"))
    if kind != "tmpfs":
        raise Unsupported(f"/run is {kind}; CRIU is given a private tmpfs there")
    return kind


def _memory(_host: Host) -> str:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    available = int(match[1]) * 1024 if match else 0
    return _enough("memory", available, SMALLEST_MEMORY_BYTES)


def _disk(host: Host) -> str:
    return _enough("disk space", shutil.disk_usage(host.scratch).free, SMALLEST_DISK_BYTES)


def _enough(what: str, found: int, wanted: int) -> str:
    if found < wanted:
        raise Unsupported(f"{found >> 20} MiB of {what} left, at least {wanted >> 20} wanted")
    return f"{found >> 20} MiB available"


PROBES: dict[str, Probe] = {
    "root": Probe(_root, "mounts, namespaces, containers", needs_root=False),
    "kernel": Probe(_kernel, "everything", needs_root=False),
    "cache_file_system": Probe(_cache_file_system, "lazy mounts", needs_root=False),
    "disk": Probe(_disk, "the cache", required=False, needs_root=False),
    "memory": Probe(_memory, "containers", required=False, needs_root=False),
    "erofs": Probe(_erofs, "lazy mounts"),
    "erofs_file_backed": Probe(_erofs_file_backed, "lazy mounts without loop devices", False),
    "erofs_loop": Probe(_erofs_loop, "lazy mounts before kernel 6.12", False),
    "fanotify_pre_content": Probe(_fanotify, "filling by fanotify (else FUSE)", False),
    "fuse": Probe(_fuse, "filling by FUSE, the fallback", False),
    "overlay": Probe(_overlay, "writable root file systems"),
    "cgroups": Probe(_cgroups, "limits of containers", needs_root=False),
    "network_namespaces": Probe(_network_namespaces, "networks of containers"),
    "veth": Probe(_veth, "networks of containers"),
    "nft_nat": Probe(_nft_nat, "published ports and outbound connections"),
    "runc": Probe(_program("runc", "--version"), "containers", needs_root=False),
    "conmon": Probe(_program("conmon", "--version"), "logs, exit status", needs_root=False),
    "criu": Probe(_criu, "snapshot and restore"),
    "userfaultfd": Probe(_userfaultfd, "restores that start before memory is read"),
    "userfaultfd_events": Probe(_userfaultfd_events, "restores of processes that change mappings"),
    "other_users": Probe(_other_users, "snapshots of other users' processes", False),
    "run_tmpfs": Probe(_run_tmpfs, "quick starts of CRIU", False, needs_root=False),
}
"""Every ability by name, in the order in which a person wants to read them."""
