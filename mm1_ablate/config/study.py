"""An expanded sweep: arms, which are rows of the comparison, and the distinct trials that feed them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import DataSnapshot
from mm1_ablate.config.identity.fingerprint import digest, evaluation_identity, experiment_identity, fingerprint, short, training_identity
from mm1_ablate.config.paper_results import Counterparts
from mm1_ablate.config.preparation import Preparation, preparations_of
from mm1_ablate.config.sweep.declaration import Sweep
from mm1_ablate.config.tasks import task_identities
from mm1_ablate.config.yaml_file import FileProblem


@dataclass(frozen=True)
class Change:
    """One setting in which an arm differs from its baseline, as both are resolved; or what was removed."""

    path: str
    old: Any
    """Plain value in the baseline; None where the path does not exist. For a removed section, all of its settings."""
    new: Any
    removed: bool = False
    declared: bool = True
    """Whether the ablation declares it. Otherwise it follows from another component type, which lacks or adds settings."""
    dropped: bool = False
    """Whether the arm lacks this setting because a component has another type."""
    section: str = ""
    """The place above it that the other experiment lacks as a whole, if there is one."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {key: value for key, value in vars(self).items() if key != "section"}


@dataclass(frozen=True)
class Arm:
    """A row of the comparison."""

    name: str
    group: str
    """Empty for the sweep's own baseline."""
    experiment: Experiment
    baseline: str
    """Name of the arm that it is compared with; a baseline's own name."""
    changes: tuple[Change, ...] = ()
    """All in which its experiment differs from the baseline's."""
    seeds: tuple[int, ...] = ()
    """Of an arm that equals its baseline but for its seeds; empty: those of the sweep."""
    everywhere: tuple[Change, ...] = ()
    """Of a baseline: in what it differs from its experiment file, because of the sweep's `everywhere`."""


@dataclass(frozen=True)
class Grid:
    """The arms of a group as points of a grid."""

    axes: Mapping[str, tuple[str, ...]]
    """By the name of an axis, its values in words, in the order of the file."""
    cells: Mapping[tuple[str, ...], str]
    """By the values on all axes, the arm that stands there; the baseline where it is the point that the file left out."""


@dataclass(frozen=True)
class Trial:
    """One experiment with one seed: what is trained and scored once, whatever number of arms it feeds."""

    name: str
    """Of its first arm, for display: leave-one-out/interleaved/seed-1."""
    arms: tuple[str, ...]
    seed: int
    experiment: Experiment
    fingerprint: str
    """SHA-256 of the training identity."""
    evaluation_fingerprint: str
    """SHA-256 of the evaluation identity, which holds the training fingerprint. Empty for an earlier stage, which is not judged."""

    snapshot: DataSnapshot = field(default_factory=DataSnapshot, compare=False, repr=False)
    """The digests of its study's data."""

    @cached_property
    def earlier(self) -> tuple[Trial, ...]:
        """The stages whose weights it starts from, the first of all first: each the trial that it would be as an arm, with this seed."""
        with self.snapshot.active():
            return tuple(
                Trial(
                    f"{self.name} stage {number}: {stage.experiment}",
                    self.arms,
                    self.seed,
                    stage,
                    fingerprint(training_identity(stage, self.seed)),
                    "",
                    self.snapshot,
                )
                for number, stage in enumerate(self.experiment.earlier, 1)
            )

    @cached_property
    def preparations(self) -> tuple[Preparation, ...]:
        """What it starts from; empty where nothing is prepared."""
        with self.snapshot.active():
            return tuple(preparations_of(self.experiment, self.seed))


@dataclass(frozen=True)
class NotRun:
    """A trial that a study may come to need, and does not need so far."""

    trial: Trial
    reason: str
    """'not needed: decided at 4 seeds', or what it waits for."""
    possible: bool
    """Whether it may still be needed."""


