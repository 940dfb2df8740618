"""Annotation files in, rows out: JSON (a list, or a mapping of ids), JSON lines, parquet, CSV, TSV, plain lines; .gz and .zst too.

Whole files are read: annotations are megabytes, and drawing items needs all their ids.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import DataFile
from mm1_ablate.data.items._expressions import Row

QUICK_BYTES = 32 * 1024 * 1024
"""Annotation files up to this size are read in about a second."""


class WrongShape(ValueError):
    """A file as a whole is not what the record says."""


def rows_of(files: Sequence[DataFile], inside: str = "") -> Iterator[Row | Unreadable]:
    """Every row of files, in order.

    A row of a mapping has its key as `key`, one that is no mapping its value as `value`, a line of plain text itself as `text`.

    Args:
        inside: dotted path of the list of rows within a JSON file, such as `questions`; nothing: the file is the list.

    Yields:
        A row, or why one cannot be read.

    Raises:
        WrongShape: there are no rows in such a place.
    """
    for number, fields in enumerate(_plain_rows(files, inside)):
        yield fields if isinstance(fields, Unreadable) else Row(fields, number)


def _plain_rows(files: Sequence[DataFile], inside: str) -> Iterator[dict[str, Any] | Unreadable]:
    for file in files:
        kind = _kind(file.name)
        if inside and kind != "json":
            raise WrongShape(f"{file.address}: '{inside}' is looked for in JSON files only")
        if kind == "parquet":
            yield from _parquet(file)
        elif kind == "json":
            yield from _json(file, inside)
        elif kind in ("jsonl", "ndjson"):
            yield from _json_lines(file, _bytes(file))
        elif kind in ("csv", "tsv"):
            text = io.StringIO(_bytes(file).decode("utf-8-sig"), newline="")
            yield from csv.DictReader(text, delimiter="\t" if kind == "tsv" else ",")
        else:
            yield from ({"text": line} for line in _bytes(file).decode("utf-8").splitlines())


def is_quick(files: Sequence[DataFile]) -> bool:
    """Whether the first rows can be had in about a second."""
    return all(file.size < QUICK_BYTES for file in files)


def _kind(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2].lower()


def _bytes(file: DataFile) -> bytes:
    with file.open() as opened:
        data = opened.read()
    if file.name.endswith(".gz"):
        import gzip

        return gzip.decompress(data)
    if file.name.endswith(".zst"):
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(data).read()
    return data


def _json(file: DataFile, inside: str) -> Iterator[dict[str, Any] | Unreadable]:
    data = _bytes(file)
    try:
        tree = json.loads(data)
    except ValueError as error:
        # Many a file of JSON lines is called .json.
        if not inside and "Extra data" in str(error):
            yield from _json_lines(file, data)
            return
        raise WrongShape(f"{file.address} is not JSON: {error}") from None
    del data
    for name in inside.split(".") if inside else []:
        if not isinstance(tree, dict) or name not in tree:
            has = f"it has {', '.join(list(map(str, tree))[:8])}" if isinstance(tree, dict) else f"it is a {type(tree).__name__}"
            raise WrongShape(f"{file.address} has no '{inside}' ({has})")
        tree = tree[name]
    if isinstance(tree, dict):
        if not all(isinstance(value, dict) for value in tree.values()):
            raise WrongShape(
                f"{file.address}: expected rows, found a mapping of {', '.join(list(tree)[:8])}; say with 'rows' where they are"
            )
        yield from ({"key": key, **value} for key, value in tree.items())
    elif isinstance(tree, list):
        yield from (value if isinstance(value, dict) else {"value": value} for value in tree)
    else:
        raise WrongShape(f"{file.address}: expected a list of rows, found {type(tree).__name__}")


def _json_lines(file: DataFile, data: bytes) -> Iterator[dict[str, Any] | Unreadable]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError:
                yield Unreadable("a line is not JSON", f"{file.address}:{number}")
                continue
            yield value if isinstance(value, dict) else {"value": value}


def _parquet(file: DataFile) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with file.open() as opened:
            for batch in parquet.ParquetFile(opened).iter_batches(1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise WrongShape(f"{file.address} cannot be read: {error}") from None
