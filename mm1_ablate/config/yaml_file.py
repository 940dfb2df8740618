"""YAML files read so that every value remembers where it was written.

In: a path and the settings class that the file declares. Out: the settings, and `Marks` by which later diagnostics are shown at
their line and column. All of a file's problems are raised at once.

Differences from PyYAML's defaults (YAML 1.1), each a trap it closes: 1e-3 is a number, 0o17 is 15 and 017 is 17, `no`, `yes` and `on`
are words, dates and 5:5:1 stay text, keys are always text, a key given twice is an error. What could be lost without a word is refused:
tags, `<<` on what is not a mapping, numbers that cannot be represented.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mm1_ablate.config.errors import Diagnostic, validated
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.settings import Settings

Keys = tuple[str | int, ...]
Model = TypeVar("Model", bound=Settings)
PACKAGE = Path(__file__).resolve().parents[1]
EXCERPT = 160
"""Characters of a source line that are shown."""
SHOWN_ALIKE, MOST_SHOWN = 3, 100
"""Problems that are told of those that are the same on one line, and of all."""
LONGEST_MESSAGE = 2000
"""Characters: values that are repeated in a message may be of any length."""


@dataclass(frozen=True)
class FileProblem:
    """One thing that is wrong in a file, or in an option of the command line; lines and columns count from 1."""

    file: str
    """Or the option, as it was given; then line and column are 0."""
    line: int
    column: int
    path: str
    """Dotted path of the place within the file, such as ablations.smaller.alter."""
    message: str
    hint: str = ""
    excerpt: str = field(default="", compare=False)
    """The source line, and a caret below the column."""
    warning: bool = False
    """Whether it is only a warning."""

    def __str__(self) -> str:
        return self.in_one_line() + (f"\n{self.excerpt}" if self.excerpt else "")

    def to_json(self) -> dict[str, Any]:
        """Its place, message and hint as plain values."""
        return {key: getattr(self, key) for key in ("file", "line", "column", "path", "message", "hint")}

    def in_one_line(self) -> str:
        """Place, message and hint, without the source line."""
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: "
        place += ("warning: " if self.warning else "") + (f"{self.path}: " if self.path else "")
        return place + self.message + (f" ({self.hint})" if self.hint else "")


class FileErrors(Exception):
    """Everything that is wrong, in the order of the file."""

    def __init__(self, problems: Iterable[FileProblem]) -> None:
        self.problems = in_order(problems)
        super().__init__(in_words(self.problems))


def in_order(problems: Iterable[FileProblem]) -> list[FileProblem]:
    """Distinct problems, in the order of their files."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line, problem.column))


def in_words(problems: Sequence[FileProblem]) -> str:
    """Problems for people, one below the other: of one that is repeated on a line the first few, and of very many the first."""
    shown: list[str] = []
    alike: Counter[tuple[str, int, str]] = Counter()
    for problem in problems:
        alike[place := (problem.file, problem.line, problem.message)] += 1
        if alike[place] <= SHOWN_ALIKE and len(shown) < MOST_SHOWN:
            shown.append(str(problem))
    more = len(problems) - len(shown)
    return "\n".join([*shown, *([f"and {more:,} more like these"] if more else [])])


