"""What files of JSON lines and of parquet share: rows by number, and what their values are called.

A part of a file that cannot be read stands as one row at its end, and reading that row raises `Unreadable`: so broken files are counted
where everything else is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import KnownLoss, Unreadable
from mm1_ablate.data.files import DataFile, digest_file
from mm1_ablate.data.lost_documents import FileRead, Losses, losses_of

BYTE_ORDER_MARK = "\ufeff"
NUMBER, TEXT, BYTES, OBJECT, NULL = "numbers", "text", "bytes", "objects", "nulls"
"""Kinds of values that a column holds, as messages name them."""


class Rows:
    """The rows of many files, one after the other. Subclasses say how a row is read.

    Args:
        files: in their order.
        counts: rows of each.
        damage: what is wrong with each file, or None. Damage takes one row more.
        read: of each file what was read of it, for `losses`.

    Raises:
        SettingError: at `files`, they are damaged and have no rows.
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
            raise SettingError("files", f"none of them can be read; the first: {self.bad[0]}")

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
        """Where a row is, for display."""
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
    text: str = value.removeprefix(BYTE_ORDER_MARK)
    if not text or text.isspace():
        raise Unreadable(f"empty {called}", what)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            raise Unreadable("invalid Unicode", what) from None
    return text


def is_blank(value: Any) -> bool:
    """Whether a value is a text of white space alone, with a byte-order mark or without."""
    return isinstance(value, str) and not value.removeprefix(BYTE_ORDER_MARK).strip()


def texts_of(values: Iterable[Any]) -> list[str]:
    """The values that are texts."""
    found = []
    for value in values:
        with suppress(Unreadable):
            found.append(text_of(value, ""))
    return found
