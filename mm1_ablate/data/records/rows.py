"""Files of JSON lines or parquet in, rows by number out: what both formats share, and which of them a file's name means.

A part of a file that cannot be read stands as one row at its end: whoever asks for that row is told why (`Unreadable`), so broken
files are counted where everything else is. `check_columns` looks at the beginning only, when a plan is made.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from mm1_ablate.data.cache import Report, check_space, is_made, made
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import DataFile, NoFiles, digest_file, find_files
from mm1_ablate.spec.data import Keep
from mm1_ablate.spec.settings import Misfit

LINES = (".jsonl", ".ndjson", ".json")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
TABLES = (".parquet", ".pq")


class Rows:
    """The rows of many files, one after the other. Subclasses say how a row is read.

    Args:
        files: in their order.
        counts: rows of each.
        damage: what is wrong with each file, or nothing. Damage takes one row more.

    Raises:
        Misfit: at `files`, they are damaged and there is no row at all.
    """

    def __init__(self, files: Sequence[DataFile], counts: Sequence[int], damage: Sequence[Unreadable | None]) -> None:
        self.files = list(files)
        self.damage = list(damage)
        self._counts = list(counts)
        self._first = [0, *accumulate(count + (bad is not None) for count, bad in zip(counts, damage, strict=True))]
        self._digests: dict[int, str] = {}
        if self.bad and not any(counts):
            raise Misfit("files", f"nothing in them can be read; the first: {self.bad[0]}")

    @property
    def bad(self) -> list[Unreadable]:
        """The files that are damaged, wholly or from some place on."""
        return [bad for bad in self.damage if bad is not None]

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row, by column.

        Raises:
            Unreadable: it is not what it should be.
        """
        raise NotImplementedError

    def key(self, index: int) -> str:
        """Identity of a row: what its file holds, what the file is called, and the row's number in it."""
        file, row = self._place(index)
        if file not in self._digests:
            self._digests[file] = digest_file(self.files[file])[:12]
        return f"{self._digests[file]}/{self.files[file].name}/{row}"

    def place(self, index: int) -> str:
        """Where a row is, for people."""
        file, row = self._place(index)
        return f"{self.files[file].name}, row {row + 1}"

    def find(self, index: int) -> tuple[int, int]:
        """(number of the file, row in it).

        Raises:
            Unreadable: the index stands for the damage of a file.
        """
        file, row = self._place(index)
        if row == self._counts[file]:
            bad = self.damage[file]
            assert bad is not None
            raise Unreadable(bad.reason, bad.what)
        return file, row

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self._first[-1]:
            raise IndexError(index)
        file = bisect_right(self._first, index) - 1
        return file, index - self._first[file]


# ---------------------------------------------------------------- opening
def is_table(file: DataFile) -> bool:
    return file.name.lower().endswith(TABLES)


def is_lines(file: DataFile) -> bool:
    name = file.name.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name.endswith(LINES)


def open_rows(files: Sequence[DataFile], columns: Sequence[str], report: Report | None = None) -> Rows:
    """The rows of JSON lines or parquet.

    Args:
        columns: those that are needed. Rows of JSON lines have all.
        report: told how far the making of indices and converted copies is.

    Raises:
        Misfit: the names of the files say neither, or both; or not one of them can be read.
    """
    from mm1_ablate.data.records.json_lines import open_json_lines
    from mm1_ablate.data.records.table import open_tables

    return open_tables(files, columns, report) if are_tables(files) else open_json_lines(files, report)


def found_files(patterns: Sequence[str], field: str = "files") -> list[DataFile]:
    """The files that a source's setting names.

    Raises:
        Misfit: at `field`, there are none.
    """
    try:
        return find_files(patterns)
    except NoFiles as error:
        raise Misfit(field, str(error)) from None


def are_tables(files: Sequence[DataFile]) -> bool:
    """Whether files are parquet; otherwise they are JSON lines.

    Raises:
        Misfit: at `files`, they are neither, or some of each.
    """
    tables = [file for file in files if is_table(file)]
    others = [file for file in files if not is_table(file)]
    if unknown := [file for file in others if not is_lines(file)]:
        expected = f"{', '.join(LINES)} (also .gz, .zst) or {', '.join(TABLES)}"
        raise Misfit("files", f"'{unknown[0].name}' is called neither JSON lines nor parquet; expected a name that ends in {expected}")
    if tables and others:
        message = f"'{tables[0].name}' is parquet and '{others[0].name}' is JSON lines; declare a source for each"
        raise Misfit("files", message)
    return bool(tables)


# ---------------------------------------------------------------- looking when a plan is made
NUMBER, TEXT, BYTES, OBJECT, NOTHING = "numbers", "text", "bytes", "objects", "nothing"


