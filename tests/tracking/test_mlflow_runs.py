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
from mm1_ablate.tracking.live import keep_tracking
from mm1_ablate.tracking.mlflow_runs import track
from mm1_ablate.tracking.run_contents import arm_names, short_metric
from mm1_ablate.tracking.server import TrackingFailed, tracking_uri
from mm1_ablate.tracking.shown_study import ComparedArm, ComparedScore, ComparedStudy
from mm1_ablate.tracking.ui import addresses, port_from, start_server, stop


def do(store: Store, tiny: Study) -> None:
    for trial in tiny.trials:
        store.write_trial(trial)
        quick_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])


def compared(
    report: Path | None = None, verdict: str = "better", difference: float = 2.0, shots: tuple[str, ...] = ("8-shot",)
) -> ComparedStudy:
    """A comparison of the arms baseline and longer."""
    judged = ComparedScore(20.0, difference, difference - 1, difference + 1, 0.01)
    return ComparedStudy(
        headline="8-shot against the baseline – as expected.",
        primary="8-shot",
        arms={
            "baseline": ComparedArm("baseline", 2, {name: ComparedScore(18.0) for name in shots}, score="18.0"),
            "longer": ComparedArm(verdict, 2, dict.fromkeys(shots, judged), "tokens 1 → 2", "20.0", "+2.0 [+1.0, +3.0]"),
        },
        note="**As expected.**",
        table=pandas.DataFrame({"arm": ["baseline"], "8-shot": [10.0]}),
        report=report,
    )


def with_report(folder: Path) -> Path:
    folder.mkdir()
    (folder / "report.html").write_text("<h1>verdict</h1>")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "a store").mkdir()
    return Store(tmp_path / "a store")


def test_trials_have_runs_with_settings_curves_and_scores_under_their_arms_under_the_comparison(store: Store, tmp_path: Path) -> None:
    tiny = study(arms=("baseline", "failing"), seeds=(0, 1))
    tiny = replace(tiny, trials=(replace(tiny.trials[0], arms=("baseline", "failing")), *tiny.trials[1:]))
    (store.root / "fail-11").touch()
    do(store, tiny)
    tracked = track(tiny, store, compared(with_report(tmp_path / "report")))
    client = MlflowClient(tracking_uri(store))
    assert len(tracked.trial_runs) == tracked.written == 4

    run = client.get_run(tracked.trial_runs[tiny.trials[0].evaluation_fingerprint])
    assert run.info.status == "FINISHED" and run.info.run_name == "baseline/seed-0"
    assert run.data.metrics["8-shot"] == 10.0 and run.data.metrics["8-shot/vqa"] == 10.0 and run.data.metrics["TextCore"] == 50.0
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 11))
    assert run.data.params["training.steps"] == "10" and run.data.params["seed"] == "0"
    assert (run.data.tags["arm"], run.data.tags["arms"], run.data.tags["study"]) == ("baseline", "baseline, failing", "test")
    arm = client.get_run(tracked.arm_runs["baseline"])
    assert run.data.tags["mlflow.parentRunId"] == arm.info.run_id and arm.data.tags["mlflow.parentRunId"] == tracked.comparison_run
    assert run.data.tags["mlflow.note.content"] == "Arm `baseline`, seed 0: trained and evaluated; TextCore 50.0, 8-shot 10.0."

    failed = client.get_run(tracked.trial_runs[tiny.trials[2].evaluation_fingerprint])
    assert failed.info.status == "FAILED" and "no trial of 11 steps ever works" in failed.data.tags["mlflow.note.content"]

    parent = client.get_run(tracked.comparison_run)
    assert parent.info.status == "FAILED" and parent.data.tags["mlflow.note.content"].startswith("**As expected.**")
    assert parent.data.metrics == {}, "charts of one bar tell nothing"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"comparison.json", "report", "settings.yaml"}


