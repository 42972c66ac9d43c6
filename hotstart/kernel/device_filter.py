"""Which devices the processes of a version 2 control group may open: an eBPF program on the group.

Version 2 has no ``devices`` controller. The kernel asks the programs of type CGROUP_DEVICE that are
attached to the group and to those above it, each time a process opens or makes a device node; all
have to return 1. The context is ``struct bpf_cgroup_dev_ctx`` (<linux/bpf.h>): three words, the
first being the access wanted times 65536 plus the kind of node. A program lives as long as its
group. Needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import Unsupported
from hotstart.kernel.libc import check, libc

# asm/unistd_64.h, asm-generic/unistd.h
_BPF = {"x86_64": 321, "aarch64": 280}

# <linux/bpf.h>
_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6
_ALLOW_MULTI = 2
_KIND_CHARACTER = 2
_LOAD_WORD, _AND, _JUMP_NOT_EQUAL, _SET, _EXIT = 0x61, 0x57, 0x55, 0xB7, 0x95
_ALLOW = ((_SET, 0, 0, 0, 1), (_EXIT, 0, 0, 0, 0))
_DENY = ((_SET, 0, 0, 0, 0), (_EXIT, 0, 0, 0, 0))

_Instruction = tuple[int, int, int, int, int]
"""Code, destination register, source register, offset, constant."""


@dataclass(frozen=True, slots=True)
class CharacterDevice:
    """A kind of character device; without ``minor`` every one of the major number."""

    major: int
    minor: int | None = None


def program(allowed: Sequence[CharacterDevice]) -> bytes:
    """Return the instructions of a filter that lets these be used in every way, nothing else."""
    code: list[_Instruction] = [
        (_LOAD_WORD, 2, 1, 0, 0),
        (_AND, 2, 0, 0, 0xFFFF),
        (_LOAD_WORD, 3, 1, 4, 0),
        (_LOAD_WORD, 4, 1, 8, 0),
    ]
    for device in allowed:
        tests = [(2, _KIND_CHARACTER), (3, device.major)]
        if device.minor is not None:
            tests.append((4, device.minor))
        for number, (register, value) in enumerate(tests):
            # Over the tests that are left and over the two instructions that allow.
            past = len(tests) - number - 1 + len(_ALLOW)
            code.append((_JUMP_NOT_EQUAL, register, 0, past, value))
        code.extend(_ALLOW)
    code.extend(_DENY)
    return b"".join(_encode(*instruction) for instruction in code)


def attach(group: Path, allowed: Sequence[CharacterDevice]) -> None:
    """Restrict the group at this directory (and all below it). Raises OSError or Unsupported."""
    code = program(allowed)
    loaded = _load(code)
    try:
        directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # target_fd, attach_bpf_fd, attach_type, attach_flags, replace_bpf_fd
            words = (directory, loaded, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI, 0)
            _bpf(_PROG_ATTACH, struct.pack("=5I", *words), group)
        finally:
            os.close(directory)
    finally:
        os.close(loaded)


def _encode(code: int, destination: int, source: int, offset: int, value: int) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | destination, offset, value)


def _load(code: bytes) -> int:
    """Return a descriptor of the verified program."""
    # SAFETY: the kernel reads both buffers during the call only.
    instructions = ctypes.create_string_buffer(code, len(code))
    license_name = ctypes.create_string_buffer(b"")  # no helper is called that asks for one
    # prog_type, insn_cnt, insns, license; log_level, log_size, log_buf, kern_version, prog_flags
    attributes = struct.pack(
        "=2I2Q2IQ2I",
        _TYPE_CGROUP_DEVICE,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_name),
        *(0, 0, 0, 0, 0),
    )
    return _bpf(_PROG_LOAD, attributes)


def _bpf(command: int, attributes: bytes, path: Path | str = "") -> int:
    number = _BPF.get(platform.machine())
    if number is None:
        raise Unsupported(f"device filters are not known for {platform.machine()}")
    # SAFETY: the attributes are copied by the kernel; their size goes with them.
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return check(libc.syscall(number, command, buffer, len(attributes)), "bpf", path)