def columns_of(files: Sequence[DataFile]) -> dict[str, str]:
    """What the first readable file that is not empty has: column to the kind of what it holds ("text", "lists of bytes", ...).

    Raises:
        Misfit: at `files`, none is readable, or all are empty.
    """
    from mm1_ablate.data.records.json_lines import columns_of_lines
    from mm1_ablate.data.records.table import columns_of_table

    look = columns_of_table if are_tables(files) else columns_of_lines
    first: Unreadable | None = None
    for file in files:
        try:
            columns = look(file)
        except Unreadable as error:
            first = first or error
            continue
        if columns:
            return columns
    if first is not None:
        others = "" if len(files) == 1 else f" (nor is any other of the {len(files)} files)"
        raise Misfit("files", f"'{first.what}' cannot be used{others}: {first.reason}")
    raise Misfit("files", f"'{files[0].name}' holds nothing" if len(files) == 1 else f"all {len(files)} files hold nothing")


def check_columns(columns: Mapping[str, str], needed: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Whether the columns that settings name are there.

    Args:
        columns: of the files, as `columns_of` finds them.
        needed: a setting to the column that it names and the kinds that will do.

    Raises:
        Misfit: at the setting.
    """
    for setting, (column, kinds) in needed.items():
        if column not in columns:
            near = get_close_matches(column, columns, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            has = ", ".join(columns) if columns else "none"
            raise Misfit(setting, f"the data has no column '{column}'{hint}; it has {has}")
        if columns[column] not in (*kinds, NOTHING):
            raise Misfit(setting, f"column '{column}' holds {columns[column]}; expected {' or '.join(kinds)}")


def kept_columns(keep: Keep) -> dict[str, tuple[str, tuple[str, ...]]]:
    """What `keep.columns` needs, for `check_columns`."""
    return {f"keep.columns.{name}": (name, (NUMBER,)) for name in keep.columns}


def text_of(value: Any, what: str, called: str = "text") -> str:
    """A text as it was found.

    Raises:
        Unreadable: there is none, it is empty, or not Unicode.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise Unreadable("invalid UTF-8", what) from None
    if not isinstance(value, str):
        raise Unreadable(f"no {called}", what)
    if not value or value.isspace():
        raise Unreadable(f"empty {called}", what)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            raise Unreadable("invalid Unicode", what) from None
    return value


# ---------------------------------------------------------------- reading whole files
class Damaged(Exception):
    """The bytes of a file are not what its format says."""


class WatchedFile:
    """A file that remembers if it was itself that could not be read, so that a lost connection is never taken for a damaged file."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failed = False

    def read(self, count: int = -1) -> bytes:
        try:
            return self._file.read(count)
        except Exception:
            self.failed = True
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        self._file.close()


@contextmanager
def reading(file: DataFile) -> Iterator[WatchedFile]:
    """The whole file, to be handed to pyarrow.

    Raises:
        Damaged: pyarrow cannot make sense of it.
    """
    import pyarrow as pa

    watched = WatchedFile(file.open())
    try:
        yield watched
    except (pa.ArrowException, OSError) as error:
        # What the operating system refuses, such as room on the disk, has a number.
        if watched.failed or getattr(error, "errno", None) is not None:
            raise
        raise Damaged(str(error)) from error
    finally:
        watched.close()


class Progress:
    """How far the making of something from many files is; several threads may add to it."""

    def __init__(self, what: str, in_all: int, report: Report | None) -> None:
        self._what, self._in_all, self._report = what, in_all, report
        self._done = 0
        self._lock = Lock()

    def add(self, count: int) -> None:
        """So many bytes more."""
        if self._report is not None and count:
            with self._lock:
                self._done += count
                self._report(self._what, min(self._done, self._in_all), self._in_all)


def make_all(kind: str, what: str, tasks: Sequence[Task], report: Report | None) -> list[Path]:
    """The folders that tasks make in the cache, a few at a time. Nothing is begun if the disk cannot take all of it.

    Args:
        kind: the folder that all of them share.
        what: is done, for the report.

    Raises:
        NotEnoughSpace: what is not there yet does not fit.
    """
    missing = [task for task in tasks if not is_made(kind, task.identity)]
    estimates = {task.identity: task.estimate() for task in missing}
    check_space(kind, sum(estimates.values()))
    progress = Progress(what, sum(task.size for task in missing), report)

    def make(task: Task) -> Path:
        return made(kind, task.identity, estimates.get(task.identity, 0), lambda folder, _: task.build(folder, progress))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(make, tasks))


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be made once from one file."""

    identity: str
    size: int
    """Bytes that `build` adds to the progress in all."""
    estimate: Callable[[], int]
    """Bytes that it will take in the cache."""
    build: Callable[[Path, Progress], None]
    """Called with an empty folder."""
