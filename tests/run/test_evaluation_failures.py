"""Evaluations of one model fail each on its own: what can be asked and scored is, and a failure is remembered until it is solved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import call
from tiny import TINY, tiny_experiment
from toy_tasks import toy

from mm1_ablate.commands.run_told import say_failures
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.run.remaining_work import forget_failures, remaining_work, trials_to_do
from mm1_ablate.run.trial import run_trial
from mm1_ablate.store.predictions import Predictions
from mm1_ablate.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    torch.set_num_threads(1)
    return Store(tmp_path / "ablations")


def study(folder: Path, **arms: dict[str, Any]) -> Study:
    """A study of one training, evaluated in several ways."""
    experiment = tiny_experiment(TINY).model_dump(mode="json")
    experiment["model"]["language_model"]["configuration"]["max_position_embeddings"] = 200
    (folder / "tiny.yaml").write_text(yaml.safe_dump(experiment))
    groups = {name: {"alter": {f"evaluation.{key}": value for key, value in changes.items()}} for name, changes in arms.items()}
    compare = {"primary": "shot_0/miniature_vqa", "metrics": ["shot_0/miniature_vqa"]}
    sweep = {"sweep": "tiny", "experiment": "tiny.yaml", "seeds": [0], "ablations": groups, "compare": compare}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return load_study(folder / "sweep.yaml")


def do(store: Store, study: Study) -> dict[str, str]:
    """Do what is missing, as a run does on its workers; says how each trial stands."""
    remaining = remaining_work(study, store, False)
    remaining.write_manifests(store, study.snapshot)
    for work in remaining.trials:
        assert run_trial(str(store.root), work.fingerprint, work.evaluations) == 0
    return {trial.name.partition("/")[0]: store.status(trial).status for trial in study.trials}


def write_toy(folder: Path, name: str, **items: Any) -> str:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**toy(**items), "task": name}))
    return f"{name}.yaml"


def test_one_that_fails_keeps_no_other_from_being_done_and_stays_failed(store: Store, tmp_path: Path) -> None:
    broken = write_toy(tmp_path, "broken", incomplete=[f"q{number}" for number in range(9)])
    arms: dict[str, Any] = {
        "broken": {"tasks": ["miniature_vqa", broken]},
        "facts": {"tasks": ["miniature_vqa", "miniature_facts"]},
        "long": {"shots": [0, 1]},
    }
    declared = study(tmp_path, **arms)
    assert len({trial.fingerprint for trial in declared.trials}) == 1
    assert do(store, declared) == {"baseline": "done", "broken": "failed", "facts": "done", "long": "done"}
    (trial,) = (trial for trial in declared.trials if trial.name.startswith("broken"))
    reason = store.status(trial).reason
    assert "task broken" in reason and "no items that can be evaluated" in reason, reason
    assert (file := store.traceback_file(trial)) and "no items that can be evaluated" in file.read_text()
    # Another evaluation of the same model later does not make it forgotten, nor is it tried again unasked.
    more = study(tmp_path, **arms, later={"shots": [0, 2]})
    assert do(store, more) == {"baseline": "done", "broken": "failed", "facts": "done", "long": "done", "later": "done"}
    assert store.status(trial).reason == reason
    assert not trials_to_do(more, store, False)
    shown = call("status", more.path, "--store", store.root, "--json").stdout
    assert "no items that can be evaluated" in shown
    # It is what --retry tries again.
    forget_failures(more, store)
    assert [work.evaluations for work in trials_to_do(more, store, False)] == [[trial.evaluation_fingerprint]]


def test_a_failed_task_or_number_of_shots_keeps_no_other_from_being_asked(store: Store, tmp_path: Path) -> None:
    broken = write_toy(tmp_path, "broken", incomplete=[f"q{number}" for number in range(9)])
    few = write_toy(tmp_path, "few", demonstrations=2)
    declared = study(tmp_path, all={"tasks": [broken, few, "miniature_vqa", "miniature_facts"], "shots": [0, 24]})
    (trial,) = (trial for trial in declared.trials if trial.name.startswith("all"))
    assert do(store, declared)["all"] == "failed"
    reason = store.status(trial).reason
    assert reason.startswith("evaluation: 3 parts failed: task broken at 0, 24 shots: ValueError: "), reason
    for part in ("task few at 24 shots: ValueError: ", "task miniature_vqa at 24 shots: ContextOverflow: "):
        assert part in reason, reason
    assert (file := store.traceback_file(trial)) and file.read_text().count("Traceback (most recent call last)") >= 3
    kept = {(part.name, part.shots) for part in Predictions(store.trial_folder(trial)).all()}
    assert kept == {("few", 0), ("miniature_vqa", 0), ("miniature_facts", 0)}
    # Without what fails nothing is left to be asked.
    less = study(tmp_path, all={"tasks": ["miniature_vqa", "miniature_facts"], "shots": [0]})
    (model,) = {store.trial_folder(trial) / "model.pt" for trial in declared.trials}
    model.write_bytes(b"of no use")
    assert do(store, less)["all"] == "done"


def test_a_process_that_is_lost_in_one_evaluation_leaves_the_failures_of_others_known(store: Store, tmp_path: Path) -> None:
    declared = study(tmp_path, one={"shots": [0, 1]}, two={"shots": [0, 2]})
    one, two = (next(trial for trial in declared.trials if trial.name.startswith(name)) for name in ("one", "two"))
    folder = store.write_trial(one)
    (folder / "model.pt").touch()
    store.start(folder, "evaluate", one.evaluation_fingerprint)
    store.fail(folder, "killed by SIGKILL; often: out of memory")
    assert store.status(one).status == "failed"
    store.start_evaluation(two.fingerprint, two.evaluation_fingerprint)
    assert (store.status(one).status, store.status(one).reason) == ("failed", "killed by SIGKILL; often: out of memory")


def test_the_last_line_counts_what_is_missing_beside_what_failed(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared = study(tmp_path, one={"shots": [0, 1]}, two={"shots": [0, 2]}, three={"shots": [0, 3]})
    trial = declared.trials[0]
    folder = store.write_trial(trial)
    (folder / "model.pt").touch()
    store.start(folder, "evaluate", trial.evaluation_fingerprint)
    store.fail(folder, "killed by SIGKILL")
    assert say_failures(declared, store) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "1 of 4 trials failed; --retry tries them again; 3 more are missing"
