"""YAML files read so that every value remembers where it was written.

In: a path and the settings class that the file declares. Out: the settings, and `Marks` by which later findings are shown at
their line and column. All of a file's problems are raised at once.

Differences from PyYAML's defaults (YAML 1.1), each a trap it closes: 1e-3 is a number, `no`, `yes` and `on` are words, dates
and 5:5:1 stay text, keys are always text, a key given twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mm1_ablate.spec.messages import Finding, validated
from mm1_ablate.spec.settings import Settings

Keys = tuple[str | int, ...]
Model = TypeVar("Model", bound=Settings)


@dataclass(frozen=True)
class FileProblem:
    """One thing that is wrong in a file; lines and columns count from 1."""

    file: str
    line: int
    column: int
    path: str
    """Dotted path of the place within the file, such as ablations.smaller.alter."""
    message: str
    hint: str = ""
    excerpt: str = field(default="", compare=False)
    """The source line, and a caret below the column."""
    warning: bool = False
    """Whether it stops nothing."""

    def __str__(self) -> str:
        return self.in_one_line() + (f"\n{self.excerpt}" if self.excerpt else "")

    def to_json(self) -> dict[str, Any]:
        """Its place, message and hint as plain values."""
        return {key: getattr(self, key) for key in ("file", "line", "column", "path", "message", "hint")}

    def in_one_line(self) -> str:
        """Place, message and hint, without the source line."""
        place = f"{self.file}:{self.line}:{self.column}: " + ("warning: " if self.warning else "") + (f"{self.path}: " if self.path else "")
        return place + self.message + (f" ({self.hint})" if self.hint else "")


class FileErrors(Exception):
    """Everything that is wrong, in the order of the file."""

    def __init__(self, problems: Iterable[FileProblem]) -> None:
        self.problems = in_order(problems)
        super().__init__("\n".join(map(str, self.problems)))


def in_order(problems: Iterable[FileProblem]) -> list[FileProblem]:
    """Distinct problems, in the order of their files."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line, problem.column))


@dataclass
class Marks:
    """Where in a file each key and value stands."""

    file: str
    lines: list[str] = field(default_factory=list)
    keys: dict[Keys, tuple[int, int]] = field(default_factory=dict)
    values: dict[Keys, tuple[int, int]] = field(default_factory=dict)

    def problem(self, path: Keys, message: str, hint: str = "", at_key: bool = False) -> FileProblem:
        """A problem at a path, or at the nearest thing around it that is written."""
        known = path
        while known and known not in self.values:
            known = known[:-1]
        # A key that is missing is told at its mapping's key; an entry that was written without its list, at the value.
        missing = known != path and not isinstance(path[len(known)], int)
        table = self.keys if known in self.keys and (at_key or missing) else self.values
        return self.at(*table.get(known, (1, 1)), dotted(path), message, hint)

    def at(self, line: int, column: int, path: str, message: str, hint: str = "") -> FileProblem:
        excerpt = ""
        if line <= len(self.lines) and self.lines[line - 1].strip():
            number = f"{line:>5} | "
            excerpt = f"{number}{self.lines[line - 1]}\n{' ' * (len(number) - 2)}| {' ' * (column - 1)}^"
        return FileProblem(self.file, line, column, path, message, hint, excerpt)

    def problems(self, found: Iterable[Finding]) -> list[FileProblem]:
        return [
            replace(self.problem(finding.path, finding.message, finding.hint, finding.at_key), warning=finding.warning) for finding in found
        ]


def dotted(path: Keys) -> str:
    """ablations.small.remove[1] for ("ablations", "small", "remove", 1)."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Composes nodes; what a plain scalar means is YAML 1.2's core schema, with 200_000 as a number too."""

    yaml_implicit_resolvers: dict[Any, Any] = {}


_INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_KINDS = {"bool": re.compile(r"true|True|TRUE|false|False|FALSE"), "null": re.compile(r"~|null|Null|NULL|")}
for _kind, _pattern in (("bool", _KINDS["bool"]), ("null", _KINDS["null"]), ("int", _INTEGER), ("float", _FLOAT)):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern.pattern})$"), None)


class _Reader:
    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.problems: list[FileProblem] = []
        self._open: set[int] = set()

    def value(self, node: Any, path: Keys) -> Any:
        self.marks.values[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if id(node) in self._open:
            self.problems.append(self.marks.problem(path, "an alias must not hold itself"))
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(entry, (*path, index)) for index, entry in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: Any, path: Keys) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(self.marks.at(*place, dotted(path), "expected a key of text, not a mapping or a list"))
                continue
            key = key_node.value
            if key == "<<" and not key_node.style:
                for part in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    below = self.value(part, path)
                    merged = {**(below if isinstance(below, dict) else {}), **merged}
                continue
            if key in first:
                message = f"the key is given twice in one mapping, first on line {first[key]}"
                self.problems.append(self.marks.at(*place, dotted((*path, key)), message))
            first.setdefault(key, place[0])
            self.marks.keys[(*path, key)] = place
            mapping[key] = self.value(value_node, (*path, key))
        return {**merged, **mapping}

    def _scalar(self, node: Any, path: Keys) -> Any:
        tag, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
        if tag == "null":
            return None
        if tag == "bool" and _KINDS["bool"].fullmatch(text):
            return text.lower() == "true"
        if tag == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if tag in ("float", "int") and _FLOAT.fullmatch(text) and isfinite(float(text)):
            return float(text)
        if tag != "str":
            self.problems.append(self.marks.problem(path, f"'{text}' is not a value of the YAML kind '{tag}'"))
        return text


def read_tree(path: Path) -> tuple[Any, Marks, list[FileProblem]]:
    """The plain values of a file, their marks, and what is wrong with the YAML itself.

    Raises:
        FileErrors: the file cannot be read, or is no YAML at all.
    """
    marks = Marks(str(path))
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileErrors([marks.at(1, 1, "", "there is no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileErrors([marks.at(1, 1, "", f"the file cannot be read: {error}")]) from None
    marks.lines = text.splitlines()
    try:
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
    reader = _Reader(marks)
    return reader.value(node, ()), marks, reader.problems


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
