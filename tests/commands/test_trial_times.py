"""How long a price says further trials will take, from the times that the store has of finished ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scored_study import Said, write_scores

from mm1_ablate.commands.comparison import compare_study
from mm1_ablate.config.study import Trial
from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Item
from mm1_ablate.report.price import Price


def answer(trial: Trial, task: Task, shots: int, place: int, item: Item) -> Said:
    """All is right but without interleaved documents, where an eighth is at one seed and a quarter at the other."""
    right = "without/interleaved" not in trial.arms or place % 8 <= trial.seed
    if task.kind == "choose":
        return [-1.0 if (number == item.correct) == right else -5.0 - number for number in range(len(item.choices))]
    return item.references[0] if right else "nothing of the kind"


def prices(sweep: Path, folder: Path, timed: bool) -> list[Price]:
    """Of a store in which trials ran two at a time, 20 seconds each, or have no times."""
    experiment = sweep.parent.parent / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace("items: 4", "items: 24"))
    study, store = write_scores(sweep, folder, answer)
    for place, trial in enumerate(study.trials):
        started = 1000.0 + 20 * (place // 2)
        times = {"started": started, "finished": started + 20} if timed else {}
        (store.trial_folder(trial.fingerprint) / "status.json").write_text(json.dumps({"status": "done", **times}))
    return [row.price for row in compare_study(study, store).rows if row.price]


def test_a_price_names_the_time_that_passed_for_each_trial_and_none_where_no_trial_was_timed(tiny_sweep: Path, tmp_path: Path) -> None:
    found = [one for one in prices(tiny_sweep, tmp_path / "timed", timed=True) if one.trials]
    without = [one for one in prices(tiny_sweep, tmp_path / "untimed", timed=False) if one.trials]
    assert found and len(found) == len(without)
    assert all(one.seconds == pytest.approx(10.0 * (one.trials or 0), rel=0.2) for one in found), "two at a time; an odd one is alone"
    assert all(one.seconds is None for one in without)
