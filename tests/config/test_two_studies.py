"""Two studies in one process, as in a notebook: what one saw of its data is no matter of the other."""

from __future__ import annotations

import sys
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


# ---------------------------------------------------------------- modules of one's own
OWN = """\
from mm1_ablate.model.connectors.average_pool import AveragePool
import {helper}
class Own(AveragePool):
    type: str = "{module}.Own"
    strength: int = {default}
"""


def write_own(folder: Path, module: str, default: int = 1, helper: str = "json", **files: str) -> Path:
    """A sweep whose connector is a class of a module beside it."""
    folder.mkdir()
    (folder / f"{module}.py").write_text(OWN.format(module=module, default=default, helper=helper))
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    experiment = yaml.safe_load(EXPERIMENT)
    experiment["model"]["connector"] = {"type": f"{module}.Own", "image_tokens": 4}
    write_experiment(folder, yaml.safe_dump(experiment))
    return write_sweep(folder, "short: {alter: {training.steps: 40}}")


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process has imported from beside files, as in a new one; taken back at the end."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr("mm1_ablate.config.settings._appended", {})


def said_of(sweep: Path) -> str:
    with pytest.raises(FileErrors) as caught:
        load_study(sweep)
    return " ".join(str(problem) for problem in caught.value.problems)


@pytest.mark.usefixtures("own_modules")
def test_a_module_of_one_study_is_not_taken_for_that_of_another(tmp_path: Path) -> None:
    first = write_own(tmp_path / "one", "connectors_of_one")
    assert load_study(first).arms
    other = write_own(tmp_path / "two", "connectors_of_one", default=2)
    said = said_of(other)
    assert f"'connectors_of_one' in {tmp_path / 'one'}" in said and "rename one of them, or use a process for each" in said
    assert load_study(first).arms
    # The same text is the same component, wherever it lies: a study that was copied.
    assert load_study(write_own(tmp_path / "copy", "connectors_of_one")).arms


@pytest.mark.usefixtures("own_modules")
def test_what_a_module_imports_is_not_taken_from_another_study(tmp_path: Path) -> None:
    load_study(write_own(tmp_path / "one", "connectors_with_helper", helper="helper_of_one", helper_of_one="LAYERS = 1\n"))
    second = write_own(tmp_path / "two", "further_connectors", helper="helper_of_one", helper_of_one="LAYERS = 2\n")
    assert "module 'helper_of_one'" in said_of(second)


@pytest.mark.usefixtures("own_modules")
def test_a_study_does_not_find_what_lies_beside_another(tmp_path: Path) -> None:
    load_study(write_own(tmp_path / "one", "connectors_beside_one"))
    lacking = write_own(tmp_path / "two", "connectors_beside_one")
    (lacking.parent / "connectors_beside_one.py").unlink()
    assert "there is no module 'connectors_beside_one' beside the files that name it" in said_of(lacking)


def test_an_archive_of_images_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    import zipfile

    from mm1_ablate.data.readers.image_folder import ImageFolder

    read = []
    for content in (b"one", b"another"):
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            archive.writestr("a.jpg", content)
        read.append(ImageFolder(str(tmp_path)).find("images/a.jpg")())
    assert read == [b"one", b"another"]
