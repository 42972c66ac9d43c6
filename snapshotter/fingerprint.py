"""What of a host a frozen process depends on, and whether another host will do.

A process keeps the decisions that it made when it started: glibc and numerical libraries choose
code by CPU features, the kernel's vDSO is mapped, xsave areas have the size they had. A restore
elsewhere would die with SIGILL much later, so it is refused before, with every reason.
"""

from __future__ import annotations

import mmap
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from hotstart.core.errors import Unsupported
from hotstart.kernel.cgroup import hierarchies
from hotstart.store.json_document import JsonValue

_MIB = 1 << 20
_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")

# Flags that describe the hypervisor, mitigations or power, not instructions that code may use.
_NOT_CODE = re.compile(
    r"hypervisor|md_clear|flush_l1d|ibrs|ibpb|stibp|ssbd|.*_capabilities|constant_tsc|nonstop_tsc"
    r"|tsc_known_freq|tsc_reliable|arat|rep_good|nopl|cpuid|pti|.*spec.*|retpoline|epb|hwp.*"
    r"|dtherm|ida|pln|pts|tpr_shadow|vnmi|flexpriority|ept.*|vpid|extd_apicid|topoext|apic|x2apic"
    r"|tsc_deadline_timer|tsc_adjust|acpi|ht|tm|pbe|pni_.*|xtopology|pdcm|cqm.*|rdt_.*|cat_.*"
    r"|mba|vmx|svm|npt|lbrv|nrip_save|rsb_ctxsw|erms|fsrm"
)


class RestoreRefused(Unsupported):
    """The snapshot cannot run on this host; ``reasons`` has every one."""

    def __init__(self, reference: str, reasons: tuple[str, ...]) -> None:
        super().__init__(f"{reference}: cannot be restored here: {'; '.join(reasons)}")
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class HostFingerprint:
    """One host; ``cpu_flags`` are the instructions it offers to programs, sorted."""

    architecture: str
    page_size: int
    kernel: str
    cpu_vendor: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    cgroup_mode: str
    criu: str
    runc: str
    memory_need_bytes: int

    @classmethod
    def collect(cls, *, criu: str, runc: str, memory_need_bytes: int = 0) -> HostFingerprint:
        """Look at this host. ``memory_need_bytes`` is what the frozen process takes up."""
        vendor, model, flags = _cpu(_CPUINFO.read_text())
        return cls(
            platform.machine(),
            mmap.PAGESIZE,
            os.uname().release,
            vendor,
            model,
            flags,
            hierarchies().mode,
            criu,
            runc,
            memory_need_bytes,
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return the form that a snapshot carries."""
        value: dict[str, JsonValue] = asdict(self)
        value["cpu_flags"] = list(self.cpu_flags)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, JsonValue]) -> HostFingerprint:
        """Read a snapshot's. Raises Unsupported for one of another shape."""
        try:
            known = {item.name: value[item.name] for item in fields(cls)}
            flags = tuple(str(flag) for flag in known["cpu_flags"])  # type: ignore[union-attr]
            return cls(**{**known, "cpu_flags": flags})  # type: ignore[arg-type]
        except (KeyError, TypeError) as err:
            raise Unsupported(f"the snapshot's host fingerprint cannot be read: {err!r}") from err

    def may_restore(
        self, frozen: HostFingerprint, *, free_bytes: int | None = None
    ) -> tuple[str, ...]:
        """Return why a process frozen on that host cannot go on here; empty: it can.

        ``free_bytes`` is what this host can give it (default: what is available now).
        """
        reasons = []
        for name, here, there in (
            ("architecture", self.architecture, frozen.architecture),
            ("page size", str(self.page_size), str(frozen.page_size)),
            ("CPU vendor", self.cpu_vendor, frozen.cpu_vendor),
            ("kernel", _series(self.kernel), _series(frozen.kernel)),
            ("cgroup mode", self.cgroup_mode, frozen.cgroup_mode),
        ):
            if here != there:
                reasons.append(f"{name} is {here}, the snapshot needs {there}")
        lacking = sorted(set(frozen.cpu_flags) - set(self.cpu_flags))
        if lacking:
            more = f" and {len(lacking) - 8} more" if len(lacking) > 8 else ""
            reasons.append(f"this CPU lacks {', '.join(lacking[:8])}{more}")
        if _numbers(self.criu) < _numbers(frozen.criu):
            reasons.append(f"CRIU is {self.criu}, the snapshot was made by {frozen.criu}")
        free = available_memory_bytes() if free_bytes is None else free_bytes
        if free < frozen.memory_need_bytes:
            need = frozen.memory_need_bytes // _MIB
            reasons.append(f"{free // _MIB} MiB of memory are free, it needs {need}")
        return tuple(reasons)


def available_memory_bytes() -> int:
    """Return what the kernel says it can give to a new process."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    return int(match[1]) << 10 if match else 0


def _cpu(text: str) -> tuple[str, str, tuple[str, ...]]:
    """Return vendor, model name and code flags of the first processor (all are alike)."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() and values:
            break
        name, _, value = line.partition(":")
        values.setdefault(name.strip(), value.strip())
    flags = (values.get("flags") or values.get("Features") or "").split()
    code = tuple(sorted({flag for flag in flags if not _NOT_CODE.fullmatch(flag)}))
    vendor = values.get("vendor_id") or values.get("CPU implementer") or "unknown"
    return vendor, values.get("model name", values.get("CPU part", "unknown")), code


def _series(release: str) -> str:
    """Kernels of one series (6.18) keep what a frozen process sees."""
    return ".".join(release.split("-")[0].split(".")[:2])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
