"""The arms that the groups of a sweep declare: a name and a list of edits each, before anything is applied.

In: `Sweep`. Out: arms of arms, and what is wrong with grids and names, by place in the sweep file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

from mm1_ablate.config.errors import Diagnostic, did_you_mean
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.config.paths import plain
from mm1_ablate.config.sweep.declaration import REPLACE, AblationGroup
from mm1_ablate.config.sweep.overrides import Edit, Keys, leaf_values

LONGEST_VALUE = 48


def arm_count(group: AblationGroup) -> int:
    """How many arms a group declares, those that a grid leaves out too; counted without making them."""
    if group.grid is not None:
        return prod(map(len, group.grid.values()))
    return len(group.remove_each) if group.remove_each is not None else 1


@dataclass(frozen=True)
class DeclaredArm:
    """An arm that is declared, not yet made."""

    name: str
    group: str
    edits: tuple[Edit, ...]
    where: Keys
    """The place in the file that stands for the whole arm."""
    point: dict[str, Any] = field(default_factory=dict)
    """Of an arm of a grid: its paths and values."""
    levels: tuple[str, ...] = ()
    """Of an arm of a grid: its value on each axis, in words."""
    left_out: bool = False
    """Whether it is a point that the grid leaves out: no arm, but perhaps the baseline stands there."""
    seeds: tuple[int, ...] = ()
    """Of an arm that differs in its seeds alone."""


def equals_baseline(declared_arm: DeclaredArm, baseline: str) -> Diagnostic:
    """That an arm is its baseline."""
    if declared_arm.point:
        point = ", ".join(f"{path}: {value}" for path, value in declared_arm.point.items())
        message = f"arm '{declared_arm.name}' changes nothing: it is identical to {baseline}, which already has a row"
        return Diagnostic(declared_arm.where, message, f"add {{{point}}} to the group's `except`", at_key=True)
    paths = ", ".join(edit.path for edit in declared_arm.edits)
    change = "changes" if len(declared_arm.edits) == 1 else "change"
    message = f"arm '{declared_arm.name}' is identical to {baseline}: {paths} {change} nothing"
    return Diagnostic(declared_arm.where, message, at_key=declared_arm.where[-1] == declared_arm.group)


def edits_of(entries: Mapping[str, Any], where: Keys) -> list[Edit]:
    """The edits of a mapping from paths to values, and of those under `replace` in it."""
    merged = [Edit(path, value, where=(*where, path)) for path, value in entries.items() if path != REPLACE]
    return merged + replacements_of(entries.get(REPLACE, {}), (*where, REPLACE))


def replacements_of(entries: Mapping[str, Any], where: Keys) -> list[Edit]:
    """The edits of a mapping from paths to values that replace all that is there."""
    return [Edit(path, value, whole=True, where=(*where, path)) for path, value in entries.items()]


def declared_arms(name: str, group: AblationGroup) -> tuple[list[DeclaredArm], list[Diagnostic]]:
    """The arms of a group."""
    where: Keys = ("ablations", name)
    if group.grid is not None:
        return _grid(name, group, where)
    if group.seeds is not None:
        return [DeclaredArm(name, name, (), where, seeds=tuple(group.seeds))], []
    first = []
    if group.when_removed is not None:
        first.append(Edit("data.when_removed", plain(group.when_removed), where=(*where, "when_removed")))
    if group.remove_each is not None:
        removals = [Edit(path, removed=True, where=(*where, "remove_each", index)) for index, path in enumerate(group.remove_each)]
        labels = unique_tails(group.remove_each)
        each = {edit.path: edit for edit in reversed(removals)}
        arms = [
            DeclaredArm(f"{name}/{labels[path]}", name, (*first, each[path]), each[path].where) for path in dict.fromkeys(group.remove_each)
        ]
    else:
        removals = [Edit(path, removed=True, where=(*where, "remove", index)) for index, path in enumerate(group.remove or [])]
        alterations = edits_of(group.alter or {}, (*where, "alter")) + replacements_of(group.replace or {}, (*where, REPLACE))
        arms = [DeclaredArm(name, name, (*first, *alterations, *removals), where)]
    paths = [edit.path for edit in removals]
    twice = [edit for index, edit in enumerate(removals) if edit.path in paths[:index]]
    return arms, [Diagnostic(edit.where, f"{edit.path} is listed twice") for edit in twice]


def unique_tails(paths: Iterable[str]) -> dict[str, str]:
    """The shortest ends of paths that tell them apart: text and captioned of data.mixture.text and data.mixture.captioned."""
    distinct = list(dict.fromkeys(paths))

    def tells_apart(end: str, path: str) -> bool:
        return end == path or not any(f".{other}".endswith(f".{end}") for other in distinct if other != path)

    tails = {}
    for path in distinct:
        parts = path.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        tails[path] = next(end for end in ends if tells_apart(end, path))
    return tails


@dataclass(frozen=True)
class _Axis:
    choices: list[list[Edit]]
    """What each of its values sets."""
    labels: tuple[str, ...] = ()
    """Labels of its values in the file; empty without labels."""

    @property
    def paths(self) -> list[str]:
        return list(dict.fromkeys(edit.path for choice in self.choices for edit in choice))

    @cached_property
    def set_paths(self) -> set[str]:
        """The single settings that it gives values."""
        return {path for choice in self.choices for edit in choice for path in leaf_values(edit)}

    @cached_property
    def varying_paths(self) -> set[str]:
        """The paths whose values differ along the axis: those that a name needs."""
        values: dict[str, set[str]] = {path: set() for path in self.paths}
        for choice in self.choices:
            own = {edit.path: fingerprint(edit.value) for edit in choice}
            for path in values:
                values[path].add(own.get(path, ""))
        return {path for path, seen in values.items() if len(seen) > 1} or set(values)

    def words(self, place: int, tails: dict[str, str]) -> list[str]:
        """A value as parts of a name."""
        if self.labels:
            return [self.labels[place]]
        return [_label(tails[edit.path], edit.value) for edit in self.choices[place] if edit.path in self.varying_paths]


def _grid(name: str, group: AblationGroup, where: Keys) -> tuple[list[DeclaredArm], list[Diagnostic]]:
    axes: list[_Axis] = []
    found: list[Diagnostic] = []
    for axis_name, values in (group.grid or {}).items():
        axis, problems = _axis(axis_name, values, (*where, "grid", axis_name))
        for other in axes:
            for path in sorted(axis.set_paths & other.set_paths):
                problems.append(Diagnostic((*where, "grid", axis_name), f"two axes set {path}", at_key=True))
        axes.append(axis)
        found += problems
    if found:
        return [], found
    paths = [path for axis in axes for path in axis.paths]
    tails = unique_tails(paths)
    places = list(product(*(range(len(axis.choices)) for axis in axes)))
    everywhere = [tuple(edit for axis, place in zip(axes, point, strict=True) for edit in axis.choices[place]) for point in places]
    levels = {id(point): values for point, values in zip(everywhere, product(*axes_of(group).values()), strict=True)}
    parts = {
        id(point): [word for axis, place in zip(axes, at, strict=True) for word in axis.words(place, tails)]
        for point, at in zip(everywhere, places, strict=True)
    }
    exceptions, found = _by_paths(group.except_, dict(zip(group.grid or {}, axes, strict=True)), where)
    if found:
        return [], found
    points, found = _without_exceptions(everywhere, exceptions, paths, where)
    names = [",".join(parts[id(point)]) for point in points]
    shared = Counter(names)
    arms = []
    for label, point in zip(names, points, strict=True):
        cell = {edit.path: edit.value for edit in point}
        unique = label if shared[label] == 1 else f"{label}~{fingerprint(cell)[:6]}"
        arms.append(DeclaredArm(f"{name}/{unique}", name, point, (*where, "grid"), cell, levels[id(point)]))
    kept = {id(point) for point in points}
    arms += [
        DeclaredArm(name, name, point, where, levels=levels[id(point)], left_out=True) for point in everywhere if id(point) not in kept
    ]
    return arms, found


def axes_of(group: AblationGroup) -> dict[str, tuple[str, ...]]:
    """The axes of a grid that has no mistakes: by name, its values in words, such as 'image_size=48,image_tokens=4'."""
    named = {}
    for axis_name, values in (group.grid or {}).items():
        axis, _ = _axis(axis_name, values, ())
        tails = unique_tails(axis.paths)
        if "." in axis_name:
            words = [_text(choice[0].value) for choice in axis.choices]
        else:
            words = [",".join(axis.words(place, tails)) for place in range(len(axis.choices))]
        repeated = Counter(words)
        named[axis_name] = tuple(
            word if repeated[word] == 1 else f"{word}~{fingerprint({edit.path: edit.value for edit in choice})[:6]}"
            for word, choice in zip(words, axis.choices, strict=True)
        )
    return named


def _axis(name: str, values: Sequence[Any] | Mapping[str, dict[str, Any]], where: Keys) -> tuple[_Axis, list[Diagnostic]]:
    if isinstance(values, Mapping):
        return _labelled_axis(name, values, where)
    found = []
    seen: dict[str, int] = {}
    for index, value in enumerate(values):
        first = seen.setdefault(fingerprint(value), index)
        if first != index:
            found.append(Diagnostic((*where, index), f"the same value as entry {first + 1} of this axis"))
    if "." not in name and all(_sets_paths(value, name) for value in values):
        return _Axis([edits_of(entry, (*where, index)) for index, entry in enumerate(values)]), found
    if "." not in name and name not in Experiment.model_fields:
        message = "is not a path; a named axis needs a list of mappings from paths to values"
        return _Axis([]), [*found, Diagnostic(where, message, did_you_mean(name, Experiment.model_fields), at_key=True)]
    return _Axis([[Edit(name, value, where=(*where, index))] for index, value in enumerate(values)]), found


def _sets_paths(value: Any, axis: str) -> bool:
    """Whether a value of an axis is a mapping from paths to values. Where the axis has the name of a section, it may be that section's."""
    sections = () if axis in Experiment.model_fields else Experiment.model_fields
    if not isinstance(value, dict) or not value or not isinstance(value.get(REPLACE, {}), dict):
        return False
    return all("." in key or key == REPLACE or key in sections for key in value)


