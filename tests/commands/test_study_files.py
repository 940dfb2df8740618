"""The files of a study over time: two of one name, moved, copied, edited after a run, gone at its end."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call
from scored_study import write_scores

from mm1_ablate.commands.run import compare_and_write
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.store.store import Store


@pytest.fixture(autouse=True)
def _no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def ran(sweep: Path, root: Path) -> tuple[Study, Store]:
    """A store in which a sweep has been run, with made-up answers."""
    store = Store(root)
    study = load_study(sweep)
    to_do = [trial for trial in study.trials if not store.has_scores(trial)]
    store.write_study(study)
    store.keep_texts(study, to_do)
    store.register_trials(study)
    write_scores(sweep, root, lambda trial, task, shots, place, item: item.references[0] if trial.seed or place % 2 else "nothing")
    return study, store


def page(study: Study, store: Store) -> str:
    text = (store.study_folder(study) / "report" / "report.html").read_text()
    return text[text.index("The sweep and the files") :]


# ---------------------------------------------------------------- two of one name
@pytest.mark.parametrize("name", ["tiny", "ti ny", "ti-ny"])
def test_another_file_of_the_same_name_or_folder_is_refused_by_every_command(tiny_sweep: Path, root: Path, name: str):
    tiny_sweep.write_text(tiny_sweep.read_text().replace("sweep: tiny", f"sweep: {name}"))
    ran(tiny_sweep, root)
    assert call("report", tiny_sweep, "--store", root).exit_code == 0
    other = tiny_sweep.with_name("other.yaml")
    text = tiny_sweep.read_text().replace("data.mixture.interleaved, ", "")
    other.write_text(text.replace("sweep: ti-ny", "sweep: ti ny") if name == "ti-ny" else text)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for command in ("run", "evaluate", "plan", "status", "report", "ui"):
        done = call(command, other, "--store", root)
        assert done.exit_code == 2, (command, done.stdout, done.exception)
        assert str(other) in done.stderr and str(tiny_sweep) in done.stderr and "rename" in done.stderr and "--store" in done.stderr
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert call("status", tiny_sweep, "--store", root).exit_code == 0


def test_the_same_study_moved_copied_edited_or_on_another_machine_is_the_same(tiny_sweep: Path, root: Path, tmp_path: Path):
    ran(tiny_sweep, root)
    edited = tiny_sweep.read_text().replace("data.mixture.interleaved, ", "")

    def status(sweep: Path) -> dict[str, int]:
        done = call("status", sweep, "--store", root, "--json")
        assert done.exit_code == 0, done.stderr
        counts: dict[str, int] = json.loads(done.stdout)["counts"]
        return counts

    # Another checkout, with a comment of its own.
    checkout = tmp_path / "checkout"
    for folder in ("sweeps", "experiments"):
        shutil.copytree(tmp_path / folder, checkout / folder)
    copied = checkout / "sweeps" / "tiny.yaml"
    copied.write_text("# mine\n" + copied.read_text())
    assert status(copied) == {"done": 6}
    ran(copied, root)
    # It is known from then on, however it is edited: so is the first.
    copied.write_text(edited)
    tiny_sweep.write_text(tiny_sweep.read_text().replace(", data.mixture.text", ""))
    assert status(copied) == status(tiny_sweep) == {"done": 4}
    # All of them moved, and edited on the way: as on another machine.
    there = tmp_path / "there"
    for folder in ("sweeps", "experiments"):
        shutil.move(tmp_path / folder, there / folder)
    shutil.rmtree(checkout)
    moved = there / "sweeps" / "renamed.yaml"
    (there / "sweeps" / "tiny.yaml").rename(moved)
    moved.write_text(edited)
    assert status(moved) == {"done": 4}


def test_a_store_of_an_earlier_version_takes_the_first_file_of_the_name(tiny_sweep: Path, root: Path):
    study, store = ran(tiny_sweep, root)
    (store.study_folder(study) / "study.json").unlink()
    assert call("status", tiny_sweep, "--store", root).exit_code == 0
    tiny_sweep.write_text(tiny_sweep.read_text().replace("sweep: tiny", "sweep: a b"))
    study, store = ran(tiny_sweep, root)
    (store.study_folder(study) / "study.json").unlink()
    other = tiny_sweep.with_name("other.yaml")
    other.write_text(tiny_sweep.read_text().replace("sweep: a b", "sweep: a-b"))
    done = call("status", other, "--store", root)
    assert done.exit_code == 2 and "'a b'" in done.stderr and "'a-b'" in done.stderr


@pytest.mark.parametrize("name", ["a//b", "a/", "a/../b", "a/.", "."])
def test_names_that_no_path_would_keep_are_refused_where_they_stand(tiny_sweep: Path, name: str):
    text = tiny_sweep.read_text()
    tiny_sweep.write_text(text.replace("  without:", f"  {name}: {{remove: data.mixture.text}}\n  without:"))
    with pytest.raises(FileErrors) as errors:
        load_study(tiny_sweep)
    (problem,) = errors.value.problems
    assert (problem.line, problem.column) == (5, 3) and "expected" in problem.message
    labels = f"  g:\n    grid:\n      size:\n        {name}: {{training.steps: 3}}\n        more: {{training.steps: 5}}\n"
    tiny_sweep.write_text(text.replace("  without:", f"{labels}  without:"))
    with pytest.raises(FileErrors) as errors:
        load_study(tiny_sweep)
    (problem,) = errors.value.problems
    assert (problem.line, problem.column) == (8, 9)


def test_whatever_an_arm_is_called_mlflow_takes_its_metric():
    from mlflow.utils.validation import _validate_metric_name

    from mm1_ablate.tracking.mlflow_runs import _allowed

    for name in ("8-shot a//b", "8-shot a/../b", "a/", "/a", "..", "lr=1e-3,x:y/b", "a" * 300 + "/"):
        _validate_metric_name(_allowed(name))
    assert _allowed("8-shot without/text") == "8-shot without/text"


# ---------------------------------------------------------------- what ran
def test_a_sweep_that_is_gone_or_edited_when_a_run_ends_is_reported_as_it_was_loaded(tiny_sweep: Path, root: Path):
    study, store = ran(tiny_sweep, root)
    text = tiny_sweep.read_text()
    tiny_sweep.unlink()
    (tiny_sweep.parent.parent / "experiments" / "tiny.yaml").write_text("experiment: another\n")
    comparison, folder = compare_and_write(study, store)
    assert folder is not None and {row.n for row in comparison.rows} == {2}
    shown = page(study, store)
    assert text.strip() in shown and "experiment: tiny" in shown and "experiment: another" not in shown
    assert (store.study_folder(study) / "sweep.yaml").read_text() == text


def test_a_report_prints_the_text_by_which_its_results_were_made(tiny_sweep: Path, root: Path):
    tiny_sweep.write_text("description: as it ran\n" + tiny_sweep.read_text().replace("data.mixture.interleaved, ", ""))
    study, store = ran(tiny_sweep, root)
    assert call("report", tiny_sweep, "--store", root).exit_code == 0
    shown = page(study, store)
    assert "description: as it ran" in shown and "Changed since" not in shown and "baseline/seed-0" in shown

    edited = tiny_sweep.read_text().replace("as it ran", "as it reads now")
    tiny_sweep.write_text(edited)
    assert call("report", tiny_sweep, "--store", root).exit_code == 0
    shown = page(study, store)
    assert "description: as it ran" in shown and re.search(r"Changed since.*\+description: as it reads now", shown, re.DOTALL)

    # A further arm is run by the edited text: both are shown, each with what it ran.
    tiny_sweep.write_text(edited.replace("[data.mixture.text]", "[data.mixture.text, data.mixture.interleaved]"))
    study, store = ran(tiny_sweep, root)
    assert call("report", tiny_sweep, "--store", root).exit_code == 0
    shown = page(study, store)
    latest, earlier = shown.split("Others ran before by other texts")
    assert "as it reads now" in latest and "without/interleaved/seed-0" in latest and "baseline/seed-0" not in latest
    assert "baseline/seed-0" in earlier and "-description: as it ran" in earlier and "Changed since" not in shown
    assert len(list((store.study_folder(study) / "texts").iterdir())) == 2


def test_the_files_that_a_study_names_are_kept_with_it(tiny_sweep: Path, tmp_path: Path):
    included = tiny_sweep.with_name("more.yaml")
    included.write_text("sweep: more\nexperiment: ../experiments/tiny.yaml\nablations:\n  longer: {alter: {training.steps: 5}}\n")
    tiny_sweep.write_text(tiny_sweep.read_text() + "include: more.yaml\n")
    here, there = load_study(tiny_sweep), os.path.relpath(tiny_sweep)
    assert list(here.texts) == ["tiny.yaml", "more.yaml", "../experiments/tiny.yaml"]
    assert load_study(Path(there)).texts == here.texts


# ---------------------------------------------------------------- stores that are not there, or for reading only
@pytest.mark.parametrize("command", ["report", "examples"])
def test_results_of_a_store_that_is_not_there_are_a_sentence(tiny_sweep: Path, tmp_path: Path, command: str):
    arms = ["baseline", "without/text"] if command == "examples" else []
    done = call(command, tiny_sweep, *arms, "--store", tmp_path / "typo")
    assert done.exit_code == 2 and f"there is no store at {tmp_path / 'typo'}" in done.stderr
    assert not (tmp_path / "typo").exists()


@pytest.fixture
def bound_by_permissions() -> Iterator[None]:
    """Root is stopped by the permissions of files and folders, as everybody else is (Linux: CAP_DAC_OVERRIDE is off)."""
    if os.geteuid() != 0:
        yield
        return
    system = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    held = ctypes.create_string_buffer(24)
    assert system.capget(header, held) == 0, os.strerror(ctypes.get_errno())
    effective, *rest = struct.unpack("=6I", held.raw)
    override = 1 << 1
    assert system.capset(header, struct.pack("=6I", effective & ~override, *rest)) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert system.capset(header, held.raw) == 0, os.strerror(ctypes.get_errno())


def test_a_store_that_may_only_be_read_is_reported(
    tiny_sweep: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    study, store = ran(tiny_sweep, root)
    expected = json.loads(call("report", tiny_sweep, "--store", root, "--json").stdout)
    shutil.rmtree(store.study_folder(study) / "report")
    for folder in [path for path in (root, *root.rglob("*")) if path.is_dir()]:
        folder.chmod(0o555)
    request.getfixturevalue("bound_by_permissions")
    with pytest.raises(PermissionError):
        (root / "written").touch()
    try:
        done = call("report", tiny_sweep, "--store", root, "--json")
        assert done.exit_code == 0 and json.loads(done.stdout) == expected, (done.stderr, done.exception)
        assert "the report is not written" in done.stderr and "report:" not in done.stdout
        done = call("report", tiny_sweep, "--store", root)
        assert done.exit_code == 0 and "without" in done.stdout and not (store.study_folder(study) / "report").exists()
        assert "recorded" not in done.stderr
        tiny_sweep.write_text(tiny_sweep.read_text() + "  smallest_difference_of_interest: 50\n")
        declared = sorted((store.study_folder(study) / "declarations").iterdir())
        done = call("report", tiny_sweep, "--store", root, "--json")
        assert done.exit_code == 0 and "what the sweep declares now could not be recorded: Permission denied" in done.stderr
        assert "What the sweep declares now could not be recorded." in json.loads(done.stdout)["remarks"]
        assert sorted((store.study_folder(study) / "declarations").iterdir()) == declared
    finally:
        for folder in [path for path in (root, *root.rglob("*")) if path.is_dir()]:
            folder.chmod(0o755)


def test_a_report_is_written_again_after_an_upgrade_and_only_then(tiny_sweep: Path, root: Path, monkeypatch: pytest.MonkeyPatch):
    study, store = ran(tiny_sweep, root)
    assert call("report", tiny_sweep, "--store", root).exit_code == 0
    file = store.study_folder(study) / "report" / "report.html"
    written = file.stat().st_mtime_ns
    assert call("report", tiny_sweep, "--store", root).exit_code == 0 and file.stat().st_mtime_ns == written
    monkeypatch.setattr("mm1_ablate.report.html.report_version", lambda: "9.9.9+00000000")
    assert call("report", tiny_sweep, "--store", root).exit_code == 0 and file.stat().st_mtime_ns > written
