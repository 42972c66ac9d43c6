"""CRIU as Hotstart uses it: where it is, its options, and the front that runc starts.

``CriuOptions`` becomes a configuration file, which runc reads for dumps and restores alike (its
annotation ``org.criu.config``). ``CriuFront`` is a directory with a program called ``criu`` that
goes first on runc's PATH. It answers runc's question for the version itself, which saves one start
of CRIU (6 ms of a dump), and it gives CRIU a /run on tmpfs of its own where the host has none: only
there does CRIU keep what it finds out about the kernel (criu.kdat, 25-40 ms each start). The
private /run is seen by CRIU alone; monitor, runc and workers stay in the host's mounts. Told by an
``Order`` (criu_order.py), it starts a restore without runc.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import HotstartError, Unsupported
from hotstart.core.log import get_logger
from hotstart.core.run import run
from hotstart.kernel.criu_check import CriuVersion, require_fit
from hotstart.kernel.mounts import MS_NODEV, MS_NOSUID, mounts_at, tmpfs
from hotstart.kernel.namespaces import call_in_private_mounts

log = get_logger(__name__)

INSTALLED = Path("/opt/hotstart/criu/bin/criu")
_PLAIN_RUN = "HOTSTART_CRIU_PLAIN_RUN"
ORDER_VARIABLE = "HOTSTART_CRIU_ORDER"
_KDAT = "criu.kdat"
_RUN = Path("/run")
_CHECK_TIMEOUT_S = 60.0

# The numbers of unshare(2) and mount(2) (asm/unistd_64.h, asm-generic/unistd.h).
_SYSCALLS = {"x86_64": (272, 165), "aarch64": (97, 40)}

_FRONT = r"""#!/usr/bin/perl
# Front of criu for runc; written by Hotstart (snapshotter/criu.py), written anew at each start.
use strict;
my @criu = (@CRIU@);
if (@ARGV == 2 && $ARGV[0] eq 'swrk' && open(RUNC, '+<&=', $ARGV[1])) {
    # CriuReq{type: VERSION} is 08 0a; anything else is left in the socket for criu (MSG_PEEK).
    my $request = '';
    recv(RUNC, $request, 64, 2);
    if (substr($request, 0, 2) eq "\x08\x0a") {
        recv(RUNC, $request, 64, 0);
        send(RUNC, "@VERSION@", 0);
        exit 0;
    }
    fcntl(RUNC, 2, 0); # F_SETFD: criu inherits the socket
}
if (my $order = delete $ENV{'@ORDER@'}) {
    # See criu_order.py: the control groups to be born in, the network namespace, criu's words.
    open(my $file, '<:raw', $order) or die "$order: $!";
    my ($groups, $network, @words) = split /\0/, do { local $/; <$file> };
    for my $group (split /\n/, $groups) {
        open(my $procs, '>', $group) or die "$group: $!";
        print $procs "$$\n";
        close $procs or die "$group: $!";
    }
    open(my $streams, '>', "$order.streams") or die "$order.streams: $!";
    print $streams join("\n", map { readlink("/proc/self/fd/$_") } 0 .. 2);
    close $streams or die "$order.streams: $!";
    open(NETWORK, '<', $network) or die "$network: $!";
    fcntl(NETWORK, 2, 0);
    my $number = fileno(NETWORK);
    s/^fd\[NETWORK\]/fd[$number]/ for @words;
    @ARGV = @words;
}
if (@PRIVATE@ && !$ENV{@PLAIN@}) {
    my ($root, $none, $run, $type, $kdat) = ("/", "none", "/run", "tmpfs", '@KDAT@');
    syscall(@UNSHARE@, 0x20000) == 0 or die "unshare: $!";
    syscall(@MOUNT@, $none, $root, 0, 0x44000, 0) == 0 or die "make / private: $!";
    if (open(my $in, '<:raw', $kdat)) {
        local $/;
        my $known = <$in>;
        syscall(@MOUNT@, $type, $run, $type, 6, 0) == 0 or die "tmpfs on /run: $!";
        if (open(my $out, '>:raw', "/run/criu.kdat")) { print $out $known; close $out; }
    }
}
exec { $criu[0] } @criu, @ARGV;
die "$criu[0]: $!";
"""


@dataclass(frozen=True, slots=True)
class CriuOptions:
    """Options of every dump and restore. The defaults are those that a container of ours needs.

    ``link_remap`` makes CRIU leave temporary links in the root file system for files that were
    removed while open and still have another name. ``tcp_close`` restores established connections
    as closed ones: a clone could not go on with them. ``action_script`` is run at each stage of a
    dump or restore, with CRTOOLS_SCRIPT_ACTION saying which.
    """

    ghost_limit_bytes: int = 1 << 30
    link_remap: bool = False
    tcp_close: bool = True
    action_script: str = ""

    def config_text(self) -> str:
        """Return the configuration file: one long option a line, without dashes (criu(8))."""
        lines = [
            "network-lock skip",
            "manage-cgroups=ignore",
            "file-validation filesize",
            "skip-in-flight",
            f"ghost-limit {self.ghost_limit_bytes}",
        ]
        if self.tcp_close:
            lines.append("tcp-close")
        if self.link_remap:
            lines.append("link-remap")
        if self.action_script:
            lines.append(f"action-script {self.action_script}")
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> Path:
        """Write the configuration file, whole or not at all; return its path."""
        staged = path.with_name(f".{path.name}.new")
        staged.write_text(self.config_text())
        staged.replace(path)
        return path


def locate(environment: Mapping[str, str]) -> Path:
    """Find CRIU: HOTSTART_CRIU, the installed one, then PATH. Raises Unsupported."""
    named = environment.get("HOTSTART_CRIU")
    if named:
        if not os.access(named, os.X_OK):
            raise Unsupported(f"HOTSTART_CRIU: {named} is not a program")
        return Path(named)
    if os.access(INSTALLED, os.X_OK):
        return INSTALLED
    found = shutil.which("criu", path=environment.get("PATH"))
    if found is None:
        raise Unsupported("criu is not installed; run make setup")
    return Path(found)


def direct_command(criu: Path) -> list[str]:
    """Return the words that start CRIU without the shell wrapper of its private prefix."""
    prefix = criu.resolve().parent.parent
    program = prefix / "libexec" / "criu"
    loaders = sorted((prefix / "lib").glob("ld-linux*"))
    if program.is_file() and loaders:
        return [str(loaders[0]), "--library-path", str(prefix / "lib"), str(program)]
    return [str(criu)]


class CriuFront:
    """The directory ``path`` with the program that runc finds as ``criu``."""

    def __init__(self, path: Path, criu: Path) -> None:
        self.path = path
        self._command = direct_command(criu)
        self.version = require_fit([str(criu)])
        self.takes_orders = False
        """Whether the installed program can start a restore without runc: not without perl."""

    def install(self) -> None:
        """Write the program, and find out about the kernel once. Idempotent; needs root.

        Without perl (it is part of every Debian) runc starts CRIU directly.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = not any(entry.fstype == "tmpfs" for entry in mounts_at(_RUN))
        if private:
            self._learn_kernel()
        target = self.path / "criu"
        staged = self.path / ".criu.new"
        staged.write_text(self._text(private))
        staged.chmod(0o700)
        staged.replace(target)

    @property
    def program(self) -> Path:
        """What stands for runc (and is called criu) where a restore goes around it."""
        return self.path / "criu"

    def environment(self, *, plain_run: bool = False) -> dict[str, str]:
        """Return what to add to runc's environment; ``plain_run`` keeps the host's /run in sight.

        The latter is for containers with volumes from below /run.
        """
        search = f"{self.path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": search, **({_PLAIN_RUN: "1"} if plain_run else {})}

    def _text(self, private: bool) -> str:
        calls = _calls()
        self.takes_orders = calls is not None
        if calls is None:
            words = " ".join(f"'{word}'" for word in self._command)
            return f'#!/bin/sh\nexec {words} "$@"\n'
        answer = "".join(f"\\x{byte:02x}" for byte in version_answer(self.version))
        values = {
            "CRIU": ", ".join(f"'{word}'" for word in self._command),
            "VERSION": answer,
            "PRIVATE": "1" if private else "0",
            "PLAIN": _PLAIN_RUN,
            "ORDER": ORDER_VARIABLE,
            "KDAT": str(self.path / _KDAT),
            "UNSHARE": str(calls[0]),
            "MOUNT": str(calls[1]),
        }
        text = _FRONT
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        return text

    def _learn_kernel(self) -> None:
        """Keep what CRIU finds out about this kernel; it is of use for this boot only."""
        target = self.path / _KDAT
        target.unlink(missing_ok=True)

        def learn() -> bytes:
            tmpfs(_RUN, mode=0o755, size_bytes=1 << 20, flags=MS_NOSUID | MS_NODEV)
            run([*self._command, "check"], check=False, timeout_s=_CHECK_TIMEOUT_S)
            return (_RUN / _KDAT).read_bytes()

        try:
            target.write_bytes(call_in_private_mounts(learn))
        except (HotstartError, OSError) as err:
            log.warning("criu_kernel_cache_missing", error=str(err))


def _calls() -> tuple[int, int] | None:
    """Return the numbers of the calls that the front makes, or None where it can't be a program."""
    if shutil.which("perl", path="/usr/bin:/bin") is None:
        return None
    return _SYSCALLS.get(platform.machine())


def version_answer(version: CriuVersion) -> bytes:
    """Return CriuResp{type: VERSION, success, version} (CRIU images/rpc.proto)."""
    major, minor, sublevel = (*version.numbers, 0, 0)[:3]
    numbers = bytes([0x08, major, 0x10, minor, *([0x20, sublevel] if sublevel else [])])
    return bytes([0x08, 10, 0x10, 1, 0x52, len(numbers)]) + numbers
