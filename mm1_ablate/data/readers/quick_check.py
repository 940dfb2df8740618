"""Files of a source in, what of them cannot be read out, as far as sizes, first and last bytes and parquet's footers tell.

Done when a plan is made, so it reads a little of every file and never a whole one. What only an index can tell (a tar that is damaged in
the middle) is known once there is one. How many documents files hold is estimated from the beginnings of those that can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mm1_ablate.data.files import DataFile, map_files
from mm1_ablate.data.lost_documents import FileRead, Losses, losses_of
from mm1_ablate.data.readers.compression import gunzipped
from mm1_ablate.data.readers.file_signatures import NO_BYTES, describe_format, head_and_tail
from mm1_ablate.data.readers.json_lines import head_of_lines
from mm1_ablate.data.readers.open_files import are_tables
from mm1_ablate.data.readers.parquet import Footer, footer_of
from mm1_ablate.data.readers.rows import NULL
from mm1_ablate.data.readers.tar import first_samples, indexed_tars, is_compressed
from mm1_ablate.data.readers.tar_headers import BLOCK, DamagedTar, is_header

SAMPLES = 20
"""First samples of a tar, from which the number in the others is estimated."""
EMPTY = 10_240
"""Bytes of an empty tar."""

Needed = Mapping[str, Sequence[str]]
"""Columns that a source reads, each with the kinds that will do."""


# ---------------------------------------------------------------- tars
def lost_tars(files: Sequence[DataFile]) -> list[Losses]:
    """What of tars cannot be read: from their index if the cache has it, else from the first and last bytes of each."""
    if (indexed := indexed_tars(files)) is not None:
        return indexed.losses
    wrong = map_files(files, wrong_tar)
    if not any(wrong):
        return []
    bytes_of_one = _bytes_of_sample(file for file, damage in zip(files, wrong, strict=True) if not damage)
    read = []
    for file, damage in zip(files, wrong, strict=True):
        # A tar that lacks its end can be read up to there.
        broken = not damage or damage == BROKEN
        samples = file.size / bytes_of_one if broken and bytes_of_one else 0.0
        read.append(FileRead(file.name, file.size, samples, file.size if samples else 0, damage))
    return losses_of(read)


BROKEN = "truncated tar"


def wrong_tar(file: DataFile) -> str:
    """What is wrong with a tar, by its first and last bytes; empty if all is well."""
    if file.size == 0:
        return NO_BYTES
    head, tail = head_and_tail(file)
    if is_compressed(file):
        content = gunzipped(head)
        if content is None:
            return "a compressed tar that cannot be unpacked"
        return _wrong_header(content[:BLOCK], 0) if len(content) >= BLOCK else ""
    if wrong := _wrong_header(head, file.size):
        return wrong
    return BROKEN if any(tail) or file.size % BLOCK else ""


def _wrong_header(head: bytes, size: int) -> str:
    """What is wrong with the first header of a tar. Zeros alone are an empty tar, if they are few."""
    if is_header(head) or (not any(head) and size <= EMPTY):
        return ""
    named = describe_format(head, size or len(head))
    return f"not a tar, but {named}" if named else "not a tar"


def _bytes_of_sample(files: Iterable[DataFile]) -> float:
    """Bytes of a tar for one of its samples, by the beginning of the first that has any; 0 if none has."""
    for file in files:
        try:
            samples = first_samples(file, SAMPLES)
        except DamagedTar:
            continue
        if samples:
            padded = sum(BLOCK + -(-len(content) // BLOCK) * BLOCK for members in samples.values() for content in members.values())
            return padded / len(samples)
    return 0.0


# ---------------------------------------------------------------- tables and lines
def lost_tables(files: Sequence[DataFile], needed: Needed, field: str = "files") -> list[Losses]:
    """What of parquet files cannot be read, by their footers: damaged ones, and those that lack a column or have nothing in it."""
    footers = map_files(files, footer_of)
    read = []
    for file, footer in zip(files, footers, strict=True):
        damage = footer.damage or _wrong_columns(footer, needed)
        rows = 0 if damage else footer.rows
        read.append(FileRead(file.name, file.size, rows, file.size if rows else 0, damage, None if footer.damage else footer.rows))
    return losses_of(read, field=field)


def _wrong_columns(footer: Footer, needed: Needed) -> str:
    if not footer.rows:
        return ""
    for column, kinds in needed.items():
        if column not in footer.columns:
            return f"no column '{column}'; it has {', '.join(footer.columns) or 'none'}"
        if footer.columns[column] not in (*kinds, NULL):
            return f"column '{column}' holds {footer.columns[column]}; expected {' or '.join(kinds)}"
        if column in footer.empty:
            return f"column '{column}' has no value in any of its {footer.rows:,} rows"
    return ""


def lost_rows(files: Sequence[DataFile], needed: Needed, field: str = "files") -> list[Losses]:
    """The same of files that are either."""
    return lost_tables(files, needed, field) if are_tables(files) else lost_lines(files, needed, field)


def lost_lines(files: Sequence[DataFile], needed: Iterable[str], field: str = "files") -> list[Losses]:
    """What of files of JSON lines cannot be read, by the beginning of each."""
    heads = map_files(files, head_of_lines)
    columns = list(needed)
    read = []
    for file, head in zip(files, heads, strict=True):
        missing = [column for column in columns if column not in head.columns] if head.columns else []
        damage = head.damage or (f"no field '{missing[0]}' in its first lines; they have {', '.join(head.columns)}" if missing else "")
        lines = 0.0 if damage or not head.bytes_of_one else file.size / head.bytes_of_one
        read.append(FileRead(file.name, file.size, lines, file.size if lines else 0, damage))
    return losses_of(read, field=field)
