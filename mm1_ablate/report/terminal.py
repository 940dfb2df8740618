"""Tables that fit a terminal. In: a rich table. Out: the same with widths by which nothing of it is cut: rich crops what is too wide."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def fit(table: Table, console: Console) -> bool:
    """Give the columns of a table widths that add up to no more than the terminal has.

    Words are kept whole if there is room for all of them; otherwise the longest are folded. What room is left goes where most lines are.

    Returns:
        Whether no word is folded.
    """
    texts = [[_plain(column.header), *map(_plain, column.cells)] for column in table.columns]
    longest = [max(cell_len(line) for text in column for line in text.splitlines() or [""]) for column in texts]
    words = [max(cell_len(word) for text in column for word in text.split() or [""]) for column in texts]
    for column in table.columns:
        column.min_width = None
    around = Measurement.get(console, console.options.update(width=100_000), table).maximum - sum(longest)
    room = console.width - around
    if sum(longest) <= room:
        return True
    widths = [max(1, width) for width in words]
    while sum(widths) > max(room, len(widths)):
        widths[widths.index(max(widths))] -= 1
    while sum(widths) < room:
        lines = [full / width for full, width in zip(longest, widths, strict=True)]
        widths[lines.index(max(lines))] += 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width, column.no_wrap, column.overflow = width, False, "fold"
    return sum(words) <= room


def _plain(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
