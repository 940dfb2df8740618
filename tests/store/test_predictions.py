"""Evaluating again without training, and no more than is new is asked: real trials of a tiny model, and the files of their store."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import yaml
from command_line import call
from task_files import ROWS, write_task
from tiny import TEXT, tiny_experiment

from mm1_ablate.config.evaluation import TASKS
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.evaluation.prediction_shards import shards_of
from mm1_ablate.evaluation.preflight import unaskable_models
from mm1_ablate.model.preflight import wrong_parts
from mm1_ablate.plan.plan import plan
from mm1_ablate.run.scheduler import RunOptions, run_study
from mm1_ablate.run.trial import run_trial
from mm1_ablate.store.predictions import Predictions
from mm1_ablate.store.store import Store

VQA = {"tasks": ["miniature_vqa"], "shots": [0, 2], "items": 5}
CAPTIONS = {
    "task": "captions", "family": "image", "kind": "generate", "items": {"type": "miniature", "content": "captions"},
    "prompt": "{image} {answer}", "separator": " |", "stop": ["|"], "max_new_tokens": 6, "metrics": ["exact_match"],
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    torch.set_num_threads(1)
    return Store(tmp_path / "ablations")


def study(folder: Path, **evaluation: Any) -> Study:
    """A study of one trial."""
    metric = f"shot_{max(evaluation.get('shots', [0]))}/average"
    experiment = tiny_experiment().model_dump(mode="json") | {"evaluation": evaluation}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(experiment))
    sweep = {"sweep": "tiny", "experiment": "tiny.yaml", "seeds": [0], "compare": {"primary": metric, "metrics": [metric]}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return load_study(folder / "sweep.yaml")


def do(store: Store, declared: Study) -> Trial:
    (trial,) = declared.trials
    store.write_trial(trial)
    assert run_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint]) == 0, store.error(store.trial_folder(trial))
    assert store.status(trial).status == "done"
    return trial


def asked(store: Store, trial: Trial) -> dict[tuple[str, int, tuple[int, ...]], int]:
    """What has been predicted, and when its table was written."""
    kept = Predictions(store.trial_folder(trial))
    return {(part.name, part.shots, part.seeds): kept._table(part).stat().st_mtime_ns for part in kept.all()}


def planned(store: Store, declared: Study) -> tuple[str, str]:
    (row,) = plan(declared, store).rows
    return row.status, row.reason


# ------------------------------------------------------------- asking what is new
def test_tasks_shots_seeds_and_documents_that_are_added_are_all_that_is_asked(store: Store, tmp_path: Path):
    trial = do(store, study(tmp_path, **VQA))
    before = asked(store, trial)
    assert set(before) == {("miniature_vqa", 0, (0,)), ("miniature_vqa", 2, (0,))}
    weights = (store.trial_folder(trial) / "model.pt").stat().st_mtime_ns
    losses = {"losses": {"words": {"source": TEXT | {"world_seed": 1}, "documents": 3}}}
    added: list[tuple[dict[str, Any], set[Any], str]] = [
        ({"tasks": ["miniature_vqa", "miniature_facts"]}, {("miniature_facts", 0, (0,))}, "task miniature_facts (new)"),
        ({"shots": [0, 2, 3]}, {("miniature_vqa", 3, (0,))}, "3 shots (new)"),
        ({"seeds": [0, 7]}, {("miniature_vqa", 2, (7,)), ("miniature_vqa", 3, (7,))}, "evaluation seed 7 (new)"),
        (losses, {("words", 0, (0, 7))}, "held-out documents words (new)"),
        (
            {"overrides": {"miniature_facts": {"items": 4}}},
            {("miniature_facts", 0, (0, 7))},
            "task miniature_facts (items changed)",
        ),
    ]
    evaluation: dict[str, Any] = dict(VQA)
    for change, expected, reason in added:
        evaluation |= change
        now = study(tmp_path, **evaluation)
        assert planned(store, now) == ("evaluate", f"trained; to evaluate: {reason}")
        do(store, now)
        after = asked(store, trial)
        new = {part for part in after if part not in before or after[part] != before[part]}
        # Asked again under another evaluation seed or otherwise, a part is another file beside the old one.
        assert {(name, shots) for name, shots, _ in new} == {(name, shots) for name, shots, _ in expected}
        assert new <= expected | set(before)
        before = after
    assert (store.trial_folder(trial) / "model.pt").stat().st_mtime_ns == weights
    assert planned(store, study(tmp_path, **evaluation))[0] == "done"
    assert planned(store, study(tmp_path, **VQA))[0] == "done", "what was evaluated before is not forgotten"


@pytest.mark.parametrize("policy", ["per_task", "per_query", {"sets": 2}])
def test_what_is_asked_later_comes_out_as_if_it_had_been_asked_with_the_rest(store: Store, tmp_path: Path, policy: Any):
    steps: list[dict[str, Any]] = [
        {"tasks": ["miniature_vqa"], "shots": [4]},
        {"tasks": ["miniature_facts", "miniature_vqa"], "shots": [4, 8]},
        {"tasks": ["miniature_facts", "miniature_vqa"], "shots": [0, 4, 8], "seeds": [3, 0]},
    ]
    for step in steps:
        little_by_little = do(store, study(tmp_path, **step, items=6, demonstrations=policy, batch_items=4))
    items = store.items(little_by_little)
    folder = store.trial_folder(little_by_little)
    for path in (folder / "predictions").iterdir():
        path.unlink()
    (store.evaluation_folder(little_by_little) / "scores.json").unlink()
    at_once = do(store, study(tmp_path, **steps[-1], items=6, demonstrations=policy, batch_items=4))
    assert at_once == little_by_little
    likelihoods = [store.items(at_once).pop("log_likelihoods"), items.pop("log_likelihoods")]
    pandas.testing.assert_frame_equal(store.items(at_once).drop(columns="log_likelihoods"), items, check_exact=True)
    for one, other in zip(*likelihoods, strict=True):
        assert json.loads(one or "[]") == pytest.approx(json.loads(other or "[]"), abs=1e-5)
    assert items.groupby(["task", "shots", "evaluation_seed"]).size().nunique() > 1 and items["prediction"].nunique() > 1


def test_kept_predictions_give_the_items_of_an_evaluation_in_one_go(store: Store, tmp_path: Path):
    from evaluated import evaluate

    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.tokenizer import load_tokenizer
    from mm1_ablate.evaluation.scores import summarise
    from mm1_ablate.training.fit import load_trained

    losses = {"words": {"source": TEXT, "first": 9, "documents": 3}}
    evaluation = {"tasks": ["miniature_captions", "miniature_facts"], "shots": [2, 0], "seeds": [5, 1], "items": 5, "losses": losses}
    trial = do(store, study(tmp_path, **evaluation))
    model = load_trained(trial.experiment, trial.seed, store.trial_folder(trial))
    items = evaluate(model, trial.experiment, load_tokenizer("miniature"), ImagePipeline(24))
    pandas.testing.assert_frame_equal(store.items(trial), items, check_dtype=False, check_exact=True)
    assert store.scores(trial) == summarise(items)


def test_an_evaluation_that_is_killed_keeps_what_it_has_asked(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Trained before: a child that is forked from a process that has trained cannot train.
    do(store, study(tmp_path, tasks=["miniature_captions"], shots=[0], items=2))
    declared = study(tmp_path, tasks=["miniature_vqa", "miniature_facts", "miniature_agreement"], shots=[0, 2], items=5)
    (trial,) = declared.trials
    store.write_trial(trial)
    write = Predictions.write

    def write_and_die(self: Predictions, part: Any, *of_it: Any) -> None:
        write(self, part, *of_it)
        if part.name == "miniature_facts":
            os.kill(os.getpid(), signal.SIGKILL)

    def in_child() -> None:
        monkeypatch.setattr(Predictions, "write", write_and_die)
        run_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    before = asked(store, trial)
    assert {name for name, _, _ in before} == {"miniature_captions", "miniature_vqa", "miniature_facts"}
    status, reason = planned(store, declared)
    assert status == "evaluate" and reason.startswith("stopped at evaluate") and reason.endswith("task miniature_agreement (new)")
    do(store, declared)
    after = asked(store, trial)
    assert {part: after[part] for part in before} == before and set(after) - set(before) == {("miniature_agreement", 0, (0,))}


def test_a_record_that_is_edited_meanwhile_is_asked_as_it_was_planned(store: Store, tmp_path: Path):
    write_task(tmp_path, prompt="{question} = {answer}")
    declared = study(tmp_path, tasks=["miniature_vqa", "colours.yaml"], shots=[0], items=4)
    (trial,) = declared.trials
    store.write_trial(trial)
    write_task(tmp_path, prompt="{question} -> {answer}")
    assert run_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint]) == 0
    assert set(store.items(trial).query("task == 'colours'")["prompt"]) == {"shape : circle colour : ="}
    status, reason = planned(store, load_study(declared.path))
    assert (status, reason) == ("evaluate", "trained; to evaluate: task colours (prompt changed)")


def test_probabilities_that_are_added_ask_again_what_is_generated_and_nothing_else(store: Store, tmp_path: Path):
    choices = {"tasks": ["miniature_facts"], "shots": [0], "items": 5}
    do(store, study(tmp_path, **choices))
    trial = do(store, study(tmp_path, **VQA | {"tasks": ["miniature_facts", "miniature_vqa"]}))
    kept = Predictions(store.trial_folder(trial))
    before = {part.fingerprint for part in kept.all()}
    assert planned(store, study(tmp_path, **choices, probability=True)) == ("rescore", "predictions are saved; probabilities added")
    now = study(tmp_path, **VQA | {"tasks": ["miniature_facts", "miniature_vqa"]}, probability=True)
    assert planned(store, now) == ("evaluate", "trained; to evaluate: task miniature_vqa (probability changed)")
    scores = store.scores(do(store, now))
    assert sorted((part.name, part.shots) for part in kept.all() if part.fingerprint not in before) == [
        ("miniature_vqa", 0), ("miniature_vqa", 2),
    ]  # fmt: skip
    assert 0 < scores["shot_2/average.probability"] == scores["shot_2/miniature_vqa.probability"] < 100
    assert 0 < scores["text_core/average.probability"] < 100


# ------------------------------------------------------------- scoring again
def test_metrics_and_groups_are_scored_again_without_a_model(store: Store, tmp_path: Path):
    def declared(metrics: list[Any], **more: Any) -> Study:
        (tmp_path / "captions.yaml").write_text(yaml.safe_dump({**CAPTIONS, "metrics": metrics}))
        return study(tmp_path, tasks=["captions.yaml", "miniature_vqa"], shots=[0, 2], items=5, **more)

    trial = do(store, declared(["exact_match"]))
    before = asked(store, trial)
    (store.trial_folder(trial) / "model.pt").write_bytes(b"of no use")
    slots: dict[str, Any] = {"type": "slot_f1", "slots": {"colour": ["red", "green", "blue"]}}
    groups = {"both": {"tasks": ["captions", "miniature_vqa"], "weights": {"captions": 3}}}
    again: list[tuple[Callable[[], Study], str, str]] = [
        (lambda: declared([slots, "cider_raw"]), "metrics of captions changed", "shot_0/captions.cider_raw"),
        (lambda: declared([{**slots, "slots": {"shape": ["ring", "cross"]}}]), "metrics of captions changed", "shot_0/captions"),
        (lambda: declared([slots, "cider_raw"], groups=groups), "metrics of captions changed, groups changed", "shot_2/both"),
        (lambda: study(tmp_path, tasks=["miniature_vqa"], shots=[2], items=5), "groups changed", "shot_2/average"),
        (lambda: study(tmp_path, tasks=["miniature_vqa"], shots=[0, 2], items=5), "their selection changed", "shot_0/average"),
    ]
    for make, reason, metric in again:
        now = make()
        status, why = planned(store, now)
        assert status == "rescore" and why.startswith("predictions are saved; ") and why.endswith(reason), why
        outcome = run_study(now, store, RunOptions(evaluate_only=True))
        assert (outcome.done, outcome.started) == (("baseline/seed-0",), 1)
        scores = store.scores(now.trials[0])
        assert metric in scores
        if groups_of := now.trials[0].experiment.evaluation.groups:
            assert list(groups_of) == ["both"]
            assert scores["shot_2/both"] == pytest.approx((3 * scores["shot_2/captions"] + scores["shot_2/miniature_vqa"]) / 4)
    assert asked(store, trial) == before


def test_the_command_scores_again_without_torch_or_ray(tmp_path: Path):
    (tmp_path / "captions.yaml").write_text(yaml.safe_dump(CAPTIONS))
    declared = study(tmp_path, tasks=["captions.yaml"], shots=[0], items=4)
    store = Store(tmp_path / "ablations")
    trial = do(store, declared)
    first = store.scores(trial)
    for each in declared.trials:  # as `run` does first of all; from now on the model is known to be right, and its size too
        assert not wrong_parts(each.experiment) and not unaskable_models(each.experiment)
    assert planned(store, declared)[0] == "done"
    (tmp_path / "captions.yaml").write_text(yaml.safe_dump({**CAPTIONS, "metrics": ["cider_raw"]}))
    program = (
        "import sys\nfrom mm1_ablate.cli import app\n"
        "try:\n    app(['evaluate', 'sweep.yaml'])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print([name for name in ('torch', 'ray', 'lightning', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "[]" and "1 rescore" in done.stdout, done.stdout
    now = load_study(tmp_path / "sweep.yaml").trials[0]
    assert now.fingerprint == trial.fingerprint and set(store.scores(now)) == set(first)


def test_scoring_that_fails_is_a_failure_of_the_trial_and_can_be_tried_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mm1_ablate.evaluation.metrics.exact_match import ExactMatch

    (tmp_path / "captions.yaml").write_text(yaml.safe_dump({**CAPTIONS, "metrics": ["cider_raw"]}))
    do(store, study(tmp_path, tasks=["captions.yaml"], shots=[0], items=4))
    (tmp_path / "captions.yaml").write_text(yaml.safe_dump(CAPTIONS))
    now = load_study(tmp_path / "sweep.yaml")
    with monkeypatch.context() as broken:
        broken.setattr(ExactMatch, "score", lambda self, predictions, references=None: [float("nan")] * len(predictions))
        outcome = run_study(now, store)
    assert outcome.failed and "no item has a score under exact_match" in store.status(now.trials[0]).reason
    assert run_study(now, store).done == ()
    assert run_study(now, store, RunOptions(retry=True)).done


# ------------------------------------------------------------- what a prediction depends on
BASE: dict[str, Any] = {"tasks": ["miniature_vqa", "miniature_facts"], "shots": [0, 2], "items": 5}
SAME = [
    {"groups": {"both": {"tasks": ["miniature_vqa", "miniature_facts"]}}},
    {"batch_items": 1},
    {"shots": [2, 0, 8]},
    {"tasks": ["miniature_facts", "miniature_fine_detail", "miniature_vqa"]},
    {"overrides": {"miniature_vqa": {"items": 5}}},
    {"seeds": [0]},
    {"losses": {"words": {"source": TEXT}}},
]
OTHER = [
    ({"items": 6}, 3),
    ({"seed": 1}, 3),
    ({"split": "development"}, 3),
    ({"seeds": [1]}, 1),
    ({"demonstrations": "per_query"}, 1),
    ({"zero_shot": {"text_only": 1}}, 1),
    ({"overrides": {"miniature_vqa": {"stop": ["x"]}}}, 2),
    ({"overrides": {"miniature_facts": {"prompt": "{context} : {answer}"}}}, 1),
    ({"protocol": "openflamingo", "demonstrations": "per_task"}, 2),
]


def identities(training: str = "weights", **evaluation: Any) -> dict[tuple[str, int], str]:
    experiment = tiny_experiment({"evaluation": BASE | evaluation})
    return {(part.name, part.shots): part.fingerprint for part in shards_of(experiment, training)}


@pytest.mark.parametrize("changes", SAME)
def test_what_makes_no_difference_to_a_prediction_leaves_it_alone(changes: dict[str, Any]):
    now = identities(**changes)
    assert {part: now[part] for part in identities()} == identities()


@pytest.mark.parametrize(("changes", "differing"), OTHER)
def test_what_makes_a_difference_to_a_prediction_is_asked_again(changes: dict[str, Any], differing: int):
    before, now = identities(), identities(**changes)
    assert sum(before[part] != now[part] for part in before) == differing


def test_the_fewest_shots_of_a_task_make_no_difference_to_the_others(tmp_path: Path):
    record = yaml.safe_load((TASKS / "miniature_vqa.yaml").read_text()) | {"task": "own"}
    parts = []
    for more in ({}, {"fewest_shots": 2}):
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(record | more))
        parts.append({(part, of): mark for (part, of), mark in identities(tasks=[str(tmp_path / "own.yaml")], shots=[0, 2, 4]).items()})
    assert parts[1] == {part: parts[0][part] for part in [("own", 2), ("own", 4)]}


def test_other_weights_annotations_and_records_are_asked_again(tmp_path: Path):
    assert not set(identities().values()) & set(identities("others").values())
    found: list[str] = []
    for rows, changes in (
        (ROWS, {}),
        (ROWS[:3], {}),
        (ROWS, {"prompt": "{question} = {answer}"}),
        (ROWS, {"metrics": ["choice_accuracy_normalised"]}),
    ):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        found.append(identities(tasks=[str(folder / write_task(folder, rows=rows, **changes))])["colours", 0])
    assert found[0] == found[3] and len(set(found)) == 3


# ------------------------------------------------------------- where the data is not
def test_a_finished_study_is_looked_at_where_its_data_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = tmp_path / "here"
    (here / "texts").mkdir(parents=True)
    (here / "texts" / "some.jsonl").write_text('{"text": "red circle"}\n' * 4)
    write_task(here)
    experiment = tiny_experiment().model_dump(mode="json")
    experiment["data"]["sources"]["text"] = {"type": "text", "files": "texts/*.jsonl", "data_type": "text"}
    experiment["evaluation"] = {"tasks": ["miniature_vqa", "colours.yaml"], "shots": [0], "items": 4}
    (here / "tiny.yaml").write_text(yaml.safe_dump(experiment))
    sweep = {
        "sweep": "tiny",
        "experiment": "tiny.yaml",
        "seeds": [0],
        "compare": {"primary": "shot_0/average", "metrics": ["shot_0/average"]},
    }
    (here / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    declared = load_study(here / "sweep.yaml")
    store = Store(here / "ablations")
    do(store, declared)
    store.write_study(declared)

    # The study without its data goes to another machine, another place.
    there = here.rename(tmp_path / "there")
    monkeypatch.chdir(there)
    for folder in ("texts", "data"):
        for path in (there / folder).iterdir():
            path.unlink()
    status = call("status", "sweep.yaml", "--json")
    assert status.exit_code == 0, status.stderr
    assert json.loads(status.stdout)["counts"] == {"done": 1}
    assert "missing on this machine, so digests of the last run are used" in status.stderr and "texts/*.jsonl" in status.stderr
    report = call("report", "sweep.yaml", "--json")
    assert report.exit_code == 0 and json.loads(report.stdout)["holes"] == [], report.stderr
    refused = call("plan", "sweep.yaml")
    assert refused.exit_code == 2 and "no file matches" in refused.stderr
    (there / "ablations" / "studies" / "tiny" / "contents.json").unlink()
    assert call("status", "sweep.yaml").exit_code == 2