def test_each_arm_has_a_run_with_its_difference_interval_verdict_and_changes(store: Store) -> None:
    tiny = study(seeds=(0, 1))
    change = (Change("training.steps", 10, 11),)
    tiny = replace(tiny, arms=(tiny.arms[0], replace(tiny.arms[1], changes=change)))
    do(store, tiny)
    tracked = track(tiny, store, compared(shots=("8-shot", "4-shot")))
    client = MlflowClient(tracking_uri(store))

    def confirmed(verdict: str) -> list[str]:
        return [run.info.run_id for run in client.search_runs([tracked.experiment_id], f"tags.kind = 'arm' AND tags.verdict = '{verdict}'")]

    assert confirmed("better") == [tracked.arm_runs["longer"]] and confirmed("worse") == []
    run = client.get_run(tracked.arm_runs["longer"])
    others = {"4-shot": 20.0, "4-shot difference": 2.0, "4-shot low": 1.0, "4-shot high": 3.0, "4-shot p adjusted": 0.01}
    own = {"8-shot": 20.0, "8-shot difference": 2.0, "low": 1.0, "high": 3.0, "p adjusted": 0.01, "seeds": 2.0}
    assert run.data.metrics == own | others and run.info.status == "FINISHED"
    tags = {name: run.data.tags.get(name) for name in ("arm", "baseline", "changes", "also changed", "missing")}
    assert tags == {
        "arm": "longer",
        "baseline": "baseline",
        "changes": "training.steps 10 → 11",
        "also changed": "tokens 1 → 2",
        "missing": None,
    }
    assert run.data.tags["mlflow.note.content"].startswith("**better**: `longer` against `baseline`: 8-shot 20.0, +2.0 [+1.0, +3.0].")
    views = {
        name.rpartition(".")[2]: json.loads(value)
        for name, value in client.get_experiment(tracked.experiment_id).tags.items()
        if name.startswith("mlflow.sharedViewState")
    }
    assert set(views) == {"arms", "trials", "charts"} == set(tracked.views)
    shown = views["arms"]["selectedColumns"]
    assert shown[:2] == ["tags.`verdict`", "metrics.`8-shot difference`"] and "tags.`changes`" in shown and views["arms"]["groupBy"] is None
    assert (views["arms"]["searchFilter"], views["arms"]["orderByKey"]) == ("tags.kind = 'arm'", "metrics.`8-shot difference`")
    assert next(chart["metricKey"] for chart in views["charts"]["compareRunCharts"]) == "8-shot"

    # In place: the same run has the new numbers, and nothing of what is not compared any more.
    again = track(tiny, store, compared(verdict="leaning", difference=0.5, shots=("8-shot", "4-shot")))
    assert again.arm_runs == tracked.arm_runs
    run = client.get_run(tracked.arm_runs["longer"])
    assert run.data.metrics["8-shot difference"] == 0.5 and run.data.tags["verdict"] == "leaning"
    fewer = client.get_run(track(tiny, store, compared()).arm_runs["longer"])
    assert fewer.data.metrics == own and len(client.search_runs([tracked.experiment_id], "tags.kind = 'arm'")) == 2


def test_an_arm_says_what_is_missing_and_is_not_shown_with_numbers_of_trials_that_are_gone(store: Store) -> None:
    tiny = study(arms=("baseline", "failing"), seeds=(0, 1))
    (store.root / "fail-11").touch()
    do(store, replace(tiny, trials=tiny.trials[:3]))
    runs = track(tiny, store).arm_runs
    client = MlflowClient(tracking_uri(store))
    tags = client.get_run(runs["failing"]).data.tags
    assert tags["missing"] == "2 of 2 trials: seed 0 failed (ArithmeticError: no trial of 11 steps ever works), seed 1 missing"
    assert tags["verdict"] == "not compared yet" and client.get_run(runs["failing"]).info.status == "FAILED"
    assert "missing" not in client.get_run(runs["baseline"]).data.tags

    both = study(seeds=(0, 1))
    runs = track(both, store, compared()).arm_runs
    other = study(seeds=(0, 1), tasks=("miniature_facts",))
    anew = client.get_run(track(other, store).arm_runs["longer"])
    assert anew.data.metrics == {} and anew.data.tags["verdict"] == "not compared yet" and anew.info.run_id != runs["longer"]


