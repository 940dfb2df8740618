"""The store: what is done, what is not and why; nothing half written, nobody's folder taken."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
from study_helpers import quick_preparation, quick_trial, score, study

from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.data.atomic_files import replacing
from mm1_ablate.store.locks import AlreadyRunning, is_held
from mm1_ablate.store.manifests import FingerprintCollision
from mm1_ablate.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def do(store: Store, trial) -> int:
    store.write_trial(trial)
    return quick_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])


def hold_until_killed(root: str, fingerprint: str) -> None:
    store = Store(root)
    folder = store.trial_folder(fingerprint)
    with store.hold(folder):
        store.start(folder, "train")
        time.sleep(600)


def test_a_trial_is_missing_then_done_and_its_scores_are_rows_of_all_its_arms(store: Store) -> None:
    tiny = study(seeds=(0, 1))
    shared = replace(tiny.trials[0], arms=("baseline", "longer"))
    tiny = replace(tiny, trials=(shared, tiny.trials[1], tiny.trials[3]))
    assert store.status(shared).status == "missing"
    assert do(store, shared) == 0
    assert store.status(shared).status == "done"
    results = store.results(tiny)
    assert list(results.columns) == ["arm", "seed", "fingerprint", "metric", "value"]
    assert set(results["arm"]) == {"baseline", "longer"} and set(results["seed"]) == {0}
    assert dict(zip(results["metric"], results["value"], strict=False)) == score(10, 0)
    assert [(arm, seed) for arm, seed, _ in store.holes(tiny)] == [("baseline", 1), ("longer", 1)]
    assert list(store.items(shared)["score"]) == [0.0, 1.0]
    assert set(store.curves(tiny)["arm"]) == {"baseline", "longer"} and len(store.curve(shared)) == 10


def test_a_changed_evaluation_evaluates_the_kept_model_and_trains_nothing(store: Store) -> None:
    before, after = study().trials[0], study(tasks=("miniature_facts",)).trials[0]
    assert before.fingerprint == after.fingerprint and before.evaluation_fingerprint != after.evaluation_fingerprint
    do(store, before)
    state = store.status(after)
    assert (state.status, state.trained) == ("missing", True) and state.reason == "trained, not evaluated"
    do(store, after)
    assert store.status(after).status == store.status(before).status == "done"
    assert (store.trial_folder(after) / "trainings").read_text() == "once\n"


def test_what_a_trial_is_comes_back_from_its_folder_with_the_evaluation_asked_for(store: Store) -> None:
    before, after = study().trials[0], study(tasks=("miniature_facts",)).trials[0]
    store.write_trial(before)
    store.write_trial(after)
    assert store.read_trial(before.fingerprint, before.evaluation_fingerprint) == (before.experiment, 0)
    assert store.read_trial(before.fingerprint, after.evaluation_fingerprint) == (after.experiment, 0)
    preparation = preparations_of(study(prepared=("baseline",)).trials[0].experiment, 3)[0]
    store.write_preparation(preparation)
    assert store.read_preparation(preparation.fingerprint) == preparation


def test_a_failure_keeps_its_reason_and_waits_until_it_is_retried(store: Store) -> None:
    trial = study().trials[0]
    store.root.mkdir()
    (store.root / "fail-10").touch()
    assert do(store, trial) == 1
    state = store.status(trial)
    assert (state.status, state.reason) == ("failed", "ArithmeticError: no trial of 10 steps ever works")
    assert "quick_trial" not in state.reason and "second line" in (store.error(store.trial_folder(trial)) or "")
    store.retry(store.trial_folder(trial))
    assert store.status(trial).status == "missing"


def test_a_failed_evaluation_does_not_fail_another_one(store: Store) -> None:
    before, after = study().trials[0], study(tasks=("miniature_facts",)).trials[0]
    folder = store.write_trial(before)
    (folder / "model.pt").touch()
    store.start(folder, "evaluate", before.evaluation_fingerprint)
    store.fail(folder, "no such task")
    assert store.status(before).status == "failed"
    assert store.status(after).status == "missing"


def test_a_trial_whose_preparation_failed_has_failed_until_that_is_retried(store: Store) -> None:
    trial = study(prepared=("baseline",)).trials[0]
    part = preparations_of(trial.experiment, 0)[0]
    store.root.mkdir()
    (store.root / "fail-preparation").touch()
    store.write_preparation(part)
    assert quick_preparation(str(store.root), part.fingerprint) == 1
    state = store.status(trial)
    assert state.status == "failed" and part.name in state.reason and "no images" in state.reason
    store.retry(store.prepared_folder(part))
    assert store.status(trial).status == "missing"


def test_a_killed_trial_is_interrupted_at_once_and_a_live_one_stays_locked(store: Store) -> None:
    trial = study().trials[0]
    folder = store.write_trial(trial)
    child = multiprocessing.get_context("fork").Process(target=hold_until_killed, args=(str(store.root), trial.fingerprint))
    child.start()
    try:
        until = time.monotonic() + 300
        while store.status(trial).status != "running" and time.monotonic() < until:
            time.sleep(0.02)
        assert store.status(trial).status == "running" and is_held(folder)
        with pytest.raises(AlreadyRunning), store.hold(folder):
            pass
        assert do(store, trial) != 0
    finally:
        child.kill()
        child.join()
    assert store.status(trial).status == "interrupted"
    assert do(store, trial) == 0 and store.status(trial).status == "done"


def test_two_fingerprints_with_the_same_beginning_are_distinguished(store: Store) -> None:
    trial = study().trials[0]
    store.write_trial(trial)
    other = replace(trial, fingerprint=trial.fingerprint[:12] + "0" * 52)
    with pytest.raises(FingerprintCollision):
        store.write_trial(other)
    with pytest.raises(FingerprintCollision):
        store.status(other)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        beside.write_text("ne")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["scores.json"]


def test_an_empty_study_has_no_results_and_no_curves_but_their_columns(store: Store) -> None:
    tiny = study()
    assert store.results(tiny).empty and "metric" in store.results(tiny)
    assert isinstance(store.curves(tiny), pandas.DataFrame) and store.curves(tiny).empty
    assert len(store.holes(tiny)) == 2


def test_how_a_trial_is_run_may_be_edited_after_a_failure(store: Store) -> None:
    before = study(prepared=("baseline",)).trials[0]
    training = before.experiment.training.model_copy(update={"micro_batch_rows": 1})
    evaluation = before.experiment.evaluation.model_copy(update={"batch_items": 3})
    after = replace(before, experiment=before.experiment.model_copy(update={"training": training, "evaluation": evaluation}))
    store.write_trial(before)
    store.write_trial(after)
    experiment, _ = store.read_trial(after.fingerprint, after.evaluation_fingerprint)
    assert (experiment.training.micro_batch_rows, experiment.evaluation.batch_items) == (1, 3)
    times = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.json")}
    store.write_trial(after)
    assert times == {path: path.stat().st_mtime_ns for path in store.root.rglob("*.json")}, "what is the same is not written"


def test_the_code_that_trained_a_trial_is_kept_whatever_code_evaluates_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, resumed = study().trials
    monkeypatch.setattr("mm1_ablate.store.status.code_version", lambda: "1.0+a")
    do(store, trial)
    assert store.code(trial) == "1.0+a"
    folder = store.write_trial(resumed)
    store.start(folder, "train")
    (folder / "last.ckpt").touch()
    store.fail(folder, "no memory")
    store.retry(folder)
    monkeypatch.setattr("mm1_ablate.store.status.code_version", lambda: "1.0+b")
    do(store, study(tasks=("miniature_facts",)).trials[0])
    do(store, resumed)
    assert (store.code(trial), store.code(resumed)) == ("1.0+a", "1.0+a, 1.0+b")


def test_a_code_version_is_the_version_and_a_digest() -> None:
    from mm1_ablate import __version__
    from mm1_ablate.store.status import code_version

    version, _, digest = code_version().rpartition("+")
    assert version == __version__ and len(digest) == 8 and int(digest, 16) >= 0


def test_trials_of_one_name_that_two_edits_left_behind_are_both_listed(store: Store) -> None:
    names = ("baseline", "longer", "longest")
    versions = [replace(study(arms=names), trials=(replace(trial, name="baseline/seed-0"),)) for trial in study(arms=names).trials]
    for version in versions:
        store.write_trial(version.trials[0])
        store.register_trials(version)
    left = {store.trial_folder(version.trials[0]): "baseline/seed-0" for version in versions[:2]}
    assert store.unlisted_trials(versions[2]) == left
