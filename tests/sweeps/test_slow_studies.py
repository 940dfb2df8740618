"""Whole studies, from an empty store to their reports. Slow: `pytest -m slow` runs the first in minutes and the others in about an hour."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"


def run(sweep: str, store: Path) -> tuple[dict[str, Any], float]:
    """The report of a study that was run as a user would, and how many minutes that took."""
    command = [sys.executable, "-m", "mm1_ablate"]
    began = time.monotonic()
    subprocess.run([*command, "run", str(SWEEPS / sweep), "--store", str(store)], check=True, stdin=subprocess.DEVNULL)
    minutes = (time.monotonic() - began) / 60
    report = [*command, "report", str(SWEEPS / sweep), "--store", str(store), "--json"]
    return json.loads(subprocess.run(report, check=True, capture_output=True, text=True).stdout), minutes


def means(report: dict[str, Any], metric: str) -> dict[str, float]:
    return {arm["name"]: arm["metrics"][metric]["mean"] for arm in report["arms"]}


def test_the_quickstart_shows_what_interleaved_documents_are_for(tmp_path: Path) -> None:
    report, _ = run("quickstart.yaml", tmp_path)
    assert report["holes"] == []
    eight, zero, text = (means(report, metric) for metric in ("shot_8/average", "shot_0/average", "text_core/average"))
    assert eight["without/interleaved"] < eight["baseline"] / 2
    assert zero["without/captioned"] < zero["baseline"]
    assert text["without/text"] < text["baseline"] - 15


def test_the_papers_studies_come_to_verdicts_without_holes(tmp_path: Path) -> None:
    report, _ = run("miniature/all.yaml", tmp_path)
    assert report["holes"] == []
    assert {expected["verdict"] for expected in report["expectations"]} <= {"confirmed", "refuted", "leaning", "too close to call"}
    eight = means(report, "shot_8/average")
    assert eight["mix/captioned=100,interleaved=0"] < eight["mix/captioned=50,interleaved=50"] / 2


def test_the_baseline_against_itself_is_no_different_more_often_than_allowed(tmp_path: Path) -> None:
    report, _ = run("miniature/a_a.yaml", tmp_path)
    assert all(
        arm["verdict"] in ("baseline", "leaning", "too close to call") or arm["verdict"].startswith("no difference")
        for arm in report["arms"]
    )
