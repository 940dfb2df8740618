"""Shipped files with mistakes in them, as people make them: misspelt, cut off, pasted at the wrong place. Seeded."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

VALUES = (
    "",
    "~",
    "true",
    "no",
    "0",
    "-1",
    "1.5",
    "1e999",
    "1e300",
    ".inf",
    ".nan",
    "0o17",
    "1_000",
    "99999999999999999999",
    "9223372036854775807",
    "'3'",
    "'-1'",
    "' '",
    "''",
    '"x\\0y"',
    '"\\a\\e"',
    "~nobody/x.yaml",
    "/dev/null",
    ".",
    "x" * 5000,
    "x",
    "2024-01-31",
    "5:5:1",
    "[]",
    "{}",
    "[[]]",
    "[1]",
    "[x, x]",
    "{x: 1}",
    "{type: x}",
    "{type: 5}",
    "{type: os.path}",
    "{type: []}",
    "{<<: x}",
    "*nothing",
    "&a x",
    "!foo x",
    "!!set {x}",
    "!!python/object:os.system {}",
    "{{x}}",
    "%x",
    "@x",
    "| x",
    "'x",
    '"\\x"',
    "[1, 2",
    "{a: 1",
    "ünïcödé 🙂",
)
CHARACTERS = "\t \x00\x07\x1b\x7f\x85\xa0\xad\u200b\u200d\u2028\u202e\ufeff\ufffeаé🙂\"'{}[]:,#&*!|>%@-?~"
Mutation = Callable[[str, Random], str]


def _line(text: str, random: Random, pattern: str) -> tuple[list[str], int, re.Match[str]]:
    """The lines of a text, and one of those that hold a pattern."""
    lines = text.split("\n")
    found = [
        (number, match) for number, line in enumerate(lines) if (match := re.search(pattern, line)) and not line.lstrip().startswith("#")
    ]
    number, match = random.choice(found)
    return lines, number, match


def _changed(text: str, random: Random, pattern: str, change: Callable[[str], str]) -> str:
    """What a pattern's last group found on one line, changed."""
    lines, number, match = _line(text, random, pattern)
    start, end = match.span(match.lastindex or 0)
    lines[number] = lines[number][:start] + change(lines[number][start:end]) + lines[number][end:]
    return "\n".join(lines)


def _misspelt(word: str, random: Random) -> str:
    place = random.randrange(len(word))
    kind = random.randrange(5)
    if kind == 0:
        return word[:place] + word[place + 1 :]
    if kind == 1:
        return word[:place] + word[place] + word[place:]
    if kind == 2:
        return word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
    return word.upper() if kind == 3 else word[:place] + random.choice("xа_.- ") + word[place + 1 :]


KEY, VALUE, PATH = r"([\w./-]+):(?:\s|$)", r":\s+([^#\s][^#]*?)\s*(?:#.*)?$", r"\b(\w+(?:\.\w+){1,5})\b"


def key_misspelt(text: str, random: Random) -> str:
    return _changed(text, random, KEY, lambda key: _misspelt(key, random))


def value_misspelt(text: str, random: Random) -> str:
    return _changed(text, random, VALUE, lambda value: _misspelt(value, random))


def path_misspelt(text: str, random: Random) -> str:
    def change(path: str) -> str:
        parts = path.split(".")
        place = random.randrange(len(parts))
        new = random.choice(([], [_misspelt(parts[place], random)], [parts[place], "x"], ["", ""], ["0"], [parts[place], parts[place]]))
        return ".".join([*parts[:place], *new, *parts[place + 1 :]])

    return _changed(text, random, PATH, change)


def value_replaced(text: str, random: Random) -> str:
    return _changed(text, random, VALUE, lambda _: random.choice(VALUES))


def entry_replaced(text: str, random: Random) -> str:
    """One inside a list or a mapping in one line."""
    return _changed(text, random, r"[\[{:,]\s*([^\[\]{}:,#\s]+)(?=[\]},:])", lambda _: random.choice(VALUES))


def number_changed(text: str, random: Random) -> str:
    return _changed(
        text,
        random,
        r"\b(\d+(?:\.\d+)?)\b",
        lambda number: random.choice((f"-{number}", f"{number}e30", "0", f"'{number}'", f"{number}.5")),
    )


def line_removed(text: str, random: Random) -> str:
    lines, number, _ = _line(text, random, r"\S")
    return "\n".join(lines[:number] + lines[number + 1 :])


