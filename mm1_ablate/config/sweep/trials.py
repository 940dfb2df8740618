"""Arms in, the distinct trials that feed them out: arms that resolve to the same experiment share theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import DataSnapshot
from mm1_ablate.config.identity.fingerprint import digest, evaluation_identity, experiment_identity, training_identity
from mm1_ablate.config.study import Arm, Trial
from mm1_ablate.config.tasks import task_identities


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
