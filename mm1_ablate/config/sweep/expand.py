"""A sweep file becomes a study: its arms, and the distinct trials that feed them.

In: a sweep file with those that it includes (or an experiment file: a study of its baseline alone), and the experiments that they
name. Out: `Study`, or every problem of all those files at once. Arms that resolve to the same experiment share their trials.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mm1_ablate.config.errors import Diagnostic, file_like, validated
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import DataSnapshot, Look, RecordedDigests, contents_of, sources_of
from mm1_ablate.config.local_path import real
from mm1_ablate.config.no_effect import without_effect_in_sweep
from mm1_ablate.config.paper_results import Counterparts, counterparts, with_numbers
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.paths import plain
from mm1_ablate.config.settings import reading_files
from mm1_ablate.config.stages import IsASweep, read_experiment, with_earlier
from mm1_ablate.config.study import Arm, Grid, Identity, Study, trials_of
from mm1_ablate.config.sweep.arms import DeclaredArm, arm_count, axes_of, declared_arms, edits_of, equals_baseline
from mm1_ablate.config.sweep.compare import comparison, expectations
from mm1_ablate.config.sweep.declaration import AblationGroup, Compare, Sweep
from mm1_ablate.config.sweep.differences import changes_of, leaves
from mm1_ablate.config.sweep.file import SweepFile, read_with_included, same_baseline, short
from mm1_ablate.config.sweep.overrides import AlteredExperiment, Edit, Keys, altered
from mm1_ablate.config.sweep.preflight import Check, Preflight, edits_at, moved_to_edit, never_read
from mm1_ablate.config.sweep.tried import SET, Try, problems_of_edits, smoked
from mm1_ablate.config.tasks import reads_files, wrong_records
from mm1_ablate.config.yaml_file import FileErrors, FileProblem, Marks, dotted, in_order, keeping_texts

BASELINE = "baseline"
MOST_ARMS, MOST_TRIALS = 10_000, 100_000
"""Of a study, with those that its grids leave out."""
DECLARED = Try()
"""A study as its file declares it."""
MERGED = "a mapping is merged into what is there; under `replace` it replaces it"


def load_study(
    path: Path,
    look: Look = "check",
    checks: Sequence[Check] = (),
    recorded: Callable[[str], RecordedDigests] | None = None,
    tried: Try = DECLARED,
) -> Study:
    """Expand a sweep file, or an experiment file into a study of that one system with seed 0.

    Args:
        look: how far to look at the data: that all is there as declared, only which data it is, or nowhere. Trials of a study whose
            data that was not read have provisional fingerprints.
        checks: of the experiments of all arms.
        recorded: from a study's name, what an earlier run saw of its data (`DataSnapshot.to_record`): for data that is not here.
        tried: how it is tried otherwise than the file declares it.

    Raises:
        FileErrors: with every problem of the sweep, of the experiments that it names, and of their data.
    """
    snapshot = DataSnapshot(look, Path(path).parent)
    with snapshot.active(), reading_files(), keeping_texts() as texts:
        study = _Expansion(Path(path), snapshot, checks, recorded, tried).study()
    # By paths that are the same wherever the study lies, and wherever it is run from.
    folder = Path(path).resolve().parent
    return replace(study, texts={os.path.relpath(file, folder): without_passwords(text) for file, text in texts.items()})


@dataclass
class _Base:
    """A baseline that arms are made from."""

    arm: Arm
    tree: dict[str, Any]
    leaves: dict[str, Any]
    """Its single settings, as they are resolved."""
    identity: Identity
    marks: Marks
    """Where its experiment file says what."""


@dataclass(frozen=True)
class _Declared:
    """A baseline as its experiment file and the sweep's `everywhere` declare it."""

    experiment: Experiment
    """Of the file alone."""
    made: Experiment
    edits: list[Edit]
    where: Keys
    marks: Marks
    file: SweepFile