@dataclass
class Marks:
    """Where in a file each key and value stands."""

    file: str
    lines: list[str] = field(default_factory=list)
    keys: dict[Keys, tuple[int, int]] = field(default_factory=dict)
    values: dict[Keys, tuple[int, int]] = field(default_factory=dict)
    scalars: dict[Keys, bool] = field(default_factory=dict)
    """What is neither a mapping nor a list; and whether its lines are lines of the file, as of a text written with |."""

    def problem(self, path: Keys, message: str, hint: str = "", at_key: bool = False, line: int = 0) -> FileProblem:
        """A problem at a path, or at the nearest thing around it that is written.

        Args:
            line: of the text that stands there, from 1; 0: of the whole.
        """
        known = path
        while known and known not in self.values:
            known = known[:-1]
        # A missing key is reported at its mapping's key; a value without its list or mapping, at the value.
        missing = known != path and not isinstance(path[len(known)], int) and known not in self.scalars
        table = self.keys if known in self.keys and (at_key or missing) else self.values
        place = table.get(known, (1, 1))
        if line and self.scalars.get(path) and place[0] + line <= len(self.lines):
            written = self.lines[place[0] + line - 1]
            place = (place[0] + line, len(written) - len(written.lstrip()) + 1)
        return self.at(*place, dotted(path), message, hint)

    def at(self, line: int, column: int, path: str, message: str, hint: str = "") -> FileProblem:
        excerpt = ""
        if line <= len(self.lines) and self.lines[line - 1].strip():
            number = f"{line:>5} | "
            written = self.lines[line - 1]
            start = max(0, column - 1 - EXCERPT // 2) if len(written) > EXCERPT else 0
            indentation = "".join("\t" if character == "\t" else " " for character in written[start : column - 1])
            excerpt = f"{number}{written[start : start + EXCERPT]}\n{' ' * (len(number) - 2)}| {indentation}^"
        message, hint, excerpt, path = map(without_passwords, (message, hint, excerpt, path))
        told = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}..."
        return FileProblem(self.file, line, column, _shortened(path, EXCERPT), told, hint, excerpt)

    def problems(self, found: Iterable[Diagnostic]) -> list[FileProblem]:
        return [replace(self.problem(one.path, one.message, one.hint, one.at_key, one.line), warning=one.warning) for one in found]


def dotted(path: Keys) -> str:
    """ablations.small.remove[1] for ("ablations", "small", "remove", 1)."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Composes nodes; what a plain scalar means is YAML 1.2's core schema, with 200_000 as a number too."""

    yaml_implicit_resolvers: dict[Any, Any] = {}


_KINDS = {
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "null": re.compile(r"~|null|Null|NULL|"),
    "int": re.compile(r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    ),
}
for _kind, _pattern in _KINDS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern.pattern})$"), None)

LONGEST_FILE = 4 * 1024 * 1024
"""Bytes: longer files are refused, as reading them would take long."""
DEEPEST = 100
"""Mappings and lists inside one another."""
MOST_VALUES = 100_000
"""Of a file, aliases written out: a few lines of aliases of aliases can mean billions."""
LARGEST = 2**63 - 1


