"""Two studies in one process, as in a notebook: what one saw of its data is no matter of the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import EXPERIMENT, load_experiment, write_experiment, write_sweep

from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.store.manifests import evaluation_record
from mm1_ablate.store.store import Store

LINES = {"type": "lines_source.Lines", "data_type": "text", "files": "${LINES}/*.txt"}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of two stages over one file of lines, which prepares a language model on it and loses held-out documents of it."""
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lines.txt").write_text(f"lines of {name}\n")
    monkeypatch.setenv("LINES", str(tmp_path / "one"))
    first = yaml.safe_load(EXPERIMENT)
    first["data"]["sources"]["text"] = LINES
    first["model"]["language_model"]["preparation"] = {"steps": 9, "source": LINES, "optimizer": {"type": "adamw"}}
    last = yaml.safe_load(EXPERIMENT)
    last["starts_from"] = "first.yaml"
    del last["model"]["image_encoder"]["preparation"]
    last["data"]["sources"]["text"] = LINES
    last["evaluation"]["losses"] = {"text": {"source": LINES}}
    write_experiment(tmp_path, yaml.safe_dump(first), "first.yaml")
    write_experiment(tmp_path, yaml.safe_dump(last))
    return write_sweep(tmp_path, "short: {alter: {training.steps: 40}}")


def known(study: Study) -> Any:
    """All that is derived of a study after it was loaded."""
    return [
        (
            trial.fingerprint,
            trial.evaluation_fingerprint,
            [stage.fingerprint for stage in trial.earlier],
            [part.fingerprint for one in (*trial.earlier, trial) for part in one.preparations],
            evaluation_record(trial),
        )
        for trial in study.trials
    ]


def elsewhere(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name of files, and other data."""
    monkeypatch.setenv("LINES", str(sweep.parent / "two"))
    load_study(sweep)


def changed(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sweep.parent / "one" / "lines.txt").write_text("other lines\n")
    load_study(sweep)


def gone(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sweep.parent / "one" / "lines.txt").unlink()
    with pytest.raises(FileErrors, match="no file matches"):
        load_study(sweep)


def unseen(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_study(sweep, "nowhere").provisional


def an_experiment_unseen(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_experiment(sweep.parent / "experiment.yaml", "nowhere")


@pytest.mark.parametrize("after", [elsewhere, changed, gone, unseen, an_experiment_unseen])
def test_a_study_stays_what_it_was_when_another_is_loaded(
    sweep: Path, after: Callable[[Path, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = known(load_study(sweep))
    study = load_study(sweep)
    after(sweep, monkeypatch)
    assert known(study) == expected
    assert not study.provisional


def test_two_studies_are_used_by_turns(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = load_study(sweep)
    monkeypatch.setenv("LINES", str(sweep.parent / "two"))
    two = load_study(sweep)
    unlooked = load_study(sweep, "nowhere")
    expected = [known(load_study(sweep)), known(load_study(sweep, "nowhere"))]
    turns = [
        (known(mine), known(other), known(third))
        for mine, other, third in zip(*[[one_trial(study, place) for place in range(2)] for study in (one, two, unlooked)], strict=True)
    ]
    assert [[entry for turn in turns for entry in turn[place]] for place in (1, 2)] == expected
    assert all(mine != other != third for turn in turns for mine, other, third in zip(*turn, strict=True))


def one_trial(study: Study, place: int) -> Study:
    from dataclasses import replace

    return replace(study, trials=study.trials[place : place + 1])


def test_each_study_records_what_it_saw_itself(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    one = load_study(sweep)
    monkeypatch.setenv("LINES", str(tmp_path / "two"))
    two = load_study(sweep)
    records = []
    for study in (one, two, one):
        store.write_study(study)
        records.append(store.recorded_contents("small"))
    assert records[0] == records[2] != records[1] and len(records[0]) == len(records[1]) > 0


def test_data_from_a_record_is_reported_for_its_own_study_alone(sweep: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    study = load_study(sweep)
    store.write_study(study)
    (tmp_path / "one" / "lines.txt").unlink()
    again = load_study(sweep, "contents", recorded=store.recorded_contents)
    with pytest.raises(FileErrors):
        load_study(sweep, "contents")
    assert again.from_record and not study.from_record
    assert known(again) == known(study)
