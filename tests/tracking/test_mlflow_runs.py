"""A study in MLflow: complete, written once, written again from the store, and never in the way."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
from mlflow import MlflowClient
from study_helpers import quick_trial, study

from mm1_ablate.config.study import Change, Study
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.mlflow_runs import keep_tracking, track
from mm1_ablate.tracking.run_contents import parameters_of, short_metric
from mm1_ablate.tracking.server import TrackingFailed, tracking_uri
from mm1_ablate.tracking.ui import addresses, port_from, start_server, stop


def do(store: Store, tiny: Study) -> None:
    for trial in tiny.trials:
        store.write_trial(trial)
        quick_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "a store").mkdir()
    return Store(tmp_path / "a store")


def test_trials_have_runs_with_settings_curves_and_scores_under_the_comparison(store: Store, tmp_path: Path) -> None:
    tiny = study(arms=("baseline", "failing"), seeds=(0, 1))
    tiny = replace(tiny, trials=(replace(tiny.trials[0], arms=("baseline", "failing")), *tiny.trials[1:]))
    (store.root / "fail-11").touch()
    do(store, tiny)
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<h1>verdict</h1>")
    table = pandas.DataFrame({"arm": ["baseline"], "8-shot": [10.0]})
    tracked = track(tiny, store, report=report, table=table, verdict="**As expected.**")
    client = MlflowClient(tracking_uri(store))
    assert len(tracked.trial_runs) == tracked.written == 4

    run = client.get_run(tracked.trial_runs[tiny.trials[0].evaluation_fingerprint])
    assert run.info.status == "FINISHED" and run.info.run_name == "baseline/seed-0"
    assert run.data.metrics["8-shot"] == 10.0 and run.data.metrics["8-shot/vqa"] == 10.0 and run.data.metrics["TextCore"] == 50.0
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 11))
    assert run.data.params["training.steps"] == "10" and run.data.params["seed"] == "0"
    assert (run.data.tags["arm"], run.data.tags["arms"], run.data.tags["study"]) == ("baseline", "baseline, failing", "test")
    assert run.data.tags["mlflow.parentRunId"] == tracked.comparison_run

    failed = client.get_run(tracked.trial_runs[tiny.trials[2].evaluation_fingerprint])
    assert failed.info.status == "FAILED" and "no trial of 11 steps ever works" in failed.data.tags["mlflow.note.content"]

    parent = client.get_run(tracked.comparison_run)
    assert parent.info.status == "FAILED" and parent.data.tags["mlflow.note.content"].startswith("**As expected.**")
    assert parent.data.metrics["8-shot baseline"] == pytest.approx(10.05)
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"comparison.json", "report"}
    view = json.loads(client.get_experiment(tracked.experiment_id).tags["mlflow.sharedViewState.by-arm"])
    assert view["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "arm"}]
    assert "metrics.`8-shot`" in view["selectedColumns"]


def test_a_trial_is_tagged_with_all_in_which_its_arm_differs(store: Store) -> None:
    tiny = study(arms=("baseline", "longer", "as long"))
    changes = (
        Change("training.steps", 300, 3000),
        Change("training.optimizer.momentum", 0.95, None, declared=False, dropped=True),
        Change("training.warmup_steps", 3, 30, declared=False),
    )
    arms = [replace(arm, changes=changes if arm.name == "longer" else ()) for arm in tiny.arms]
    tiny = replace(tiny, arms=tuple(arms), trials=(tiny.trials[0], replace(tiny.trials[1], arms=("longer", "as long"))))
    do(store, tiny)
    client = MlflowClient(tracking_uri(store))

    def tagged(study: Study) -> list[str]:
        runs = track(study, store).trial_runs
        return [client.get_run(runs[trial.evaluation_fingerprint]).data.tags["changes"] for trial in study.trials]

    words = "training.steps 300 → 3000; dropped with the type: training.optimizer.momentum 0.95; also changed: training.warmup_steps 3 → 30"
    assert tagged(tiny) == ["", f"longer: {words}\nas long: the baseline"]
    # Trials stay what they are, and their arms do not: the tag follows.
    alike = tuple(replace(arm, changes=changes if arm.name != "baseline" else ()) for arm in arms)
    assert tagged(replace(tiny, arms=alike)) == ["", words]
    many = tuple(Change(f"data.sources.number_{index}.weight", 1, 2) for index in range(500))
    (_, long) = tagged(replace(tiny, arms=tuple(replace(arm, changes=many) for arm in alike)))
    assert 7000 < len(long) <= 8000 and long.endswith(".weight 1 → 2; and more")


def test_a_second_call_writes_only_what_is_new_and_a_retried_trial_once(store: Store) -> None:
    tiny = study(arms=("baseline", "failing"))
    (store.root / "fail-11").touch()
    do(store, tiny)
    first = track(tiny, store)
    assert track(tiny, store).written == 0
    (store.root / "fail-11").unlink()
    do(store, tiny)
    second = track(tiny, store)
    good, retried = (trial.evaluation_fingerprint for trial in tiny.trials)
    assert second.written == 1 and second.trial_runs[good] == first.trial_runs[good]
    client = MlflowClient(tracking_uri(store))
    runs = client.search_runs([second.experiment_id])
    assert len(runs) == 3 and {run.info.status for run in runs} == {"FINISHED"}
    assert len(client.get_metric_history(second.trial_runs[retried], "loss")) == 11

    shared = replace(tiny.trials[0], arms=("baseline", "twin"))
    edited = replace(tiny, arms=(*tiny.arms, replace(tiny.arms[0], name="twin")), trials=(shared, tiny.trials[1]))
    assert track(edited, store).written == 0
    assert client.get_run(first.trial_runs[good]).data.tags["arms"] == "baseline, twin"


def test_what_was_deleted_is_written_again_from_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = study()
    do(store, tiny)
    track(tiny, store)
    client = MlflowClient(tracking_uri(store))
    client.delete_experiment(track(tiny, store).experiment_id)
    again = track(tiny, store)
    assert len(again.trial_runs) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store.root}/another.db")
    assert track(tiny, store).written == 2


def test_runs_of_trials_that_a_study_no_longer_has_leave_the_view_and_come_back(store: Store) -> None:
    tiny, edited = study(), study(tasks=("miniature_facts",))
    do(store, tiny)
    old = track(tiny, store)
    do(store, edited)
    new = track(edited, store)
    client = MlflowClient(tracking_uri(store))

    def shown() -> set[str]:
        return {run.info.run_id for run in client.search_runs([new.experiment_id], filter_string="tags.kind = 'trial'")}

    assert shown() == set(new.trial_runs.values())
    back = track(tiny, store)
    assert back.written == 0 and back.trial_runs == old.trial_runs and shown() == set(old.trial_runs.values())


def test_a_moved_store_writes_into_its_own_place(store: Store, tmp_path: Path) -> None:
    tiny, report = study(arms=("baseline",)), tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<h1>verdict</h1>")
    do(store, tiny)
    track(tiny, store, report=report)
    same = tmp_path / "link"
    same.symlink_to(store.root)
    assert track(tiny, Store(same)).written == 0, "the same place by another name"
    copy = Store(shutil.copytree(store.root, tmp_path / "a copy"))
    shutil.rmtree(store.root)
    tracked = track(tiny, copy, report=report)
    assert tracked.written == 1 and not store.root.exists()
    assert list((copy.root / "mlartifacts").rglob("report.html"))


def test_a_broken_mlflow_is_a_word_and_no_traceback(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = study()
    do(store, tiny)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/such/folder/mlflow.db")
    said: list[str] = []
    with keep_tracking(tiny, store, said.append, interval=0.01):
        until = time.monotonic() + 300
        while not said and time.monotonic() < until:
            time.sleep(0.02)
    assert len(said) == 1 and "continues without MLflow" in said[0]
    with pytest.raises(TrackingFailed, match="could not be written"):
        track(tiny, store)


def test_metric_names_are_short_and_allowed() -> None:
    names = {
        "shot_8/average": "8-shot",
        "text_core/average": "TextCore",
        "shot_8/average.probability": "8-shot probability",
        "shot_0/miniature_captions.slot_f1": "0-shot/captions.slot_f1",
        "mine/acc@1": "mine/acc-1",
    }
    assert {name: short_metric(name) for name in names} == names


def test_parameters_are_what_a_trial_is_and_not_how_it_is_run() -> None:
    parameters = parameters_of(study(prepared=("baseline",)).trials[0])
    assert parameters["model.image_encoder.preparation.objective"] == "contrastive"
    assert parameters["data.sources"] == "synthetic_captions, interleaved, text"
    assert "training.micro_batch_rows" not in parameters and "experiment" not in parameters


def test_the_server_shows_the_study_and_its_report_and_leaves_no_process(store: Store) -> None:
    tiny = study(arms=("baseline",))
    do(store, tiny)
    report = store.study_folder(tiny) / "report"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<h1>verdict</h1>")
    tracked = track(tiny, store, report=report)
    port = port_from(5000)
    server = start_server(store, port)
    try:
        base = f"http://127.0.0.1:{port}"
        lines = addresses(tiny, store, base)
        assert f"{base}/#/experiments/{tracked.experiment_id}/runs?viewStateShareKey=by-arm" in lines[0]
        assert lines[1].endswith(f"/runs/{tracked.comparison_run}/artifacts/report/report.html?workflowType=machine_learning")
        with urllib.request.urlopen(f"{base}/get-artifact?path=report/report.html&run_uuid={tracked.comparison_run}") as answer:
            assert answer.read() == b"<h1>verdict</h1>"
        assert port_from(port) != port
    finally:
        stop(server)
    assert server.poll() is not None and port_from(port) == port


def test_a_dashboard_that_is_stopped_stops_its_server(tmp_path: Path) -> None:
    port = port_from(5100)
    imports = "from pathlib import Path; from mm1_ablate.tracking.ui import serve; from mm1_ablate.store.store import Store"
    code = f"{imports}; serve(Store(Path({str(tmp_path)!r})), None, {port})"
    dashboard = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert dashboard.stdout is not None and "Ctrl-C" in dashboard.stdout.readline()
    assert port_from(port) != port
    dashboard.terminate()
    dashboard.wait(timeout=300)
    assert port_from(port) == port


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_browser_opens_the_view_of_the_trials(store: Store, tmp_path: Path) -> None:
    tiny = study(seeds=(0, 1))
    do(store, tiny)
    view = track(tiny, store).view
    port = port_from(5300)
    server = start_server(store, port)
    try:
        browser = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
        page = ["--virtual-time-budget=30000", "--window-size=1600,900", "--dump-dom", f"http://127.0.0.1:{port}{view}"]
        shown = subprocess.run([*browser, *page], capture_output=True, text=True, timeout=90).stdout
    finally:
        stop(server)
    text = " ".join(re.sub(r"<[^>]+>", " ", shown).split())
    # The view's filter: trials, and not the comparison.
    assert "mm1-ablate/test" in text and "4 matching runs" in text and "baseline/seed-1" in text, text[-2000:]
