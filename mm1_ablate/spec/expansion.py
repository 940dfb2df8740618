"""A sweep file becomes a study: its arms, and the distinct trials that feed them.

In: a sweep file (or an experiment file: a study of its baseline alone) and the experiments that it names. Out: `Study`, or every
problem of all those files at once. Arms that resolve to the same experiment share their trials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from mm1_ablate.spec.alteration import Edit, Keys, altered
from mm1_ablate.spec.arms import Draft, drafts_of
from mm1_ablate.spec.claims import comparison, expectations, unknown_tasks
from mm1_ablate.spec.experiment import Experiment
from mm1_ablate.spec.fingerprint import canonical, digest, evaluation_identity, experiment_identity
from mm1_ablate.spec.messages import Finding, nearest, validated
from mm1_ablate.spec.paths import ABSENT, Node, PathError, plain
from mm1_ablate.spec.study import Arm, Change, Study, Trial
from mm1_ablate.spec.sweep import Group, Sweep
from mm1_ablate.spec.yaml_file import FileErrors, FileProblem, Marks, read_tree

__all__ = ["BASELINE", "Arm", "Change", "FileErrors", "FileProblem", "Study", "Trial", "load_experiment", "load_study"]

BASELINE = "baseline"


def load_study(path: Path) -> Study:
    """Expand a sweep file, or an experiment file into a study of that one system with seed 0.

    Raises:
        FileErrors: with every problem of the sweep and of the experiments that it names.
    """
    return _Expansion(Path(path)).study()


def load_experiment(path: Path) -> Experiment:
    """The experiment of a file.

    Raises:
        FileErrors: with every problem of the file.
    """
    tree, marks, problems = read_tree(Path(path))
    experiment, found = validated(Experiment, tree)
    if experiment is not None:
        found = unknown_tasks(experiment)
    if experiment is None or problems or found:
        raise FileErrors([*problems, *marks.problems(found)])
    return experiment


@dataclass
class _Base:
    """A baseline that arms are made from."""

    arm: Arm
    tree: dict[str, Any]
    identity: _Identity


@dataclass(frozen=True)
class _Identity:
    """Of an experiment whatever its seed."""

    training: dict[str, Any] = field(compare=False)
    digest: str

    @classmethod
    def of(cls, experiment: Experiment) -> _Identity:
        training = experiment_identity(experiment)
        return cls(training, digest([training, canonical(experiment.evaluation)]))


class _Expansion:
    """Collects problems on the way, so that all of them can be raised together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[FileProblem] = []
        self.marks: Marks
        self.arms: dict[str, Arm] = {}
        self.identities: dict[str, _Identity] = {}
        self.complete = True
        """Whether every arm that the file means is known."""
        self.expectations: list[int] = []
        """Places of the expectations that are right in themselves."""
        self._experiments: dict[Path, Experiment | None] = {}

    def study(self) -> Study:
        sweep, alone = self._sweep()
        if sweep is None:
            raise FileErrors(self.problems)
        base = self._base(sweep, sweep.experiment, ("experiment",), BASELINE, "")
        for name, group in sweep.ablations.items():
            self._expand(sweep, name, group, base)
        baselines = [arm for arm in self.arms.values() if arm.baseline == arm.name]
        compare, found = comparison(sweep.compare, not alone, [arm.experiment for arm in baselines])
        experiments = {name: arm.experiment for name, arm in self.arms.items()}
        found += expectations(sweep, self.expectations, experiments, {arm.name for arm in baselines}, self.complete)
        self._report(found)
        if self.problems:
            raise FileErrors(self.problems)
        sweep = sweep.model_copy(update={"compare": compare})
        return Study(sweep.sweep, sweep, self.path, tuple(self.arms.values()), tuple(self._trials(sweep.seeds)))

    def _report(self, found: Iterable[Finding]) -> None:
        self.problems += self.marks.problems(found)

    def _sweep(self) -> tuple[Sweep | None, bool]:
        """The sweep that the file declares, as far as it is right, and whether the file is an experiment instead."""
        tree, self.marks, self.problems = read_tree(self.path)
        if isinstance(tree, dict) and "sweep" not in tree and {"data", "model", "training"} & set(tree):
            name = re.sub(r"[^A-Za-z0-9_.\- ]+", "-", str(tree.get("experiment") or self.path.stem)).lstrip("_.- ")[:80]
            self.problems = []  # they come again with those of the experiment
            return Sweep(sweep=name or "experiment", experiment=self.path.name, seeds=[0]), True
        sweep, found = validated(Sweep, tree)
        self._report(found)
        if isinstance(tree, dict) and isinstance(tree.get("expect"), list):
            self.expectations = list(range(len(tree["expect"])))
        while sweep is None and found:
            # What is right is expanded all the same, so that its problems are shown too.
            wrong = {finding.path[1] for finding in found if finding.path[:1] == ("expect",) and len(finding.path) > 1}
            self.expectations = [place for index, place in enumerate(self.expectations) if index not in wrong]
            left = _without_wrong(tree, found)
            self.complete = False
            if left is None or left == tree:
                return None, False
            tree = left
            sweep, found = validated(Sweep, tree)
        return sweep, False

    def _experiment(self, name: str, where: Keys) -> Experiment | None:
        path = (self.path.parent / Path(name).expanduser()).resolve()
        shown = self.path.parent / Path(name).expanduser()
        if path not in self._experiments:
            self._experiments[path] = None
            if not path.is_file():
                near = nearest(path.name, [other.name for other in path.parent.glob("*.yaml")])
                self._report([Finding(where, f"there is no experiment file {shown}", near)])
                return None
            try:
                self._experiments[path] = load_experiment(_short(shown))
            except FileErrors as errors:
                self.problems += errors.problems
        return self._experiments[path]

    def _base(self, sweep: Sweep, file: str, where: Keys, name: str, group: str) -> _Base | None:
        """The baseline of a file, with what the sweep sets everywhere."""
        experiment = self._experiment(file, where)
        if experiment is None:
            self.complete = False
            return None
        edits = [Edit(path, value, where=("everywhere", path)) for path, value in sweep.everywhere.items()]
        made, found, _ = _made(plain(experiment), edits, where)
        while made is None:
            # Arms are made from what is right, so that their problems are shown too.
            self._report(found)
            wrong = {finding.path[:2] for finding in found}
            right = [edit for edit in edits if edit.where not in wrong]
            edits = right if len(right) < len(edits) else []
            made, found, _ = _made(plain(experiment), edits, where)
        self._add(Arm(name, group, made, name), where)
        base = _Base(self.arms[name], plain(made), _Identity.of(made))
        self.identities[name] = base.identity
        return base

    def _expand(self, sweep: Sweep, name: str, group: Group, base: _Base | None) -> None:
        drafts, found = drafts_of(name, group)
        self._report(found)
        self.complete = self.complete and not found
        if group.experiment is not None:
            base = self._base(sweep, group.experiment, ("ablations", name, "experiment"), f"{name}/{BASELINE}", name)
        if base is None:
            return
        wrong: dict[Finding, list[str]] = {}
        for draft in drafts:
            for finding in self._arm(draft, base):
                wrong.setdefault(finding, []).append(draft.name)
        for finding, names in wrong.items():
            # The points of a grid that fail for the same reason are told together.
            several = f" and {len(names) - 1} more" if len(names) > 1 else ""
            in_arm = f"in arm '{names[0]}'{several}: " if len(drafts) > 1 and drafts[0].point else ""
            self._report([replace(finding, message=in_arm + finding.message)])

    def _arm(self, draft: Draft, base: _Base) -> list[Finding]:
        """Make an arm of a baseline and keep it, or say what is wrong with it."""
        experiment, found, consequences = _made(base.tree, draft.edits, draft.where)
        if experiment is None:
            self.complete = False
            return found
        identity = _Identity.of(experiment)
        if identity == base.identity:
            self._report([_nothing_changed(draft, base)])
        changes = _changes(base.tree, plain(experiment), draft.edits, consequences)
        self._add(Arm(draft.name, draft.group, experiment, base.arm.name, changes), draft.where)
        self.identities.setdefault(draft.name, identity)
        return []

    def _add(self, arm: Arm, where: Keys) -> None:
        if arm.name in self.arms:
            other = self.arms[arm.name].group
            owner = f"group '{other}'" if other else "the baseline of the sweep"
            message = f"the name '{arm.name}' of an arm is taken already, by {owner}"
            self._report([Finding(where, message, "rename the group", at_key=True)])
        else:
            self.arms[arm.name] = arm

    def _trials(self, seeds: Sequence[int]) -> Iterable[Trial]:
        feeding: dict[str, list[Arm]] = {}
        for arm in self.arms.values():
            feeding.setdefault(self.identities[arm.name].digest, []).append(arm)
        for arms in feeding.values():
            experiment, names = arms[0].experiment, tuple(arm.name for arm in arms)
            for seed in seeds:
                training = digest({**self.identities[names[0]].training, "seed": seed})
                evaluation = digest(evaluation_identity(experiment, training))
                yield Trial(f"{names[0]}/seed-{seed}", names, seed, experiment, training, evaluation)


