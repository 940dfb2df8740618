"""What a failure goes back to. In: a trial and its store. Out: the folder of what failed, where its traceback and its log are.

A trial fails of itself, of a part that was to be prepared for it, or of the earlier stage that it starts from, which may have failed of
one of these in turn.
"""

from __future__ import annotations

from pathlib import Path

from mm1_ablate.config.sweep.expand import Trial
from mm1_ablate.store.store import Store


def failed_folder(trial: Trial, store: Store) -> Path:
    """The folder of what a failed trial failed of; its own if that is the trial itself."""
    own = store.trial_folder(trial)
    if store.recorded(own) == "failed":
        return own
    for preparation in trial.preparations:
        if store.preparation_status(preparation).status == "failed":
            return store.prepared_folder(preparation)
    for stage in trial.earlier[-1:]:
        if store.status(stage).status == "failed":
            return failed_folder(stage, store)
    return own


def traceback_of(trial: Trial, store: Store) -> Path | None:
    """The file with the traceback of a failed trial's cause; nothing if that left none."""
    path = failed_folder(trial, store) / "error.txt"
    return path if store.has(path) else None
