"""MLflow as a mirror: what was deleted or lost there is as the store says after the next command, and stores are told apart."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from mlflow import MlflowClient
from study_helpers import quick_trial, study

from mm1_ablate.config.study import Change, Study
from mm1_ablate.run.machine_record import write_machine
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.mlflow_runs import track
from mm1_ablate.tracking.server import tracking_uri
from mm1_ablate.tracking.shown_study import ComparedArm, ComparedScore, ComparedStudy


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return finished(tmp_path / "store", study())


def finished(folder: Path, done: Study) -> Store:
    folder.mkdir()
    store = Store(folder)
    for trial in done.trials:
        write_machine(store.write_trial(trial))
        quick_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])
    return store


def compared(folder: Path, *pictures: str) -> ComparedStudy:
    folder.mkdir(exist_ok=True)
    for name in ("report.html", *pictures):
        (folder / name).write_text(name)
    arms = {name: ComparedArm("worse", 1, {"8-shot": ComparedScore(10.0, 1.0)}, score="10.0") for name in ("baseline", "longer")}
    return ComparedStudy("As expected.", "8-shot", arms, "**As expected.**", pandas.DataFrame({"arm": ["baseline"]}), folder)


def test_runs_and_experiments_that_were_deleted_are_restored_and_names_that_people_give_are_kept(store: Store) -> None:
    tiny = study()
    tracked = track(tiny, store)
    client = MlflowClient(tracking_uri(store))
    first, second = tracked.trial_runs.values()
    client.delete_run(first)
    client.delete_run(tracked.arm_runs["longer"])
    client.update_run(second, name="the one that I like")
    assert track(tiny, store) == replace(tracked, written=0)
    client.delete_experiment(tracked.experiment_id)
    assert track(tiny, store) == replace(tracked, written=0)
    client.rename_experiment(tracked.experiment_id, "mine")
    assert track(tiny, store) == replace(tracked, written=0)
    assert client.get_experiment(tracked.experiment_id).name == "mine" and client.get_run(second).info.run_name == "the one that I like"
    assert len(client.search_runs([tracked.experiment_id])) == 5


def test_two_stores_with_a_study_of_one_name_have_an_experiment_each_on_one_server(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a store is another store; one that was moved is the same."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/server.db")
    tiny = study()
    own = track(tiny, store).experiment_id
    copied = track(tiny, Store(shutil.copytree(store.root, tmp_path / "copy"))).experiment_id
    other = track(tiny, finished(tmp_path / "other", tiny)).experiment_id
    client = MlflowClient(tracking_uri(store))
    names = [client.get_experiment(one).name for one in (own, copied, other)]
    assert len({own, copied, other}) == 3 and names[0] == "mm1-ablate/test" and all(" (store " in name for name in names[1:])
    assert all(len(client.search_runs([one])) == 5 for one in (own, copied, other))
    moved = Store(shutil.move(store.root, tmp_path / "moved"))
    assert track(tiny, moved).experiment_id == own and len(client.search_experiments()) == 4


def test_pictures_that_a_report_no_longer_has_are_gone_and_an_equal_report_is_not_written_again(store: Store, tmp_path: Path) -> None:
    tiny = study()
    tracked = track(tiny, store, compared(tmp_path / "report", "grid.png", "forest.png"))
    client = MlflowClient(tracking_uri(store))

    def files() -> list[str]:
        return sorted(file.path for file in client.list_artifacts(tracked.comparison_run, "report"))

    assert files() == ["report/forest.png", "report/grid.png", "report/report.html"]
    (place,) = (store.root / "mlartifacts").rglob("forest.png")
    written = place.stat().st_mtime_ns
    track(tiny, store, compared(tmp_path / "report"))
    assert place.stat().st_mtime_ns == written
    (tmp_path / "report" / "grid.png").unlink()
    track(tiny, store, compared(tmp_path / "report"))
    assert files() == ["report/forest.png", "report/report.html"]


def test_a_removed_setting_is_said_to_be_removed_and_parameters_are_what_is_ablated_or_names_the_system(tmp_path: Path) -> None:
    tiny = study(arms=("baseline", "without", "longer"))
    mixture = tiny.arms[1].experiment.model_copy(
        update={"data": tiny.arms[1].experiment.data.model_copy(update={"mixture": {"captioned": 45.0, "interleaved": 45.0}})}
    )
    clip = mixture.model_copy(update={"training": mixture.training.model_copy(update={"gradient_clip": None})})
    changes: list[tuple[Change, ...]] = [
        (),
        (Change("data.mixture.text", 10, None, removed=True), Change("training.gradient_clip", 1.0, None, removed=True)),
        (Change("training.steps", 10, 12),),
    ]
    experiments = [tiny.arms[0].experiment, clip, tiny.arms[2].experiment]
    arms = tuple(replace(arm, experiment=own, changes=told) for arm, own, told in zip(tiny.arms, experiments, changes, strict=True))
    tiny = replace(tiny, arms=arms)
    tracked = track(tiny, store := finished(tmp_path / "store", tiny))
    client = MlflowClient(tracking_uri(store))
    parameters = [client.get_run(run).data.params for run in tracked.trial_runs.values()]
    assert [own["data.mixture.text"] for own in parameters] == ["10", "0", "10"]
    assert [own["training.gradient_clip"] for own in parameters] == ["1", "removed", "1"]
    assert [own["training.steps"] for own in parameters] == ["10", "11", "12"]
    assert all(own.keys() == parameters[0].keys() for own in parameters) and len(parameters[0]) < 15, parameters[0]
    settings = Path(client.download_artifacts(tracked.comparison_run, "settings.yaml")).read_text()
    assert "buffer_documents: 16" in settings, "what is equal in all arms stands in one file"


def test_a_trials_run_says_what_it_is_of_which_data_and_has_its_files(store: Store) -> None:
    tracked = track(study(), store)
    client = MlflowClient(tracking_uri(store))
    run = client.get_run(next(iter(tracked.trial_runs.values())))
    data = {one.dataset.name: one for one in run.inputs.dataset_inputs}
    assert set(data) == {"synthetic_captions", "interleaved", "text"} and all(one.dataset.digest for one in data.values())
    assert json.loads(data["text"].dataset.source)["settings"]["type"] == "miniature" and data["text"].tags[0].value == "training"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files >= {"experiment.yaml", "machine.json", "predictions"}
    machine = json.loads(Path(client.download_artifacts(run.info.run_id, "machine.json")).read_text())
    assert machine["packages"]["torch"] and machine["python"].startswith("3.") and machine["device"]
    predictions = client.download_artifacts(run.info.run_id, "predictions/items.parquet")
    assert list(pandas.read_parquet(predictions)["score"]) == [0.0, 1.0]
    assert max(len(str(value)) for value in run.data.metrics.values()) <= 8, "no number of sixteen digits"


def test_a_server_that_was_lost_gets_everything_again_equal_but_for_mlflows_own_ids(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, report = study(), compared(tmp_path / "report", "forest.png")
    one, again = ({**tracked(tiny, store, report, tmp_path / name, monkeypatch)} for name in ("first.db", "second.db"))
    assert one == again and len(one) == 5


def tracked(tiny: Study, store: Store, report: ComparedStudy, database: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """All that MLflow shows after a study was written into a new database, without ids."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    experiment = track(tiny, store, report).experiment_id
    client = MlflowClient(tracking_uri(store))
    runs = client.search_runs([experiment])
    names = {run.info.run_id: run.info.run_name for run in runs}
    found = {}
    for run in runs:
        tags = {name: names.get(value, value) for name, value in run.data.tags.items() if name != "mlflow.user"}
        history = {
            name: [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        info = run.info.status, run.info.start_time if "arm" in tags else None, run.info.end_time
        found[str(run.info.run_name)] = (tags, run.data.params, history, files, info)
    return found