def _without_wrong(tree: Any, found: Sequence[Finding]) -> dict[str, Any] | None:
    """A copy of a sweep's mapping without what is wrong; nothing if what is left cannot be expanded."""
    if not isinstance(tree, dict):
        return None
    whole, tree = tree, dict(tree)
    for finding in found:
        first = finding.path[0] if finding.path else None
        if first == "sweep":
            tree["sweep"] = "unnamed"
        elif first == "experiment" or first is None:
            return None
        elif first == "ablations" and len(finding.path) > 1 and isinstance(tree.get("ablations"), dict):
            tree["ablations"] = _without(tree["ablations"], finding.path[1:] if finding.at_key else finding.path[1:2])
        elif first == "expect" and len(finding.path) > 1:
            wrong = {other.path[1] for other in found if other.path[:1] == ("expect",) and len(other.path) > 1}
            tree["expect"] = [entry for index, entry in enumerate(whole["expect"]) if index not in wrong]
        else:
            tree.pop(str(first), None)
    return tree


def _without(tree: Any, path: Keys) -> Any:
    """A copy of a mapping without the entry at a path of keys."""
    if not isinstance(tree, dict):
        return tree
    if len(path) == 1:
        return {key: value for key, value in tree.items() if key != path[0]}
    return {key: _without(value, path[1:]) if key == path[0] else value for key, value in tree.items()}


