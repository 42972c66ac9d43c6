"""The root file system of one container: an overlay of mounted images and a writable layer.

The lowers belong to whoever mounted them and must outlive the overlay. ``index`` and
``nfs_export`` make overlayfs keep file handles, without which CRIU cannot dump an inotify watch;
the kernel refuses them on some upper file systems, and then the overlay is mounted without.
Overlayfs refuses an upper that another overlay uses only with ``index``, so a mount point that is
already mounted is an error here. Needs root.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hotstart.core.errors import Conflict
from hotstart.core.log import get_logger
from hotstart.kernel.inside import write_inside
from hotstart.kernel.mounts import is_mounted, overlay, unmount_if_mounted

log = get_logger(__name__)

_HANDLES = "index=on,nfs_export=on"
_NO_PLACE = (errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENOTDIR)


def mount_rootfs(lowers: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
    """Mount the overlay; ``lowers`` from the topmost down. Raises Conflict if it is mounted."""
    if is_mounted(target):
        raise Conflict(f"{target} is mounted already")
    if not any(upper.iterdir()):
        _take_over_top(lowers[0], upper)
    try:
        overlay(lowers, upper, work, target, extra=_HANDLES)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        log.warning("overlay_without_file_handles", target=target, error=err.strerror)
        overlay(lowers, upper, work, target)


def unmount_rootfs(target: Path) -> None:
    """Unmount the overlay; a process still in it keeps it alive until it ends. Idempotent."""
    unmount_if_mounted(target, detach=True)


def _take_over_top(lower: Path, upper: Path) -> None:
    """Give the merged ``/`` the owner and mode that it has in the image."""
    top = lower.stat()
    os.chown(upper, top.st_uid, top.st_gid)
    os.chmod(upper, top.st_mode & 0o7777)


def write_host_files(rootfs: Path, hostname: str, resolv_conf: str) -> None:
    """Write /etc/hostname, /etc/hosts and /etc/resolv.conf into the writable layer.

    Files, not bind mounts: they survive capture and restore into another container like any other
    file. The host's own name resolves to 127.0.1.1, which every clone has, whatever its address.
    """
    hosts = (
        f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
    )
    _write(rootfs, {"hostname": f"{hostname}\n", "hosts": hosts, "resolv.conf": resolv_conf})


def write_resolver(rootfs: Path, resolv_conf: str) -> None:
    """Write /etc/resolv.conf for another network; a restored host's other names are its own."""
    _write(rootfs, {"resolv.conf": resolv_conf})


def _write(rootfs: Path, contents: Mapping[str, str]) -> None:
    if not os.path.lexists(rootfs / "etc"):
        (rootfs / "etc").mkdir(mode=0o755)
    for name, content in contents.items():
        try:
            write_inside(rootfs, "etc", name, content.encode())
        except OSError as err:
            if err.errno not in _NO_PLACE:
                raise
            # An odd image (no usable /etc, a directory in a file's place) goes without.
            log.warning("host_file_not_written", rootfs=rootfs, name=name, error=err.strerror)
