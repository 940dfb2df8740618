"""The main job from outside: run a sweep, run it again, alter it, read what came out. Real Ray, real training, a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import call


@pytest.fixture
def folder(tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a tiny study, where commands are given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(*words: str) -> list[str]:
    return [sys.executable, "-m", "mm1_ablate", *words]


def look(command: str) -> dict[str, Any]:
    """What a command says of the study, as JSON."""
    told: dict[str, Any] = json.loads(call(command, "sweeps/tiny.yaml", "--json").stdout)
    return told


@pytest.mark.usefixtures("folder", "shared_ray")
def test_a_study_from_its_first_run_to_an_edited_one(tiny_sweep: Path, tmp_path: Path):
    # The first in a process of its own, as people give it; the later ones in this one, which has imported all that they need.
    first = subprocess.run(arguments("run", "sweeps/tiny.yaml", "--cpus", "2"), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "mm1-ablate ui sweeps/tiny.yaml" in first.stdout and "interleaved" in first.stdout
    report = tmp_path / "ablations" / "studies" / "tiny" / "report"
    assert {"report.html", "report.md", "comparison.json"} <= {path.name for path in report.iterdir()}
    assert (tmp_path / "ablations" / "mlflow.db").exists()
    (declared,) = (report.parent / "declarations").iterdir()
    assert json.loads(declared.read_text())["scored"] == [], "recorded before the first trial"

    again = call("run", "sweeps/tiny.yaml")
    assert again.exit_code == 0 and "nothing to do" in again.stdout and "interleaved" in again.stdout

    # One arm leaves the file, one joins it that cannot be trained.
    text = tiny_sweep.read_text().replace("data.mixture.interleaved, ", "")
    tiny_sweep.write_text(text.replace("compare:", "  diverging:\n    alter: {training.optimizer.learning_rate: 1e30}\ncompare:"))
    plan = {trial["name"]: trial["status"] for trial in look("plan")["trials"]}
    assert plan == {
        **{f"{arm}/seed-{seed}": "done" for arm in ("baseline", "without/text") for seed in (0, 1)},
        **{f"diverging/seed-{seed}": "run" for seed in (0, 1)},
    }
    edited = call("run", "sweeps/tiny.yaml")
    assert edited.exit_code == 1, edited.output
    assert "no longer in the file, not touched: without/interleaved/seed-0" in edited.stdout
    assert "Taken out of the comparisons after 4 of 6 trials had scores" in " ".join(edited.stdout.split())
    assert "failed: diverging/seed-1: Diverged" in edited.stderr and "--retry" in edited.stderr

    document = tmp_path / "docs" / "results.md"
    written = call("report", "sweeps/tiny.yaml", "--to", str(document))
    assert written.exit_code == 0 and f"written: {document}" in written.stdout, written.output
    assert "diverging, seed" in document.read_text() and (tmp_path / "docs" / "results" / "forest.png").exists()
    report = look("report")
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert arms["baseline"]["n"] == arms["without/text"]["n"] == 2 and arms["diverging"]["n"] == 0
    assert {"mean", "difference", "low", "high"} <= arms["without/text"]["metrics"]["shot_0/average"].keys()
    assert {(hole["arm"], hole["seed"]) for hole in report["holes"]} == {("diverging", 0), ("diverging", 1)}
    status = look("status")
    assert status["counts"] == {"done": 4, "failed": 2} and len(status["no_longer_named"]) == 2

    # An evaluation that asks for more scores kept models and trains nothing.
    experiment = tmp_path / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace("items: 4", "items: 5"))
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "ablations").glob("trials/*/model.pt")}
    assert look("status")["counts"]["failed"] == 2
    evaluated = call("evaluate", "sweeps/tiny.yaml")
    assert evaluated.exit_code == 1, evaluated.output  # the two that failed before
    assert look("status")["counts"] == {"done": 4, "failed": 2}
    assert trained == {path: path.stat().st_mtime_ns for path in (tmp_path / "ablations").glob("trials/*/model.pt")}


@pytest.mark.usefixtures("folder")
def test_an_interrupted_run_ends_with_130_and_can_go_on(tiny_sweep: Path, tmp_path: Path):
    tiny_sweep.write_text(tiny_sweep.read_text().replace("seeds:", "everywhere: {training.steps: 100000}\nseeds:"))
    process = subprocess.Popen(
        arguments("run", "sweeps/tiny.yaml", "--cpus", "1"),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and not list(tmp_path.glob("ablations/trials/*/progress.json")):
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, output + errors
    assert "to continue: mm1-ablate run sweeps/tiny.yaml" in errors
    assert look("status")["counts"].keys() == {"interrupted", "missing"}
