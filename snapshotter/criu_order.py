r"""Restoring without runc: what the front of CRIU (criu.py) is told to do, in one file.

runc adds 25-40 ms to a restore: its own start, a question for CRIU's version, a second process, the
most detailed log, waiting for one after the other. Here the front joins the control groups and
becomes CRIU, which restores into them, as the child of the container's monitor.

The file: the ``cgroup.procs`` to join, a line each; the network namespace's path; CRIU's words.
Each of these ends in a NUL. ``fd[NETWORK]`` in a word stands for the opened namespace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_NETWORK_KEY = "extRootNetNS"
"""What runc calls a container's network namespace in a dump."""

_LOG_LEVEL = "-v2"
"""Errors and warnings: each line costs, and reasons are read from errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One restore.

    ``groups`` are ``cgroup.procs`` files, ``binds`` what is bind-mounted by path in the container,
    ``streams`` what runc called the frozen process's stdin, stdout and stderr (descriptors.json);
    the front's own take their places. ``pid_file`` gets the pid of the first process.
    """

    groups: Sequence[Path]
    network: Path
    config: Path
    dump: Path
    work: Path
    root: Path
    log: str
    pid_file: Path
    binds: Mapping[str, str]
    streams: Sequence[str]

    def write(self, path: Path) -> Path:
        """Write the order; return its path."""
        fields = ["\n".join(map(str, self.groups)), str(self.network), *self.words()]
        path.write_bytes(b"".join(field.encode() + b"\0" for field in fields))
        return path

    def words(self) -> list[str]:
        """Return CRIU's arguments (criu(8)); the names in them are those that runc dumps with."""
        # fmt: off
        words = [
            "restore", "--config", str(self.config), "--images-dir", str(self.dump),
            "--work-dir", str(self.work), _LOG_LEVEL, "--log-file", self.log,
            "--root", str(self.root), "--restore-detached", "--pidfile", str(self.pid_file),
            "--file-locks", "--lazy-pages", "--inherit-fd", f"fd[NETWORK]:{_NETWORK_KEY}",
            "--external", "mnt[/dev/null]:/dev/null",
        ]
        # fmt: on
        for target, source in self.binds.items():
            words += ["--external", f"mnt[{target}]:{source}"]
        for number, name in enumerate(self.streams):
            if name.startswith("pipe:"):
                words += ["--inherit-fd", f"fd[{number}]:{name}"]
        return words
