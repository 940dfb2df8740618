"""A sweep file, and the sweep files that it includes, read as far as they are right.

In: a path. Out: a `SweepFile` for it and for each included one: its sweep without what is wrong, and every problem at its line and
column. What is right is expanded all the same, so that its problems are shown at once with the others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm1_ablate.config.errors import Diagnostic, file_like, validated
from mm1_ablate.config.identity.fingerprint import fingerprint
from mm1_ablate.config.local_path import real
from mm1_ablate.config.sweep.arms import edits_of
from mm1_ablate.config.sweep.declaration import REPLACE, Sweep
from mm1_ablate.config.sweep.overrides import leaf_values
from mm1_ablate.config.yaml_file import FileErrors, FileProblem, Keys, Marks, read_tree


@dataclass
class SweepFile:
    """One file."""

    path: Path
    marks: Marks
    problems: list[FileProblem]
    sweep: Sweep | None = None
    """None if the file has too many errors to be used."""
    is_experiment: bool = False
    """Whether the file is an experiment, to be run alone."""
    complete: bool = True
    """Whether all arms of the file could be declared."""
    expectations: list[int] = field(default_factory=list)
    """Indices in the file of the expectations that are valid by themselves."""

    def report(self, found: Iterable[Diagnostic]) -> None:
        self.problems += self.marks.problems(found)

    def rename_expected(self, name: str, new: str) -> None:
        """Call an arm otherwise in the expectations."""
        if self.sweep is not None:
            keys = [[key for key in ("arm", "than") if getattr(expected, key) == name] for expected in self.sweep.expect]
            renamed = [one.model_copy(update=dict.fromkeys(own, new)) for one, own in zip(self.sweep.expect, keys, strict=True)]
            self.sweep = self.sweep.model_copy(update={"expect": renamed})

    def beside(self, name: str) -> Path:
        """A path that the file names, which is relative to the file."""
        return self.path.parent / os.path.expanduser(name)


def read_sweep_file(path: Path) -> SweepFile:
    """A sweep file, or an experiment file as a sweep of that one system with seed 0.

    Raises:
        FileErrors: the file cannot be read at all.
    """
    tree, marks, problems = read_tree(path)
    file = SweepFile(path, marks, problems)
    if isinstance(tree, dict) and "sweep" not in tree and {"data", "model", "training"} & set(tree):
        name = re.sub(r"[^A-Za-z0-9_.\- ]+", "-", str(tree.get("experiment") or path.stem)).lstrip("_.- ")[:80]
        file.problems, file.is_experiment = [], True  # the problems come again with those of the experiment
        file.sweep = Sweep(sweep=name or "experiment", experiment=path.name, seeds=[0])
        return file
    sweep, found = validated(Sweep, tree)
    file.report(found)
    if isinstance(tree, dict) and isinstance(tree.get("expect"), list):
        file.expectations = list(range(len(tree["expect"])))
    while sweep is None and found:
        wrong = {diagnostic.path[1] for diagnostic in found if diagnostic.path[:1] == ("expect",) and len(diagnostic.path) > 1}
        file.expectations = [place for index, place in enumerate(file.expectations) if index not in wrong]
        left = _without_wrong(tree, found)
        file.complete = False
        if left is None or left == tree:
            return file
        tree = left
        sweep, found = validated(Sweep, tree)
    file.sweep = sweep
    return file


def read_with_included(path: Path) -> list[SweepFile]:
    """A sweep file and all that it includes, itself first; a file that includes others may itself be included.

    Raises:
        FileErrors: the file cannot be read at all.
    """
    first = read_sweep_file(path)
    files = {real(path): first}
    _include(first, first, files)
    _check_groups(list(files.values()))
    return list(files.values())


def _include(file: SweepFile, first: SweepFile, files: dict[Path, SweepFile]) -> None:
    for index, name in enumerate(file.sweep.include if file.sweep else []):
        place: Keys = ("include", index)
        path = short(file.beside(name))
        if real(path) in files:
            message = "includes itself" if real(path) == real(file.path) else f"{path} is part of this study already"
            file.report([Diagnostic(place, message, "leave it out")])
            continue
        if not os.path.isfile(path):
            file.report([Diagnostic(place, f"there is no sweep file {path}", file_like(path))])
            first.complete = False
            continue
        try:
            other = read_sweep_file(path)
        except FileErrors as errors:
            file.problems += errors.problems
            first.complete = False
            continue
        if other.is_experiment:
            file.report([Diagnostic(place, f"{path} is an experiment; only sweeps can be included")])
            continue
        files[real(path)] = other
        first.complete = first.complete and other.complete
        _include(other, first, files)


def same_baseline(one: SweepFile, other: SweepFile) -> bool:
    """Whether two sweeps compare with the same: the same experiment, with the same set everywhere."""
    if one.sweep is None or other.sweep is None:
        return True
    same_file = real(one.beside(one.sweep.experiment)) == real(other.beside(other.sweep.experiment))
    return same_file and fingerprint(_settings(one.sweep.everywhere)) == fingerprint(_settings(other.sweep.everywhere))


def _settings(everywhere: Mapping[str, Any]) -> dict[str, Any]:
    """What is set everywhere, however it is written: by paths, or by mappings that are merged."""
    settings: dict[str, Any] = {}
    for edit in edits_of(everywhere, ()):
        settings |= {f"{REPLACE} {edit.path}": edit.value} if edit.whole else leaf_values(edit)
    return settings


def _check_groups(files: Sequence[SweepFile]) -> None:
    owners: dict[str, SweepFile] = {}
    for file in files:
        for name in list(file.sweep.ablations) if file.sweep else []:
            owner = owners.setdefault(name, file)
            if owner is not file and file.sweep is not None:
                message = f"the group '{name}' of {file.path} also exists in {owner.path}, in the same study"
                file.report([Diagnostic(("ablations", name), message, "rename one of them", at_key=True)])
                left = {group: value for group, value in file.sweep.ablations.items() if group != name}
                file.sweep = file.sweep.model_copy(update={"ablations": left})


def _without_wrong(tree: Any, found: Sequence[Diagnostic]) -> dict[str, Any] | None:
    """A copy of a sweep's mapping without what is wrong; None if what is left cannot be expanded."""
    if not isinstance(tree, dict):
        return None
    whole = tree
    wrong = {other.path[1] for other in found if other.path[:1] == ("expect",) and len(other.path) > 1}
    rest: dict[str, Any] = dict(tree)
    for diagnostic in found:
        first = diagnostic.path[0] if diagnostic.path else None
        if first == "sweep":
            rest["sweep"] = "unnamed"
        elif first == "experiment" or first is None:
            return None
        elif first == "ablations" and len(diagnostic.path) > 1 and isinstance(rest.get("ablations"), dict):
            rest["ablations"] = _without(rest["ablations"], diagnostic.path[1:] if diagnostic.at_key else diagnostic.path[1:2])
        elif first == "expect" and len(diagnostic.path) > 1:
            rest["expect"] = [entry for index, entry in enumerate(whole["expect"]) if index not in wrong]
        else:
            rest.pop(str(first), None)
    return rest


def _without(tree: Any, path: Keys) -> Any:
    """A copy of a mapping without the entry at a path of keys."""
    if not isinstance(tree, dict):
        return tree
    if len(path) == 1:
        return {key: value for key, value in tree.items() if key != path[0]}
    return {key: _without(value, path[1:]) if key == path[0] else value for key, value in tree.items()}


def short(path: Path) -> Path:
    """A path as people write it, relative to where they are if it lies there."""
    full = real(path)
    return full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full