def _made(tree: dict[str, Any], edits: Sequence[Edit], where: Keys) -> tuple[Experiment | None, list[Finding], list[str]]:
    """The experiment that edits make of a baseline, or what is wrong by place in the sweep file; and what else changed."""
    result = altered(tree, edits)
    if result.findings:
        return None, result.findings, []
    experiment, found = validated(Experiment, result.tree)
    if experiment is not None and edits:
        found = unknown_tasks(experiment)
    blamed = [_blamed(finding, edits, where) for finding in found]
    return (None if found else experiment), blamed, result.consequences


def _blamed(finding: Finding, edits: Sequence[Edit], where: Keys) -> Finding:
    """A finding about an arm's experiment, moved to the edit in the sweep file that it comes from."""
    path = [str(part) for part in finding.path]

    def closeness(edit: Edit) -> tuple[bool, int]:
        parts = edit.path.split(".")
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, parts, strict=False)))
        return common in (len(path), len(parts)), common

    edit = max(edits, key=closeness, default=None)
    place = ".".join(path)
    if edit is None or closeness(edit)[1] == 0:
        return Finding(where, f"{place}: {finding.message}", finding.hint)
    parts = edit.path.split(".")
    inside = finding.path[len(parts) :] if path[: len(parts)] == parts else ()
    # Messages name the path, unless the place in the sweep file ends with it anyway.
    told = inside or (place == edit.path and edit.where[-1] == edit.path)
    return Finding((*edit.where, *inside), finding.message if told else f"{place}: {finding.message}", finding.hint, finding.at_key)


def _nothing_changed(draft: Draft, base: _Base) -> Finding:
    if draft.point:
        point = ", ".join(f"{path}: {value}" for path, value in draft.point.items())
        message = f"arm '{draft.name}' changes nothing: it is {base.arm.name} itself, which is a row of its own"
        return Finding(draft.where, message, f"add {{{point}}} to the group's `except`", at_key=True)
    paths = ", ".join(edit.path for edit in draft.edits)
    message = f"arm '{draft.name}' changes nothing that makes a trial another one: with its {paths} it is the same as {base.arm.name}"
    return Finding(draft.where, message, at_key=draft.where[-1] == draft.group)


def _changes(before: dict[str, Any], after: dict[str, Any], edits: Sequence[Edit], consequences: Sequence[str]) -> tuple[Change, ...]:
    old, new = Node(Experiment, before), Node(Experiment, after)
    removed = {edit.path: edit.removed for edit in edits}
    paths = dict.fromkeys([*removed, *consequences])
    changes = (Change(path, _value(old, path), _value(new, path), removed.get(path, False)) for path in paths)
    return tuple(change for change in changes if change.removed or change.old != change.new)


def _value(root: Node, path: str) -> Any:
    try:
        value = root.find(path).value
    except PathError:
        return None
    return None if value is ABSENT else int(value) if isinstance(value, float) and value.is_integer() else value


def _short(path: Path) -> Path:
    """A path as people write it, relative to where they are if it lies there."""
    full = path.resolve()
    return full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full
