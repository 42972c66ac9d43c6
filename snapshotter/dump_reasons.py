"""Why CRIU could not dump or restore, in plain words, from its log.

One table of what its messages mean and what to do about each; for a message that is not in it,
CRIU's own first error is given. Pure: text in, text out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hotstart.kernel.criu_check import errors_in


@dataclass(frozen=True, slots=True)
class Reason:
    """What stands in the way, and what to do about it."""

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}" if self.advice else self.what


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    reason: Reason


def _rule(pattern: str, what: str, advice: str) -> _Rule:
    return _Rule(re.compile(pattern), Reason(what, advice))


_RULES = (
    _rule(
        r"anon_inode:\[io_uring\]|Unknown shit 600.*io_uring",
        "the process has an io_uring open, which CRIU cannot dump",
        "start it so that it falls back to epoll (our default seccomp profile sees to that)",
    ),
    _rule(
        r"anon_inode:\[userfaultfd\]",
        "the process has a userfaultfd open, which CRIU cannot dump",
        "close it before the snapshot",
    ),
    _rule(
        r"fsnotify:.*Can't dump that handle",
        "the process watches files with inotify on a file system that gives no file handles",
        "stop the watcher (automatic reload, for example) before the snapshot",
    ),
    _rule(
        r"Can't dump ghost file|increase limit",
        "the process holds a deleted file open that is too big to go into the snapshot",
        "close it, or truncate it, before the snapshot",
    ),
    _rule(
        r"Connected TCP socket|consider using --tcp-established",
        "the process has an established TCP connection",
        "close its connections before the snapshot",
    ),
    _rule(
        r"unix:.*(?:Dangling connection|External socket is used|external stream)",
        "the process is connected to a unix socket outside of the container",
        "close that connection before the snapshot",
    ),
    _rule(
        r"Can't lookup mount=\S+ for fd=[012]\b",
        "a standard stream of the process is a file outside of the container",
        "start it through hotstart run, which gives it pipes",
    ),
    _rule(
        r"doesn't have a proper root mount",
        "a volume has other file systems mounted inside, which cannot be carried along",
        "unmount them, or bind a directory without mounts",
    ),
    _rule(
        r"Can't lookup mount|Mount \S+ .*is unreachable",
        "the process has a file open on a mount that is not in the container",
        "close it before the snapshot",
    ),
    _rule(
        r"Can't create link remap|link-remap",
        "the process holds a file open that was removed but has another name left",
        "close it before the snapshot",
    ),
    _rule(
        r"Some file locks are hold",
        "the process shares file locks with a process outside of the container",
        "release them before the snapshot",
    ),
    _rule(
        r"/dev/nvidia|Can't dump file.*nvidia",
        "the process has a GPU open",
        "GPU state is not part of this snapshot; close the device first",
    ),
    _rule(
        r"hugetlb",
        "the process uses huge pages of hugetlbfs, which CRIU cannot dump",
        "use transparent huge pages",
    ),
    _rule(
        r"Unable to open vdso|vdso.*(?:mismatch|unsupported)",
        "the kernel's vDSO is not one that CRIU can carry over",
        "restore on the kernel that the snapshot was taken on",
    ),
    _rule(
        r"Can't get rlimit \d+: Operation not permitted",
        "a process of it is not root's, and root lacks CAP_SYS_RESOURCE on this host",
        "give the agent that capability",
    ),
    _rule(
        r"Can't bind inet socket: Cannot assign requested address",
        "the process listens on an address that the container does not have here",
        "have it listen on 0.0.0.0",
    ),
    _rule(
        r"Can't bind inet socket: Address already in use",
        "a port that the process listens on is in use in the container's network",
        "restore it into a network of its own",
    ),
    _rule(
        r"File \S+ has bad (?:size|mtime|mode)",
        "a file that the process has open or mapped is not the one it had",
        "restore onto the image that the snapshot was taken of",
    ),
    _rule(
        r"Can't open file (\S+) on restore|openat2?.*No such file",
        "a file that the process has open does not exist any more",
        "give the volumes of the original container again",
    ),
    _rule(
        r"cpu(?:info)?:.*(?:not supported|incompatible|mismatch)|CPU capabilities do not match",
        "this CPU lacks a feature that the process was started with",
        "restore on a machine with the same kind of CPU",
    ),
    _rule(
        r"(?:mmap|mremap|fork|clone).*(?:Cannot allocate memory|Out of memory)",
        "there was not enough memory",
        "allow more memory",
    ),
    _rule(
        r"Can't (?:fork|create).*File exists|Pid \d+ do(?:es)? not match expected",
        "a process number that is needed is taken",
        "try again",
    ),
    _rule(r"No space left on device", "the disk is full", "make room below the agent's root"),
)


def explain(log: str) -> Reason:
    """Return why CRIU gave up: the first error line that is known, else its first error."""
    errors = errors_in(log)
    for error in errors:
        for rule in _RULES:
            if rule.pattern.search(error):
                return rule.reason
    if errors:
        return Reason(f"CRIU: {errors[0]}", "")
    return Reason("CRIU gave no reason", "see its log")
