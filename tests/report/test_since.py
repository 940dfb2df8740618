"""What has changed for arms of one name: between two commits, and between two stores."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from command_line import call
from made_up import made_up_study, scores
from scored_study import write_scores

from mm1_ablate.config.study import Trial
from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Item
from mm1_ablate.report.cells import Measure
from mm1_ablate.report.comparison import compare
from mm1_ablate.report.since import Since, State, since

BASE = [50.0, 51.0, 50.5]


def state(truth: Mapping[str, Sequence[float]], code: str = "0.1.0+aa", trials: str = "", **settings: Any) -> State:
    study = made_up_study([name for name in truth if name != "baseline"], **settings)
    own = tuple(replace(trial, evaluation_fingerprint=trial.evaluation_fingerprint + trials) for trial in study.trials)
    study = replace(study, trials=own)
    results = scores(study, truth)
    costs = {name: [Measure("code", code, "code")] for name in truth}
    return State(study, compare(study, results, costs=costs), results, None)


def found(then: State, now: State) -> tuple[Since, dict[str, Any]]:
    told = since(then, now, "commit 1f00ba47")
    return told, {arm.name: arm for arm in told.arms}


def test_the_change_of_an_arm_is_paired_over_seeds_and_its_verdicts_stand_side_by_side() -> None:
    then = state({"baseline": BASE, "arm": [50.2, 51.1, 50.4], "gone": BASE}, experiment={"training.steps": 4})
    now = state({"baseline": BASE, "arm": [30.2, 31.4, 30.6], "new": BASE}, "0.1.0+bb", "-again", experiment={"training.steps": 5})
    told, arms = found(then, now)
    change = arms["arm"].changes["shot_8/average"]
    assert change.difference == pytest.approx((-20.0 - 19.7 - 19.8) / 3) and change.by_seed == pytest.approx([-20.0, -19.7, -19.8])
    assert arms["arm"].verdict == f"{then.comparison.row('arm').verdict} → worse"
    assert arms["arm"].settings == ("training.steps 4, now 5", "code 0.1.0+aa, now 0.1.0+bb")
    assert arms["new"].verdict.startswith("joined: ") and arms["gone"].verdict.startswith("left: ")
    assert told.headline() == "made-up since commit 1f00ba47 – 1 of 2 arms have another verdict (arm); 1 joined; 1 left."
    line = told.frame().set_index(["arm", "metric"]).loc[("arm", "shot_8/average")]
    assert (line["then"], line["now"], line["change"]) == pytest.approx((50.5666667, 30.7333333, -19.8333333))
    assert "| arm |" in told.markdown() and "50.6 → 30.7 (−19.8 [" in told.markdown()
    assert json.loads(json.dumps(told.to_json(), allow_nan=False))["since"] == "commit 1f00ba47"


def test_the_same_trials_have_no_change() -> None:
    one = state({"baseline": BASE, "arm": [30.2, 31.4, 30.6]})
    told, arms = found(one, one)
    assert all(arm.same_trials and not arm.settings for arm in arms.values()) and "the same trials" in told.markdown()
    other = state({"baseline": BASE, "arm": [30.2, 31.4, 30.9]})
    assert not found(one, other)[1]["arm"].same_trials, "of one identity, and with other scores"


# ---------------------------------------------------------------- the command
def clever(trial: Trial, task: Task, shots: int, place: int, item: Item) -> str:
    return item.references[0]


def dull(trial: Trial, task: Task, shots: int, place: int, item: Item) -> str:
    return "nothing"


def told(*arguments: object) -> pd.DataFrame:
    done = call("report", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return pd.DataFrame(json.loads(done.stdout)["arms"]).set_index(["arm", "metric"])


def test_the_sweep_of_an_earlier_commit_is_compared_with_that_of_today(tiny_sweep: Path, tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *name, *arguments], check=True, capture_output=True)

    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    store = tmp_path / "store"
    write_scores(tiny_sweep, store, dull)
    for command in (["init"], ["add", "sweeps", "experiments"], ["commit", "-m", "first"]):
        git(*command)
    experiment = tmp_path / "experiments" / "tiny.yaml"
    settings = yaml.safe_load(experiment.read_text())
    settings["training"]["steps"] += 1
    experiment.write_text(yaml.safe_dump(settings))
    write_scores(tiny_sweep, store, clever)
    table = told(tiny_sweep, "--store", store, "--since", "HEAD")
    for arm in ("baseline", "without/text"):
        line = table.loc[(arm, "shot_0/average")]
        assert (line["then"], line["now"], line["change"]) == (0.0, 100.0, 100.0)
    assert table["settings"].str.contains("training.steps").any()
    done = call("report", tiny_sweep, "--store", store, "--since", "HEAD", "--to", tmp_path / "changed.md")
    assert done.exit_code == 0 and "since commit" in (tmp_path / "changed.md").read_text() and "0.0 → 100.0" in done.stdout
    for when, reason in (("no-such-thing", "is no commit of this repository, no date"), ("1999-01-01", "no commit before this date")):
        wrong = call("report", tiny_sweep, "--store", store, "--since", when)
        assert wrong.exit_code == 2 and reason in wrong.stderr


def test_two_stores_are_compared(tiny_sweep: Path, tmp_path: Path) -> None:
    for folder, answer in (("one", dull), ("two", clever)):
        write_scores(tiny_sweep, tmp_path / folder, answer)
    line = told(tiny_sweep, "--store", tmp_path / "two", "--since", tmp_path / "one").loc[("baseline", "shot_0/average")]
    assert (line["then"], line["now"], line["same_trials"]) == (0.0, 100.0, False)
    wrong = call("report", tiny_sweep, "--store", tmp_path / "two", "--since", tmp_path / "one", "--to", tmp_path / "a.pdf")
    assert wrong.exit_code == 2 and "written as .csv or .md" in wrong.stderr
    outside = call("report", tiny_sweep, "--store", tmp_path / "two", "--since", "2026-01-01")
    assert outside.exit_code == 2 and "is in no git repository" in outside.stderr