def test_the_note_of_the_experiment_begins_with_the_verdict_and_what_people_write_there_stays(store: Store) -> None:
    tiny = study(seeds=(0, 1))
    do(store, tiny)
    client = MlflowClient(tracking_uri(store))
    tracked = track(tiny, store)

    def note() -> str:
        return client.get_experiment(tracked.experiment_id).tags["mlflow.note.content"]

    assert note().startswith("The study 'test' has no comparison yet.")
    track(tiny, store, compared())
    assert note().startswith("**8-shot against the baseline – as expected.**\n\n| arm | 8-shot | difference | verdict | changes |")
    assert "| longer | 20.0 | +2.0 [+1.0, +3.0] | better |  |" in note()
    assert all(f"]({path.removeprefix('/')})" in note() for path in (*tracked.views.values(), tracked.report))
    client.set_experiment_tag(tracked.experiment_id, "mlflow.note.content", f"{note()}\n\nSeen by Ada.")
    client.set_experiment_tag(tracked.experiment_id, "approved", "by Ada")
    client.set_tag(
        tracked.arm_runs["longer"],
        "mlflow.note.content",
        "Look at seed 1.\n\n" + client.get_run(tracked.arm_runs["longer"]).data.tags["mlflow.note.content"],
    )
    track(tiny, store, replace(compared(verdict="worse"), headline="All is lost."))
    assert note().startswith("**All is lost.**\n") and note().endswith("\n\nSeen by Ada.") and note().count("| longer |") == 1
    assert client.get_experiment(tracked.experiment_id).tags["approved"] == "by Ada"
    of_arm = client.get_run(tracked.arm_runs["longer"]).data.tags["mlflow.note.content"]
    assert of_arm.startswith("Look at seed 1.\n\n**worse**: `longer`") and of_arm.count("**") == 2


def test_a_note_of_many_arms_is_no_longer_than_mlflow_takes(store: Store) -> None:
    tiny = study()
    many = {f"arm {number}/{'x' * 90}": ComparedArm("worse", 2, {}, score="1.0", difference="−1.0") for number in range(100)}
    names = tuple(replace(tiny.arms[1], name=name) for name in many)
    tracked = track(replace(tiny, arms=(tiny.arms[0], *names), trials=tiny.trials[:1]), store, replace(compared(), arms=many))
    note = MlflowClient(tracking_uri(store)).get_experiment(tracked.experiment_id).tags["mlflow.note.content"]
    assert 4000 < len(note) <= 5000 and "more arms are in the view of the arms" in note and "[The report](" in note


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("without/text", "without/captioned"), ["text", "captioned"]),
        (("a/size=1,lr=1", "a/size=2,lr=1"), ["size=1", "size=2"]),
        (("a/size=1,lr=1", "b/size=1,lr=1"), ["a/size=1,lr=1", "b/size=1,lr=1"]),
        (("a/size=1", "b"), ["a/size=1", "b"]),
    ],
)
def test_names_of_arms_begin_with_what_tells_them_apart(names: tuple[str, str], shown: list[str]) -> None:
    tiny = study()
    arms = [replace(tiny.arms[1], name=name, group=name.partition("/")[0]) for name in names]
    assert list(arm_names(replace(tiny, arms=(tiny.arms[0], *arms))).values()) == ["baseline", *shown]


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
    assert len(runs) == 5 and {run.info.status for run in runs} == {"FINISHED"}
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


def test_runs_of_what_a_study_no_longer_has_leave_the_views_and_come_back(store: Store) -> None:
    tiny = study()
    edited = replace(study(arms=("baseline",)), arms=(replace(tiny.arms[0], name="renamed", baseline="renamed"),))
    edited = replace(edited, trials=(replace(edited.trials[0], arms=("renamed",), name="renamed/seed-0"),))
    do(store, tiny)
    old = track(tiny, store)
    new = track(edited, store)
    client = MlflowClient(tracking_uri(store))

    def shown(kind: str) -> set[str]:
        return {run.info.run_id for run in client.search_runs([new.experiment_id], filter_string=f"tags.kind = '{kind}'")}

    assert shown("trial") == set(new.trial_runs.values()) <= set(old.trial_runs.values()) and shown("arm") == set(new.arm_runs.values())
    kept = client.get_run(*new.trial_runs.values())
    assert (kept.info.run_name, kept.data.tags["arm"], "group" in kept.data.tags) == ("renamed/seed-0", "renamed", True)
    back = track(tiny, store)
    assert back.written == 0 and back.trial_runs == old.trial_runs and back.arm_runs == old.arm_runs
    assert shown("trial") == set(old.trial_runs.values()) and shown("arm") == set(old.arm_runs.values())