class _Expansion:
    """Collects problems on the way, so that all of them can be raised together."""

    def __init__(
        self,
        path: Path,
        snapshot: DataSnapshot,
        checks: Sequence[Check] = (),
        recorded: Callable[[str], RecordedDigests] | None = None,
        tried: Try = DECLARED,
    ) -> None:
        self.path = path
        self.tried = tried
        self.set = tried.edits()
        self.snapshot = snapshot
        self.recorded = recorded
        self.wrong = Preflight(checks)
        self.problems = self.wrong.problems
        """Of experiments; those of sweep files are with the file."""
        self.arms: dict[str, Arm] = {}
        self.grids: dict[str, Grid] = {}
        self.identities: dict[str, Identity] = {}
        self.complete = True
        """Whether all arms of the files are known."""
        self._experiments: dict[Path, tuple[Experiment, Marks] | None] = {}
        self._declared: list[_Declared] = []
        """What the baselines declare."""

    def study(self) -> Study:
        files = read_with_included(self.path)
        first = files[0]
        self.complete = first.complete
        if first.sweep is None:
            raise FileErrors(problem for file in files for problem in file.problems)
        if self.recorded is not None:
            self.snapshot.recorded = self.recorded(self.tried.name_of(first.sweep.sweep))
        if self.tried:  # what was expected is about the whole, as it is declared
            for file in files:
                file.sweep = file.sweep.model_copy(update={"expect": []}) if file.sweep else None
                file.expectations = []
        self._refuse_too_many(files, first.sweep)
        self._make_arms(files, first.sweep)
        compare, published = self._check_whole(files, first.sweep)
        tried, found = self.tried.kept(self.arms)
        self.problems += [*(found if self.complete else ()), *self.tried.wrong_seeds(first.sweep.possible_seeds)]
        problems = [problem for file in files for problem in file.problems] + self.problems
        warnings = in_order(problem for problem in problems if problem.warning)
        if len(warnings) < len(set(problems)):
            raise FileErrors(problem for problem in problems if not problem.warning)
        if self.tried:
            self._narrow(tried)
        return self._expanded(files, first.sweep, compare, published, warnings)

    def _narrow(self, kept: dict[str, Arm]) -> None:
        """Leave the arms, seeds, steps and items that are tried."""
        self.arms = {name: replace(arm, seeds=tuple(self.tried.seeds_of(arm.seeds))) for name, arm in kept.items()}
        self.grids = {name: grid for name, grid in self.grids.items() if set(grid.cells.values()) <= self.arms.keys()}
        for name, arm in self.arms.items() if self.tried.smoke else ():
            made, found = _valid(smoked(arm.experiment), (), self.path.parent)
            if made is None:
                raise FileErrors(FileProblem(f"--smoke: {name}", 0, 0, dotted(one.path), one.message, one.hint) for one in found)
            self.arms[name], self.identities[name] = replace(arm, experiment=made), Identity.of(made)

    def _report(self, file: SweepFile, found: Iterable[Diagnostic]) -> None:
        """Problems of a sweep file; those of what the command line sets are told of that."""
        own, others = problems_of_edits(self.tried, found)
        self.problems += own
        file.report(others)

    def _refuse_too_many(self, files: Sequence[SweepFile], sweep: Sweep) -> None:
        """Count what the files declare before anything is made of it: a grid of ten lines can mean billions of arms.

        Raises:
            FileErrors: nobody could have meant so many.
        """
        arms, trials = 1, len(sweep.possible_seeds)
        for file in files:
            for name, group in file.sweep.ablations.items() if file.sweep else ():
                arms += arm_count(group)
                trials += len(group.seeds) if group.seeds is not None else arm_count(group) * len(sweep.possible_seeds)
                if arms > MOST_ARMS or trials > MOST_TRIALS:
                    message = (
                        f"up to this group the study has more than {MOST_ARMS:,} arms or {MOST_TRIALS:,} trials, as many as there may be"
                    )
                    where: Keys = ("ablations", name, "grid") if group.grid is not None else ("ablations", name)
                    file.report([Diagnostic(where, message, "declare fewer axes, values or seeds", at_key=True)])
                    raise FileErrors(problem for each in files for problem in each.problems)

    def _make_arms(self, files: Sequence[SweepFile], sweep: Sweep) -> None:
        """The baselines and arms of all files."""
        first = files[0]
        base = self._base(first, first, sweep.experiment, ("experiment",), BASELINE)
        for file in files:
            declared, own = (first, base) if same_baseline(file, first) else (file, self._own_base(file))
            for name, group in file.sweep.ablations.items() if file.sweep else ():
                self._expand(file, sweep, name, group, own, declared)

    def _check_whole(self, files: Sequence[SweepFile], sweep: Sweep) -> tuple[Compare, list[Counterparts]]:
        """Report what is wrong with the arms together; what is compared, and what the paper has on the arms."""
        first = files[0]
        self._report_unread_sources()
        baselines = {arm.name: arm.experiment for arm in self.arms.values() if arm.baseline == arm.name}
        first.report([*self._too_many_workers(sweep), *without_effect_in_sweep(sweep)])
        compare, found = comparison(sweep.compare, not first.is_experiment, list(baselines.values()))
        first.report(found)
        experiments = {name: arm.experiment for name, arm in self.arms.items()}
        for file in files:
            if file.sweep is not None:
                file.report(expectations(file.sweep, file.expectations, experiments, set(baselines), self.complete))
        return compare, [known for file in files if (known := self._published(file)) is not None]

    def _expanded(
        self,
        files: Sequence[SweepFile],
        sweep: Sweep,
        compare: Compare,
        published: Sequence[Counterparts],
        warnings: Sequence[FileProblem],
    ) -> Study:
        sweeps = [file.sweep for file in files if file.sweep is not None]
        expect = [with_numbers(claim, published, self.arms[claim.arm].baseline) for one in sweeps for claim in one.expect]
        there = {arm.group for arm in self.arms.values()}
        groups = {name: group for one in sweeps for name, group in one.ablations.items() if name in there or not self.tried}
        changed: dict[str, Any] = {"compare": compare, "ablations": groups, "expect": expect}
        if (seeds := self.tried.seeds_of(sweep.possible_seeds)) != sweep.possible_seeds:
            changed["seeds"] = seeds
        return Study(
            name=self.tried.name_of(sweep.sweep),
            tried=self.tried.in_words(sweep.sweep) if self.tried else "",
            sweep=sweep.model_copy(update=changed),
            path=self.path,
            arms=tuple(self.arms.values()),
            trials=tuple(trials_of(self.arms.values(), self.identities, seeds, self.snapshot)),
            grids=self.grids,
            included=tuple(file.path for file in files[1:]),
            families=tuple(one.sweep for one in sweeps for _ in one.expect),
            sweep_of_group={name: one.sweep for one in sweeps for name in one.ablations},
            provisional=self.snapshot.look == "nowhere" and self._reads_files(),
            from_record=tuple(self.snapshot.from_record),
            published=tuple(published),
            warnings=tuple(warnings),
            snapshot=self.snapshot,
        )

    def _own_base(self, file: SweepFile) -> _Base | None:
        """The baseline of an included sweep that compares with another than the whole; the file itself calls it the baseline."""
        assert file.sweep is not None
        name = _own_baseline(file.sweep)
        base = self._base(file, file, file.sweep.experiment, ("experiment",), name)
        file.rename_expected(BASELINE, name)
        return base

    def _report_unread_sources(self) -> None:
        """Warn of sources that a baseline declares and that neither it nor any arm reads. What a sweep removes, it means to remove."""
        arms = [arm.experiment for arm in self.arms.values()]
        for one in self._declared:
            in_file = [diagnostic.path for diagnostic in never_read(one.experiment, arms)]
            for diagnostic in never_read(one.made, arms):
                if diagnostic.path in in_file:
                    self.problems += one.marks.problems([diagnostic])
                elif added := [edit for edit in one.edits if edit.path == dotted(diagnostic.path)]:
                    self._report(one.file, [moved_to_edit(diagnostic, added, one.where)])

    def _too_many_workers(self, sweep: Sweep) -> list[Diagnostic]:
        """Workers that a step of some arm has no row for."""
        workers = sweep.resources.workers
        few = [(arm.name, arm.experiment.training.batch_rows) for arm in self.arms.values() if arm.experiment.training.batch_rows < workers]
        if not few:
            return []
        more = f" and {len(few) - 1} more" if len(few) > 1 else ""
        message = f"each of {workers} workers needs a row in every step, but training.batch_rows is {few[0][1]} in '{few[0][0]}'{more}"
        where = "workers" if "workers" in sweep.resources.model_fields_set else "gpus"
        return [Diagnostic(("resources", where), message)]

    def _published(self, file: SweepFile) -> Counterparts | None:
        """What the paper has on a file's arms."""
        if file.sweep is None:
            return None
        own = _own_baseline(file.sweep)
        arms = [arm.name for arm in self.arms.values() if arm.group in file.sweep.ablations or arm.name in (BASELINE, own)]
        known, found = counterparts(file.sweep, arms, self.complete, own if own in self.arms else BASELINE)
        file.report(found)
        return known

    def _reads_files(self) -> bool:
        experiments = [arm.experiment for arm in self.arms.values()]
        return any(contents_of(source) for experiment in experiments for _, source in sources_of(experiment)) or any(
            reads_files(experiment.evaluation) for experiment in experiments
        )

    def _experiment(self, file: SweepFile, name: str, where: Keys) -> tuple[Experiment, Marks] | None:
        shown = file.beside(name)
        path = real(shown)
        if path not in self._experiments:
            self._experiments[path] = None
            if not os.path.isfile(path):  # which, unlike Path.is_file, has an answer for names of any length
                file.report([Diagnostic(where, f"there is no experiment file {shown}", file_like(path))])
                return None
            try:
                self._experiments[path] = read_experiment(short(shown))
            except IsASweep as error:
                file.report([error.named_at(where)])
            except FileErrors as errors:
                self.problems += errors.problems
        return self._experiments[path]

    def _base(self, file: SweepFile, declared: SweepFile, experiment_file: str, where: Keys, name: str, group: str = "") -> _Base | None:
        """The baseline of an experiment file, with what a sweep file sets everywhere.

        Args:
            file: that names the experiment file.
            declared: whose `everywhere` holds.
            where: `file` names it.
        """
        assert declared.sweep is not None
        read = self._experiment(file, experiment_file, where)
        if read is None:
            self.complete = False
            return None
        experiment, marks = read
        folder = declared.path.parent
        made, found, result = _made_of_valid_edits(plain(experiment), edits_of(declared.sweep.everywhere, ("everywhere",)), where, folder)
        file.report(found)
        # After what the file sets everywhere, so that a setting which the file has there too can be tried otherwise.
        made, found, tried = _made_of_valid_edits(plain(made), self.set, (SET, 0), Path.cwd())
        self._report(file, found)
        edits, consequences = [*result.edits, *tried.edits], [*result.consequences, *tried.consequences]

        def remade(some: Sequence[Edit]) -> Experiment | None:
            own = [edit for edit in some if edit.where[:1] == (SET,)]
            without, _, _ = _made(plain(experiment), [edit for edit in some if edit not in own], where, folder)
            return _made(plain(without), own, where, Path.cwd())[0] if own and without is not None else without

        self._report(file, self.wrong.of(made, edits, where, marks, remade))
        self._declared.append(_Declared(experiment, made, edits, where, marks, file))
        resolved = leaves(made)
        everywhere = changes_of(leaves(experiment), resolved, edits, consequences) if edits else ()
        self._add(file, Arm(name, group, made, name, everywhere=everywhere), where)
        base = _Base(self.arms[name], plain(made), resolved, Identity.of(made), marks)
        self.identities[name] = base.identity
        return base

    def _expand(self, file: SweepFile, sweep: Sweep, name: str, group: AblationGroup, base: _Base | None, declared: SweepFile) -> None:
        """The arms of a group.

        Args:
            file: that declares the group.
            sweep: the whole, whose seeds are those of all groups.
            declared: the file whose `everywhere` holds for the group.
        """
        arms, found = declared_arms(name, group)
        file.report(found)
        self.complete = self.complete and not found
        if group.experiment is not None:
            base = self._base(file, declared, group.experiment, ("ablations", name, "experiment"), f"{name}/{BASELINE}", name)
        if base is None:
            return
        for seed in sorted(set(group.seeds or ()) & set(sweep.possible_seeds)):
            message = f"seed {seed} is one of the sweep's seeds, at which the arm is identical to the baseline"
            file.report([Diagnostic(("ablations", name, "seeds"), message, "take other seeds")])
        file.report(_too_few_or_many_seeds(name, group, sweep))
        wrong: dict[Diagnostic, list[str]] = {}
        for declared_arm in (declared_arm for declared_arm in arms if not declared_arm.left_out):
            for diagnostic in self._arm(file, declared_arm, base):
                wrong.setdefault(diagnostic, []).append(declared_arm.name)
        for diagnostic, names in wrong.items():
            # The points of a grid that fail for the same reason are reported together.
            several = f" and {len(names) - 1} more" if len(names) > 1 else ""
            in_arm = f"in arm '{names[0]}'{several}: " if group.grid is not None and len(arms) > 1 else ""
            file.report([replace(diagnostic, message=in_arm + diagnostic.message)])
        if group.grid is not None and not found:
            standing = {declared_arm.levels: declared_arm.name for declared_arm in arms if declared_arm.name in self.arms}
            left_out = {
                declared_arm.levels: base.arm.name
                for declared_arm in arms
                if declared_arm.left_out and _is_baseline(declared_arm, base, file.path.parent)
            }
            self.grids[name] = Grid(axes_of(group), {**standing, **left_out})

    def _arm(self, file: SweepFile, declared_arm: DeclaredArm, base: _Base) -> list[Diagnostic]:
        """Make an arm of a baseline and keep it, or say what is wrong with it."""
        folder = file.path.parent
        experiment, found, result = _made(base.tree, declared_arm.edits, declared_arm.where, folder)
        if experiment is None:
            self.complete = False
            return found

        wrong = self.wrong.of(
            experiment,
            result.edits,
            declared_arm.where,
            base.marks,
            lambda some: _made(base.tree, some, declared_arm.where, folder)[0],
            arm=True,
        )
        identity = Identity.of(experiment)
        if identity == base.identity and not declared_arm.seeds:
            file.report([equals_baseline(declared_arm, base.arm.name)])
        changes = changes_of(base.leaves, leaves(experiment), result.edits, result.consequences)
        self._add(
            file, Arm(declared_arm.name, declared_arm.group, experiment, base.arm.name, changes, declared_arm.seeds), declared_arm.where
        )
        self.identities.setdefault(declared_arm.name, identity)
        return wrong

    def _add(self, file: SweepFile, arm: Arm, where: Keys) -> None:
        if arm.name in self.arms:
            other = self.arms[arm.name].group
            owner = f"group '{other}'" if other else "the baseline of the sweep"
            message = f"the arm name '{arm.name}' is already used by {owner}"
            file.report([Diagnostic(where, message, "rename the group", at_key=True)])
        else:
            self.arms[arm.name] = arm


