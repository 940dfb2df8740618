"""Chained stages on a real Ray: each earlier stage is trained once for all that start from it, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from mlflow import MlflowClient
from staged_study import chains, staged, write_chain
from study_helpers import study, trial
from tiny import TINY, tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.study import Arm, Study
from mm1_ablate.plan.plan import plan
from mm1_ablate.run.scheduler import RunOptions, run_study
from mm1_ablate.store.store import Store
from mm1_ablate.training.fit import load_earlier_stage, load_trained

QUICK: dict[str, Any] = {
    "run_trial": "study_helpers:quick_trial",
    "run_preparation": "study_helpers:quick_preparation",
    "preload": ("pandas",),
}
STEPPING = QUICK | {"run_trial": "study_helpers:stepping_trial"}


def trainings(store: Store) -> dict[int, int]:
    """By steps, how often a trial of so many was trained."""
    counts = {}
    for path in store.root.glob("trials/*/trainings"):
        steps = json.loads((path.parent / "trial.json").read_text())["experiment"]["training"]["steps"]
        counts[steps] = len(path.read_text().splitlines())
    return counts


@pytest.mark.usefixtures("shared_ray")
def test_stages_are_trained_once_before_what_starts_from_them(tmp_path: Path) -> None:
    whole, store = chains(), Store(tmp_path / "store")
    two = replace(whole, arms=whole.arms[:2], trials=whole.trials[:2])
    planned = plan(two, store)
    assert [(row.name, row.status) for row in planned.stages] == [
        ("baseline/seed-0 stage 1: first", "run"),
        ("longer chain/seed-0 stage 2: of 21 steps", "run"),
    ]
    assert planned.stages[0].arms == ("baseline", "longer chain") and planned.stages[0].reason == "never run; 2 trials start from it"
    assert [row.status for row in planned.preparations] == ["run", "run"]
    only_trials = replace(whole, arms=whole.arms[:1], trials=whole.trials[:1])
    assert planned.cost.cpu_hours and planned.cost.cpu_hours > (plan(only_trials, store).cost.cpu_hours or 0)

    events: list[str] = []
    outcome = run_study(two, store, RunOptions(cpus=2, **QUICK), on_event=events.append)
    assert outcome.done == tuple(one.name for one in two.trials) and not outcome.failed
    assert trainings(store) == {20: 1, 21: 1, 30: 1, 31: 1}
    assert [event.split()[0] for event in events] == ["starting", "preparing", "training", "training", "running"]
    models = [store.trial_folder(one) / "model.pt" for one in (*two.trials[1].earlier, two.trials[1])]
    times = [path.stat().st_mtime_ns for path in models]
    assert times == sorted(times)
    assert [store.read_start(one.fingerprint) for one in (*two.trials[1].earlier, two.trials[1])] == [
        None,
        *(path.parent for path in models[:2]),
    ]
    assert not (models[0].parent / "evaluations").exists(), "an earlier stage is not judged"
    assert [row.status for row in plan(two, store).stages] == ["done", "done"] and plan(two, store).cost.cpu_hours == 0

    # As an arm of its own it is judged, and not trained again.
    rows = {row.name: row.status for row in plan(whole, store).rows}
    assert rows["first alone/seed-0"] == "evaluate" and not [row for row in plan(whole, store).stages if "first" in row.name]
    assert len(run_study(whole, store, RunOptions(cpus=2, **QUICK)).done) == 3 and trainings(store)[20] == 1


@pytest.mark.usefixtures("shared_ray")
def test_a_stage_that_fails_is_the_failure_of_what_starts_from_it(tmp_path: Path) -> None:
    whole, store = chains(), Store(tmp_path / "store")
    store.root.mkdir()
    (store.root / "fail-21").touch()
    outcome = run_study(whole, store, RunOptions(cpus=2, **QUICK))
    assert (len(outcome.done), outcome.failed) == (2, ("longer chain/seed-0",))
    reason = store.status(whole.trials[1]).reason
    assert reason == "its earlier stage 'of 21 steps' failed: ArithmeticError: no trial of 21 steps ever works"
    assert run_study(whole, store, RunOptions(cpus=2, **QUICK)).failed == ("longer chain/seed-0",), "without --retry"
    (store.root / "fail-21").unlink()
    assert not run_study(whole, store, RunOptions(cpus=2, retry=True, **QUICK)).failed
    assert trainings(store) == {20: 1, 21: 1, 30: 1, 31: 1}


def sharing(last: str, steps: int) -> Study:
    """One arm, whose first stage of 20 steps is that of every such study."""
    first = tiny_experiment({"training.steps": 20, "experiment": "first", **TINY})
    experiment = staged(steps, first)
    return replace(study(), name=last, arms=(Arm(last, "", experiment, last),), trials=(trial(last, 0, experiment),))


def driver(study: str, store: Store) -> subprocess.Popen[str]:
    """A run of a study in a process of its own, which prints what it begins with and at its end how many trials it has done."""
    options = "RunOptions(cpus=1, **STEPPING), on_event=lambda line: print(line, flush=True)"
    program = f"from test_run_stages import *; print(len(run_study({study}, Store({str(store.root)!r}), {options}).done))"
    paths = os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])
    return subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("shared_ray")
def test_two_runs_at_once_train_a_stage_that_they_share_once_though_one_of_them_is_killed_in_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.root.mkdir()
    (store.root / "wait-here").touch()
    (stage,) = sharing("one", 30).stages
    folder = store.trial_folder(stage)

    def steps() -> list[tuple[str, int]]:
        lines = (folder / "steps").read_text().splitlines() if (folder / "steps").exists() else []
        return [(pid, int(step)) for pid, step in map(str.split, lines)]

    one = driver("sharing('one', 30)", store)
    other = None
    try:
        until = time.monotonic() + 300
        while len(steps()) < 6 and time.monotonic() < until:
            time.sleep(0.05)
        other = driver("sharing('other', 31)", store)
        assert other.stdout is not None
        while "training earlier stages" not in other.stdout.readline():
            assert other.poll() is None and time.monotonic() < until
        time.sleep(2)
        assert len(steps()) == 6, "the other run waits"
        one.kill()
        while len(steps()) < 8 and time.monotonic() < until:
            time.sleep(0.05)
        (store.root / "wait-here").unlink()
        said, _ = other.communicate(timeout=300)
        assert said.split()[-1] == "1"
    finally:
        for running in (one, other):
            if running is not None:
                running.kill()
                running.wait()
    first, second = dict.fromkeys(pid for pid, _ in steps())
    assert steps() == [(first, step) for step in range(1, 7)] + [(second, step) for step in range(5, 21)], "from its last checkpoint on"
    rest = run_study(sharing("one", 30), store, RunOptions(cpus=1, **STEPPING))
    assert len(rest.done) == 1 and len(steps()) == 22, "nothing is trained again for the one that was killed"


# ---------------------------------------------------------------- weights
def test_weights_of_another_resolution_are_resampled_and_others_refused(tmp_path: Path) -> None:
    from mm1_ablate.model.multimodal import build

    small = build(tiny_experiment(), 0)
    torch.save(small.state_dict(), tmp_path / "model.pt")
    large = build(tiny_experiment({"model.image_encoder.image_size": 48}), 1)
    load_earlier_stage(large, tmp_path)
    assert torch.equal(large.language_model.get_input_embeddings().weight, small.language_model.get_input_embeddings().weight)
    kernels = [model.state_dict()["encoder.vision.patch_embed.proj.weight"].shape[-1] for model in (small, large)]
    assert kernels == [12, 24]
    with pytest.raises(ValueError, match=r"do not fit: .* has the shape"):
        load_earlier_stage(build(tiny_experiment({"model.image_encoder.width": 32}), 0), tmp_path)


# ---------------------------------------------------------------- the real thing
def told(command: str) -> Any:
    """What a command that looks at the study says, asked in this process."""
    return json.loads(call(command, "chain.yaml", "--json").stdout)


@pytest.mark.usefixtures("shared_ray")
def test_a_chain_from_the_command_line_killed_in_its_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_chain(tmp_path, first_steps=80)
    monkeypatch.chdir(tmp_path)
    run = [sys.executable, "-m", "mm1_ablate", "run", "chain.yaml", "--cpus", "1"]
    killed = subprocess.Popen(run, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and not list(tmp_path.glob("ablations/trials/*/last.ckpt")):
            time.sleep(0.05)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    (checkpoint,) = tmp_path.glob("ablations/trials/*/last.ckpt")
    assert not list(tmp_path.glob("ablations/trials/*/model.pt")), "killed in the middle"
    planned = told("plan")
    while any(stage["status"] == "running" for stage in planned["stages"]) and time.monotonic() < until:
        time.sleep(0.2)  # its child ends a moment later
        planned = told("plan")
    assert sorted(stage["status"] for stage in planned["stages"]) == ["resume", "run"]
    assert [row["status"] for row in planned["trials"]] == ["run"] * 3

    # How a trial is run is not what it is: two workers go on, each with a part of the weights.
    with (tmp_path / "chain.yaml").open("a") as sweep:
        sweep.write("resources: {workers: 2, strategy: fsdp}\n")
    done = call("run", "chain.yaml", "--cpus", "2")
    assert done.exit_code == 0, done.output
    folders = [path.parent for path in tmp_path.glob("ablations/trials/*/model.pt")]
    judged = [folder for folder in folders if list(folder.glob("evaluations/*/scores.json"))]
    assert (len(folders), len(judged)) == (5, 3), "two first stages, one of them for two arms, and three arms judged at their end"
    points = [json.loads(line)["step"] for line in (checkpoint.parent / "curve.jsonl").read_text().splitlines()]
    assert points == sorted(set(points)) and points[-1] == 80
    starts = [json.loads((folder / "trial.json").read_text()).get("starts_from", "") for folder in judged]
    assert sorted(starts.count(start) for start in starts) == [1, 2, 2]

    record = json.loads((judged[0] / "trial.json").read_text())
    model = load_trained(Experiment.model_validate(record["experiment"]), 0, judged[0])
    assert model.state_dict()["encoder.vision.patch_embed.proj.weight"].shape[-1] == 24
    known = told("status")
    assert known["counts"] == {"done": 3} and known["stage_counts"] == {"done": 2}
    assert [len(stage["trials"]) for stage in known["stages"]] == [2, 1]
    client = MlflowClient(f"sqlite:///{tmp_path / 'ablations' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mm1-ablate/chain")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'stage'")
    assert {run.data.tags["fingerprint"] for run in runs} == {stage["fingerprint"][:12] for stage in known["stages"]}
    assert all(client.get_metric_history(run.info.run_id, "loss")[-1].step == 80 for run in runs)
    report = told("report")
    assert {arm["name"]: arm["n"] for arm in report["arms"]} == {"baseline": 1, "without text at last": 1, "without text at first": 1}

    # Another sweep over the first stage alone, as an arm: it is judged and not trained again.
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("ablations/trials/*/model.pt")}
    alone = call("run", "first.yaml")
    assert alone.exit_code == 0, alone.output
    assert trained == {path: path.stat().st_mtime_ns for path in tmp_path.glob("ablations/trials/*/model.pt")}