def _labelled_axis(name: str, values: Mapping[str, dict[str, Any]], where: Keys) -> tuple[_Axis, list[Diagnostic]]:
    if "." in name:
        message = "is a path, so its values are a list; only a named axis has labels, each with a mapping from paths to values"
        return _Axis([]), [Diagnostic(where, message, at_key=True)]
    found = []
    seen: dict[str, str] = {}
    for label, entry in values.items():
        first = seen.setdefault(fingerprint(entry), label)
        if first != label:
            found.append(Diagnostic((*where, label), f"the same as '{first}' of this axis"))
    return _Axis([edits_of(entry, (*where, label)) for label, entry in values.items()], tuple(values)), found


def _by_paths(
    exceptions: Sequence[Mapping[str, Any]], axes: Mapping[str, _Axis], where: Keys
) -> tuple[list[dict[str, Any]], list[Diagnostic]]:
    """Exceptions with what a label stands for instead of the label."""
    translated, found = [], []
    for index, exception in enumerate(exceptions):
        paths: dict[str, Any] = {}
        for key, value in exception.items():
            labels = axes[key].labels if key in axes else ()
            if not labels:
                paths[key] = value
            elif value in labels:
                paths |= {edit.path: edit.value for edit in axes[key].choices[labels.index(value)]}
            else:
                message = f"there is no '{value}' on this axis; its labels are {', '.join(labels)}"
                found.append(Diagnostic((*where, "except", index, key), message, did_you_mean(str(value), labels)))
        translated.append(paths)
    return translated, found


