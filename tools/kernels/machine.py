"""One QEMU machine: boots a kernel, runs what it is told, brings the results back.

With KVM where this host's KVM runs such a guest, else emulated (about ten times slower). A host
may have /dev/kvm and yet no use of it, so a boot is tried once, and its outcome kept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.run import DEVNULL, TimeoutExpired, run, spawn
from tools.kernels import initramfs
from tools.kernels.debian_kernels import Kernel

MEMORY_MIB = 4096
DISK_BYTES = 6 << 30
_BOOT_S = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a guest left: its exit status (None: it did not get so far) and where its files are."""

    status: int | None
    timed_out: bool
    results: Path


def accelerator(kernel: Kernel, cache: Path) -> tuple[str, str]:
    """Return "kvm" or "tcg", and why."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg", "/dev/kvm is missing or closed to this user"
    initrd = cache / f"try-{kernel.series}.img"
    initramfs.build(kernel, initrd)
    console = cache / f"try-{kernel.series}.log"
    # Without its disks the first process fails by a sentence of ours, which proves the boot.
    argv = _argv(kernel, initrd, "kvm", "hotstart.checkout=/none", 512)
    _wait(argv, _BOOT_S, console)
    text = console.read_text(errors="replace")
    if "guest: cannot mount the host's root" in text:
        return "kvm", "a boot with KVM succeeded"
    last = text.strip().splitlines()[-1:] or ["no output"]
    return "tcg", f"/dev/kvm is there, but this kernel does not boot with it ({last[0][:150]})"


def run_guest(
    kernel: Kernel,
    accel: str,
    checkout: Path,
    tests: Sequence[str],
    absent: Sequence[str],
    directory: Path,
    timeout_s: float,
) -> Outcome:
    """Boot, run pytest with the words ``tests``, wait for the end; files lie in ``directory``.

    ``absent`` names the abilities whose lack excuses a skip.
    """
    results = directory / "results"
    results.mkdir(parents=True)
    (results / "tests").write_text("\n".join(tests) + "\n")
    (results / "absent").write_text(" ".join(absent))
    disk, initrd = directory / "disk", directory / "initrd"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    run(["mkfs.ext4", "-q", "-F", str(disk)])
    initramfs.build(kernel, initrd)
    shares = [("host", Path("/"), True), ("modules", kernel.directory / "lib/modules", True)]
    argv = _argv(kernel, initrd, accel, f"hotstart.checkout={checkout}", MEMORY_MIB)
    argv += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe,discard=unmap"]
    for tag, path, read_only in (*shares, ("results", results, False)):
        mode = ",readonly=on" if read_only else ""
        argv += [
            "-virtfs",
            f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{mode}",
        ]
    timed_out = _wait(argv, timeout_s, directory / "console.log")
    disk.unlink()
    status = results / "status"
    return Outcome(int(status.read_text()) if status.is_file() else None, timed_out, results)


def _argv(kernel: Kernel, initrd: Path, accel: str, words: str, memory_mib: int) -> list[str]:
    cpu = "host" if accel == "kvm" else "max"
    append = f"console=ttyS0 quiet panic=-1 {words}"
    argv = ["qemu-system-x86_64", "-accel", accel, "-cpu", cpu, "-smp", "2", "-m", str(memory_mib)]
    argv += ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-nic", "none"]
    return [*argv, "-kernel", str(kernel.image), "-initrd", str(initrd), "-append", append]


def _wait(argv: Sequence[str], timeout_s: float, console: Path) -> bool:
    """Run QEMU with its console in a file; tells whether it had to be killed."""
    with console.open("wb") as output:
        process = spawn(argv, stdin=DEVNULL, stdout=output, stderr=output)
        try:
            process.wait(timeout_s)
        except TimeoutExpired:
            return True
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
    return False