@dataclass(frozen=True)
class Study:
    """An expanded sweep."""

    name: str
    sweep: Sweep
    path: Path
    arms: tuple[Arm, ...]
    """The sweep's baseline first; a group's own baseline before the group."""
    trials: tuple[Trial, ...]
    """Distinct, in the order of the arms. Where seeds are added until all is decided, those that are needed by what is known
    (`plan/until_decided.py`); when the file has just been read, all that it may come to."""
    grids: Mapping[str, Grid] = field(default_factory=dict)
    """By group, of those that declare a grid."""
    included: tuple[Path, ...] = ()
    """Further sweep files that are part of it."""
    families: tuple[str, ...] = ()
    """Of each expectation, the sweep that declares it: those of a sweep are one family. Empty: all are."""
    sweep_of_group: Mapping[str, str] = field(default_factory=dict)
    """Of each group, the sweep that declares it: the comparisons of a sweep are one family. Empty: all are."""
    needed_seeds: Mapping[str, int] = field(default_factory=dict)
    """Where seeds are added until all is decided: by arm, how many of them it needs by what is known. Empty: all."""
    not_run: tuple[NotRun, ...] = ()
    """Its other trials, which are not needed so far."""

    tried: str = ""
    """Of a try (`sweep/tried.py`): with what, in a sentence. Empty: it is the study that its file declares."""
    provisional: bool = False
    """Whether data was not read: fingerprints then contain file patterns instead of contents."""
    published: tuple[Counterparts, ...] = ()
    """What the paper has on these arms, table by table."""
    from_record: tuple[str, ...] = ()
    """Files missing on this machine; their digests come from the record of an earlier run."""
    warnings: tuple[FileProblem, ...] = ()
    """Warnings to show before a run, in the order of the files."""
    snapshot: DataSnapshot = field(default_factory=DataSnapshot, compare=False, repr=False)
    """The digests of its data when it was loaded."""
    texts: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What its files said when it was loaded, by their paths from the sweep's folder: the sweep first, then those that it names."""

    @property
    def row_count(self) -> int:
        """Arms times seeds: trials before those that are the same are joined."""
        return sum(len(self.seeds_of(arm.name)) for arm in self.arms)

    def differences_json(self) -> dict[str, Any]:
        """By arm, what it changes in its baseline, and by baseline, what the sweep sets everywhere; plain JSON values."""
        return {
            "differences": {arm.name: [change.to_json() for change in arm.changes] for arm in self.arms if arm.name != arm.baseline},
            "everywhere": {arm.name: [change.to_json() for change in arm.everywhere] for arm in self.arms if arm.everywhere},
        }

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds that an arm is trained with; where they are added until all is decided, those that it needs by what is known."""
        return self.possible_seeds_of(arm)[: self.needed_seeds.get(arm)]

    def possible_seeds_of(self, arm: str) -> tuple[int, ...]:
        """All seeds that an arm may come to need, in the order in which they are taken."""
        return self.arm(arm).seeds or tuple(self.sweep.possible_seeds)

    @property
    def possible_trials(self) -> tuple[Trial, ...]:
        """All trials that it may come to need."""
        return (*self.trials, *(one.trial for one in self.not_run))

    @cached_property
    def stages(self) -> tuple[Trial, ...]:
        """Distinct earlier stages that are not trials of the study themselves, in the order of those that start from them, the first of all
        first. Each has the name that the first of them gives it, and the arms of all."""
        own = {trial.fingerprint for trial in self.trials}
        found: dict[str, Trial] = {}
        for trial in self.trials:
            for stage in trial.earlier:
                if stage.fingerprint not in own:
                    known = found.setdefault(stage.fingerprint, stage)
                    found[stage.fingerprint] = replace(known, arms=tuple(dict.fromkeys((*known.arms, *trial.arms))))
        return tuple(found.values())

    def evaluation_digest(self, arm: str) -> str:
        """Equal for arms that are evaluated alike, whatever they were trained on: 12 hex digits."""
        experiment = self.arm(arm).experiment
        with self.snapshot.active():
            return short(digest(evaluation_identity(experiment, "", task_identities(experiment.evaluation))))

    def starting_from(self, stage: Trial) -> tuple[Trial, ...]:
        """The trials that start from an earlier stage, directly or through others."""
        return tuple(trial for trial in self.trials if any(one.fingerprint == stage.fingerprint for one in trial.earlier))

    def possible_trials_of(self, arm: str) -> tuple[Trial, ...]:
        """The trials that may come to feed an arm."""
        return tuple(trial for trial in self.possible_trials if arm in trial.arms)

    @cached_property
    def _trials_by_arm(self) -> dict[str, list[Trial]]:
        feeding: dict[str, list[Trial]] = {arm.name: [] for arm in self.arms}
        for trial in self.trials:
            for name in trial.arms:
                feeding[name].append(trial)
        return feeding

    def trials_of(self, arm: str) -> tuple[Trial, ...]:
        """The trials that feed an arm, one for each seed."""
        return tuple(self._trials_by_arm[arm])

    def arm(self, name: str) -> Arm:
        """The arm of a name.

        Raises:
            KeyError: there is none.
        """
        return self._arms_by_name[name]

    @cached_property
    def _arms_by_name(self) -> dict[str, Arm]:
        return {arm.name: arm for arm in self.arms}


# ---------------------------------------------------------------- from arms to trials
@dataclass(frozen=True)
class Identity:
    """Of an experiment whatever its seed."""

    training: dict[str, Any] = field(compare=False)
    digest: str

    @classmethod
    def of(cls, experiment: Experiment) -> Identity:
        training = experiment_identity(experiment)
        evaluation = evaluation_identity(experiment, "", task_identities(experiment.evaluation))
        return cls(training, digest([training, evaluation]))


def trials_of(arms: Iterable[Arm], identities: Mapping[str, Identity], seeds: Sequence[int], snapshot: DataSnapshot) -> Iterator[Trial]:
    """The trials of a study, each once.

    Args:
        identities: of the arms' experiments, by name of the arm.
        seeds: of arms that have none of their own.
        snapshot: of the study's data.
    """
    feeding: dict[tuple[str, int], list[Arm]] = {}
    for arm in arms:
        for seed in arm.seeds or seeds:
            feeding.setdefault((identities[arm.name].digest, seed), []).append(arm)
    for (_, seed), fed in feeding.items():
        names = tuple(arm.name for arm in fed)
        yield trial_of(fed[0].experiment, names, seed, snapshot, identities[names[0]].training)


def trial_of(
    experiment: Experiment, arms: tuple[str, ...], seed: int, snapshot: DataSnapshot, identity: dict[str, Any] | None = None
) -> Trial:
    """The trial of an experiment at a seed.

    Args:
        arms: names of the arms that it feeds.
        snapshot: of the study's data.
        identity: of the experiment (`experiment_identity`), if it is known already.
    """
    with snapshot.active():
        training = digest(training_identity(experiment, seed, identity))
        evaluation = digest(evaluation_identity(experiment, training, task_identities(experiment.evaluation)))
    return Trial(f"{arms[0]}/seed-{seed}", arms, seed, experiment, training, evaluation, snapshot)
