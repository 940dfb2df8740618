"""Stages in a chain from the command line: their data, their cost, and what an edited earlier stage makes of what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command_line import call
from staged_study import write_chain
from study_helpers import quick_trial

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.store.store import Store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two stages, 'first' at 24 pixels and 'last' at 48, and a sweep with an arm for each of them without text."""
    write_chain(tmp_path, first_steps=40)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def looked_at(folder: Path, *options: str) -> dict:
    done = call("data", "chain.yaml", "--json", "--to", folder / "page.html", "--documents", 2, *options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_data_of_any_stage_is_looked_at_by_its_name_or_number(folder: Path) -> None:
    last, first = looked_at(folder), looked_at(folder, "--stage", "first")
    assert [(found["experiment"], found["stage"], found["stages"]) for found in (last, first)] == [("last", 2, 2), ("first", 1, 2)]
    assert first["rows"] > 10 * last["rows"], "the epochs of 40 steps, not of 3"
    page = (folder / "page.html").read_text()
    assert "stage 1: first" in page and "Stage 1 of 2" in page
    assert looked_at(folder, "--stage", "1") == first and looked_at(folder, "--stage", "2") == last
    altered = looked_at(folder, "--stage", "1", "--arm", "without text at first")
    assert "text" in first["sources"] and "text" not in altered["sources"]
    assert "text" in looked_at(folder, "--arm", "without text at first")["sources"], "the last stage has it"


def test_a_stage_that_is_not_there_is_reported_with_those_that_are(folder: Path) -> None:
    for asked in ("3", "0", "frist"):
        done = call("data", "chain.yaml", "--stage", asked)
        assert done.exit_code == 2
        assert f"there is no stage '{asked}'; the stages of baseline are 1: first, 2: last" in done.stderr
    tree = yaml.safe_load((folder / "first.yaml").read_text())
    (folder / "first.yaml").write_text(yaml.safe_dump(tree | {"experiment": "last"}))
    done = call("data", "chain.yaml", "--stage", "last")
    assert done.exit_code == 2 and "stages 1 and 2 are all called 'last', give a number" in done.stderr
    assert call("data", "first.yaml", "--stage", "1", "--to", folder / "page.html").exit_code == 0, "an experiment without others"


def test_a_plan_and_a_budget_count_each_shared_stage_once(folder: Path) -> None:
    sweep = (folder / "chain.yaml").read_text()
    other = sweep.replace("sweep: chain", "sweep: other").replace("without text at last", "without interleaved at last")
    (folder / "other.yaml").write_text(other.replace("remove: data.mixture.text", "remove: data.mixture.interleaved"))
    done = call("plan", "chain.yaml", "other.yaml", "--json")
    assert done.exit_code == 0, done.output
    planned = json.loads(done.stdout)
    assert [len(stage["arms"]) for stage in planned["stages"]] == [4, 2] and planned["distinct_trials"] == 4
    assert "3 arms, 3 trials, earlier stages to start from: 2" in call("validate", "chain.yaml").stdout
    alone = json.loads(call("plan", "chain.yaml", "--json").stdout)
    assert alone["cost"]["cpu_hours"] < planned["cost"]["cpu_hours"] < 1.2 * alone["cost"]["cpu_hours"], "one short trial more"
    budget = alone["cost"]["cpu_hours"]
    for factor, code in ((0.99, 3), (1.01, 0)):
        (folder / "chain.yaml").write_text(f"{sweep}budget: {{cpu_hours: {factor * budget!r}}}\n")
        assert call("plan", "chain.yaml").exit_code == code
        if code:
            done = call("run", "chain.yaml")
            assert done.exit_code == code and "nothing was started" in done.stderr


def test_an_earlier_stage_that_is_edited_after_it_was_trained_is_another_one(folder: Path) -> None:
    store, before = Store(folder / "ablations"), load_study(folder / "chain.yaml")
    store.root.mkdir()
    for one in (*before.stages, *before.trials):
        store.write_trial(one)
        quick_trial(str(store.root), one.fingerprint, [one.evaluation_fingerprint] if one.evaluation_fingerprint else [])
    store.register_trials(before)
    assert json.loads(call("status", "chain.yaml", "--json").stdout)["stage_counts"] == {"done": 2}
    text = (folder / "first.yaml").read_text()
    (folder / "first.yaml").write_text(text.replace("steps: 40", "steps: 41"))
    known = json.loads(call("status", "chain.yaml", "--json").stdout)
    assert known["counts"] == {"missing": 3} and known["stage_counts"] == {"missing": 2}
    assert len(known["no_longer_named"]) == 5, "left alone"
    planned = json.loads(call("plan", "chain.yaml", "--json").stdout)
    assert {row["status"] for row in (*planned["stages"], *planned["trials"])} == {"run"}
    # How it is run, and how it would be judged, is not what it is.
    (folder / "first.yaml").write_text(
        text.replace("checkpoint_every_steps: 20", "checkpoint_every_steps: 10").replace("items: 4", "items: 5")
    )
    planned = json.loads(call("plan", "chain.yaml", "--json").stdout)
    assert {row["status"] for row in (*planned["stages"], *planned["trials"])} == {"done"}