def test_evaluating_again_adds_to_a_trials_run(store: Store) -> None:
    tiny, edited = study(), study(tasks=("miniature_vqa", "miniature_facts"))
    do(store, tiny)
    old = track(tiny, store)
    client = MlflowClient(tracking_uri(store))
    waiting = track(edited, store)
    assert waiting.trial_runs == {} and not client.search_runs([old.experiment_id], "tags.kind = 'trial'"), "of the former file"
    for trial in edited.trials:
        store.write_trial(trial)
        quick_trial(
            str(store.root),
            trial.fingerprint,
            [trial.evaluation_fingerprint],
            lambda *_: {"shot_8/average": 1.0, "shot_8/new": 2.0, "shot_8/miniature_vqa": 3.0, "text_core/average": 4.0},
        )
    new = track(edited, store)
    assert sorted(new.trial_runs.values()) == sorted(old.trial_runs.values())
    run = client.get_run(new.trial_runs[edited.trials[0].evaluation_fingerprint])
    assert (run.data.metrics["8-shot"], run.data.metrics["8-shot/new"]) == (1.0, 2.0) and run.data.metrics["loss"] == 2.0
    assert len(client.search_runs([new.experiment_id], "tags.kind LIKE '%'")) == 5
    do(store, edited)
    fewer = client.get_run(track(edited, store).trial_runs[edited.trials[0].evaluation_fingerprint])
    assert "8-shot/new" not in fewer.data.metrics and fewer.data.metrics["8-shot"] == 10.0


def test_a_moved_store_writes_into_its_own_place(store: Store, tmp_path: Path) -> None:
    tiny, report = study(arms=("baseline",)), compared(with_report(tmp_path / "report"))
    do(store, tiny)
    track(tiny, store, report)
    MlflowClient(tracking_uri(store)).set_tag(track(tiny, store).comparison_run, "seen", "by Ada")
    same = tmp_path / "link"
    same.symlink_to(store.root)
    assert track(tiny, Store(same)).written == 0, "the same place by another name"
    copy = Store(shutil.copytree(store.root, tmp_path / "a copy"))
    shutil.rmtree(store.root)
    (tmp_path / "report" / "report.html").write_text("another")
    tracked = track(tiny, copy, report)
    assert tracked.written == 0 and not store.root.exists()
    client = MlflowClient(tracking_uri(copy))
    assert Path(client.download_artifacts(tracked.comparison_run, "report/report.html")).read_text() == "another"
    assert "a%20copy" in client.get_run(tracked.comparison_run).info.artifact_uri
    assert client.get_run(tracked.comparison_run).data.tags["seen"] == "by Ada", "what people wrote moves along"


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


def test_the_server_shows_the_study_and_its_report_and_leaves_no_process(store: Store) -> None:
    tiny = study(arms=("baseline",))
    do(store, tiny)
    report = store.study_folder(tiny) / "report"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<h1>verdict</h1>")
    tracked = track(tiny, store, compared(report))
    port = port_from(5000)
    server = start_server(store, port)
    try:
        base = f"http://127.0.0.1:{port}"
        lines = addresses(tiny, store, base)
        assert f"{base}/#/experiments/{tracked.experiment_id}/runs?viewStateShareKey=arms" in lines[0] and "traces" in lines[-1]
        assert lines[-2].endswith(f"/runs/{tracked.comparison_run}/artifacts/report/report.html?workflowType=machine_learning")
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
def test_a_browser_opens_the_view_of_the_arms(store: Store, tmp_path: Path) -> None:
    tiny = study(seeds=(0, 1))
    do(store, tiny)
    view = track(tiny, store, compared()).view
    port = port_from(5300)
    server = start_server(store, port)
    try:
        browser = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
        page = ["--virtual-time-budget=30000", "--window-size=1600,900", "--dump-dom", f"http://127.0.0.1:{port}{view}"]
        shown = subprocess.run([*browser, *page], capture_output=True, text=True, timeout=90).stdout
    finally:
        stop(server)
    text = " ".join(re.sub(r"<[^>]+>", " ", shown).split())
    # The view's filter: arms, and neither trials nor the comparison.
    assert "mm1-ablate/test" in text and "2 matching runs" in text and "longer" in text and "better" in text, text[-2000:]
