"""A sweep file becomes a study: its arms, and the distinct trials that feed them.

In: a sweep file with those that it includes (or an experiment file: a study of its baseline alone), and the experiments that they
name. Out: `Study`, or every problem of all those files at once. Arms that resolve to the same experiment share their trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from mm1_ablate.spec.alteration import Edit, Keys, altered
from mm1_ablate.spec.arms import Draft, axes_of, drafts_of
from mm1_ablate.spec.claims import comparison, expectations, task_record, unknown_tasks
from mm1_ablate.spec.contents import Look, Place, contents_of, finding_about, identity_of, look_anew, sources_of
from mm1_ablate.spec.experiment import Experiment
from mm1_ablate.spec.fingerprint import digest, evaluation_identity, experiment_identity, training_identity
from mm1_ablate.spec.messages import Finding, nearest, validated
from mm1_ablate.spec.paths import ABSENT, Node, PathError, plain
from mm1_ablate.spec.study import Arm, Change, Grid, Study, Trial
from mm1_ablate.spec.sweep import Group, Sweep
from mm1_ablate.spec.sweep_file import SweepFile, read_with_included, short
from mm1_ablate.spec.yaml_file import FileErrors, FileProblem, Marks, read_tree

__all__ = ["BASELINE", "Arm", "Change", "FileErrors", "FileProblem", "Grid", "Study", "Trial", "load_experiment", "load_study", "trial_of"]

BASELINE = "baseline"


def load_study(path: Path, look: Look = "check") -> Study:
    """Expand a sweep file, or an experiment file into a study of that one system with seed 0.

    Args:
        look: how far to look at the data: that all is there as declared, only which data it is, or nowhere. Trials of a study whose
            data nobody looked at have provisional fingerprints.

    Raises:
        FileErrors: with every problem of the sweep, of the experiments that it names, and of their data.
    """
    look_anew(look)
    return _Expansion(Path(path), look).study()


def load_experiment(path: Path, look: Look = "check") -> Experiment:
    """The experiment of a file.

    Args:
        look: how far to look at the data.

    Raises:
        FileErrors: with every problem of the file.
    """
    look_anew(look)
    experiment, marks = _read_experiment(Path(path))
    found = [_at(place, finding) for place, source in sources_of(experiment) if (finding := finding_about(source))]
    if found:
        raise FileErrors(marks.problems(found))
    return experiment


def _read_experiment(path: Path) -> tuple[Experiment, Marks]:
    """An experiment and where its file says what; its data is not looked at."""
    tree, marks, problems = read_tree(path)
    experiment, found = validated(Experiment, tree, path.parent)
    if experiment is not None:
        found = unknown_tasks(experiment)
    if experiment is None or problems or found:
        raise FileErrors([*problems, *marks.problems(found)])
    return experiment, marks


def _at(place: Place, finding: Finding) -> Finding:
    """A finding about a part, as one about the whole."""
    return replace(finding, path=(*place, *finding.path))


@dataclass
class _Base:
    """A baseline that arms are made from."""

    arm: Arm
    tree: dict[str, Any]
    identity: _Identity
    marks: Marks
    """Where its experiment file says what."""


@dataclass(frozen=True)
class _Identity:
    """Of an experiment whatever its seed."""

    training: dict[str, Any] = field(compare=False)
    digest: str

    @classmethod
    def of(cls, experiment: Experiment) -> _Identity:
        training = experiment_identity(experiment)
        return cls(training, digest([training, evaluation_identity(experiment)["evaluation"]]))


class _Expansion:
    """Collects problems on the way, so that all of them can be raised together."""

    def __init__(self, path: Path, look: Look) -> None:
        self.path = path
        self.look = look
        self.file: SweepFile
        """The file whose groups are being expanded."""
        self.problems: list[FileProblem] = []
        """Of experiments; those of sweep files are with the file."""
        self.arms: dict[str, Arm] = {}
        self.grids: dict[str, Grid] = {}
        self.identities: dict[str, _Identity] = {}
        self.complete = True
        """Whether every arm that the files mean is known."""
        self._experiments: dict[Path, tuple[Experiment, Marks] | None] = {}
        self._told: set[str] = set()
        """Sources whose data has been found wrong."""

    def study(self) -> Study:
        files = read_with_included(self.path)
        self.file = first = files[0]
        self.complete = first.complete
        if first.sweep is None:
            raise FileErrors(problem for file in files for problem in file.problems)
        sweep = first.sweep
        base = self._base(sweep, sweep.experiment, ("experiment",), BASELINE, "")
        for file in files:
            self.file = file
            for name, group in file.sweep.ablations.items() if file.sweep else ():
                self._expand(sweep, name, group, base)
        baselines = [arm for arm in self.arms.values() if arm.baseline == arm.name]
        compare, found = comparison(sweep.compare, not first.is_experiment, [arm.experiment for arm in baselines])
        first.report(found)
        experiments = {name: arm.experiment for name, arm in self.arms.items()}
        for file in files:
            if file.sweep is not None:
                names = {arm.name for arm in baselines}
                file.report(expectations(file.sweep, file.expectations, experiments, names, self.complete))
        problems = [problem for file in files for problem in file.problems] + self.problems
        if problems:
            raise FileErrors(problems)
        sweeps = [file.sweep for file in files if file.sweep is not None]
        sweep = sweep.model_copy(
            update={
                "compare": compare,
                "ablations": {name: group for one in sweeps for name, group in one.ablations.items()},
                "expect": [expectation for one in sweeps for expectation in one.expect],
            }
        )
        return Study(
            name=sweep.sweep,
            sweep=sweep,
            path=self.path,
            arms=tuple(self.arms.values()),
            trials=tuple(self._trials(sweep.seeds)),
            grids=self.grids,
            included=tuple(file.path for file in files[1:]),
            families=tuple(one.sweep for one in sweeps for _ in one.expect),
            sweep_of_group={name: one.sweep for one in sweeps for name in one.ablations},
            provisional=self.look == "nowhere" and self._reads_files(),
        )

    def _report(self, found: Iterable[Finding]) -> None:
        self.file.report(found)

    def _reads_files(self) -> bool:
        return any(contents_of(source) for arm in self.arms.values() for _, source in sources_of(arm.experiment))

    def _experiment(self, name: str, where: Keys) -> tuple[Experiment, Marks] | None:
        shown = self.file.beside(name)
        path = shown.resolve()
        if path not in self._experiments:
            self._experiments[path] = None
            if not path.is_file():
                near = nearest(path.name, [other.name for other in path.parent.glob("*.yaml")])
                self._report([Finding(where, f"there is no experiment file {shown}", near)])
                return None
            try:
                self._experiments[path] = _read_experiment(short(shown))
            except FileErrors as errors:
                self.problems += errors.problems
        return self._experiments[path]

    def _base(self, sweep: Sweep, file: str, where: Keys, name: str, group: str) -> _Base | None:
        """The baseline of a file, with what the sweep sets everywhere."""
        read = self._experiment(file, where)
        if read is None:
            self.complete = False
            return None
        experiment, marks = read
        edits = [Edit(path, value, where=("everywhere", path)) for path, value in sweep.everywhere.items()]
        folder = self.path.parent  # what all the files set everywhere is the same, and read as the first one's
        made, found, _ = _made(plain(experiment), edits, where, folder)
        while made is None:
            # Arms are made from what is right, so that their problems are shown too.
            self._report(found)
            wrong = {finding.path[:2] for finding in found}
            right = [edit for edit in edits if edit.where not in wrong]
            edits = right if len(right) < len(edits) else []
            made, found, _ = _made(plain(experiment), edits, where, folder)
        self._report(self._wrong_data(made, edits, where, marks))
        self._add(Arm(name, group, made, name), where)
        base = _Base(self.arms[name], plain(made), _Identity.of(made), marks)
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
        for seed in sorted(set(group.seeds or ()) & set(sweep.seeds)):
            message = f"seed {seed} is one of the sweep's own: with it the arm would be the baseline itself, not another draw of it"
            self._report([Finding(("ablations", name, "seeds"), message, "take other seeds")])
        wrong: dict[Finding, list[str]] = {}
        for draft in (draft for draft in drafts if not draft.left_out):
            for finding in self._arm(draft, base):
                wrong.setdefault(finding, []).append(draft.name)
        for finding, names in wrong.items():
            # The points of a grid that fail for the same reason are told together.
            several = f" and {len(names) - 1} more" if len(names) > 1 else ""
            in_arm = f"in arm '{names[0]}'{several}: " if group.grid is not None and len(drafts) > 1 else ""
            self._report([replace(finding, message=in_arm + finding.message)])
        if group.grid is not None and not found:
            standing = {draft.levels: draft.name for draft in drafts if draft.name in self.arms}
            folder = self.file.path.parent
            left_out = {draft.levels: base.arm.name for draft in drafts if draft.left_out and _is_baseline(draft, base, folder)}
            self.grids[name] = Grid(axes_of(group), {**standing, **left_out})

    def _arm(self, draft: Draft, base: _Base) -> list[Finding]:
        """Make an arm of a baseline and keep it, or say what is wrong with it."""
        experiment, found, consequences = _made(base.tree, draft.edits, draft.where, self.file.path.parent)
        if experiment is None:
            self.complete = False
            return found
        wrong = self._wrong_data(experiment, draft.edits, draft.where, base.marks)
        identity = _Identity.of(experiment)
        if identity == base.identity and not draft.seeds:
            self._report([_nothing_changed(draft, base)])
        changes = _changes(base.tree, plain(experiment), draft.edits, consequences)
        self._add(Arm(draft.name, draft.group, experiment, base.arm.name, changes, draft.seeds), draft.where)
        self.identities.setdefault(draft.name, identity)
        return wrong

    def _wrong_data(self, experiment: Experiment, edits: Sequence[Edit], where: Keys, marks: Marks) -> list[Finding]:
        """What is wrong with data that no experiment before had: by place in the sweep where an edit made the source what it is; what
        the experiment file says itself goes to the problems of that file."""
        found = []
        for place, source in sources_of(experiment):
            finding = finding_about(source)
            if finding is None or identity_of(source) in self._told:
                continue
            self._told.add(identity_of(source))
            finding = _at(place, finding)
            parts = [str(part) for part in place]
            own = [edit for edit in edits if not edit.removed and _overlap(edit.path.split("."), parts)]
            if own:
                found.append(_blamed(finding, own, where))
            else:
                self.problems += marks.problems([finding])
        return found

    def _add(self, arm: Arm, where: Keys) -> None:
        if arm.name in self.arms:
            other = self.arms[arm.name].group
            owner = f"group '{other}'" if other else "the baseline of the sweep"
            message = f"the name '{arm.name}' of an arm is taken already, by {owner}"
            self._report([Finding(where, message, "rename the group", at_key=True)])
        else:
            self.arms[arm.name] = arm

    def _trials(self, seeds: Sequence[int]) -> Iterable[Trial]:
        feeding: dict[tuple[str, int], list[Arm]] = {}
        for arm in self.arms.values():
            for seed in arm.seeds or seeds:
                feeding.setdefault((self.identities[arm.name].digest, seed), []).append(arm)
        for (_, seed), arms in feeding.items():
            names = tuple(arm.name for arm in arms)
            yield trial_of(arms[0].experiment, names, seed, self.identities[names[0]].training)


def trial_of(experiment: Experiment, arms: tuple[str, ...], seed: int, identity: dict[str, Any] | None = None) -> Trial:
    """The trial of an experiment at a seed.

    Args:
        arms: names of the arms that it feeds.
        identity: of the experiment (`experiment_identity`), if it is known already.
    """
    training = digest(training_identity(experiment, seed, identity))
    records = {task: task_record(task) for task in experiment.evaluation.tasks}
    evaluation = digest(evaluation_identity(experiment, training, records))
    return Trial(f"{arms[0]}/seed-{seed}", arms, seed, experiment, training, evaluation)


def _overlap(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether one path leads to the other."""
    return all(one == other for one, other in zip(left, right, strict=False))


def _is_baseline(draft: Draft, base: _Base, folder: Path) -> bool:
    experiment, _, _ = _made(base.tree, draft.edits, draft.where, folder)
    return experiment is not None and _Identity.of(experiment) == base.identity


def _made(tree: dict[str, Any], edits: Sequence[Edit], where: Keys, folder: Path) -> tuple[Experiment | None, list[Finding], list[str]]:
    """The experiment that edits make of a baseline, or what is wrong by place in the sweep file; and what else changed.

    Args:
        folder: of the sweep file, where paths that edits give start. Those of the baseline are absolute already.
    """
    result = altered(tree, edits)
    if result.findings:
        return None, result.findings, []
    experiment, found = validated(Experiment, result.tree, folder)
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
