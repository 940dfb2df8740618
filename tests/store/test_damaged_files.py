"""One file of a store is damaged: every command names it and shows the rest, a run writes it again and trains nothing.

And a store that a newer version has written is left alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import call
from s3_server import ADDRESS, Machine
from scored_study import write_scores
from tiny import TINY, tiny_experiment

from mm1_ablate.commands.comparison import compare_study
from mm1_ablate.commands.status import status_json
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.plan.plan import plan
from mm1_ablate.run.remaining_work import remaining_work, score_saved_predictions
from mm1_ablate.run.trial import run_preparation, run_trial
from mm1_ablate.store.health import check_store
from mm1_ablate.store.store import Store

FILES = {
    "status": "trials/*/status.json",
    "trial": "trials/*/trial.json",
    "progress": "trials/*/progress.json",
    "data": "trials/*/data.json",
    "curve": "trials/*/curve.jsonl",
    "evaluation": "trials/*/evaluations/*/evaluation.json",
    "scores": "trials/*/evaluations/*/scores.json",
    "items": "trials/*/evaluations/*/items.parquet",
    "prediction record": "trials/*/predictions/*.json",
    "predictions": "trials/*/predictions/*.parquet",
    "preparation": "prepared/*/preparation.json",
    "preparation status": "prepared/*/status.json",
    "registry": "studies/*/trials.json",
    "contents": "studies/*/contents.json",
    "warnings": "studies/*/warnings.json",
    "floors": "studies/*/floors.json",
    "study": "studies/*/study.json",
    "texts": "studies/*/texts/*.json",
    "declaration": "studies/*/declarations/*.json",
    "report stamp": "studies/*/report.json",
    "layout": "layout.json",
}
UNREAD = {
    "floors": "they are computed again, and written",
    "study": "it says where its sweep was, and is written by the next run",
    "texts": "a report prints them",
    "declaration": "a report judges by it",
    "progress": "of a trial that is done",
    "evaluation": "by those who show results",
    "prediction record": "while there are scores",
    "predictions": "while there are scores",
    "registry": "where nothing is left over",
    "report stamp": "it is written anew without a word",
    "contents": "of data that no files hold there is no record",
}
"""Files that no command need read, and why."""


def garbage(content: bytes) -> bytes:
    return bytes((byte * 7 + 13) % 256 for byte in content)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "NUL bytes": lambda content: b"\0" * len(content),
    "another type": lambda content: b"[3]",
    "garbage": garbage,
}


@pytest.fixture(autouse=True)
def _no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is there: what is in MLflow is not looked at here."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep and the store of its study, which has really been prepared, trained, evaluated and reported."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MM1_ABLATE_CACHE", str(folder / "cache"))
        (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_experiment(TINY, prepared=True).model_dump(mode="json")))
        sweep = {
            "sweep": "tiny",
            "experiment": "tiny.yaml",
            "seeds": [0],
            "ablations": {"without": {"remove": "data.mixture.text"}},
            "compare": {"primary": "shot_0/average", "metrics": ["shot_0/average"]},
        }
        (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
        study, store = load_study(folder / "sweep.yaml"), Store(folder / "store")
        store.write_study(study)
        store.keep_texts(study, study.trials)
        store.write_warnings(study)
        store.register_trials(study)
        for trial in study.trials:
            for part in trial.preparations:
                store.write_preparation(part)
                assert run_preparation(str(store.root), part.fingerprint) == 0
            store.write_trial(trial)
            assert run_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint]) == 0
        assert call("report", folder / "sweep.yaml", "--store", store.root).exit_code == 0
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> tuple[Study, Store]:
    """The same in a folder of its own."""
    shutil.copytree(finished, tmp_path / "study")
    return load_study(tmp_path / "study" / "sweep.yaml"), Store(tmp_path / "study" / "store")


def damage(store: Store, which: str, how: str) -> Path:
    """Damage the first file of a kind."""
    file = sorted(store.root.glob(FILES[which]))[0]
    file.write_bytes(DAMAGES[how](file.read_bytes()))
    return file


def weights(store: Store) -> dict[Path, tuple[bytes, int]]:
    found = [*store.root.glob("trials/*/model.pt"), *store.root.glob("prepared/*/weights.pt")]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.mark.parametrize("which", [which for which in FILES if which != "contents"])
def test_a_damaged_file_is_named_and_all_else_is_shown(study: tuple[Study, Store], which: str):
    loaded, whole = study
    before, file = weights(whole), sorted(whole.root.glob(FILES[which]))[0]
    content, names = file.read_bytes(), {"baseline/seed-0", "without/seed-0"}
    for how, damaged in DAMAGES.items():
        file.write_bytes(damaged(content))
        store = Store(whole.root)
        store.check_layout()
        assert {trial["name"] for trial in status_json(loaded, store)["trials"]} == names
        assert {row.name for row in plan(loaded, store).rows} == names
        compared = compare_study(loaded, store)
        assert {row.name for row in compared.rows} == {"baseline", "without"} and sum(row.n for row in compared.rows) >= 1
        assert set(store.damaged) <= {file}, "nothing else is damaged"
        assert store.damaged or which in UNREAD or (which, how) == ("curve", "cut"), (which, how)
    said = ""
    for command in ("status", "plan"):
        file.write_bytes(garbage(content))
        done = call(command, loaded.path, "--store", whole.root, "--json")
        assert done.exit_code == 0 and len(json.loads(done.stdout)["trials"]) == 2, (command, done.stderr, done.exception)
        said += done.stderr
    assert f"damaged: {file}: " in said or which in UNREAD or which in ("warnings", "curve"), said
    assert weights(whole) == before


@pytest.mark.parametrize("which", ["status", "trial", "items", "scores", "texts", "curve", "declaration"])
def test_a_report_is_made_of_what_is_left(study: tuple[Study, Store], which: str):
    loaded, store = study
    file = damage(store, which, "garbage")
    done = call("report", loaded.path, "--store", store.root, "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert str(file) in done.stderr and "`mm1-ablate run` repairs" in done.stderr
    content = json.loads(done.stdout)
    holes = [hole["reason"] for hole in content["holes"]]
    assert (len(holes) == 1 and f"{file.name} is damaged" in holes[0]) if which in ("items", "scores") else not holes


@pytest.mark.parametrize("how", ["cut", "another type"])
def test_a_run_writes_again_what_is_damaged_and_trains_nothing(study: tuple[Study, Store], how: str):
    loaded, store = study
    unhurt = compare_study(loaded, store).to_json()
    before, scores = weights(store), {trial.name: store.scores(trial) for trial in loaded.trials}
    left = ("contents", "prediction record", "predictions", "report stamp", "declaration")
    kinds = [which for which in FILES if which not in left]
    files = {which: damage(store, which, how) for which in kinds}
    done = call("run", loaded.path, "--store", store.root)
    assert done.exit_code == 0 and "Traceback" not in done.stderr, (done.stderr, done.exception)
    read = set(kinds) - {"progress", "texts", "floors", "study", "layout", "curve"}
    for which in read:
        assert f"damaged: {files[which]}: " in done.stderr, (which, done.stderr)
    assert "scoring the saved predictions of 1 trials" in done.stdout
    assert weights(store) == before
    assert {trial.name: store.scores(trial) for trial in loaded.trials} == scores
    # From then on nothing is damaged, and the comparison is what it was, but for what nobody else knew.
    for command in ("status", "plan", "report"):
        done = call(command, loaded.path, "--store", store.root, "--json")
        assert done.exit_code == 0 and "damaged" not in done.stderr, (command, done.stderr)
    after = json.loads(done.stdout)
    assert [arm["metrics"] for arm in after["arms"]] == [arm["metrics"] for arm in json.loads(json.dumps(unhurt))["arms"]]


def test_a_damaged_record_of_what_was_declared_is_named_and_kept(study: tuple[Study, Store]):
    loaded, store = study
    file = damage(store, "declaration", "cut")
    content = file.read_bytes()
    for _ in range(2):
        done = call("run", loaded.path, "--store", store.root)
        assert done.exit_code == 0 and f"damaged: {file}: " in done.stderr and "never written again" in done.stderr, done.stderr
        assert file.read_bytes() == content
    assert len(list(file.parent.iterdir())) == 2, "what is declared now is recorded beside it, once"


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("which", ["predictions", "prediction record"])
def test_of_damaged_predictions_only_those_are_asked_again(study: tuple[Study, Store], which: str, how: str):
    loaded, store = study
    trial = loaded.trials[0]
    before, scores = weights(store), store.scores(trial)
    (store.evaluation_folder(trial) / "scores.json").unlink()
    kept = sorted((store.trial_folder(trial) / "predictions").glob("*"))
    file = next(path for path in kept if path.suffix == Path(FILES[which]).suffix)
    file.write_bytes(DAMAGES[how](file.read_bytes()))
    times = {path: path.stat().st_mtime_ns for path in kept if path.stem != file.stem}
    score_saved_predictions(loaded, store, lambda line: None)
    (work,) = remaining_work(loaded, store, evaluate_only=False).trials
    assert run_trial(str(store.root), work.fingerprint, work.evaluations) == 0
    assert store.scores(trial) == scores and weights(store) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_damage_inside_a_table_is_a_hole_for_a_report_and_scored_again_by_a_run(study: tuple[Study, Store]):
    loaded, store = study
    file = store.evaluation_folder(loaded.trials[1]) / "items.parquet"
    content = file.read_bytes()
    middle = slice(4, len(content) // 2)
    file.write_bytes(content[:4] + garbage(content[middle]) + content[middle.stop :])
    done = call("report", loaded.path, "--store", store.root, "--json")
    assert done.exit_code == 0 and str(file) in done.stderr, done.stderr
    (hole,) = json.loads(done.stdout)["holes"]
    assert hole["arm"] == "without" and "items.parquet is damaged" in hole["reason"]
    done = call("run", loaded.path, "--store", store.root)
    assert done.exit_code == 0 and f"damaged: {file}" in done.stderr, done.stderr
    assert not compare_study(loaded, store).holes


def test_a_failed_trial_whose_status_is_damaged_waits_to_be_run_again(tiny_sweep: Path, tmp_path: Path):
    study, store = load_study(tiny_sweep), Store(tmp_path / "store")
    folder = store.write_trial(study.trials[0])
    store.start(folder, "train")
    store.fail(folder, "no memory")
    (folder / "last.ckpt").write_bytes(b"a checkpoint")
    (folder / "status.json").write_text('{"status": "failed"}')
    (row, *_) = plan(study, store).rows
    assert row.status == "resume" and folder / "status.json" in store.damaged
    assert (folder / "last.ckpt").exists()


def test_names_of_earlier_trials_survive_as_far_as_they_can_be_read(tiny_sweep: Path, tmp_path: Path):
    from mm1_ablate.store.repair import repair

    study, store = load_study(tiny_sweep), Store(tmp_path / "store")
    store.write_study(study)
    gone = "f" * 64
    store.register_trials(study, {gone: "gone/seed-0"})
    store.trial_folder(gone).mkdir(parents=True)
    registry = store.study_folder(study) / "trials.json"
    registry.write_bytes(registry.read_bytes()[:-20])
    assert not store.unlisted_trials(study)
    assert any("trials.json" in line for line in repair(study, store))
    assert list(store.unlisted_trials(study).values()) == ["gone/seed-0"]


# ---------------------------------------------------------------- a newer layout
@pytest.mark.parametrize("command", ["status", "plan", "run", "report", "evaluate", "examples", "ui"])
def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(tiny_sweep: Path, tmp_path: Path, command: str):
    root = tmp_path / "store"
    root.mkdir()
    (root / "layout.json").write_text(json.dumps({"version": 2, "written_by": "9.1.0"}))
    done = call(command, tiny_sweep, *(["baseline", "without/text"] if command == "examples" else []), "--store", root)
    assert done.exit_code == 2, (done.stderr, done.exception)
    assert "written by a newer version" in done.stderr and "9.1.0" in done.stderr and "upgrade" in done.stderr
    assert [path.name for path in root.rglob("*")] == ["layout.json"]
    check = check_store(root)
    assert not check.ok and "9.1.0" in check.found


def test_a_worker_of_an_earlier_version_leaves_a_newer_store_alone(tiny_sweep: Path, tmp_path: Path):
    from mm1_ablate.store.files import StorageError

    study, store = load_study(tiny_sweep), Store(tmp_path / "store")
    store.write_study(study)
    folder = store.write_trial(study.trials[0])
    assert json.loads((store.root / "layout.json").read_text())["version"] == 1
    (store.root / "layout.json").write_text('{"version": 2}')
    with pytest.raises(StorageError, match="newer version"):
        run_trial(str(store.root), study.trials[0].fingerprint, [])
    assert not (folder / "status.json").exists()
    with pytest.raises(StorageError, match="newer version"):
        store.write_study(study)


# ---------------------------------------------------------------- in a bucket
def test_damaged_objects_and_newer_layouts_of_a_bucket_are_named(machine: Machine, tiny_sweep: Path):
    there = machine("first")
    study, store = write_scores(tiny_sweep, there.root, lambda trial, task, shots, place, item: item.references[0])
    objects = there.files.replica.objects  # type: ignore[attr-defined]
    there.write_study(study)
    for path in (path for path in store.root.rglob("trials/*/**/*") if path.is_file()):
        objects.write(path.relative_to(store.root).as_posix(), path.read_bytes())
    whole = json.loads(call("status", tiny_sweep, "--store", ADDRESS, "--json").stdout)["counts"]
    assert whole == {"done": 6}
    scores = there.evaluation_folder(study.trials[0]) / "scores.json"
    objects.write(scores.relative_to(there.root).as_posix(), b'{"scores": {"shot_0/average": "x"}}')

    machine("second")
    done = call("status", tiny_sweep, "--store", ADDRESS, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["counts"] == {"done": 5, "missing": 1}, done.stderr
    assert f"damaged: {ADDRESS}/" in done.stderr and "scores.json" in done.stderr
    objects.write("layout.json", json.dumps({"version": 7}).encode())
    for command in ("status", "run"):
        done = call(command, tiny_sweep, "--store", ADDRESS)
        assert done.exit_code == 2 and "newer version" in done.stderr and "layout 7" in done.stderr, done.stderr
