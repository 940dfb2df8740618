"""Files of JSON lines in (plain, .gz or .zst), rows by number out.

An index of where lines begin is made once and kept in the cache; compressed files, which allow no random access, are unpacked there
once as well. Blank lines are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mm1_ablate.data.cache import BytesAdded, Conversion, ProgressCallback, build_all
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import ENDS, DataFile, cached_text, digest_file, map_files
from mm1_ablate.data.lost_documents import FileRead
from mm1_ablate.data.readers.compression import Damaged, chunks, compressed_size, decompressed_head
from mm1_ablate.data.readers.file_signatures import NO_BYTES, compression_by, compression_of, describe_format, head_and_tail
from mm1_ablate.data.readers.rows import NULL, NUMBER, OBJECT, TEXT, Rows

VERSION = "3"
"""Changes when an index is made otherwise, so that those in a cache are made anew."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_LINE = 128 << 20
"""Bytes in which the first line should end."""
ONE_LIST = "it begins like one JSON list; expected an object in each line (convert it with `jq -c '.[]'`)"
LOOKED_AT = 64
"""Number of lines from which columns are inferred."""


def parse_line(line: bytes) -> Any:
    """The value of a line.

    Raises:
        UnicodeDecodeError, ValueError, RecursionError: it is not UTF-8, no JSON, or nested too deeply.
    """
    return json.loads(line.decode("utf-8-sig"))


