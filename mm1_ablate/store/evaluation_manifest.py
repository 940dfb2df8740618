"""What an evaluation is, for whoever carries it out: in a trial, out a record in its folder, and back again.

trials/<12>/evaluations/<12>/evaluation.json    the evaluation, its parts and metrics
trials/<12>/evaluations/<12>/task-<n>.yaml      the user's own tasks, as they were when the study was started
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.identity.data_digests import once
from mm1_ablate.config.identity.fingerprint import canonical
from mm1_ablate.config.tasks import is_own, task_names, task_settings
from mm1_ablate.data.atomic_files import read_json, write_atomically
from mm1_ablate.evaluation.prediction_shards import Part, parts_of

if TYPE_CHECKING:
    from mm1_ablate.config.study import Trial


def evaluation_record(trial: Trial) -> dict[str, Any]:
    """All that carrying out an evaluation takes: nobody looks again at which files its items are in, or at the user's own records."""
    with trial.snapshot.active():
        return _record_of(trial)


def _record_of(trial: Trial) -> dict[str, Any]:
    evaluation = trial.experiment.evaluation
    tasks = {name: task_settings(task) for name, task in zip(task_names(evaluation), evaluation.tasks, strict=True)}
    return {
        "fingerprint": trial.evaluation_fingerprint,
        "evaluation": evaluation.model_dump(mode="json"),
        "parts": [part.to_json() for part in parts_of_trial(trial)],
        "metrics": {name: canonical(task.metrics) for name, task in tasks.items()},
        "records": {task: task_settings(task).model_dump(mode="json") for task in evaluation.tasks if is_own(task)},
    }


def write_records(record: Mapping[str, Any], folder: Path, write: Callable[[Path, bytes], None] = write_atomically) -> None:
    """Put the user's own tasks beside a record: they may be edited, and are not on every node."""
    for number, settings in enumerate(record["records"].values()):
        content = json.dumps(settings, ensure_ascii=False, indent=1).encode()  # which is YAML too
        path = folder / f"task-{number}.yaml"
        if not path.exists() or path.read_bytes() != content:
            write(path, content)


def evaluation_of(folder: Path) -> Evaluation:
    """The evaluation that is recorded in a folder, the user's own tasks as they were then."""
    record = read_json(folder / "evaluation.json")
    own = {task: str(folder / f"task-{number}.yaml") for number, task in enumerate(record.get("records", {}))}
    tasks = [own.get(task, task) for task in record["evaluation"]["tasks"]]
    return Evaluation.model_validate({**record["evaluation"], "tasks": tasks})


def parts_of_trial(trial: Trial) -> list[Part]:
    """The parts of a trial's evaluation, by what its tasks' records and files were when its study was loaded."""
    with trial.snapshot.active():
        return once(f"parts {trial.evaluation_fingerprint}", lambda: parts_of(trial.experiment, trial.fingerprint))


def recorded_parts(folder: Path) -> list[Part]:
    """The parts of an evaluation, as they were when it was recorded."""
    return [Part.from_json(part) for part in read_json(folder / "evaluation.json")["parts"]]
