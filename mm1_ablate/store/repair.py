"""Damaged files of a study are written again, before it goes on. In: a study and its store. Out: a sentence on each of them.

Scores are made again by the run, from saved predictions or the kept model, and weights are touched by nobody: a trial is trained again only
where it has none. What nothing tells any more (the times of a trial, what became of its data) stays unknown.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.data.atomic_files import read_json_lines
from mm1_ablate.store.declarations import FOLDER as DECLARATIONS
from mm1_ablate.store.locks import AlreadyRunning
from mm1_ablate.store.records import EvaluationRecord, ScoresRecord
from mm1_ablate.store.store import Store

AGAIN = "written again"


def repair(study: Study, store: Store) -> Iterator[str]:
    """Read all that a run needs of a study, write again what is damaged, and tell it file by file."""
    for one in (*study.stages, *study.trials):
        _look_at(one, store)
        yield from _mend_folder(one, store.trial_folder(one), store)
    for part in {part.fingerprint: part for one in (*study.stages, *study.trials) for part in one.preparations}.values():
        store.preparation_status(part)
        store.planned_reads(store.prepared_folder(part))
        yield from _mend_folder(part, store.prepared_folder(part), store)
    for read in (store.unlisted_trials, store.warnings, store.declarations):
        read(study)
    store.recorded_contents(study.name)
    for file, why in _damaged_below(store.study_folder(study), store).items():
        told = "to be written again"
        if file.name == "trials.json":
            store.register_trials(study, _names_in(file))
            told = f"{AGAIN}, with what could be read of it and the trials of the file as it is now"
        elif file.parent.name == DECLARATIONS:
            told = "kept as it is: what was declared when is never written again, and what only this file said counts as not recorded"
        yield _sentence(file, why, told, store)


def _look_at(trial: Trial, store: Store) -> None:
    """Read all that there is of a trial."""
    store.status(trial)
    if trial.evaluation_fingerprint:
        folder = store.evaluation_folder(trial)
        store.files.read_record(folder / "evaluation.json", EvaluationRecord)
        store.files.read_record(folder / "scores.json", ScoresRecord)
        store.files.has_table(folder / "items.parquet", whole=True)
        store.planned_reads(folder)
    store.planned_reads(store.trial_folder(trial))
    store.data_account(trial)
    store.curve(trial)


def _damaged_below(folder: Path, store: Store) -> dict[Path, str]:
    return {file: why for file, why in store.damaged.items() if file.is_relative_to(folder)}


def _sentence(file: Path, why: str, told: str, store: Store) -> str:
    return f"damaged: {store.where(file)}: {why}; {told}"


def _mend_folder(one: Trial | Preparation, folder: Path, store: Store) -> Iterator[str]:
    damaged = _damaged_below(folder, store)
    if not damaged:
        return
    try:
        with store.hold(folder):
            for file, why in damaged.items():
                yield _sentence(file, why, _mend(one, file, store), store)
    except AlreadyRunning:
        for file, why in damaged.items():
            yield _sentence(file, why, "left to the run that works on it", store)


def _mend(one: Trial | Preparation, file: Path, store: Store) -> str:
    """Write a damaged file of a trial or a preparation again, as far as it can be; in words."""
    match file.name:
        case "status.json":
            store.write_json(file, _status(one, file.parent, store))
            return AGAIN
        case "preparation.json" if isinstance(one, Preparation):
            store.write_preparation(one)
            return AGAIN
        case "trial.json" | "evaluation.json" if isinstance(one, Trial):
            store.write_trial(one)
            return AGAIN
        case "files.jsonl":
            file.unlink()
            if isinstance(one, Trial):
                store.write_trial(one)
            return AGAIN if file.exists() else "the files that it was planned with are no longer known one by one"
        case "scores.json" | "items.parquet":
            return "to be scored again"
        case "data.json":
            store.write_json(file, {})
            return "what became of the data is no longer known"
        case "curve.jsonl":
            points, _ = read_json_lines(file)
            store.write(file, "".join(json.dumps(point) + "\n" for point in points).encode())
            if not points:
                file.unlink()
            return f"{len(points)} points of its training are kept"
    return "to be written again"


def _status(one: Trial | Preparation, folder: Path, store: Store) -> dict[str, object]:
    """What the files beside a damaged status tell."""
    if isinstance(one, Preparation):
        return {"status": store.preparation_status(one).status}
    if store.status(one).status != "done":
        return {"status": "missing"}
    scores = store.evaluation_folder(one) / "scores.json" if one.evaluation_fingerprint else folder
    finished = store.files.read_record(scores, ScoresRecord).get("finished") if scores != folder else None
    return {"status": "done", "finished": finished}


def _names_in(file: Path) -> dict[str, str]:
    """What can still be read in a damaged `trials.json`: fingerprints and names."""
    names = {}
    for fingerprint, name in re.findall(rb'"([0-9a-f]{64})": ("(?:[^"\\]|\\.)*")', file.read_bytes()):
        with contextlib.suppress(ValueError):
            names[fingerprint.decode()] = str(json.loads(name))
    return names
