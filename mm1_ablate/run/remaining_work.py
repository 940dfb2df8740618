"""What a study still needs.

In: a study and its store. Out: trials by training fingerprint, earlier stages in the order in which they can be trained, preparations; and,
done at once, what needs no worker.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from mm1_ablate.config.identity.data_digests import DataSnapshot
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.run.evaluate_trial import score_trial
from mm1_ablate.run.trial import recording_evaluation
from mm1_ablate.store.locks import AlreadyRunning
from mm1_ablate.store.predictions import missing_shards
from mm1_ablate.store.store import Store


@dataclass
class TrialWork:
    """What has to be done for one training fingerprint: several evaluations may share it."""

    fingerprint: str
    trials: list[Trial] = field(default_factory=list)

    @property
    def evaluations(self) -> list[str]:
        return [trial.evaluation_fingerprint for trial in self.trials if trial.evaluation_fingerprint]


@dataclass(frozen=True)
class RemainingWork:
    """All that is to be done before and with the missing trials of a study."""

    trials: list[TrialWork]
    stages: list[list[TrialWork]]
    """Earlier stages; those of a later list start from those of an earlier one."""
    preparations: list[Preparation]

    def write_manifests(self, store: Store, snapshot: DataSnapshot) -> None:
        """Write what workers on other nodes read: the records of all of it.

        Args:
            snapshot: what the study saw of its data.
        """
        for each in (*self.trials, *(stage for wave in self.stages for stage in wave)):
            for trial in each.trials:
                store.write_trial(trial)
        for preparation in self.preparations:
            store.write_preparation(preparation, snapshot)


def remaining_work(study: Study, store: Store, evaluate_only: bool) -> RemainingWork:
    """What the missing trials need."""
    trials = trials_to_do(study, store, evaluate_only)
    stages = _stages_to_do(trials, store)
    return RemainingWork(trials, stages, _preparations_to_do([*(stage for wave in stages for stage in wave), *trials], store))


def trials_to_do(study: Study, store: Store, evaluate_only: bool) -> list[TrialWork]:
    """Missing and interrupted trials, by training fingerprint, in the study's order."""
    store.refresh()
    work: dict[str, TrialWork] = {}
    for trial in study.trials:
        state = store.status(trial)
        if state.status in ("missing", "interrupted") and (state.trained or not evaluate_only):
            work.setdefault(trial.fingerprint, TrialWork(trial.fingerprint)).trials.append(trial)
    return list(work.values())


def _stages_to_do(work: list[TrialWork], store: Store) -> list[list[TrialWork]]:
    """Earlier stages of trials that are not trained yet, unless they are trained or have failed: those that others start from first."""
    waves: dict[int, dict[str, TrialWork]] = {}
    for each in work:
        trial = each.trials[0]
        if trial.earlier and not store.status(trial).trained:
            trained = [store.status(stage).trained for stage in trial.earlier]
            # What comes before a stage that is trained is needed no more.
            first = next((place + 1 for place in reversed(range(len(trained))) if trained[place]), 0)
            for place, stage in enumerate(trial.earlier[first:], first):
                if store.status(stage).status != "failed":
                    waves.setdefault(place, {}).setdefault(stage.fingerprint, TrialWork(stage.fingerprint, [stage]))
    return [list(waves[place].values()) for place in sorted(waves)]


def score_saved_predictions(study: Study, store: Store, say: Callable[[str], None]) -> None:
    """Score evaluations all of whose predictions are saved, here and now: that takes no model, and less time than a worker's start."""
    waiting = [
        trial for work in trials_to_do(study, store, evaluate_only=True) for trial in work.trials if not missing_shards(trial, store)
    ]
    if waiting:
        say(f"scoring the saved predictions of {len(waiting)} trials")
    for trial in waiting:
        fingerprint, evaluation = trial.fingerprint, trial.evaluation_fingerprint
        folder = store.write_trial(trial)
        with contextlib.suppress(AlreadyRunning), store.hold(folder):
            if lost := missing_shards(trial, store, whole=True):
                say(f"damaged predictions of {trial.name}: {', '.join(part.name for part in lost)}; evaluated again")
                continue
            recording_evaluation(store, fingerprint, evaluation, partial(score_trial, store, fingerprint, evaluation))
            store.finish(folder)


def wait_for_ending_children(study: Study, store: Store) -> None:
    """Wait for children of a run that was killed a moment ago: they live on for a second or two, and hold their trials; on object storage
    those of another machine do until their leases have expired, or a heartbeat shows that they are alive."""
    until = time.monotonic() + store.lease_seconds + 3
    folders = {store.trial_folder(one): one for trial in study.trials for one in (*trial.earlier, trial)}
    store.refresh()
    before = {folder: store.heartbeat(folder) for folder in folders}
    while time.monotonic() < until and any(
        store.status(trial).status == "running" and store.heartbeat(folder) == before[folder] for folder, trial in folders.items()
    ):
        time.sleep(0.2)
        store.refresh(at_most_every=1)


def forget_failures(study: Study, store: Store) -> None:
    """Make failed trials, stages and preparations missing again."""
    for trial in (one for named in study.trials for one in (*named.earlier, named)):
        store.retry(store.trial_folder(trial))
        if trial.evaluation_fingerprint:
            store.retry(store.evaluation_folder(trial))
        for preparation in trial.preparations:
            store.retry(store.prepared_folder(preparation))


def _preparations_to_do(work: list[TrialWork], store: Store) -> list[Preparation]:
    """What trials that are not trained yet start from, unless it is there or has failed."""
    needed: dict[str, Preparation] = {}
    for each in work:
        trial = each.trials[0]
        if not store.status(trial).trained:
            for preparation in trial.preparations:
                needed.setdefault(preparation.fingerprint, preparation)
    return [preparation for preparation in needed.values() if store.preparation_status(preparation).status not in ("done", "failed")]
