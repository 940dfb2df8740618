"""Data that changes between the plan and the end of a trial: nothing is trained or scored on other data than the fingerprint says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import call
from lines_files import LINES, WORDS, write_data, write_lines_sweep
from lines_source import Lines
from task_files import ROWS, write_task
from tiny import TINY, tiny_experiment

from mm1_ablate.config.identity.data_digests import FileSeen
from mm1_ablate.config.identity.reads import Contents, from_lines, to_lines
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.run.remaining_work import remaining_work
from mm1_ablate.run.trial import run_preparation, run_trial
from mm1_ablate.store.predictions import Predictions
from mm1_ablate.store.repair import repair
from mm1_ablate.store.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    torch.set_num_threads(1)
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "ablations")


def planned(store: Store, sweep: Path) -> Study:
    """A study with all its records written, as when a run begins."""
    study = load_study(sweep)
    store.write_study(study)
    store.register_trials(study)
    remaining_work(study, store, False).write_manifests(store, study.snapshot)
    return study


def train(store: Store, study: Study, number: int = 0) -> str:
    """Do a trial, and say where it stands."""
    trial = study.trials[number]
    run_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint])
    state = store.status(trial)
    return f"{state.status}: {state.reason}"


def data_of(sweep: Path) -> Path:
    return sweep.parents[1] / "experiments" / "data"


def test_a_file_that_comes_in_mid_run_fails_the_trials_that_begin_after_it(store: Store, tmp_path: Path) -> None:
    sweep = write_lines_sweep(tmp_path)
    study = planned(store, sweep)
    assert train(store, study, 0) == "done: finished"
    write_data(data_of(sweep), second=WORDS)
    said = train(store, study, 1)
    assert said.startswith("failed: data changed: data.sources.text is not what the run was planned with: added: ")
    assert said.endswith(f"{data_of(sweep)}/second.txt; wait until the folder is complete, then run again"), said
    assert not (store.trial_folder(study.trials[1]) / "model.pt").exists()
    # The study that is loaded now has another trial of that name.
    assert load_study(sweep).trials[1].fingerprint != study.trials[1].fingerprint
    (data_of(sweep) / "second.txt").unlink()
    store.retry(store.trial_folder(study.trials[1]))
    assert train(store, study, 1) == "done: finished"


def test_the_message_names_files_that_are_gone_and_that_changed(store: Store, tmp_path: Path) -> None:
    sweep = write_lines_sweep(tmp_path)
    data = write_data(data_of(sweep), second=WORDS, third=WORDS)
    study = planned(store, sweep)
    (data / "second.txt").unlink()
    (data / "third.txt").write_text(WORDS.replace("goat", "boat"))
    said = train(store, study)
    assert f"gone: {data}/second.txt; changed: {data}/third.txt" in said, said


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "NUL bytes": lambda content: b"\0" * len(content),
    "another type": lambda content: b"[3]\n",
    "another shape": lambda content: b'{"place": "data", "digest": "", "files": [[1]]}\n',
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_of_what_was_planned_is_named_and_written_again(store: Store, tmp_path: Path, damage: str) -> None:
    study = planned(store, write_lines_sweep(tmp_path))
    folder = store.trial_folder(study.trials[0])
    whole = (folder / "files.jsonl").read_bytes()
    (folder / "files.jsonl").write_bytes(DAMAGES[damage](whole))
    assert store.planned_reads(folder) == {} and folder / "files.jsonl" in store.damaged
    (said,) = repair(study, store)
    assert "files.jsonl" in said and said.endswith("; written again"), said
    assert (folder / "files.jsonl").read_bytes() == whole and store.planned_reads(folder)


def test_names_of_files_hold_whatever_a_line_may_end_with(tmp_path: Path) -> None:
    reads = {"data.sources.text": Contents("d", (FileSeen("a\u2028b\x85c\x0cd", "n", 1, "e", "f"),))}
    assert from_lines(to_lines(reads)) == reads


def after_opening(monkeypatch: pytest.MonkeyPatch, change: Callable[[], Any]) -> None:
    """Change something a moment after a trial has opened its text, once."""
    opened, ready = Lines.open, Lines.make_ready
    left = [change]

    def open_and_change(self: Lines, seed: int = 0, name: str = "") -> Any:
        found = opened(self, seed, name)
        monkeypatch.setattr("mm1_ablate.run.trial.ProgressFile.__call__", lambda self, progress: [one() for one in left] and left.clear())
        return found

    monkeypatch.setattr(Lines, "open", open_and_change)
    monkeypatch.setattr(Lines, "make_ready", ready)


def test_a_file_that_is_written_while_it_is_read_fails_the_trial(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = write_lines_sweep(tmp_path)
    study = planned(store, sweep)
    after_opening(monkeypatch, lambda: write_data(data_of(sweep), first=WORDS.upper()))
    said = train(store, study)
    assert "failed: data changed: data.sources.text" in said and f"changed: {data_of(sweep)}/first.txt" in said, said
    left = {path.name for path in store.trial_folder(study.trials[0]).iterdir()}
    assert not left & {"model.pt", "last.ckpt"}


def test_what_comes_after_the_data_was_opened_is_told_and_stops_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_lines_sweep(tmp_path)
    study = planned(store, sweep)
    after_opening(monkeypatch, lambda: write_data(data_of(sweep), second=WORDS))
    assert train(store, study) == "done: finished"
    assert (
        f"data.sources.text is read as it was when it was opened; since then added: {data_of(sweep)}/second.txt" in capsys.readouterr().out
    )


def test_a_file_that_is_opened_in_the_moment_after_the_look_is_noticed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = write_lines_sweep(tmp_path)
    study = planned(store, sweep)
    monkeypatch.setattr(Lines, "make_ready", lambda self, report=None: write_data(data_of(sweep), second=WORDS))
    assert "added: " in train(store, study)


def test_a_file_that_is_only_touched_is_told_of_and_stays_the_same_data(store: Store, tmp_path: Path) -> None:
    sweep = write_lines_sweep(tmp_path)
    study = planned(store, sweep)
    os.utime(data_of(sweep) / "first.txt", ns=(1, 1))
    for number in range(len(study.trials)):
        assert train(store, study, number) == "done: finished"
    done = call("run", sweep, "--store", store.root)
    assert done.exit_code == 0, done.output
    assert "6 done" in done.stdout
    assert done.stderr.count("written again since trials were trained with it") == 1
    assert f"data.sources.text: {data_of(sweep)}/first.txt: written again" in done.stderr


def test_annotations_that_change_fail_the_evaluation_and_not_the_other_task(store: Store, tmp_path: Path) -> None:
    sweep = write_lines_sweep(tmp_path)
    experiment = tiny_experiment(TINY).model_dump(mode="json")
    task = write_task(tmp_path / "experiments")
    experiment["evaluation"] = {"tasks": [task, "miniature_vqa"], "shots": [0], "items": 4}
    (tmp_path / "experiments" / "tiny.yaml").write_text(yaml.safe_dump(experiment))
    study = planned(store, sweep)
    write_task(tmp_path / "experiments", rows=[*ROWS, {**ROWS[0], "name": "more"}])
    said = train(store, study)
    assert said.startswith("failed: data changed: evaluation.tasks.colours.items is not what the run was planned with: changed: "), said
    trial = study.trials[0]
    assert store.status(trial).trained
    assert [part.name for part in Predictions(store.trial_folder(trial)).all()] == ["miniature_vqa"]


def test_a_preparation_reads_what_it_was_planned_with(store: Store, tmp_path: Path) -> None:
    sweep = write_lines_sweep(tmp_path)
    experiment = tiny_experiment(TINY, prepared=True).model_dump(mode="json")
    experiment["model"]["language_model"]["preparation"]["source"] = LINES
    (tmp_path / "experiments" / "tiny.yaml").write_text(yaml.safe_dump(experiment))
    study = planned(store, sweep)
    (preparation,) = (part for part in study.trials[0].preparations if part.kind == "language_model")
    write_data(data_of(sweep), second=WORDS)
    assert run_preparation(str(store.root), preparation.fingerprint) == 1
    reason = store.preparation_status(preparation).reason
    assert reason.startswith("data changed: model.language_model.preparation.source is not"), reason