def _too_few_or_many_seeds(name: str, group: AblationGroup, sweep: Sweep) -> list[Diagnostic]:
    """Seeds of an arm's own, where those of the sweep are added until it is decided: it is compared at the same looks."""
    design = sweep.until_decided
    if design is None or group.seeds is None or len(group.seeds) == design.at_most:
        return []
    message = f"expected {design.at_most} seeds, as many as the sweep's design may take (seeds.at_most), not {len(group.seeds)}"
    return [Diagnostic(("ablations", name, "seeds"), message, "they are taken in this order, as many at each look as the baseline has")]


def _own_baseline(sweep: Sweep) -> str:
    """What the baseline of an included sweep is called, where it is another than that of the whole."""
    return f"{sweep.sweep}/{BASELINE}"


def _is_baseline(declared_arm: DeclaredArm, base: _Base, folder: Path) -> bool:
    experiment, _, _ = _made(base.tree, declared_arm.edits, declared_arm.where, folder)
    return experiment is not None and Identity.of(experiment) == base.identity


def _made(
    tree: dict[str, Any], edits: Sequence[Edit], where: Keys, folder: Path
) -> tuple[Experiment | None, list[Diagnostic], AlteredExperiment]:
    """The experiment that edits make of a baseline, or what is wrong by place in the sweep file; and what was done.

    Args:
        folder: of the sweep file, where paths that edits give start. Those of the baseline are absolute already.
    """
    result = altered(tree, edits)
    if result.diagnostics:
        return None, result.diagnostics, result
    experiment, found = _valid(result.tree, edits, folder)
    told = []
    for diagnostic in found:
        place = ".".join(map(str, diagnostic.path))
        sections = [edit for edit in edits if edit.path == place and isinstance(edit.value, dict) and not edit.whole]
        if sections and not diagnostic.hint:
            diagnostic = replace(diagnostic, hint=MERGED)  # what a section as a whole has wrong may be what it kept
        told.append(moved_to_edit(diagnostic, [*sections, *_bringing_about(diagnostic, tree, result.edits, folder)], where))
    return (None if found else experiment), told, result


