"""Tables and sentences that fit a terminal. In: a rich table, or text. Out: the same, folded where words and parts of names meet.

Rich crops what is too wide, and breaks long words anywhere. Here a name is broken behind its separators, a number never, and a path or an
address stands whole on a line of its own, so that it can be copied.
"""

from __future__ import annotations

import re
import textwrap
from itertools import pairwise
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

SEPARATOR = re.compile(r"(?<=[^\W_][/.,=_-])(?=[^\W_])")
"""Where a name may be broken: behind one of these characters between letters or digits."""
IN_A_NUMBER = re.compile(r"(?<=\d[/.,=_-])(?=\d)|(?<=\de-)(?=\d)")


def breaks(word: str) -> list[int]:
    """The places in a word at which it may be broken, so that names are broken where their parts meet and numbers stay whole."""
    return [found.start() for found in SEPARATOR.finditer(word) if not IN_A_NUMBER.match(word, found.start())]


def pieces(word: str) -> list[str]:
    """The parts of a word that stay whole."""
    ends = [0, *breaks(word), len(word)]
    return [word[start:end] for start, end in pairwise(ends)]


def folded(name: str, width: int) -> str:
    """A name in lines of at most `width` characters, broken where its parts meet; a part that is longer than a line anywhere."""
    lines = [""]
    for piece in (part for word in re.findall(r"\S+\s*", name) for part in pieces(word)):
        if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
        while cell_len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines)


def paragraph(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """A sentence in lines of at most `width` characters; a word that is longer, such as a path, stays whole and is longer than a line.

    Args:
        first, rest: what the first line and the others begin with.
    """
    # An arrow stays with the values on both its sides.
    whole = text.replace(" → ", "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(whole, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines] or [""]


def print_sentence(console: Console, text: str, first: str = "", rest: str = "", style: str | None = None) -> None:
    """A sentence, folded between words."""
    for line in paragraph(text, console.width, first, rest):
        console.print(Text(line), style=style, soft_wrap=True)


def fit(table: Table, console: Console) -> bool:
    """Give the columns of a table widths that add up to no more than the terminal has.

    Words are kept whole if there is room for all of them; otherwise the longest are folded where their parts meet, and anywhere if not
    even the parts have room. What room is left goes where most lines are.

    Returns:
        Whether no word is folded.
    """
    texts = [[_plain(column.header), *map(_plain, column.cells)] for column in table.columns]
    longest = [max(cell_len(line) for text in column for line in text.splitlines() or [""]) for column in texts]
    words = [_widest(word for text in column for word in text.split()) for column in texts]
    parts = [_widest(part for text in column for word in text.split() for part in pieces(word)) for column in texts]
    for column in table.columns:
        column.min_width = None
    around = Measurement.get(console, console.options.update(width=100_000), table).maximum - sum(longest)
    room = console.width - around
    if sum(longest) <= room:
        return True
    widths = [max(1, width) for width in words]
    while sum(widths) > max(room, len(widths)):
        spare = [width if width > part else 0 for width, part in zip(widths, parts, strict=True)]
        widths[spare.index(max(spare)) if any(spare) else widths.index(max(widths))] -= 1
    while sum(widths) < room:
        lines = [full / width for full, width in zip(longest, widths, strict=True)]
        widths[lines.index(max(lines))] += 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width, column.no_wrap, column.overflow = width, False, "fold"
        column.header = _broken(column.header, width)
        column._cells = [_broken(cell, width) for cell in column.cells]
    return sum(words) <= room


def _widest(words: Any) -> int:
    return max(map(cell_len, words), default=0)


def _broken(cell: Any, width: int) -> Any:
    """A cell whose words that are too long for a column are broken where their parts meet; in its own style."""
    text = cell if isinstance(cell, Text) else Text.from_markup(cell) if isinstance(cell, str) else None
    if text is None or all(cell_len(word) <= width for word in text.plain.split()):
        return cell
    ends = []
    for word in re.finditer(r"\S+", text.plain):
        start = word.start()
        for line in folded(word[0], width).split("\n")[:-1]:
            start += len(line)
            ends.append(start)
    broken = Text("\n", style=text.style, justify=text.justify).join(text.divide(ends))
    return broken


def _plain(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
