"""Commands on a study that is tried otherwise than declared: where it is kept, what it says, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call
from scored_study import write_scores

from mm1_ablate.store.store import Store

EXPECT = "expect: [{arm: without/text, metric: shot_0/average, is: below, because: words matter}]\n"
TRY = ("--only", "without/text", "--seeds", "1")


@pytest.fixture
def store(tiny_sweep: Path, tmp_path: Path) -> Store:
    tiny_sweep.write_text(tiny_sweep.read_text() + EXPECT)
    return write_scores(tiny_sweep, tmp_path / "store", lambda trial, task, shots, place, item: item.references[place % 1])[1]


def test_a_try_is_kept_apart_and_what_the_file_declares_is_recorded_first(store: Store, tiny_sweep: Path) -> None:
    before = {path.name for path in (store.root / "studies").glob("*")}
    done = call("run", tiny_sweep, "--store", store.root, *TRY)
    assert done.exit_code == 0 and "nothing to do" in done.stdout, done.output
    (new,) = {path.name for path in (store.root / "studies").glob("tiny-try-*")}
    assert new not in before and f"Kept as '{new}'" in done.stdout
    declared = {}
    for name in ("tiny", new):
        (entry,) = (store.root / "studies" / name / "declarations").glob("*.json")
        declared[name] = json.loads(entry.read_text())
    assert declared["tiny"]["trials"] == 6 and declared["tiny"]["declared"]["expectations"]
    assert declared[new]["trials"] == 2 and not declared[new]["declared"]["expectations"]
    assert declared["tiny"]["time"] <= declared[new]["time"]
    lines = [
        done.stdout.index(line) for line in ("comparing 2 trials", "writing the report", "showing it in MLflow", "scores and differences")
    ]
    assert lines == sorted(lines) and store.runs(new)[0].what == "ended"
    assert f"mm1-ablate ui {tiny_sweep} --store {store.root} {' '.join(TRY)}" in done.stdout


def test_reports_say_that_it_is_a_try(store: Store, tiny_sweep: Path) -> None:
    declared, tried = (json.loads(call("report", tiny_sweep, "--store", store.root, "--json", *options).stdout) for options in ((), TRY))
    assert len(declared["expectations"]) == 1 and tried["expectations"] == []
    assert [arm["name"] for arm in tried["arms"]] == ["baseline", "without/text"] and all(arm["n"] == 1 for arm in tried["arms"])
    said = "A try of 'tiny' with --only without/text --seeds 1: not the study that the file declares"
    assert any(remark.startswith(said) for remark in tried["remarks"]) and not any("A try" in remark for remark in declared["remarks"])
    assert said in " ".join(call("report", tiny_sweep, "--store", store.root, *TRY).stdout.split())


def test_plan_and_status_are_of_the_try_and_a_smoke_run_has_a_store_of_its_own(store: Store, tiny_sweep: Path) -> None:
    plan = json.loads(call("plan", tiny_sweep, "--store", store.root, "--json", "--set", "training.steps=2").stdout)
    assert {trial["status"] for trial in plan["trials"]} == {"run"}
    assert plan["arms"]["tiny-try-" + next(iter(plan["arms"])).rpartition("-")[2]]["everywhere"]["baseline"][0]["new"] == 2
    status = json.loads(call("status", tiny_sweep, "--store", store.root, "--json", *TRY).stdout)
    assert [trial["status"] for trial in status["trials"]] == ["done", "done"]
    smoke = json.loads(call("status", tiny_sweep, "--store", store.root, "--json", "--smoke").stdout)
    assert smoke["store"] == f"{store.root}-smoke" and smoke["study"] == "tiny-smoke" and smoke["counts"] == {"missing": 3}