class _Reader:
    """Plain values of nodes.

    Args:
        anchors: names that the file gives with `&`.
    """

    def __init__(self, marks: Marks, anchors: Collection[str] = ()) -> None:
        self.marks = marks
        self.problems: list[FileProblem] = []
        self._anchors = anchors
        self._open: set[int] = set()
        self._count = 0

    def value(self, node: Any, path: Keys) -> Any:
        self.marks.values[path] = _place(node)
        if not self._enter(node, path):
            return None
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                self._refuse_tag(node, path, "seq")
                return [self.value(entry, (*path, index)) for index, entry in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.remove(id(node))

    def _enter(self, node: Any, path: Keys) -> bool:
        """Whether a node can be read; it is to be taken from `_open` afterwards.

        Raises:
            FileErrors: the file expands to more values than allowed.
        """
        self._count += 1
        if self._count > MOST_VALUES:
            message = f"the file contains more than {MOST_VALUES:,} values, its aliases written out"
            raise FileErrors([self.marks.at(*_place(node), dotted(path), message)])
        if id(node) in self._open or len(self._open) >= DEEPEST:
            told = "an alias must not contain itself" if id(node) in self._open else _too_deep()
            self.problems.append(self.marks.at(*_place(node), dotted(path), told))
            return False
        self._open.add(id(node))
        return True

    def _refuse_tag(self, node: Any, path: Keys, *kinds: str) -> None:
        tag = node.tag.removeprefix(_YAML)
        if tag not in kinds:
            written = f"!!{tag}" if tag != node.tag else tag
            message = f"the YAML tag '{written}' is not supported"
            self.problems.append(self.marks.at(*_place(node), dotted(path), message, "leave the tag out"))

    def _mapping(self, node: Any, path: Keys) -> dict[str, Any]:
        mapping = {}
        for key, (key_node, value_node) in self._entries(node, path).items():
            self.marks.keys[(*path, key)] = _place(key_node)
            mapping[key] = self.value(value_node, (*path, key))
        return mapping

    def _entries(self, node: Any, path: Keys) -> dict[str, tuple[Any, Any]]:
        """The entries of a mapping by their keys, with those that it merges (`<<`) and does not have itself."""
        self._refuse_tag(node, path, "map")
        own: dict[str, tuple[Any, Any]] = {}
        merged: dict[str, tuple[Any, Any]] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            place = _place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(self.marks.at(*place, dotted(path), "expected text as a key, not a mapping or a list"))
                continue
            key = key_node.value
            self._refuse_tag(key_node, (*path, key), "str", *_KINDS)
            if "\0" in key:
                self.problems.append(self.marks.at(*place, dotted(path), "the key contains the character NUL"))
                continue
            is_merge = key == "<<" and not key_node.style
            if key in first:
                message = f"the key is given twice in one mapping, first on line {first[key]}"
                hint = "one << can have a list of mappings: <<: [*first, *second]" if is_merge else ""
                self.problems.append(self.marks.at(*place, dotted((*path, key)), message, hint))
            first.setdefault(key, place[0])
            if is_merge:
                for part in self._merged_nodes(value_node, path):
                    if self._enter(part, (*path, key)):
                        merged = {**self._entries(part, (*path, key)), **merged}
                        self._open.remove(id(part))
            else:
                own[key] = (key_node, value_node)
        return {**merged, **own}

    def _merged_nodes(self, node: Any, path: Keys) -> list[Any]:
        """The mappings that `<<` names; anything else is refused, as it would not be merged."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in [part for part in parts or [node] if not isinstance(part, yaml.MappingNode)]:
            word = part.value if isinstance(part, yaml.ScalarNode) else ""
            shown = "a list" if isinstance(part, yaml.SequenceNode) else f"'{word}'" if word else "null"
            message = f"expected a mapping to merge, or a list of mappings, such as *shared for what is marked &shared; not {shown}"
            meant = word if word in self._anchors else ""
            self.problems.append(self.marks.at(*_place(part), dotted((*path, "<<")), message, f"did you mean '*{meant}'?" if meant else ""))
        return [part for part in parts if isinstance(part, yaml.MappingNode)]

    def _scalar(self, node: Any, path: Keys) -> Any:
        tag, text = node.tag.removeprefix(_YAML), node.value
        self.marks.scalars[path] = node.style == "|"
        if "\0" in text:
            self._refuse(path, "the text contains the character NUL")
        if tag == "str":
            return text
        if tag not in _KINDS:
            self._refuse_tag(node, path)
            return text
        if not _KINDS[tag].fullmatch(text):
            self._refuse(path, f"'{text}' is not a value of the YAML type '{tag}'")
            return text
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        return self._number(text, tag, path)

    def _number(self, text: str, tag: str, path: Keys) -> int | float | str:
        plain = text.replace("_", "")
        if tag == "int":
            base = {"0x": 16, "0o": 8}.get(plain[:2], 10)
            short = len(plain.lstrip("+-0")) <= 24
            if short and abs(whole := int(plain, base)) <= LARGEST:
                return whole
            self._refuse(path, f"'{_shortened(text)}' is too large; the largest whole number is {LARGEST}")
            return text
        number = float(plain) if "n" not in plain.lower() else nan
        if not isfinite(number):
            self._refuse(path, f"'{_shortened(text)}' is not a finite number", "put it in quotes if it is text")
        elif number == 0 and re.search("[1-9]", re.split("[eE]", plain)[0]):
            self._refuse(path, f"'{_shortened(text)}' is too small to be distinguished from 0")
        else:
            return number
        return text

    def _refuse(self, path: Keys, message: str, hint: str = "") -> None:
        self.problems.append(self.marks.problem(path, message, hint))


_YAML = "tag:yaml.org,2002:"
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML takes for the end of a line."""
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
"""Characters that YAML refuses."""


def _place(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _too_deep() -> str:
    return f"nested more than {DEEPEST} deep"


def _shortened(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


_TEXTS: ContextVar[dict[Path, str] | None] = ContextVar("texts of the files that are read", default=None)


@contextmanager
def keeping_texts() -> Iterator[dict[Path, str]]:
    """The texts of the files that are read in this block, in their order; without those of this package."""
    texts: dict[Path, str] = {}
    token = _TEXTS.set(texts)
    try:
        yield texts
    finally:
        _TEXTS.reset(token)


def _text(path: Path, marks: Marks) -> str:
    """The text of a file; without the byte-order mark that some editors begin with.

    Raises:
        FileErrors: it cannot be read, or is not text in UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileErrors([marks.at(1, 1, "", "there is no such file")]) from None
    except (OSError, ValueError) as error:
        raise FileErrors([marks.at(1, 1, "", f"the file cannot be read: {error}")]) from None
    if len(data) > LONGEST_FILE:
        message = f"the file cannot be read: its {len(data):,} bytes are more than the {LONGEST_FILE:,} allowed"
        raise FileErrors([marks.at(1, 1, "", message)])
    try:
        text = data.decode("utf-8-sig")
        if (kept := _TEXTS.get()) is not None and not Path(path).resolve().is_relative_to(PACKAGE):
            kept.setdefault(Path(path).resolve(), text)
        return text
    except UnicodeDecodeError as error:
        above, _, before = data[: error.start].rpartition(b"\n")
        line, column = above.count(b"\n") + bool(_) + 1, len(before.decode("utf-8", "replace")) + 1
        message = f"the file cannot be read: expected text in UTF-8, found the byte 0x{data[error.start]:02x}"
        raise FileErrors([marks.at(line, column, "", message, "save the file as UTF-8")]) from None


def _look_through(text: str, marks: Marks) -> set[str]:
    """The anchors of a file.

    Raises:
        FileErrors: what cannot be composed safely, or would lose something when it is.
        yaml.MarkedYAMLError: this is no YAML.
    """
    if character := _CONTROL.search(text):
        before = _LINE_BREAK.split(text[: character.start()])
        message = f"this is not YAML: the character U+{ord(character[0]):04X} is not allowed in a file"
        raise FileErrors([marks.at(len(before), len(before[-1]) + 1, "", message, "in double quotes, it can be written as an escape")])
    anchors: set[str] = set()
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:  # composing recurses, and in C it ends the process
            raise FileErrors([marks.at(*_place(event), "", _too_deep())])
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent):
            if event.anchor is not None:
                anchors.add(event.anchor)
            if isinstance(event, yaml.ScalarEvent) and event.tag == "!":
                raise FileErrors([marks.at(*_place(event), "", "the YAML tag '!' is not supported", "leave the tag out")])
    return anchors


def read_tree(path: Path) -> tuple[Any, Marks, list[FileProblem]]:
    """The plain values of a file, their marks, and what is wrong with the YAML itself.

    Raises:
        FileErrors: the file cannot be read, or is no YAML at all.
    """
    marks = Marks(str(path))
    text = _text(Path(path), marks)
    marks.lines = _LINE_BREAK.split(text)
    try:
        anchors = _look_through(text, marks)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = "this is not YAML: " + ", ".join(part for part in (error.context, error.problem) if part)
        tabbed = mark is not None and any("\t" in line for line in marks.lines[mark.line : mark.line + 1])
        hint = "indent with spaces, not tabs" if tabbed else ""
        raise FileErrors([marks.at(mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, "", message, hint)]) from None
    except yaml.YAMLError as error:
        raise FileErrors([marks.at(1, 1, "", f"this is not YAML: {error}")]) from None
    if node is None:
        raise FileErrors([marks.at(1, 1, "", "the file is empty")])
    reader = _Reader(marks, anchors)
    return reader.value(node, ()), marks, reader.problems


def parsed_value(text: str) -> Any:
    """The plain value that a text is in YAML, as an option of the command line gives it.

    Raises:
        ValueError: this is no YAML, or no value that a file could have.
    """
    marks = Marks("", _LINE_BREAK.split(text))
    try:
        anchors = _look_through(text, marks)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"the value is not YAML: {getattr(error, 'problem', None) or error}") from None
    except FileErrors as errors:
        raise ValueError(errors.problems[0].message) from None
    if node is None:
        return None
    reader = _Reader(marks, anchors)
    value = reader.value(node, ())
    if reader.problems:
        raise ValueError(reader.problems[0].message)
    return value


def read(path: Path, model: type[Model]) -> tuple[Model, Marks]:
    """The settings that a file declares, and where each stands.

    Raises:
        FileErrors: with every problem of the file.
    """
    tree, marks, problems = read_tree(path)
    value, found = validated(model, tree, Path(path).parent)
    if value is None or problems or found:
        raise FileErrors([*problems, *marks.problems(found)])
    return value, marks
