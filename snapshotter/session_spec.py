"""What a page session is made of: where CRIU connects, where memory lies, what comes first.

Plain values that travel as JSON: from the agent to the page worker, and through a file in the
session's work directory to the worker's successor.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from hotstart.core.errors import UserError

VERSION = 2
_BEFORE = 1
"""Named a file with a bare number, which may be anybody's: left out when it is read."""


class SpecInvalid(UserError):
    """A session spec from outside does not have the shape of one."""


class PageRun(NamedTuple):
    """``pages`` pages from page ``first`` on of memory file number ``file``."""

    file: int
    first: int
    pages: int


@dataclass(frozen=True, slots=True)
class MemoryFileSpec:
    """One pages file of the dump.

    ``path`` is the mounted file: a read there fetches what is missing. The rest is the quick way
    round the mount, used for pages that the ready map calls local: the device file, the file's
    offset in it, the map, and the keeper's set whose descriptor number ``keeper_index`` is the
    device opened before it was marked (reads through it raise no events). Without a device every
    page counts as local and is read from ``path``.
    """

    path: str
    size_bytes: int
    device_path: str = ""
    device_id: str = ""
    device_offset: int = 0
    device_bytes: int = 0
    ready_path: str = ""
    keeper_set: str = ""
    keeper_index: int = 0


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """One restore. Directories are absolute; ``session`` is unique on the node.

    ``order`` is installed first. ``cgroup_procs`` (files) and ``process_file`` say whom to
    kill when memory cannot be had: every process in those groups, and the one that is written down
    there (kernel/pidfd.py); until it is, a restore has nobody outside its groups.
    """

    session: str
    work_dir: str
    dump_dir: str
    memory_files: tuple[MemoryFileSpec, ...]
    order: tuple[PageRun, ...] = ()
    record: bool = False
    cgroup_procs: tuple[str, ...] = field(default=())
    process_file: str = ""

    def encode(self) -> dict[str, Any]:
        """Return the JSON value."""
        value = {item.name: getattr(self, item.name) for item in fields(self)}
        value["memory_files"] = [asdict(file) for file in self.memory_files]
        return {"version": VERSION, **value}

    @classmethod
    def decode(cls, value: Any) -> SessionSpec:  # noqa: ANN401 -- JSON from outside
        """Read a JSON value. Raises SpecInvalid."""
        try:
            if value["version"] == _BEFORE:
                value = {**value, "version": VERSION, "process_file": ""}
            if value["version"] != VERSION:
                raise SpecInvalid(f"session spec: version {value['version']!r}, expected {VERSION}")
            known = {item.name: value[item.name] for item in fields(cls)}
            known["memory_files"] = tuple(MemoryFileSpec(**file) for file in known["memory_files"])
            known["order"] = tuple(PageRun(*map(int, run)) for run in known["order"])
            known["cgroup_procs"] = tuple(map(str, known["cgroup_procs"]))
            return cls(**known)
        except (KeyError, TypeError, ValueError) as err:
            raise SpecInvalid(f"session spec: {type(err).__name__}: {err}") from err

    def to_json(self) -> str:
        """Return the JSON text."""
        return json.dumps(self.encode())

    @classmethod
    def from_json(cls, text: str | bytes) -> SessionSpec:
        """Read the JSON text. Raises SpecInvalid."""
        try:
            value = json.loads(text)
        except ValueError as err:
            raise SpecInvalid(f"session spec: {err}") from err
        return cls.decode(value)
