"""MLflow written again from the store. In: a sweep and its store. Out: MLflow with all that the store has, and a line on it."""

from __future__ import annotations

import shlex
from pathlib import Path

from mm1_ablate.commands.common import SOME_FAILED, read_finished, require_store, tell
from mm1_ablate.commands.run import compare_and_write
from mm1_ablate.commands.shown_in_mlflow import bring_to_mlflow, compared_study
from mm1_ablate.store.store import Store


def sync_study(path: Path, store: Store) -> int:
    """Bring MLflow up to the store: what is missing there is written, what is deleted is restored, what is out of date is replaced. Returns
    the exit code."""
    study = read_finished(path, store)
    require_store(store)
    compared = None
    if any(store.has_scores(trial) for trial in study.trials):
        compared = compared_study(*compare_and_write(study, store))
    tracked = bring_to_mlflow(study, store, compared)
    if tracked is None:
        return SOME_FAILED
    trials = len(tracked.trial_runs) + len(tracked.stage_runs)
    told = f"{len(tracked.arm_runs)} arms and {trials} trials of '{study.name}', of which {tracked.written} were written now"
    tell(f"{tracked.tracking_uri} has {told}")
    tell(f"to look at it: mm1-ablate ui {shlex.quote(str(path))} --store {shlex.quote(store.address)}")
    return 0
