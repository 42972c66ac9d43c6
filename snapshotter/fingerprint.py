"""The host fingerprint: what a host must share with the host of capture for a restore to be right.

A frozen process has chosen its code paths (ifuncs, BLAS kernels) by the CPU it saw and holds
register state of that CPU's size, so every CPU flag seen at capture must be there at restore; a
host may have more. Older kernels and older CRIUs than the dumper's are refused, newer ones are not.
Reading /proc/cpuinfo and /proc/meminfo (proc(5)) needs no privileges.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotstart.core.errors import UserError
from hotstart.core.span import PAGE

# Flags that come and go with the kernel's version or the hypervisor and change no code path.
_IGNORED_FLAGS = re.compile(
    r"bogomips|constant_tsc|nonstop_tsc|tsc_.*|.*_known_freq|hypervisor|rep_good|nopl|cpuid|"
    r"arch_.*|ibrs.*|ibpb.*|stibp.*|ssbd|virt_ssbd|amd_ssbd|md_clear|flush_l1d|topoext|"
    r"perfctr_.*|pti|retpoline.*|user_shstk|overflow_recov|succor|amd_lbr.*|perfmon.*|ssb_no"
)


class FingerprintInvalid(UserError):
    """A snapshot's host section does not have the shape of one."""


@dataclass(frozen=True, slots=True)
class HostFingerprint:
    """One host. Sizes in bytes; versions as their programs print them."""

    architecture: str
    page_bytes: int
    cpu_vendor: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    kernel: str
    cgroup_mode: str
    criu: str
    runc: str
    memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the form that a snapshot's config holds."""
        return {
            "architecture": self.architecture,
            "page_bytes": self.page_bytes,
            "cpu_vendor": self.cpu_vendor,
            "cpu_model": self.cpu_model,
            "cpu_flags": list(self.cpu_flags),
            "kernel": self.kernel,
            "cgroup_mode": self.cgroup_mode,
            "criu": self.criu,
            "runc": self.runc,
            "memory_bytes": self.memory_bytes,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> HostFingerprint:
        """Read ``to_json``'s form. Raises FingerprintInvalid."""
        try:
            fields = dict(value)
            found = cls(
                architecture=str(fields.pop("architecture")),
                page_bytes=int(fields.pop("page_bytes")),
                cpu_vendor=str(fields.pop("cpu_vendor")),
                cpu_model=str(fields.pop("cpu_model")),
                cpu_flags=tuple(map(str, fields.pop("cpu_flags"))),
                kernel=str(fields.pop("kernel")),
                cgroup_mode=str(fields.pop("cgroup_mode")),
                criu=str(fields.pop("criu")),
                runc=str(fields.pop("runc")),
                memory_bytes=int(fields.pop("memory_bytes")),
            )
        except (KeyError, TypeError, ValueError) as err:
            raise FingerprintInvalid(f"host fingerprint: {type(err).__name__}: {err}") from err
        if fields:
            raise FingerprintInvalid(f"host fingerprint: unknown keys {', '.join(sorted(fields))}")
        return found

    def reasons_against(self, here: HostFingerprint, *, needed_bytes: int = 0) -> tuple[str, ...]:
        """Say why a snapshot of this host can't be restored on ``here``; empty: it can.

        ``needed_bytes`` is the memory that the restored processes will hold.
        """
        if (self.architecture, self.page_bytes) != (here.architecture, here.page_bytes):
            return (
                f"made on {self.architecture} with pages of {self.page_bytes} bytes, "
                f"this host is {here.architecture} with {here.page_bytes}",
            )
        return tuple(
            filter(None, (*self._cpu(here), *self._software(here), *_room(here, needed_bytes)))
        )

    def _cpu(self, here: HostFingerprint) -> tuple[str, ...]:
        if self.cpu_vendor != here.cpu_vendor:
            return (f"made on a CPU of {self.cpu_vendor}, this one is of {here.cpu_vendor}",)
        absent = sorted(set(self.cpu_flags) - set(here.cpu_flags))
        if not absent:
            return ()
        more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
        return (
            f"the process may use CPU features that this host lacks: {', '.join(absent[:8])}{more}",
        )

    def _software(self, here: HostFingerprint) -> tuple[str, ...]:
        reasons = []
        if numbers(here.kernel)[:2] < numbers(self.kernel)[:2]:
            reasons.append(f"made on kernel {self.kernel}, this one is older: {here.kernel}")
        if numbers(here.criu) < numbers(self.criu):
            reasons.append(f"dumped by CRIU {self.criu}, the one here is older: {here.criu}")
        return tuple(reasons)


def _room(here: HostFingerprint, needed_bytes: int) -> tuple[str, ...]:
    if needed_bytes <= here.memory_bytes:
        return ()
    return (f"needs {needed_bytes} bytes of memory, this host has {here.memory_bytes}",)


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading dotted numbers of a version."""
    found = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def collect(
    *, cgroup_mode: str, criu: str, runc: str, proc: Path = Path("/proc")
) -> HostFingerprint:
    """Read this host. The versions of programs are the caller's to know."""
    vendor, model, flags = _cpu_facts((proc / "cpuinfo").read_text())
    host = os.uname()
    return HostFingerprint(
        architecture=host.machine,
        page_bytes=os.sysconf("SC_PAGE_SIZE") if proc == Path("/proc") else PAGE,
        cpu_vendor=vendor,
        cpu_model=model,
        cpu_flags=flags,
        kernel=host.release,
        cgroup_mode=cgroup_mode,
        criu=criu,
        runc=runc,
        memory_bytes=_memory_bytes((proc / "meminfo").read_text()),
    )


def _cpu_facts(cpuinfo: str) -> tuple[str, str, tuple[str, ...]]:
    """Return vendor, model and the flags that every CPU of the host has."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    pairs = [(key.strip(), value.strip()) for key, _, value in lines]

    def first(*names: str) -> str:
        return next((value for key, value in pairs if key in names), "unknown")

    sets = [set(value.split()) for key, value in pairs if key in ("flags", "Features")]
    shared = set.intersection(*sets) if sets else set()
    flags = tuple(sorted(flag for flag in shared if not _IGNORED_FLAGS.fullmatch(flag)))
    return first("vendor_id", "CPU implementer"), first("model name", "CPU part"), flags


def _memory_bytes(meminfo: str) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