# ---------------------------------------------------------------- rows
class JsonLines(Rows):
    """Rows of JSON lines. Made by `open_json_lines`."""

    def __init__(self, files: Sequence[DataFile], folders: Sequence[Path]) -> None:
        about = [json.loads((folder / "about.json").read_text()) for folder in folders]
        damage: list[Unreadable | None] = [
            Unreadable("damaged file", f"{file.name}: {one['damage']}") if one["damage"] else None
            for file, one in zip(files, about, strict=True)
        ]
        read = [
            FileRead(file.name, file.size, 0 if one["is"] else one["lines"], one["read"], one["is"] or one["damage"] or "")
            for file, one in zip(files, about, strict=True)
        ]
        super().__init__(files, [one["lines"] for one in about], damage, read)
        self._has_blanks = [one["has_blanks"] for one in about]
        self._folders = list(folders)
        self._texts = [_unpacked(file, folder) if one["packed"] else file for file, folder, one in zip(files, folders, about, strict=True)]
        self._starts: list[np.ndarray | None] = [None] * len(files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, row = self.find(index)
        starts = self._starts[file]
        if starts is None:
            starts = self._starts[file] = _mapped(self._folders[file] / "starts")
        begin = int(starts[row])
        try:
            value = parse_line(self._texts[file].read(begin, int(starts[row + 1]) - begin))
        except UnicodeDecodeError:
            raise Unreadable("invalid UTF-8", self.place(index)) from None
        except (ValueError, RecursionError) as error:
            raise Unreadable("not JSON", f"{self.place(index)}: {error}") from None
        if not isinstance(value, dict):
            raise Unreadable("not a JSON object", self.place(index))
        return value

    def place(self, index: int) -> str:
        file, row = self._place(index)
        if self._has_blanks[file] and row < self._counts[file]:
            row = int(_mapped(self._folders[file] / "numbers")[row])
        return f"{self.files[file].name}, line {row + 1}"


def open_json_lines(files: Sequence[DataFile], report: ProgressCallback | None = None) -> JsonLines:
    """Rows of JSON lines; the first time, after reading all of the files once.

    Args:
        report: called with the progress.

    Raises:
        NotEnoughSpace: unpacked copies do not fit in the cache.
    """
    compressed = any(map_files(files, compression_of))
    estimate = cache(lambda: _estimate(files))
    indices = [Conversion(_identity(file), file.size, partial(_estimated, estimate, file), partial(_index, file)) for file in files]
    return JsonLines(files, build_all("lines", "unpacking" if compressed else "finding lines", indices, report))


def _identity(file: DataFile) -> str:
    compression = compression_of(file)
    # The digest does not see what changes in the middle of a plain file, where an old index would cut lines wrongly.
    return f"{VERSION} {digest_file(file)} {compression or file.stamp}"


def _unpacked(file: DataFile, folder: Path) -> DataFile:
    path = folder / "lines.jsonl"
    return DataFile(str(path), file.name, path.stat().st_size)


def _mapped(path: Path) -> np.ndarray:
    """uint64 values of a file, shared by all processes. Not numpy's memmap, which keeps a file open for each of many shards."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return np.frombuffer(file.read_buffer(), "<u8")


# ---------------------------------------------------------------- index
def _index(file: DataFile, folder: Path, add: BytesAdded) -> None:
    """Write `starts` (uint64 offsets of lines that are not blank, and of the end), and the unpacked file if there is need of one."""
    compression = compression_of(file)
    lines = _Lines(folder)
    damage: str | None = None
    read, named = file.size, "" if compression and file.size else describe_format(head_and_tail(file)[0], file.size)
    try:
        if compression is None:
            for chunk in chunks(file, add):
                lines.add(chunk)
        else:
            with (folder / "lines.jsonl").open("wb") as copy:
                for chunk in chunks(file, add):
                    copy.write(chunk)
                    lines.add(chunk)
    except Damaged as error:
        damage, read = str(error), error.read
    # The line that a damaged file breaks off in is lost with the rest.
    lines.close(drop_last=damage is not None)
    about = {"lines": lines.count, "has_blanks": lines.has_blanks, "packed": compression is not None, "damage": damage}
    # A page of a server has lines as well; each of them is no JSON, and none of them was ever a document.
    (folder / "about.json").write_text(json.dumps({**about, "is": named, "read": 0 if named else read}))


class _Lines:
    """Where lines begin, found chunk by chunk and written as it goes."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self._starts = (folder / "starts").open("wb")
        self._numbers = (folder / "numbers").open("wb")
        self._position = 0  # bytes seen
        self._begin = 0  # of the line that has not ended
        self._seen = 0  # lines seen, blank ones included
        self._last = b""  # the byte before the chunk

    def add(self, chunk: bytes) -> None:
        if self._position == 0 and chunk.startswith(BYTE_ORDER_MARK):
            self._begin = len(BYTE_ORDER_MARK)
        values = np.frombuffer(self._last + chunk, np.uint8)
        offset = self._position - len(self._last)
        ends = np.flatnonzero(values[len(self._last) :] == ord("\n")) + self._position
        if len(ends):
            starts = np.concatenate([[self._begin], ends[:-1] + 1])
            lengths = ends - starts
            carriage_return = values[np.maximum(ends - 1 - offset, 0)] == ord("\r")
            kept = (lengths > 1) | ((lengths == 1) & ~carriage_return)
            self._write(starts[kept], self._seen + np.flatnonzero(kept))
            self._seen += len(ends)
            self._begin = int(ends[-1]) + 1
        self._position += len(chunk)
        self._last = chunk[-1:]

    def close(self, drop_last: bool = False) -> None:
        """The end of the file.

        Args:
            drop_last: of a line without an end, make no row.
        """
        if self._begin < self._position and not drop_last:
            self._write(np.array([self._begin]), np.array([self._seen]))
            self._seen += 1
            self._begin = self._position
        self._starts.write(np.array([self._begin], "<u8").tobytes())
        self._starts.close()
        self._numbers.close()
        if not self.has_blanks:
            Path(self._numbers.name).unlink()  # a row's number is its line's

    @property
    def has_blanks(self) -> bool:
        """Whether a line is blank."""
        return self._seen > self.count

    def _write(self, starts: np.ndarray, numbers: np.ndarray) -> None:
        self.count += len(starts)
        self._starts.write(starts.astype("<u8").tobytes())
        self._numbers.write(numbers.astype("<u8").tobytes())


def _estimate(files: Sequence[DataFile]) -> float:
    """Bytes in the cache (index and unpacked copy) for each byte of the files, judged by the beginning of the first that tells."""
    for file in files:
        compression = compression_of(file)
        try:
            beginning, grows = next(chunks(file), b""), 1.0
            if compression is not None:
                grows = len(beginning) / max(1, compressed_size(file, compression, len(beginning)))
        except Damaged:
            continue
        if beginning:
            index = 16 * (beginning.count(b"\n") + 1) / len(beginning)
            return grows * (index + (compression is not None))
    return 0.0


def _estimated(estimate: Callable[[], float], file: DataFile) -> int:
    return int(file.size * estimate())


# ---------------------------------------------------------------- looking
def columns_in(lines: Sequence[bytes]) -> dict[str, str]:
    """Columns of those lines that are JSON objects, and what they hold."""
    columns: dict[str, str] = {}
    for line in lines:
        try:
            value = parse_line(line)
        except (ValueError, RecursionError):
            continue
        for name, entry in value.items() if isinstance(value, dict) else ():
            if columns.get(name, NULL) == NULL:
                columns[name] = kind_of(entry)
    return columns


def columns_of_lines(file: DataFile) -> dict[str, str]:
    """Columns of the first lines, and what they hold.

    Raises:
        Unreadable: none of them is a JSON object.
    """
    lines = list(islice(_first_lines(file), LOOKED_AT))
    columns = columns_in(lines)
    if lines and not columns:
        if lines[0].lstrip().startswith(b"["):
            raise Unreadable(ONE_LIST, file.name)
        named = describe_format(head_and_tail(file)[0], file.size)
        found = named or repr(lines[0][:60].decode(errors="replace"))
        raise Unreadable(f"expected a JSON object in each line, found {found}", file.name)
    return columns


def first_rows_of_lines(file: DataFile, count: int) -> list[dict[str, Any]]:
    """The first lines that are JSON objects.

    Raises:
        Unreadable: the file cannot be decompressed.
    """
    rows = []
    for line in islice(_first_lines(file), count):
        try:
            value = parse_line(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            rows.append(value)
    return rows


def _first_lines(file: DataFile) -> Iterator[bytes]:
    """The first lines that are not blank, up to about `LONGEST_LINE` bytes.

    Raises:
        Unreadable: the file is damaged, or its first line is longer than that.
    """
    pieces: list[bytes] = []  # of a line that has not ended
    seen = ended = 0
    try:
        for chunk in chunks(file):
            *whole, rest = (chunk.removeprefix(BYTE_ORDER_MARK) if not seen else chunk).split(b"\n")
            seen += len(chunk)
            if whole:
                yield from (line for line in (b"".join([*pieces, whole[0]]), *whole[1:]) if line.strip())
                ended, pieces = seen, []
            pieces.append(rest)
            if not ended and pieces[0].lstrip().startswith(b"["):
                raise Unreadable(ONE_LIST, file.name)
            if seen > LONGEST_LINE:
                if not ended:
                    longest = f"its first line does not end in {LONGEST_LINE >> 20} MiB"
                    raise Unreadable(f"{longest}; expected an object in each line, as `jq -c` writes them", file.name)
                return
    except Damaged as error:
        raise Unreadable(_damage_in_words(file, error), file.name) from None
    if (last := b"".join(pieces)).strip():
        yield last


def _damage_in_words(file: DataFile, error: Damaged) -> str:
    named = describe_format(head_and_tail(file)[0], file.size)
    return f"it is {named}" if named and "compressed with" not in named else str(error)


def kind_of(value: Any) -> str:
    """What a value of JSON is called in messages."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "truth values"
    if isinstance(value, list):
        first = next((entry for entry in value if entry is not None), None)
        return NULL if first is None else f"lists of {kind_of(first)}"
    return {str: TEXT, int: NUMBER, float: NUMBER, dict: OBJECT}[type(value)]


# ---------------------------------------------------------------- looking at the beginning alone
@dataclass(frozen=True, slots=True)
class Head:
    """What the first 64 KiB of a file of lines show."""

    columns: dict[str, str] = field(default_factory=dict)
    """Of the first lines, and what they hold. None where not one line ends in there."""
    bytes_of_one: float = 0.0
    """Bytes of the file for each line; 0 if unknown."""
    damage: str = ""
    """Why it cannot be read, if that is so."""


def head_of_lines(file: DataFile) -> Head:
    """What the beginning of a file shows; remembered in the cache."""
    return Head(**json.loads(cached_text("heads of lines 2", file, lambda: json.dumps(asdict(_head(file))))))


def _head(file: DataFile) -> Head:
    if file.size == 0:
        return Head(damage=NO_BYTES)
    packed, compression = file.read(0, ENDS), compression_of(file)
    content, used, damage = (packed, len(packed), "") if compression is None else decompressed_head(packed, compression)
    whole = used == file.size
    if damage:
        named = describe_format(packed, file.size) if compression_by(packed) is None else ""
        return Head(damage=named or damage)
    *lines, rest = content.removeprefix(BYTE_ORDER_MARK).split(b"\n")
    lines = [line for line in ([*lines, rest] if whole else lines) if line.strip()]
    columns = columns_in(lines[:LOOKED_AT])
    if not columns:
        begins = content.removeprefix(BYTE_ORDER_MARK).lstrip()
        if begins.startswith(b"["):
            return Head(damage=ONE_LIST)
        # A line that does not end in here may be one all the same.
        if begins and (lines or not begins.startswith(b"{")):
            found = f"no JSON object in its first lines, but {(lines or [begins])[0][:60].decode(errors='replace')!r}"
            return Head(damage=describe_format(content, file.size) or found)
    return Head(columns, used / len(lines) if lines else 0.0)
