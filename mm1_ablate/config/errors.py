"""What pydantic found wrong, in plain English and at the key that a user wrote.

In: a `ValidationError` and the plain values that were validated. Out: diagnostics, each with the path of keys (without the names
that pydantic gives to the alternatives of a union), what was expected, and a suggestion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import annotated_types
from pydantic import BeforeValidator, ValidationError

from mm1_ablate.config.paths import ABSENT, Node, members, unannotated
from mm1_ablate.config.settings import ComponentOf, SettingError, Settings, look_beside

Model = TypeVar("Model", bound=Settings)
NAMES = "a name of letters, digits, spaces and any of _ . - that begins with a letter or digit"

ANYTHING = "another value"
MOST_FOUND = 5_000
"""Problems of one file that are put into words; what is beyond is found when those are mended."""
LONGEST_SHOWN = 80
"""Characters of a wrong text that are repeated."""


@dataclass(frozen=True)
class Diagnostic:
    path: tuple[str | int, ...]
    message: str
    hint: str = ""
    at_key: bool = False
    """Whether the key is wrong rather than its value."""
    warning: bool = False
    """Whether it is only a warning: shown before a run, and again in the report."""
    line: int = 0
    """Of a text of several lines the one that is wrong, from 1; 0: none in particular."""


def listed(names: Iterable[str], most: int) -> str:
    """'a, b, c', and how many more there are."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def diagnostics(error: ValidationError, model: type[Settings], tree: Any) -> list[Diagnostic]:
    """All that is wrong with a mapping, one diagnostic for each place."""
    found: dict[tuple[str | int, ...], list[Diagnostic]] = {}
    for detail in error.errors(include_url=False)[:MOST_FOUND]:
        diagnostic = _diagnostic(detail, model, tree)
        found.setdefault(diagnostic.path, []).append(diagnostic)
    # Of a union, pydantic reports every alternative. Where one of them got as far as a key inside, that is what was meant.
    above = {path[:length] for path in found for length in range(len(path))}
    for path in [path for path in found if path in above]:
        found[path] = [diagnostic for diagnostic in found[path] if not diagnostic.message.startswith("expected ")]
    return list(dict.fromkeys(diagnostic for group in found.values() for diagnostic in group))


def _diagnostic(detail: Any, model: type[Settings], tree: Any) -> Diagnostic:
    kind, context = detail["type"], detail.get("ctx") or {}
    node, path = _walk(detail["loc"], model, tree, kind)
    if kind == "missing":
        below = node.child(str(path[-1]))
        what = f"expected {expectation(below.annotation)}" if below else "expected a value"
        return Diagnostic(path, f"is missing; {what}")
    if kind == "extra_forbidden":
        names = node.names()
        return Diagnostic(path, f"unknown key; expected one of {', '.join(names)}", did_you_mean(str(path[-1]), names), at_key=True)
    if detail["loc"] and detail["loc"][-1] == "[key]":
        if kind == "value_error":
            return Diagnostic(path, str(context["error"]), at_key=True)
        keys = node.keys
        expected = f"one of {', '.join(keys)}" if keys else NAMES
        return Diagnostic(path, f"unknown key; expected {expected}", did_you_mean(str(path[-1]), keys), at_key=True)
    if kind == "value_error":
        problem = context["error"]
        if isinstance(problem, SettingError):
            inside = (int(part) if part.isdigit() else part for part in problem.at.split(".") if part)
            return Diagnostic((*path, *inside), problem.message, line=problem.line)
        return Diagnostic(path, str(problem))
    if kind == "union_tag_invalid":
        tags = [tag.strip("' ") for tag in context["expected_tags"].split(",")]
        return Diagnostic((*path, "type"), f"expected {_either(tags)}, not {_shown(context['tag'])}", did_you_mean(context["tag"], tags))
    if kind == "union_tag_not_found":
        return Diagnostic(path, "expected a mapping with a 'type'")
    if kind == "component_type":
        return Diagnostic((*path, "type") if "type" in node.names() else path, detail["msg"], context.get("hint", ""))
    if kind == "string_pattern_mismatch":
        return Diagnostic(path, f"expected {NAMES}, not {_shown(detail['input'])}")
    value = detail["input"]
    literals = [str(option) for member in members(node.annotation) for option in get_args(member) if get_origin(member) is Literal]
    return Diagnostic(path, f"expected {expectation(node.annotation)}, not {_shown(value)}", did_you_mean(str(value), literals))


