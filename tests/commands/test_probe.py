"""`mm1-ablate plan --probe`: real steps of the cheapest and the dearest arm, measured on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from command_line import call
from step_helpers import experiment_with
from tiny import TINY, tiny_experiment

from mm1_ablate.config.sweep.declaration import GPUS, UTILISATION, gpu_of
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.plan.cost import GpuAssumptions
from mm1_ablate.plan.estimate import CPU, MeasuredStep, Measurements, StepTime, step_key
from mm1_ablate.plan.plan import plan
from mm1_ablate.run import probe_step
from mm1_ablate.store.store import Store


def measured(name: str, flops: float, seconds: float, device: str = CPU) -> MeasuredStep:
    return MeasuredStep(name, device, seconds, flops, peak_bytes=1e9, expected_bytes=2e9, steps=5, made_up_data=False)


def test_a_probe_measures_two_arms_and_leaves_measurements_alone(tiny_sweep: Path, tmp_path: Path):
    done = call("plan", tiny_sweep, "--store", tmp_path / "store", "--probe", "--without-data", "--json")
    assert done.exit_code == 0, done.stderr
    assert "measuring 5 steps of without/interleaved/seed-0 on this machine" in done.stderr
    content = json.loads(done.stdout)
    (cost,) = content["measured"]
    assert cost["device"] == "CPU" and cost["hours"] > 0 and len(cost["probes"]) == 2
    assert all(probe["seconds_per_step"] > 0 and probe["peak_bytes"] >= 0 and probe["made_up_data"] for probe in cost["probes"])
    assert content["cost"]["cpu_hours"] > 0 and "rough" in content["cost"]["basis"]  # the estimate stands beside it
    assert set(cost["hours_by_trial"]) == {trial["name"] for trial in content["trials"]}
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["probes.json"]
    # Remembered: the next plan shows it without measuring.
    again = call("plan", tiny_sweep, "--store", tmp_path / "store")
    assert "as measured on CPU" in again.stdout and "made-up data" in again.stdout and "measuring" not in again.stderr


def test_steps_of_the_data_and_of_many_micro_batches_are_timed():
    experiment = experiment_with({"training.batch_rows": 8, "training.micro_batch_rows": 1, "training.activation_checkpointing": True})
    request = {"experiment": experiment.model_dump(mode="json"), "workers": 2, "made_up": False, "steps": 2, "warm_up": 1}
    answer = probe_step.measure(request)
    assert answer["device"] == CPU and answer["steps"] == 4  # two of one micro-batch and two of two
    one = probe_step.measure({**request, "workers": 8})
    assert 0 < one["seconds_per_step"] < answer["seconds_per_step"] * 2


@pytest.mark.parametrize("mixture", [{"captioned": 1}, {"interleaved": 1, "text": 1}])
def test_made_up_rows_are_as_full_as_declared(mixture: dict[str, float]):
    experiment = experiment_with({"data.mixture": mixture, "data.packing.max_images": 6})
    (step,) = [step for step, _ in zip(probe_step._made_up(experiment, rows=4, together=2), range(1), strict=False)]
    packing, image_tokens = experiment.data.packing, experiment.model.connector.image_tokens
    for micro in step:
        images = len(micro.image_positions) // image_tokens
        nominal = len(micro.tokens) - images * image_tokens + images * packing.nominal_image_tokens
        assert nominal == pytest.approx(4 * packing.row_tokens, rel=0.05)
        assert images == (24 if "captioned" in mixture else 12)


def test_measured_steps_take_the_place_of_the_estimate(tiny_sweep: Path, tmp_path: Path):
    study, store = load_study(tiny_sweep), Store(tmp_path / "store")
    before = plan(study, store)
    measurements = Measurements(store.root)
    for name, seconds in (("without/interleaved/seed-0", 360.0), ("without/text/seed-0", 720.0)):
        row = next(row for row in before.rows if row.name == name)
        trial = next(trial for trial in study.trials if trial.name == name)
        measurements.add(step_key(trial.experiment, 1), measured(name, row.flops / 4, seconds))
    after = plan(study, store)
    (cost,) = after.measured
    assert cost.by_trial["without/interleaved/seed-1"] == pytest.approx(0.4)  # another seed of the arm: four steps of 360 s
    assert cost.by_trial["without/text/seed-0"] == pytest.approx(0.8)
    assert 0.4 < cost.by_trial["baseline/seed-0"] < 0.9
    assert after.cost == before.cost and cost.hours == pytest.approx(sum(cost.by_trial.values()))
    frugal = replace(study, sweep=study.sweep.model_copy(update={"budget": study.sweep.budget.model_copy(update={"cpu_hours": 3.0})}))
    assert before.over_budget == () and "CPU hours are needed, the budget allows 3" in plan(frugal, store).over_budget[0]


def test_preparations_are_in_what_measured_steps_say(tiny_sweep: Path, tmp_path: Path):
    experiment = tiny_experiment(TINY, prepared=True)
    (tiny_sweep.parent.parent / "experiments" / "tiny.yaml").write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    study, store = load_study(tiny_sweep), Store(tmp_path / "store")
    before = plan(study, store)
    trial, row = study.trials[0], before.rows[0]
    Measurements(store.root).add(step_key(trial.experiment, 1), measured(trial.name, row.flops / 4, 360.0))
    (cost,) = plan(study, store).measured
    prepared = sum(preparation.flops for preparation in before.preparations)
    # One arm gives a rate: operations of a preparation take as long as those of training.
    assert cost.hours == pytest.approx(sum(cost.by_trial.values()) + 0.1 * prepared / (row.flops / 4))
    Measurements(store.root).add(step_key(trial.experiment, 1), measured(trial.name, 1.0, 1e-12, "NVIDIA H100 80GB HBM3"))
    _, on_gpu = plan(study, store).measured
    in_float32 = GpuAssumptions(("H100",), UTILISATION).hours(prepared, "32-true")["H100"]
    assert on_gpu.hours == pytest.approx(sum(on_gpu.by_trial.values()) + in_float32)


def test_seconds_lie_on_the_line_through_what_was_measured():
    line = StepTime.through([(1.0, 2.0), (3.0, 4.0)])
    assert line.seconds(2.0) == pytest.approx(3.0)
    assert StepTime.through([(4.0, 2.0)]).seconds(8.0) == pytest.approx(4.0)
    # The dearer arm was quicker: noise; then both together give a rate.
    assert StepTime.through([(1.0, 3.0), (2.0, 3.0)]).seconds(1.5) == pytest.approx(3.0)


def test_gpus_are_known_by_what_their_drivers_call_them():
    names = {
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H200": "H200",
        "NVIDIA A100-SXM4-40GB": "A100-40GB",
        "NVIDIA A100 80GB PCIe": "A100-80GB",
        "NVIDIA L40S": "L40S",
        "NVIDIA GeForce RTX 3090": None,
    }
    assert {name: gpu_of(name) for name in names} == names
    probe_there = measured("baseline/seed-0", 0.5 * GPUS["H100"].half, 1.0, "NVIDIA H100 80GB HBM3")
    assert probe_there.utilisation("bf16-mixed") == pytest.approx(0.5)


def test_a_probe_that_cannot_run_is_exit_1_and_a_sentence(tiny_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mm1_ablate.run.probe._here", lambda request, resources, expected: refuse())
    done = call("plan", tiny_sweep, "--store", tmp_path / "store", "--probe")
    assert done.exit_code == 1 and "the probe failed: it needs" in done.stderr and "Traceback" not in done.stderr


def refuse() -> None:
    from mm1_ablate.run.probe import ProbeFailed

    raise ProbeFailed("it needs about 40 GiB of memory")


def test_a_gpu_that_is_not_known_is_exit_2_with_the_nearest(tiny_sweep: Path, tmp_path: Path):
    done = call("plan", tiny_sweep, "--store", tmp_path / "store", "--gpu", "A100-40")
    assert done.exit_code == 2 and "did you mean A100-40GB?" in done.stderr


@pytest.mark.slow
def test_a_node_of_a_cluster_measures_too(tiny_sweep: Path, tmp_path: Path):
    done = call("plan", tiny_sweep, "--store", tmp_path / "store", "--probe", "--address", "local", "--json")
    assert done.exit_code == 0, done.stderr
    (cost,) = json.loads(done.stdout)["measured"]
    assert len(cost["probes"]) == 2 and all(probe["seconds_per_step"] > 0 for probe in cost["probes"])
