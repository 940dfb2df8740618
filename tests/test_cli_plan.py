"""Commands that look at a study: plan, status, report, ui, doctor; none of them trains anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mm1_ablate.cli import app
from mm1_ablate.commands import doctor


def call(*arguments: object, **environment: str):
    return CliRunner(env={"COLUMNS": "200", **environment}).invoke(app, [str(argument) for argument in arguments])


def test_plan_shows_every_trial_and_what_seeds_can_detect(tiny_sweep: Path, tmp_path: Path):
    done = call("plan", tiny_sweep, "--store", tmp_path / "store")
    assert done.exit_code == 0
    for word in ("baseline/seed-0", "without/interleaved/seed-1", "never run", "6 distinct trials", "sd of the paired difference", "CPU"):
        assert word in done.stdout


def test_plan_as_json_is_only_json(tiny_sweep: Path, tmp_path: Path):
    done = call("plan", tiny_sweep, "--store", tmp_path / "store", "--json")
    content = json.loads(done.stdout)
    assert {"trials", "rows", "distinct_trials"} <= content.keys()
    assert {trial["status"] for trial in content["trials"]} == {"run"}


def test_several_sweeps_are_planned_together(tiny_sweep: Path, tmp_path: Path):
    other = tiny_sweep.with_name("other.yaml")
    other.write_text(tiny_sweep.read_text().replace("sweep: tiny", "sweep: other"))
    content = json.loads(call("plan", tiny_sweep, other, "--store", tmp_path / "store", "--json").stdout)
    assert content["rows"] == 12 and content["distinct_trials"] == 6


@pytest.mark.parametrize("command", [["plan"], ["plan", "--json"], ["run"]])
def test_a_budget_that_is_too_small_is_exit_3_and_nothing_starts(command: list[str], tiny_sweep: Path, tmp_path: Path):
    tiny_sweep.write_text(tiny_sweep.read_text() + "budget: {cpu_hours: 0.0000001}\n")
    done = call(*command, tiny_sweep, "--store", tmp_path / "store")
    assert done.exit_code == 3
    assert "the budget allows 1e-07" in done.stderr
    assert not (tmp_path / "store").exists()
    if "--json" in command:
        assert json.loads(done.stdout)["over_budget"]


def test_the_store_may_be_named_by_the_environment(tiny_sweep: Path, tmp_path: Path):
    done = call("status", tiny_sweep, "--json", MM1_ABLATE_STORE=str(tmp_path / "elsewhere"))
    assert json.loads(done.stdout)["store"] == str(tmp_path / "elsewhere")


def test_a_plan_whose_sizes_are_known_imports_no_torch(tiny_sweep: Path, tmp_path: Path):
    (tmp_path / "store").mkdir()
    assert call("plan", tiny_sweep, "--store", tmp_path / "store").exit_code == 0
    program = (
        "import sys\nfrom mm1_ablate.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)"
    )
    arguments = ["plan", str(tiny_sweep), "--store", str(tmp_path / "store")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, cwd=tmp_path)


def test_status_names_every_trial_of_an_empty_store(tiny_sweep: Path, tmp_path: Path):
    done = call("status", tiny_sweep, "--store", tmp_path / "store", "--json")
    content = json.loads(done.stdout)
    assert content["counts"] == {"missing": 6} and len(content["trials"]) == 6
    assert "6 missing" in call("status", tiny_sweep, "--store", tmp_path / "store").stdout


def test_report_of_an_empty_store_is_all_holes(tiny_sweep: Path, tmp_path: Path):
    done = call("report", tiny_sweep, "--store", tmp_path / "store", "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert {"arms", "holes", "expectations"} <= content.keys()
    assert len(content["holes"]) == 6 and all(arm["n"] == 0 for arm in content["arms"])


def test_ui_without_a_store_says_what_to_do(tmp_path: Path):
    done = call("ui", "--store", tmp_path / "nothing")
    assert done.exit_code == 1 and "--store" in done.stderr


def test_doctor_has_a_line_for_each_thing_and_a_remedy_for_each_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "LEAST_DISK", 1e18)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = call("doctor", "--store", blocked / "store")
    assert done.exit_code == 1
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith(("ok", "problem"))}
    assert set(lines) == {"python", "packages", "cpu", "gpu", "store", "disk", "ray", "mlflow"}
    assert lines["python"].startswith("ok") and lines["ray"].startswith("ok")
    assert lines["disk"].startswith("problem")
    assert "to do: free" in done.stdout