def line_doubled(text: str, random: Random) -> str:
    lines, number, _ = _line(text, random, r"\S")
    return "\n".join(lines[: number + 1] + lines[number:])


def lines_swapped(text: str, random: Random) -> str:
    lines, one, _ = _line(text, random, r"\S")
    _, other, _ = _line(text, random, r"\S")
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines)


def line_indented(text: str, random: Random) -> str:
    lines, number, _ = _line(text, random, r"\S")
    line = lines[number]
    lines[number] = random.choice((" " + line, "  " + line, "\t" + line, line.lstrip(), line[1:], "    " + line))
    return "\n".join(lines)


def section_moved(text: str, random: Random) -> str:
    """A top-level section indented under the one before, or put elsewhere."""
    sections = re.split(r"\n(?=\w)", text)
    place = random.randrange(len(sections))
    moved = sections.pop(place)
    if random.random() < 0.5 and sections:
        moved = moved.replace("\n", "\n  ")
        sections[place - 1] += "\n  " + moved
    else:
        sections.insert(random.randrange(len(sections) + 1), moved)
    return "\n".join(sections)


def tagged(text: str, random: Random) -> str:
    tag = random.choice(
        ("!foo", "!!set", "!!omap", "!!str", "!!int", "!!null", "!!binary", "!", "!!python/name:os.system", "!<x>", "!e!x", "&a", "*a")
    )
    pattern = random.choice((r":(\s)", r"^(\s*)", r"-(\s)", r"[\[{,](\s?)"))
    return _changed(text, random, pattern, lambda space: f"{space} {tag} ")


def merged(text: str, random: Random) -> str:
    lines, number, match = _line(text, random, r"^(\s*)\w")
    what = random.choice(("shared", "~", "5", "[]", "*shared", "{x: 1}", "[*shared, *shared]", ""))
    where = number + random.randrange(2)
    return "\n".join([*lines[:where], f"{match[1]}<<: {what}", *lines[where:]])


def anchored(text: str, random: Random) -> str:
    """A value marked, and put in place of another."""
    lines, number, match = _line(text, random, VALUE)
    lines[number] = lines[number][: match.start(1)] + "&shared " + lines[number][match.start(1) :]
    return _changed("\n".join(lines), random, VALUE, lambda _: "*shared")


def cut_off(text: str, random: Random) -> str:
    return text[: random.randrange(len(text))]


def character_inserted(text: str, random: Random) -> str:
    place = random.randrange(len(text))
    return text[:place] + random.choice(CHARACTERS) + text[place:]


def character_removed(text: str, random: Random) -> str:
    places = [match.start() for match in re.finditer(r"[{}\[\]:,'\"\-\n#]", text)]
    place = random.choice(places)
    return text[:place] + text[place + 1 :]


def document_split(text: str, random: Random) -> str:
    lines, number, _ = _line(text, random, r"\S")
    return "\n".join(
        [*lines[:number], random.choice(("---", "...", "--- x", "%YAML 1.2", "? x", "- x", "<<<<<<< HEAD", "…")), *lines[number:]]
    )


def key_added(text: str, random: Random) -> str:
    lines, number, match = _line(text, random, r"^(\s*)\w")
    key = random.choice(
        ("type", "frozen", "0", "''", "true", "x.y", "starts_from", "data", "sweep", "seeds", "? [x]\n: y #", "[x]", "{x: y}", "~")
    )
    return "\n".join([*lines[:number], f"{match[1]}{key}: {random.choice(VALUES)}", *lines[number:]])


def several(text: str, random: Random) -> str:
    for _ in range(random.randrange(2, 5)):
        text = random.choice(ONE)(text, random)
    return text


ONE: tuple[Mutation, ...] = (
    key_misspelt,
    value_misspelt,
    path_misspelt,
    value_replaced,
    value_replaced,
    value_replaced,
    entry_replaced,
    entry_replaced,
    number_changed,
    line_removed,
    line_doubled,
    lines_swapped,
    line_indented,
    section_moved,
    tagged,
    merged,
    anchored,
    cut_off,
    character_inserted,
    character_removed,
    document_split,
    key_added,
)
ALL = (*ONE, several, several)


def mutated(text: str, seed: str) -> tuple[str, str]:
    """A text with a mistake, and what was done to it."""
    random = Random(seed)
    for _ in range(20):
        mutation = random.choice(ALL)
        try:
            changed = mutation(text, random)
        except (IndexError, ValueError):  # nothing to choose from
            continue
        if changed != text:
            return changed, mutation.__name__
    return text + "\nx: [", "cut off"