def _without_exceptions(
    points: list[tuple[Edit, ...]], exceptions: list[dict[str, Any]], paths: list[str], where: Keys
) -> tuple[list[tuple[Edit, ...]], list[Diagnostic]]:
    found = []
    kept = points
    for index, exception in enumerate(exceptions):
        unknown = [path for path in exception if path not in paths]
        for path in unknown:
            message = f"no axis of this grid sets it; the axes set {', '.join(paths)}"
            found.append(Diagnostic((*where, "except", index, path), message, did_you_mean(path, paths), at_key=True))
        if unknown:
            continue
        wanted = {path: fingerprint(value) for path, value in exception.items()}
        if not any(_matches(point, wanted) for point in points):
            found.append(Diagnostic((*where, "except", index), "matches no point of the grid"))
        kept = [point for point in kept if not _matches(point, wanted)]
    if not kept and not found:
        found.append(Diagnostic((*where, "except"), "excludes every point of the grid", at_key=True))
    return kept, found


def _matches(point: tuple[Edit, ...], wanted: dict[str, str]) -> bool:
    values = {edit.path: edit.value for edit in point if edit.path in wanted}
    return len(values) == len(wanted) and all(fingerprint(values[path]) == value for path, value in wanted.items())


def _label(tail: str, value: Any) -> str:
    """A value as part of an arm's name: image_size=336; of a type, the type alone."""
    return _text(value) if tail.split(".")[-1] == "type" else f"{tail}={_text(value)}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(canonical(value))
    if isinstance(value, list) and value and not any(isinstance(entry, list | dict) for entry in value):
        text = "+".join(map(_text, value))
    elif isinstance(value, dict) and not any(isinstance(entry, list | dict) for entry in value.values()):
        text = "+".join(f"{key}:{_text(entry)}" for key, entry in value.items())
    else:
        text = re.sub(r"[^A-Za-z0-9_.\-]+", "-", value).strip("-") if isinstance(value, str) else ""
    return text if 0 < len(text) <= LONGEST_VALUE else f"{text[:20]}~{fingerprint(value)[:6]}".lstrip("~")
