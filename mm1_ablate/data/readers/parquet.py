"""Parquet files in, rows by number out.

Parquet has to be decoded page by page, so a column that is needed is written once to the cache as an Arrow IPC file, which is then
mapped into memory and read at any place without decoding. Each column of each file is a copy of its own: a setting that needs one
column more makes a copy of that column alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from mm1_ablate.data.cache import BytesAdded, Conversion, ProgressCallback, build_all
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import DataFile, cached_text, digest_file
from mm1_ablate.data.lost_documents import FileRead
from mm1_ablate.data.readers.compression import Damaged, WatchedFile, reading
from mm1_ablate.data.readers.file_signatures import NO_BYTES, describe_format, head_and_tail
from mm1_ablate.data.readers.rows import BYTES, NULL, NUMBER, OBJECT, TEXT, Rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

VERSION = "1"
"""Changes when copies are made otherwise, so that those in a cache are made anew."""
BATCH_BYTES = 32 << 20
"""About what is decoded at once while a column is copied, and the size of a batch of the copy."""
BATCH_ROWS = 1 << 16
COPY = "column.arrow"
"""File of a copy, in its folder."""


# ---------------------------------------------------------------- rows
class ParquetRows(Rows):
    """Rows of parquet files. Made by `open_parquet`."""

    def __init__(self, files: Sequence[DataFile], columns: Sequence[str], folders: Sequence[Sequence[Path]]) -> None:
        self.columns = tuple(columns)
        self._copies = [{name: CopiedColumn(folder) for name, folder in zip(columns, of_file, strict=True)} for of_file in folders]
        counts, damage, read = [], [], []
        for file, copies in zip(files, self._copies, strict=True):
            counts.append(min(copy.rows for copy in copies.values()))
            damage.append(next((Unreadable(c.damage[0], f"{file.name}: {c.damage[1]}") for c in copies.values() if c.damage), None))
            read.append(_read(file, counts[-1], damage[-1]))
        super().__init__(files, counts, damage, read)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.values(index, self.columns)

    def values(self, index: int, columns: Iterable[str]) -> dict[str, Any]:
        """Some columns of a row.

        Raises:
            Unreadable: as the whole row may be.
        """
        file, row = self.find(index)
        copies = self._copies[file]
        try:
            return {name: copies[name].scalar(row).as_py() for name in columns}
        except UnicodeDecodeError:
            raise Unreadable("invalid UTF-8", self.place(index)) from None

    def scalar(self, index: int, column: str) -> pa.Scalar:
        """One value, still in the mapped file: nothing of it is read before it is looked into.

        Raises:
            Unreadable: the index stands for the damage of a file.
        """
        file, row = self.find(index)
        return self._copies[file][column].scalar(row)


def _read(file: DataFile, rows: int, damage: Unreadable | None) -> FileRead:
    if damage is None:
        return FileRead(file.name, file.size, rows, file.size)
    footer = footer_of(file)
    why = footer.damage or damage.what.removeprefix(f"{file.name}: ")
    known = None if footer.damage else footer.rows
    return FileRead(file.name, file.size, rows, file.size * rows // known if known else 0, why, known)


class CopiedColumn:
    """One column of one file, from the cache; opened when it is first read.

    Args:
        folder: with the copy, and `about.json`: the rows of each of its batches, and what is wrong with the file.
    """

    __slots__ = ("_arrays", "_first", "_folder", "damage", "rows")

    # Opening is quick and seldom, so one lock will do for all.
    _opening = Lock()

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text())
        self.damage: tuple[str, str] | None = about["damage"]
        self._first = np.array([0, *accumulate(about["batches"])])
        self.rows = int(self._first[-1])
        self._folder = folder
        self._arrays: list[pa.Array] | None = None

    def scalar(self, row: int) -> pa.Scalar:
        arrays = self._arrays or self._open()
        if len(arrays) == 1:
            return arrays[0][row]
        batch = int(self._first.searchsorted(row, side="right")) - 1
        return arrays[batch][row - int(self._first[batch])]

    def _open(self) -> list[pa.Array]:
        import pyarrow as pa

        with self._opening:
            if self._arrays is None:
                # The mapping outlives the file, so that thousands of shards do not take as many open files.
                with pa.memory_map(str(self._folder / COPY)) as file:
                    copy = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(use_threads=False))
                    self._arrays = [copy.get_batch(batch).column(0) for batch in range(copy.num_record_batches)]
            return self._arrays


def open_parquet(files: Sequence[DataFile], columns: Sequence[str], report: ProgressCallback | None = None) -> ParquetRows:
    """Rows of parquet files; the first time, after copying the needed columns.

    Args:
        columns: those that are needed.
        report: called with the progress of the copies.

    Raises:
        NotEnoughSpace: the copies do not fit in the cache.
    """
    copies = []
    for file in files:
        digest, sizes = digest_file(file), cache(partial(_sizes, file))
        for name in columns:
            copies.append(Conversion(f"{VERSION} {digest} {name}", file.size, partial(_size, sizes, name), partial(_copy, file, name)))
    folders = build_all("columns", "copying columns", copies, report)
    return ParquetRows(files, columns, [folders[place : place + len(columns)] for place in range(0, len(folders), len(columns))])


# ---------------------------------------------------------------- copying
class _WrongShape(Exception):
    """A parquet file without the column."""


def _copy(file: DataFile, column: str, folder: Path, add: BytesAdded) -> None:
    """Write the copy, and in `about.json` the rows of its batches and what is wrong with the file."""
    batches: list[int] = []
    damage: tuple[str, str] | None = None
    try:
        with reading(file) as opened:
            for rows, share in _write(opened, column, folder / COPY):
                batches.append(rows)
                add(int(file.size * share))
    except _WrongShape as error:
        damage = "parquet of the wrong shape", str(error)
    except Damaged as error:
        damage = "damaged file", str(error)
    (folder / "about.json").write_text(json.dumps({"batches": batches, "damage": damage}))


def _write(opened: WatchedFile, column: str, target: Path) -> Iterator[tuple[int, float]]:
    """The rows of each batch that is written, and their share of all rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(pa.PythonFile(opened, mode="r"))
    schema = parquet.schema_arrow
    if column not in schema.names:
        raise _WrongShape(f"no column '{column}'; it has {', '.join(schema.names)}")
    in_all = parquet.metadata.num_rows
    mean = max(1, _column_sizes(parquet.metadata).get(column, 0) // max(1, in_all))
    plain = pa.schema([pa.field(column, _without_dictionary(schema.field(column).type))])
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, plain) as writer:
        for batch in parquet.iter_batches(max(1, min(BATCH_ROWS, BATCH_BYTES // mean)), columns=[column], use_threads=False):
            values = batch.column(0)
            if values.type != plain.field(0).type:
                values = values.cast(plain.field(0).type)
            writer.write_batch(pa.record_batch([values], schema=plain))
            yield len(batch), len(batch) / in_all


def _without_dictionary(kind: pa.DataType) -> pa.DataType:
    """Batches of one file must agree, and their dictionaries may not."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _sizes(file: DataFile) -> dict[str, int]:
    """Bytes of each column, not compressed; empty for a file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with reading(file) as opened:
            return _column_sizes(pq.ParquetFile(pa.PythonFile(opened, mode="r")).metadata)
    except Damaged:
        return {}


def _size(sizes: Callable[[], dict[str, int]], column: str) -> int:
    return sizes().get(column, 0)


def _column_sizes(metadata: pq.FileMetaData) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for group in range(metadata.num_row_groups):
        of_group = metadata.row_group(group)
        for place in range(of_group.num_columns):
            part = of_group.column(place)
            sizes[part.path_in_schema.partition(".")[0]] += part.total_uncompressed_size
    return sizes


# ---------------------------------------------------------------- looking
@dataclass(frozen=True, slots=True)
class Footer:
    """What the footer of a parquet file says."""

    rows: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    """Columns, and what they hold."""
    empty: list[str] = field(default_factory=list)
    """Those without a value in any row; of {bytes, path}: without bytes in any."""
    damage: str = ""
    """Why it cannot be read, if that is so."""


def footer_of(file: DataFile) -> Footer:
    """What a parquet file says of itself; remembered in the cache."""
    return Footer(**json.loads(cached_text("footers 2", file, lambda: json.dumps(asdict(_footer(file))))))


def _footer(file: DataFile) -> Footer:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.size == 0:
        return Footer(damage=NO_BYTES)
    try:
        with reading(file) as opened:
            parquet = pq.ParquetFile(pa.PythonFile(opened, mode="r"))
            columns = {column.name: _kind(column.type) for column in parquet.schema_arrow}
            return Footer(parquet.metadata.num_rows, columns, _empty(parquet.metadata, columns))
    except Damaged as error:
        named = describe_format(head_and_tail(file)[0], file.size)
        why = f"not parquet, but {named}" if named and named != "parquet" else f"parquet that cannot be read: {str(error).splitlines()[0]}"
        return Footer(damage=why)


def _empty(metadata: pq.FileMetaData, columns: Mapping[str, str]) -> list[str]:
    filled: set[str] = set()
    for group in range(metadata.num_row_groups):
        of_group = metadata.row_group(group)
        for place in range(of_group.num_columns):
            part = of_group.column(place)
            column, *below = part.path_in_schema.split(".")
            if columns.get(column, "").endswith(OBJECT) and below[-1:] == ["path"]:
                continue  # where bytes are is what counts
            if metadata.schema.column(place).logical_type.type in ("NULL", "UNKNOWN"):
                continue  # two names of the type whose only value is null
            counts = part.statistics if part.is_stats_set else None
            if counts is None or not counts.has_null_count or counts.null_count < part.num_values:
                filled.add(column)
    return [column for column in columns if column not in filled] if metadata.num_rows else []


def columns_of_parquet(file: DataFile) -> dict[str, str]:
    """Columns, and what they hold; empty if there are no rows.

    Raises:
        Unreadable: it is not parquet.
    """
    footer = footer_of(file)
    if footer.damage:
        raise Unreadable(footer.damage, file.name)
    return footer.columns if footer.rows else {}


def first_rows_of_parquet(file: DataFile, columns: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The first rows, as far as these columns go.

    Raises:
        Unreadable: it is not parquet, or lacks one of the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with reading(file) as opened:
            parquet = pq.ParquetFile(pa.PythonFile(opened, mode="r"))
            if missing := set(columns) - set(parquet.schema_arrow.names):
                raise Unreadable(f"no column '{min(missing)}'", file.name)
            batch = next(parquet.iter_batches(count, columns=list(columns), use_threads=False), None)
            return batch.to_pylist() if batch is not None else []
    except (Damaged, UnicodeDecodeError) as error:
        raise Unreadable(str(error), file.name) from None


def every_row(file: DataFile, at_once: int = 1024) -> Iterator[dict[str, Any]]:
    """All rows in order, without a copy of them, some at once in memory.

    Raises:
        Damaged: it is not parquet, or broken; perhaps after some rows.
        UnicodeDecodeError: a text is not UTF-8.
        OSError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(file) as opened:
        for batch in pq.ParquetFile(pa.PythonFile(opened, mode="r")).iter_batches(at_once):
            yield from batch.to_pylist()


def _kind(kind: pa.DataType) -> str:
    from pyarrow import types

    kind = _without_dictionary(kind)
    if types.is_list(kind) or types.is_large_list(kind):
        return f"lists of {_kind(kind.value_type)}"
    kinds = {
        TEXT: (types.is_string, types.is_large_string, types.is_string_view),
        BYTES: (types.is_binary, types.is_large_binary, types.is_binary_view),
        NUMBER: (types.is_integer, types.is_floating, types.is_decimal),
        OBJECT: (types.is_struct,),
        NULL: (types.is_null,),
        "truth values": (types.is_boolean,),
    }
    return next((name for name, tests in kinds.items() if any(test(kind) for test in tests)), f"values of type {kind}")
