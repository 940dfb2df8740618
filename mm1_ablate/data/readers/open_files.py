"""Files of JSON lines or parquet in, their rows or what they have for columns out: by its name a file is one or the other.

`columns_of` and `check_columns` look at the beginning only, when a plan is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from mm1_ablate.config.data import Keep
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.cache import ProgressCallback
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import DataFile, NoFiles, find_files, map_files
from mm1_ablate.data.readers.file_signatures import without_compression
from mm1_ablate.data.readers.json_lines import Head, columns_of_lines, first_rows_of_lines, head_of_lines, open_json_lines
from mm1_ablate.data.readers.parquet import Footer, columns_of_parquet, first_rows_of_parquet, footer_of, open_parquet
from mm1_ablate.data.readers.rows import NULL, NUMBER, Rows

FILES_SAMPLED = 4
"""Files from whose beginnings rows are taken; of those on a network only one."""
LINES = (".jsonl", ".ndjson", ".json")
TABLES = (".parquet", ".pq")


def found_files(patterns: Sequence[str], field: str = "files") -> list[DataFile]:
    """The files that a source's setting names.

    Raises:
        SettingError: at `field`, there are none.
    """
    try:
        return find_files(patterns)
    except NoFiles as error:
        raise SettingError(field, str(error)) from None


def _is_table(file: DataFile) -> bool:
    return file.name.lower().endswith(TABLES)


def _is_lines(file: DataFile) -> bool:
    return without_compression(file.name).endswith(LINES)


def are_tables(files: Sequence[DataFile]) -> bool:
    """Whether files are parquet; otherwise they are JSON lines.

    Raises:
        SettingError: at `files`, they are neither, or some of each.
    """
    tables = [file for file in files if _is_table(file)]
    others = [file for file in files if not _is_table(file)]
    if unknown := [file for file in others if not _is_lines(file)]:
        expected = f"{', '.join(LINES)} (also .gz, .zst) or {', '.join(TABLES)}"
        raise SettingError(
            "files", f"'{unknown[0].name}' is neither JSON lines nor parquet by its name; expected a name that ends in {expected}"
        )
    if tables and others:
        message = f"'{tables[0].name}' is parquet and '{others[0].name}' is JSON lines; declare a source for each"
        raise SettingError("files", message)
    return bool(tables)


def open_rows(files: Sequence[DataFile], columns: Sequence[str], report: ProgressCallback | None = None) -> Rows:
    """The rows of JSON lines or parquet.

    Args:
        columns: those that are needed. Rows of JSON lines have all.
        report: called with the progress of indices and converted copies.

    Raises:
        SettingError: the names of the files say neither, or both; or not one of them can be read.
    """
    return open_parquet(files, columns, report) if are_tables(files) else open_json_lines(files, report)


# ---------------------------------------------------------------- looking when a plan is made
def columns_of(files: Sequence[DataFile]) -> dict[str, str]:
    """What files have: column to the kind of what it holds ("text", "lists of bytes", ...). Where files differ, what at least half of
    the rows have (of lines: of the files); a file without those columns counts as lost (see `quick_check`).

    Raises:
        SettingError: at `files`, none is readable, or all are empty.
    """
    tables = are_tables(files)
    if usual := _usual(map_files(files, footer_of if tables else head_of_lines)):
        return usual
    look = columns_of_parquet if tables else columns_of_lines
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
        raise SettingError("files", f"'{first.what}' cannot be used{others}: {first.reason}")
    raise SettingError("files", f"'{files[0].name}' has no rows" if len(files) == 1 else f"none of the {len(files)} files has a row")


def _usual(found: Sequence[Footer | Head]) -> dict[str, str]:
    """The columns that at least half of all rows have, or of lines half of all files; each with the kind that most of them hold."""
    kinds: dict[str, Counter[str]] = {}
    in_all = 0
    for one in found:
        weight = one.rows if isinstance(one, Footer) else int(bool(one.columns))
        in_all += weight
        for column, kind in one.columns.items() if weight else ():
            kinds.setdefault(column, Counter())[kind] += weight
    usual = {column: counts for column, counts in kinds.items() if 2 * counts.total() >= in_all}
    # A column of nulls in some files is what it is in the others.
    return {column: max(counts, key=lambda kind: (kind != NULL, counts[kind])) for column, counts in usual.items()}


def first_values(files: Sequence[DataFile], column: str, count: int = 20) -> list[tuple[Any, str]]:
    """The first values of a column, in the first file that has any; each with its place, for display. Empty where nothing can be read."""
    tables = are_tables(files)
    for file in files:
        with suppress(Unreadable):
            if rows := first_rows_of_parquet(file, [column], count) if tables else first_rows_of_lines(file, count):
                return [(row.get(column), f"{file.name}, row {number}") for number, row in enumerate(rows, 1)]
    return []


def sampled(files: Sequence[DataFile]) -> list[DataFile]:
    """A few files, evenly spaced, of which to read the beginning."""
    count = min(FILES_SAMPLED if all(file.is_local for file in files) else 1, len(files))
    return [files[place * len(files) // count] for place in range(count)]


def first_rows(files: Sequence[DataFile], columns: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Rows from the beginnings of a few files, without an index of them; files that cannot be read are passed over.

    Args:
        columns: those that are needed. Rows of JSON lines have all.
        count: rows in all, at most.
    """
    tables, chosen = are_tables(files), sampled(files)
    rows: list[dict[str, Any]] = []
    for file in chosen:
        try:
            most = max(1, count // len(chosen))
            rows += first_rows_of_parquet(file, columns, most) if tables else first_rows_of_lines(file, most)
        except Unreadable:
            continue
    return rows


def check_columns(columns: Mapping[str, str], needed: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Whether the columns that settings name are there.

    Args:
        columns: of the files, as `columns_of` finds them.
        needed: a setting to the column that it names and the kinds that will do.

    Raises:
        SettingError: at the setting.
    """
    for setting, (column, kinds) in needed.items():
        if column not in columns:
            near = get_close_matches(column, columns, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            has = ", ".join(columns) if columns else "none"
            raise SettingError(setting, f"the data has no column '{column}'{hint}; it has {has}")
        if columns[column] not in (*kinds, NULL):
            raise SettingError(setting, f"column '{column}' holds {columns[column]}; expected {' or '.join(kinds)}")


def kept_columns(keep: Keep) -> dict[str, tuple[str, tuple[str, ...]]]:
    """What `keep.columns` needs, for `check_columns`."""
    return {f"keep.columns.{name}": (name, (NUMBER,)) for name in keep.columns}
