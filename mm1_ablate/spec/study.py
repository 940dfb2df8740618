"""An expanded sweep: arms, which are rows of the comparison, and the distinct trials that feed them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mm1_ablate.spec.experiment import Experiment
from mm1_ablate.spec.sweep import Sweep


@dataclass(frozen=True)
class Change:
    """One thing in which an arm differs from its baseline, for tables."""

    path: str
    old: Any
    """Plain value in the baseline; nothing where the path is not there."""
    new: Any
    removed: bool = False


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


@dataclass(frozen=True)
class Trial:
    """One experiment with one seed: what is trained and scored once, whatever number of arms it feeds."""

    name: str
    """Of its first arm, for people: leave-one-out/interleaved/seed-1."""
    arms: tuple[str, ...]
    seed: int
    experiment: Experiment
    fingerprint: str
    """SHA-256 of the training identity."""
    evaluation_fingerprint: str
    """SHA-256 of the evaluation identity, which holds the training fingerprint."""


@dataclass(frozen=True)
class Study:
    """An expanded sweep."""

    name: str
    sweep: Sweep
    path: Path
    arms: tuple[Arm, ...]
    """The sweep's baseline first; a group's own baseline before the group."""
    trials: tuple[Trial, ...]
    """Distinct, in the order of the arms."""

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
        found = next((arm for arm in self.arms if arm.name == name), None)
        if found is None:
            raise KeyError(name)
        return found
