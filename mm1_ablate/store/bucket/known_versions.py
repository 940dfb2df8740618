"""Which files of a mirror are as they are in the bucket: remembered with the tag there and what tells a file from a later one here.

In: what was fetched or published. Out: whether a file is still that. Any number of processes of a machine may use it at once.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Known(NamedTuple):
    """A file that is here as it is in the bucket."""

    tag: str
    size: int
    modified: int
    """Nanoseconds since the epoch, here."""
    inode: int

    def is_of(self, status: os.stat_result) -> bool:
        return (self.size, self.modified, self.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)


class KnownFiles:
    """A table of them, by their paths in the mirror."""

    def __init__(self, database: Path) -> None:
        self._database = database

    @contextlib.contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        self._database.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._database, timeout=60)) as database, database:
            columns = "path TEXT PRIMARY KEY, tag TEXT, size INTEGER, modified INTEGER, inode INTEGER"
            database.execute(f"CREATE TABLE IF NOT EXISTS known ({columns})")
            yield database

    def below(self, beginning: str = "") -> dict[str, Known]:
        """Those whose paths begin so."""
        with self._table() as table:
            rows = table.execute("SELECT * FROM known WHERE path >= ? AND path < ?", (beginning, f"{beginning}\U0010ffff")).fetchall()
        return {path: Known(*rest) for path, *rest in rows}

    def of(self, path: str) -> Known | None:
        with self._table() as table:
            rows = table.execute("SELECT tag, size, modified, inode FROM known WHERE path = ?", (path,)).fetchall()
        return Known(*rows[0]) if rows else None

    def add(self, path: str, tag: str, status: os.stat_result) -> None:
        """A file that had this status is what has this tag in the bucket."""
        row = path, tag, status.st_size, status.st_mtime_ns, status.st_ino
        with self._table() as table:
            table.execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)", row)

    def forget(self, path: str) -> None:
        """A file is not here any more."""
        with self._table() as table:
            table.execute("DELETE FROM known WHERE path = ?", (path,))
