"""ROOT/state.db: what the agent must know after a restart and the kernel cannot tell.

SQLite in WAL mode with synchronous=NORMAL: what a call wrote survives any death of the agent, and
a power loss may take the last moments, but then the containers it is about are gone as well.
Held are the mounts that a person asked for, and a record of each container: what it was asked to
be, what it owns (network, image mounts, page session), how it ended. Whether a process runs and
what is mounted *now* is read from the kernel and from ROOT/containers, never from here.

One connection, used under a lock by any thread; closed with ``close``. A database written by a
newer program is refused by name.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.records import ContainerRecord
from hotstart.core.errors import Conflict, Unsupported

VERSION = 1

_SCHEMA = """
CREATE TABLE mounts (
    target TEXT PRIMARY KEY, reference TEXT NOT NULL, digest TEXT NOT NULL,
    filler TEXT NOT NULL, read_ahead_kib INTEGER NOT NULL, spec TEXT NOT NULL
) STRICT;
CREATE TABLE containers (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
"""


class StateVersionUnknown(Unsupported):
    """The database was written by a newer Hotstart."""


@dataclass(frozen=True, slots=True)
class MountRow:
    """A mount that a person asked for; ``spec`` is lazyfs' MountSpec as JSON.

    ``read_ahead_kib`` is 0 where the person left it to the agent.
    """

    target: str
    reference: str
    digest: str
    filler: str
    read_ahead_kib: int
    spec: dict[str, Any]


class State:
    """The database of one root."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises StateVersionUnknown."""
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._connection.close()

    def put_mount(self, row: MountRow) -> None:
        """Remember a mount. Raises Conflict if its target is taken."""
        values = (
            row.target,
            row.reference,
            row.digest,
            row.filler,
            row.read_ahead_kib,
            json.dumps(row.spec),
        )
        try:
            with self._transaction() as cursor:
                cursor.execute("INSERT INTO mounts VALUES (?, ?, ?, ?, ?, ?)", values)
        except sqlite3.IntegrityError as err:
            raise Conflict(f"{row.target}: an image is mounted there", "umount it first") from err

    def drop_mount(self, target: str) -> None:
        """Forget a mount. Idempotent."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM mounts WHERE target = ?", (target,))

    def mounts(self) -> list[MountRow]:
        """Return every mount, by target."""
        with self._transaction() as cursor:
            rows = cursor.execute("SELECT * FROM mounts ORDER BY target").fetchall()
        return [MountRow(t, r, d, f, ahead, json.loads(spec)) for t, r, d, f, ahead, spec in rows]

    def put_container(self, record: ContainerRecord) -> None:
        """Remember a container, in place of what was known of its name."""
        values = (record.name, json.dumps(record.to_json()))
        with self._transaction() as cursor:
            cursor.execute("INSERT OR REPLACE INTO containers VALUES (?, ?)", values)

    def drop_container(self, name: str) -> None:
        """Forget a container. Idempotent."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM containers WHERE name = ?", (name,))

    def containers(self) -> dict[str, ContainerRecord]:
        """Return every container by its name."""
        with self._transaction() as cursor:
            rows = cursor.execute("SELECT * FROM containers ORDER BY name").fetchall()
        return {name: ContainerRecord.from_json(json.loads(record)) for name, record in rows}

    def _prepare(self, path: Path) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._transaction() as cursor:
            (version,) = cursor.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StateVersionUnknown(
                    f"{path}: version {version} is unknown (this program reads {VERSION}); "
                    "use a newer Hotstart"
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    cursor.execute(statement)
                cursor.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        """All of the block or nothing; one at a time."""
        with self._lock:
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            else:
                cursor.execute("COMMIT")
            finally:
                cursor.close()