def _walk(location: tuple[str | int, ...], model: type[Settings], tree: Any, kind: str) -> tuple[Node, tuple[str | int, ...]]:
    """The node that pydantic's location leads to (the parent, if the key itself is missing or wrong), and its path of keys."""
    node, path = Node(model, tree), []
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if last and (kind == "missing" or kind == "extra_forbidden"):
            path.append(part)
        elif isinstance(part, int) and not isinstance(node.value, list | tuple) and node.item is not ABSENT:
            # One entry, written without its list.
            node = Node(node.item, node.value)
        elif isinstance(part, int) or (isinstance(node.value, dict) and part in node.value):
            path.append(part)
            if location[position + 1 :] != ("[key]",):
                node = node.child(str(part)) or Node(Any, ABSENT)
    return node, tuple(path)


def did_you_mean(word: str, words: Any) -> str:
    """A suggestion: the word that was probably meant."""
    near = get_close_matches(word, list(words), n=1)
    return f"did you mean '{near[0]}'?" if near else ""


def file_like(path: Path) -> str:
    """A suggestion: the YAML file that was probably meant, beside the place of one that is missing."""
    # By their stems: that all of them end in .yaml makes no two names alike.
    # Not Path.glob, which raises for names that are too long.
    names = {Path(other).stem: other for other in glob("*.yaml", root_dir=path.parent)}
    near = get_close_matches(path.stem, names, n=1)
    return f"did you mean '{names[near[0]]}'?" if near else ""


def _either(options: list[str]) -> str:
    return " or ".join(", ".join(f"'{option}'" for option in options).rsplit(", ", 1))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    short = value if len(value) <= LONGEST_SHOWN else f"{value[: LONGEST_SHOWN - 3]}..."
    return "'" + short.replace("\n", "\\n") + "'"


def expectation(annotation: Any) -> str:
    """What may stand at a place, in words: 'a whole number above 0, or null'."""
    parts = [_one(member) for member in members(annotation)]
    return ", or ".join(dict.fromkeys(parts))


def _one(annotation: Any) -> str:
    base, marks = unannotated(annotation)
    if any(isinstance(mark, ComponentOf) for mark in marks):
        return "a mapping with a 'type'"
    if base is NoneType:
        return "null"
    if get_origin(base) is Literal:
        return _either([str(option) for option in get_args(base)])
    if isinstance(base, type) and issubclass(base, Settings):
        needed = [name for name, field in base.model_fields.items() if field.is_required()]
        return "a mapping with " + ", ".join(needed) if needed else "a mapping"
    if len(members(base)) > 1:
        return expectation(base)
    filled = any(isinstance(mark, annotated_types.MinLen) for mark in marks)
    if get_origin(base) is dict and filled:
        return "a mapping, not empty"
    if get_origin(base) in (list, tuple):
        inner = expectation(get_args(base)[0])
        several = {"text": "texts", "a whole number": "whole numbers", ANYTHING: "values"}.get(inner, f"entries, each {inner}")
        if get_origin(base) is tuple and get_args(base)[-1] is not Ellipsis:
            return f"a list of {len(get_args(base))} {several}"
        alone = any(isinstance(mark, BeforeValidator) for mark in marks)  # one may be written without its list
        return f"{inner + ', or ' if alone else ''}a list{', not empty,' if filled else ''} of {several}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}
    return words.get(get_origin(base) or base, ANYTHING) + _bounds(marks)


def _bounds(marks: list[Any]) -> str:
    words = {"gt": "above {}", "ge": "of at least {}", "lt": "below {}", "le": "of at most {}"}
    limits = [words[name].format(value) for mark in marks for name, value in _limits(mark)]
    return " " + " and ".join(limits) if limits else ""


def _limits(mark: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(mark, name)) for name in ("gt", "ge", "lt", "le") if getattr(mark, name, None) is not None]


def lost_booleans(model: type[Settings], tree: Any) -> list[Diagnostic]:
    """Places where true or false would be taken for the number 1 or 0, which pydantic and Python allow by accident."""
    found = []
    for path, value in _booleans(tree, ()):
        node: Node | None = Node(model, tree)
        for part in path:
            node = node.child(str(part)) if node else None
        bases = [unannotated(member)[0] for member in members(node.annotation)] if node else []
        if node and bool not in bases and {int, float} & set(bases):
            found.append(Diagnostic(path, f"expected {expectation(node.annotation)}, not {_shown(value)}"))
    return found


def _booleans(tree: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], bool]]:
    if isinstance(tree, bool):
        yield path, tree
    elif isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _booleans(value, (*path, key))


def validated(model: type[Model], tree: Any, folder: Path | None = None) -> tuple[Model | None, list[Diagnostic]]:
    """The settings of a mapping, or None, and all that is wrong with it.

    Args:
        folder: of the file that the mapping is written in: where its relative paths start. None: the current directory.
    """
    if folder is not None:
        look_beside(folder.resolve())
    found = lost_booleans(model, tree)
    try:
        value = model.model_validate(tree, context={"folder": folder.resolve()} if folder is not None else None)
    except ValidationError as error:
        return None, found + diagnostics(error, model, tree)
    return (None if found else value), found
