"""What files of JSON lines and of parquet share: rows by number, what their values are called, and how whole files are read once.

A part of a file that cannot be read stands as one row at its end: whoever asks for that row is told why (`Unreadable`), so broken
files are counted where everything else is.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from mm1_ablate.config.settings import Misfit
from mm1_ablate.data.cache import Report, check_space, is_made, made
from mm1_ablate.data.documents import KnownLoss, Unreadable
from mm1_ablate.data.files import DataFile, digest_file
from mm1_ablate.data.lost_documents import FileRead, Losses, losses_of

BYTE_ORDER_MARK = "\ufeff"
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
NUMBER, TEXT, BYTES, OBJECT, NOTHING = "numbers", "text", "bytes", "objects", "nothing"
"""Kinds of values that a column holds, as messages name them."""


class Rows:
    """The rows of many files, one after the other. Subclasses say how a row is read.

    Args:
        files: in their order.
        counts: rows of each.
        damage: what is wrong with each file, or nothing. Damage takes one row more.
        read: of each file what was read of it, for `losses`.

    Raises:
        Misfit: at `files`, they are damaged and there is no row at all.
    """

    def __init__(
        self, files: Sequence[DataFile], counts: Sequence[int], damage: Sequence[Unreadable | None], read: Sequence[FileRead]
    ) -> None:
        self.files = list(files)
        self.losses: list[Losses] = losses_of(read)
        """About how much is lost with files that are damaged."""
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
            KnownLoss: the index stands for the damage of a file.
        """
        file, row = self._place(index)
        if row == self._counts[file]:
            bad = self.damage[file]
            assert bad is not None
            raise KnownLoss(bad.reason, bad.what)
        return file, row

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self._first[-1]:
            raise IndexError(index)
        file = bisect_right(self._first, index) - 1
        return file, index - self._first[file]


def text_of(value: Any, what: str, called: str = "text") -> str:
    """A text as it was found, without the byte-order mark that some programs write before it.

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
    value = value.removeprefix(BYTE_ORDER_MARK)
    if not value or value.isspace():
        raise Unreadable(f"empty {called}", what)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            raise Unreadable("invalid Unicode", what) from None
    return value


def is_blank(value: Any) -> bool:
    """Whether a value is a text of nothing but white space, with a byte-order mark or without."""
    return isinstance(value, str) and not value.removeprefix(BYTE_ORDER_MARK).strip()


def texts_of(values: Iterable[Any]) -> list[str]:
    """The values that are texts."""
    found = []
    for value in values:
        with suppress(Unreadable):
            found.append(text_of(value, ""))
    return found


# ---------------------------------------------------------------- reading whole files
class Damaged(Exception):
    """The bytes of a file are not what its format says.

    Args:
        read: bytes of the file that could be read before.
    """

    def __init__(self, message: str, read: int = 0) -> None:
        super().__init__(message)
        self.read = read


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
