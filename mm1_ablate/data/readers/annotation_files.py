"""Annotation files of benchmarks in, rows out: JSON (a list, or a mapping of ids), JSON lines, parquet, CSV, TSV, plain lines; .gz and
.zst too.

Whole files are read: annotations are megabytes, and drawing items needs all their ids. A row that does not fit the head of its table is
bad data; a file of another kind is refused, rather than taken for lines of text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import DataFile
from mm1_ablate.data.readers.compression import Damaged, decompressed
from mm1_ablate.data.readers.file_signatures import without_compression
from mm1_ablate.data.readers.json_lines import parse_line
from mm1_ablate.data.readers.parquet import every_row

QUICK_BYTES = 32 * 1024 * 1024
"""Annotation files up to this size are read in about a second."""
LINES = ("txt", "text", "lst", "list")
"""Endings of files of plain lines; a name without a dot is one of these too."""
EXPECTED = ".json, .jsonl, .ndjson, .csv, .tsv (each also .gz or .zst), .parquet, or .txt for lines of text"


class WrongShape(ValueError):
    """A file as a whole is not what the record says."""


def rows_of(files: Sequence[DataFile], inside: str = "") -> Iterator[dict[str, Any] | Unreadable]:
    """Every row of files, in order.

    A row of a mapping has its key as `key`, one that is not a mapping its value as `value`, a line of plain text itself as `text`.

    Args:
        inside: dotted path of the list of rows within a JSON file, such as `questions`; empty: the file is the list.

    Yields:
        The fields of a row, or why it cannot be read.

    Raises:
        WrongShape: there are no rows at that place.
    """
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
            yield from _table(file, "\t" if kind == "tsv" else ",")
        elif kind in LINES or "." not in file.name:
            # Not splitlines(), to which U+2028 and others end a line as well: all rows behind would be others.
            lines = _text(file).split("\n")
            yield from ({"text": line.removesuffix("\r")} for line in (lines if lines[-1] else lines[:-1]))
        else:
            raise WrongShape(f"{file.address}: expected a name that ends in {EXPECTED}")


def is_quick(files: Sequence[DataFile]) -> bool:
    """Whether the first rows can be read in about a second."""
    return all(file.size < QUICK_BYTES for file in files)


def _kind(name: str) -> str:
    return without_compression(name).rpartition(".")[2]


def _bytes(file: DataFile) -> bytes:
    try:
        return decompressed(file)
    except Damaged as error:
        raise WrongShape(f"{file.address} cannot be unpacked: {error}") from None


def _text(file: DataFile) -> str:
    try:
        return _bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = (
            f"{file.address} is not UTF-8: {error.reason} at byte {error.start:,}; convert it (iconv -f latin1 -t utf-8, if it is latin1)"
        )
        raise WrongShape(message) from None


def _table(file: DataFile, mark: str) -> Iterator[dict[str, Any] | Unreadable]:
    """Rows of CSV or TSV, by the names of the first line."""
    text = _text(file)
    # Of the whole process, and 128 KB by default: pictures in base64 are longer.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise WrongShape(f"{file.address}: a quotation mark that begins a field in line {line} is never closed") from None
            yield Unreadable("text behind a closing quotation mark", f"{file.address}:{line}")
            continue
        if fields is None:
            return
        if not names:
            names = fields
            if twice := next((name for name in names if name and names.count(name) > 1), None):
                raise WrongShape(f"{file.address}: two columns are called '{twice}'")
        elif fields and len(fields) != len(names):
            yield Unreadable(f"a row of {len(fields)} fields, not {len(names)}", f"{file.address}:{line}")
        elif fields:
            yield dict(zip(names, fields, strict=True))


def _json(file: DataFile, inside: str) -> Iterator[dict[str, Any] | Unreadable]:
    data = _bytes(file)
    try:
        tree = json.loads(data)
    except RecursionError:
        raise WrongShape(f"{file.address} is not JSON that can be read: it is nested too deeply") from None
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
            raise WrongShape(f"{file.address}: expected rows, found a mapping of {', '.join(list(tree)[:8])}; name their place with 'rows'")
        yield from ({"key": key, **value} for key, value in tree.items())
    elif isinstance(tree, list):
        yield from (value if isinstance(value, dict) else {"value": value} for value in tree)
    else:
        raise WrongShape(f"{file.address}: expected a list of rows, found {type(tree).__name__}")


def _json_lines(file: DataFile, data: bytes) -> Iterator[dict[str, Any] | Unreadable]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                value = parse_line(line)
            except (ValueError, RecursionError):
                yield Unreadable("a line is not JSON", f"{file.address}:{number}")
                continue
            yield value if isinstance(value, dict) else {"value": value}


def _parquet(file: DataFile) -> Iterator[dict[str, Any]]:
    try:
        yield from every_row(file)
    except (Damaged, OSError, UnicodeDecodeError) as error:
        raise WrongShape(f"{file.address} cannot be read: {error}") from None