def _made_of_valid_edits(
    tree: dict[str, Any], edits: Sequence[Edit], where: Keys, folder: Path
) -> tuple[Experiment, list[Diagnostic], AlteredExperiment]:
    """The experiment that edits make of a right baseline without those that are wrong, and what is wrong with these: arms can be made of
    it, so that their problems are found too."""
    experiment, found, result = _made(tree, edits, where, folder)
    if experiment is not None:
        return experiment, found, result
    right = [edit for edit in edits if not any(diagnostic.path[: len(edit.where)] == edit.where for diagnostic in found)]
    made, others, result = _made_of_valid_edits(tree, right if len(right) < len(edits) else [], where, folder)
    return made, [*found, *others], result


def _valid(tree: dict[str, Any], edits: Sequence[Edit], folder: Path) -> tuple[Experiment | None, list[Diagnostic]]:
    """The experiment of plain values that edits left, and what is wrong by place in it."""
    tree, found, problems = with_earlier(tree, folder)
    found += [Diagnostic(("starts_from",), str(problem).splitlines()[0]) for problem in problems]
    experiment = None
    if not found:
        experiment, found = validated(Experiment, tree, folder)
    if experiment is not None and edits:
        found = wrong_records(experiment)
    return experiment, found


def _bringing_about(diagnostic: Diagnostic, tree: dict[str, Any], edits: Sequence[Edit], folder: Path) -> Sequence[Edit]:
    """The edits to blame for a diagnostic by place in the experiment: those that say something about the place, or without which all is
    well there."""
    if len(edits) < 2 or edits_at(edits, diagnostic.path):
        return edits
    needed = []
    for edit in edits:
        fewer = [other for other in edits if other is not edit]
        left = altered(tree, fewer)
        if not left.diagnostics and all(other.path != diagnostic.path for other in _valid(left.tree, fewer, folder)[1]):
            needed.append(edit)
    return needed or edits
