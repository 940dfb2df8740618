"""Warnings: what stops no run is said before it, at its place in a file, by every command that looks, and again in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call
from config_files import study_of
from lines_files import write_lines_experiment, write_lines_study, write_lines_sweep
from lines_source import Lines

from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.settings import SettingError
from mm1_ablate.store.store import Store

SAID = "line 2 holds no verb"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_lines_study(tmp_path / "study")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_lines_sweep(tmp_path)


@pytest.fixture
def doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources of lines warn."""
    monkeypatch.setattr(Lines, "warnings", lambda self: [SettingError("files", SAID)])


def test_a_source_that_warns_leaves_the_study_valid(folder: Path, doubtful: None):
    (warning,) = study_of(folder).warnings
    assert warning.warning and SAID in str(warning) and "warning: " in str(warning)
    assert warning.path == "data.sources.text.files" and warning.line > 1


def test_what_is_wrong_is_reported_without_the_warnings(folder: Path, doubtful: None):
    write_lines_experiment(folder, files="data/*.tex")
    with pytest.raises(Exception, match=r"tex") as raised:
        study_of(folder)
    assert SAID not in str(raised.value)


def test_a_check_may_warn_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from mm1_ablate.config.sweep.expand import load_study

    def check(experiment: Experiment) -> list[Diagnostic]:
        return [Diagnostic(("training", "steps"), "are few", "take more", warning=True)]

    sweeps = sorted((folder / "sweeps").glob("*.yaml")) if (folder / "sweeps").is_dir() else sorted(folder.glob("*.yaml"))
    study = load_study(sweeps[0], checks=[check])
    assert [(warning.path, warning.hint) for warning in study.warnings] == [("training.steps", "take more")]


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_commands_show_warnings_and_end_well(sweep: Path, tmp_path: Path, doubtful: None, command: str):
    store = ["--store", tmp_path / "store"] if command == "plan" else []
    done = call(command, sweep, *store)
    assert done.exit_code == 0 and "warning: data.sources.text.files: " + SAID in " ".join(done.stdout.split())
    told = json.loads(call(command, sweep, *store, "--json").stdout)
    (warning,) = told["warnings"] if command == "plan" else told["files"][0]["warnings"]
    assert warning["message"] == SAID and warning["line"] > 1 and warning["file"].endswith("tiny.yaml")


def test_the_report_repeats_what_was_warned_of(sweep: Path, tmp_path: Path, doubtful: None):
    import pandas

    from mm1_ablate.config.sweep.expand import load_study
    from mm1_ablate.report.comparison import compare

    study, store = load_study(sweep), Store(tmp_path / "store")
    store.write_warnings(study)
    results = pandas.DataFrame({"arm": [], "seed": [], "metric": [], "value": []})
    comparison = compare(study, results, warnings=store.warnings(study))
    assert [remark for remark in comparison.remarks if SAID in remark and "tiny.yaml:" in remark]
