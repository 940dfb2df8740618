"""A store that an earlier state of the package wrote, of which a trial was killed in training, is read and continued by this one.

`tests/golden/store_of_version_0_1_0.tar.gz` holds a sweep, its experiment and its store: four prepared parts, three trials done, and one
whose processes were killed after a checkpoint at step 20 of 300.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

ARCHIVE = Path(__file__).resolve().parents[1] / "golden" / "store_of_version_0_1_0.tar.gz"
DONE = ("97196e853b04", "32211fdde884", "d7aefb2de426")
"""Folders of finished trials."""
KILLED = "601df5448844"


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "mm1_ablate", *arguments, "--store", "store"]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_store_of_an_earlier_version_is_planned_as_it_is(earlier: Path):
    planned = command(earlier, "plan", "sweep.yaml", "--json")
    assert planned.returncode == 0, planned.stderr
    trials = {trial["fingerprint"][:12]: trial for trial in json.loads(planned.stdout)["trials"]}
    assert trials.keys() == {*DONE, KILLED}
    assert {name: trials[name]["status"] for name in trials} == dict.fromkeys(DONE, "done") | {KILLED: "resume"}
    assert {trials[name]["reason"] for name in DONE} == {"finished"}, "neither trained nor evaluated again"


def test_a_store_of_an_earlier_version_is_continued_where_it_was_killed(earlier: Path):
    trials = earlier / "store" / "trials"
    before = {name: (trials / name / "status.json").read_bytes() for name in DONE}
    steps_before = [json.loads(line) for line in (trials / KILLED / "curve.jsonl").read_text().splitlines()]
    assert (trials / KILLED / "last.ckpt").exists()

    ran = command(earlier, "run", "sweep.yaml", "--cpus", "1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {name: (trials / name / "status.json").read_bytes() for name in DONE} == before, "what is done is not done again"
    assert read(trials / KILLED / "status.json")["status"] == "done"
    assert read(earlier / "store" / "layout.json")["version"] == 1, "that of a store which does not say"

    steps = [json.loads(line) for line in (trials / KILLED / "curve.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(3, 301, 3))
    kept = [step for step in steps_before if step["step"] <= 20]
    assert kept and steps[: len(kept)] == kept, "steps before the checkpoint are not trained again, which their times would show"
    table = read(earlier / "store" / "studies" / "earlier" / "report" / "comparison.json")
    assert {arm["name"] for arm in table["arms"]} == {"baseline", "without/text"}
