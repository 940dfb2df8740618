"""Plans: what will become of each trial and why, sizes, costs, what seeds can detect."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.declaration import GPUS, UTILISATION, Budget, Resources
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.plan.cost import GpuAssumptions
from mm1_ablate.plan.estimate import MeasuredStep, Measurements, step_key
from mm1_ablate.plan.flops import trial_tokens
from mm1_ablate.plan.model_statistics import count_rows
from mm1_ablate.plan.plan import Plan, plan, plan_together
from mm1_ablate.store.store import Store


@pytest.fixture
def study(tiny_sweep: Path) -> Study:
    return load_study(tiny_sweep)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


def row(planned: Plan, name: str):
    return next(row for row in planned.rows if row.name == name)


def pretend_done(store: Store, trial, scores: dict[str, float], seconds: float = 60.0) -> None:
    """Leave in the store what a finished trial leaves there, but for the model's weights."""
    import pandas

    folder = store.write_trial(trial)
    (folder / "model.pt").write_bytes(b"")
    (folder / "curve.jsonl").write_text(
        json.dumps({"step": 1, "seconds": seconds / 2}) + "\n" + json.dumps({"step": 2, "seconds": seconds}) + "\n"
    )
    store.write_evaluation(trial.fingerprint, trial.evaluation_fingerprint, pandas.DataFrame({"score": [1.0]}), scores)


def test_an_empty_store_runs_everything_and_says_why(study: Study, store: Store):
    planned = plan(study, store)
    assert [row.status for row in planned.rows] == ["run"] * 6
    assert all(row.reason for row in planned.rows)
    assert planned.row_count == 6 and len({row.fingerprint for row in planned.rows}) == 6


def test_what_is_done_stays_and_the_rest_runs(study: Study, store: Store):
    pretend_done(store, study.trials[0], {"shot_0/average": 10.0})
    planned = plan(study, store)
    assert planned.rows[0].status == "done"
    assert {row.status for row in planned.rows[1:]} == {"run"}


def test_a_kept_model_with_another_evaluation_is_evaluated_only(study: Study, store: Store, tiny_sweep: Path):
    pretend_done(store, study.trials[0], {"shot_0/average": 10.0})
    experiment = tiny_sweep.parent.parent / "experiments" / "tiny.yaml"
    experiment.write_text(experiment.read_text().replace("items: 4", "items: 5"))
    planned = plan(load_study(tiny_sweep), store)
    assert planned.rows[0].status == "evaluate"
    assert planned.rows[0].fingerprint == study.trials[0].fingerprint
    assert planned.rows[1].status == "run"


def test_an_interrupted_trial_is_resumed_where_it_left_a_checkpoint(study: Study, store: Store):
    kept, lost = study.trials[:2]
    for trial, checkpoint in ((kept, True), (lost, False)):
        folder = store.write_trial(trial)
        store.start(folder, "train")
        if checkpoint:
            (folder / "last.ckpt").write_bytes(b"")
    planned = plan(study, store)
    assert [row.status for row in planned.rows[:2]] == ["resume", "run"]
    assert "stopped" in planned.rows[0].reason


def test_a_failed_trial_waits_for_retry(study: Study, store: Store):
    folder = store.write_trial(study.trials[0])
    store.start(folder, "train")
    store.fail(folder, "ValueError: too small")
    assert row(plan(study, store), study.trials[0].name).status == "failed"
    assert "too small" in plan(study, store).rows[0].reason and "--retry" in plan(study, store).rows[0].reason
    assert plan(study, store, retry=True).rows[0].status == "run"


def test_rows_that_are_one_trial_are_named(tiny_sweep: Path, store: Store):
    text = tiny_sweep.read_text()
    tiny_sweep.write_text(text.replace("compare:", "  twin:\n    remove: data.mixture.text\ncompare:"))
    planned = plan(load_study(tiny_sweep), store)
    assert planned.row_count == 8 and len(planned.rows) == 6
    shared = next(row for row in planned.rows if "twin" in row.arms)
    assert shared.arms == ("without/text", "twin")
    assert f"same trial as twin/seed-{shared.seed}" in shared.reason


def test_studies_planned_together_share_trials(tiny_sweep: Path, store: Store):
    other = tiny_sweep.with_name("other.yaml")
    other.write_text(tiny_sweep.read_text().replace("sweep: tiny", "sweep: other").replace(", data.mixture.text", ""))
    planned = plan_together([load_study(tiny_sweep), load_study(other)], store)
    assert planned.row_count == 10 and len(planned.rows) == 6
    assert planned.rows[0].arms == ("tiny: baseline", "other: baseline")


def test_json_has_the_promised_keys(study: Study, store: Store):
    content = json.loads(json.dumps(plan(study, store).to_json(), allow_nan=False))
    assert content["rows"] == content["distinct_trials"] == len(content["trials"]) == 6
    for trial in content["trials"]:
        assert {"name", "arms", "seed", "fingerprint", "status", "reason", "parameters", "tokens", "flops"} <= trial.keys()
        assert len(trial["fingerprint"]) == 64
        assert trial["parameters"] == sum(trial["parameters_by_part"][part] for part in ("image_encoder", "connector", "language_model"))
        assert trial["tokens"] == trial["text_tokens"] + trial["image_tokens"] > 0
        assert trial["flops"] > 0


def test_image_tokens_follow_the_connector_and_text_tokens_do_not(study: Study):
    experiment = study.trials[0].experiment
    content = count_rows(experiment)
    few, many = (
        trial_tokens(experiment.model_copy(update={"model": experiment.model.model_copy(update={"connector": connector})}), content)
        for tokens in (1, 4)
        for connector in [experiment.model.connector.model_copy(update={"image_tokens": tokens})]
    )
    assert many.image_tokens == 4 * few.image_tokens == 4 * few.images > 0
    assert many.text == few.text


def test_counted_rows_agree_with_what_training_sees(study: Study):
    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.loader import BatchLoader
    from mm1_ablate.data.tokenizer import load_tokenizer

    experiment = study.trials[0].experiment
    content = count_rows(experiment)
    loader = BatchLoader(experiment.data, load_tokenizer("miniature"), 1, ImagePipeline(8), seed=3, steps=1, batch_rows=64)
    ((batch,),) = list(loader)
    images = len(batch.images)
    assert images / 64 == pytest.approx(content.images, rel=0.1)
    assert (len(batch.tokens) - images) / 64 == pytest.approx(content.text_tokens, rel=0.1)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that knows nothing yet."""
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))


def test_sizes_are_counted_once_and_remembered_for_all_stores(study: Study, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = plan(study, store)
    monkeypatch.setattr("mm1_ablate.plan.model_statistics.count_rows", lambda experiment: pytest.fail("counted again"))
    monkeypatch.setattr("mm1_ablate.model.profiler.profile_connector", lambda *settings: pytest.fail("profiled again"))
    for other in (store, Store(tmp_path / "another")):
        assert [row.flops for row in plan(study, other).rows] == [row.flops for row in first.rows]


@pytest.mark.usefixtures("empty_cache")
def test_operations_that_cannot_be_counted_are_estimated_and_the_plan_says_why(study: Study, store: Store, monkeypatch: pytest.MonkeyPatch):
    from mm1_ablate.commands.plan import costs_in_words
    from mm1_ablate.model import profiler

    monkeypatch.delitem(profiler.FORMULAS, torch.ops.aten.addmm)
    planned = plan(study, store)
    assert not any(row.flops_counted or row.to_json()["flops_counted"] for row in planned.rows)
    (line,) = (line for line in costs_in_words(planned) if "of the image encoder are estimated" in line)
    why = "there is no formula for the operations of aten.addmm.default"
    assert line.startswith(f"FLOPs of the image encoder are estimated from its parameters ({why}): baseline/seed-0, ")


@pytest.mark.usefixtures("empty_cache")
def test_data_that_cannot_be_opened_is_planned_as_declared(study: Study, store: Store, monkeypatch: pytest.MonkeyPatch):
    def nowhere(experiment):
        raise FileNotFoundError("/data/on/the/cluster")

    monkeypatch.setattr("mm1_ablate.plan.model_statistics.count_rows", nowhere)
    planned = plan(study, store)
    assert not any(row.rows_measured for row in planned.rows)
    experiment = study.trials[0].experiment
    nominal = experiment.training.steps * experiment.training.batch_rows * experiment.data.packing.row_tokens
    assert planned.rows[0].tokens.total == pytest.approx(nominal, rel=0.01)


def test_planning_makes_no_store(study: Study, tmp_path: Path):
    plan(study, Store(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_cannot_be_written_is_planned(study: Study, store: Store):
    store.root.chmod(0o500)
    assert plan(study, store).rows
    store.root.chmod(0o700)


def test_time_comes_from_finished_trials_and_is_rough_without_any(study: Study, store: Store):
    assert "rough" in plan(study, store).cost.basis
    pretend_done(store, study.trials[0], {"shot_0/average": 1.0}, seconds=3600)
    planned = plan(study, store)
    assert "1 finished trial" in planned.cost.basis
    share = sum(row.flops for row in planned.to_do) / planned.rows[0].flops
    assert planned.cost.cpu_hours == pytest.approx(share)


def test_nothing_left_costs_nothing(study: Study, store: Store):
    for trial in study.trials:
        pretend_done(store, trial, {"shot_0/average": 1.0})
    planned = plan(study, store)
    assert planned.to_do == () and planned.cost.cpu_hours == 0


def on_gpus(study: Study, **resources: object) -> Study:
    return replace(study, sweep=study.sweep.model_copy(update={"resources": Resources(**resources)}))  # type: ignore[arg-type]


def test_gpu_hours_are_operations_over_peak_and_utilisation(study: Study, store: Store):
    planned = plan_together([on_gpus(study, gpus=1, gpu="A100-80GB")], store)
    remaining = sum(row.flops for row in planned.to_do)
    assert "estimate" in planned.cost.basis
    assert planned.cost.gpu_hours == {"A100-80GB": pytest.approx(remaining / (GPUS["A100-80GB"].single * UTILISATION) / 3600)}
    assert planned.rows[0].cost.gpu_hours["A100-80GB"] == pytest.approx(planned.cost.gpu_hours["A100-80GB"] / 6, rel=0.3)
    faster = plan_together([on_gpus(study, gpus=1)], store, gpus=GpuAssumptions(("H100", "H200"), 0.8))
    assert set(faster.cost.gpu_hours) == {"H100", "H200"} and "80%" in faster.cost.basis


def test_gpus_that_are_asked_about_are_estimated_for_a_study_that_has_none(study: Study, store: Store):
    planned = plan_together([study], store, gpus=GpuAssumptions(("L40S",)))
    assert planned.cost.gpu_hours["L40S"] > 0 and planned.rows[0].cost.gpu_hours["L40S"] > 0
    assert plan(study, store).cost.gpu_hours == {}


def test_the_hours_of_a_study_without_gpus_are_given_on_a_gpu_or_on_its_cores(study: Study, store: Store):
    from mm1_ablate.commands.plan import summary

    named = [line for line in summary(plan_together([study], store, gpus=GpuAssumptions(("H100",)))) if "remaining: " in line]
    asked = [line for line in summary(plan(with_two_gpus(study), store)) if "remaining: " in line]
    assert ", or without a GPU " in named[0] and " and " not in named[0]
    assert ", and " in asked[0] and "of CPU cores" in asked[0]


def test_a_single_trial_is_counted_as_one(study: Study, store: Store):
    from mm1_ablate.commands.plan import summary

    planned = plan(study, store)
    one = replace(planned, rows=planned.rows[:1], row_count=2)
    assert summary(one)[0] == "2 rows, 1 distinct trial: 1 row shares a trial with another"
    assert summary(replace(one, row_count=1))[0] == "1 row, 1 distinct trial"


def test_json_of_a_trial_has_its_cost_by_part(study: Study, store: Store):
    content = json.loads(json.dumps(plan_together([study], store, gpus=GpuAssumptions(("H100",))).to_json(), allow_nan=False))
    for trial in content["trials"]:
        parts = trial["flops_by_part"]
        assert parts["total"] == trial["flops"] == pytest.approx(sum(value for name, value in parts.items() if name != "total"))
        assert set(parts) == {"image_encoder", "connector", "blocks", "head", "attention", "total"}
        memory = trial["memory_per_worker"]
        assert memory["total"] > memory[memory["largest"]] > 0 and trial["gpu_hours"]["H100"] > 0 and trial["does_not_fit"] == []


def test_what_a_plan_says_of_a_gpu_that_is_too_small(study: Study, store: Store, monkeypatch: pytest.MonkeyPatch):
    from mm1_ablate.commands.plan import summary

    monkeypatch.setitem(GPUS, "H100", replace(GPUS["H100"], memory=2**20))
    lines = summary(plan_together([study], store, gpus=GpuAssumptions(("H100",))))
    trained, evaluated = [line for line in lines if "does not fit" in line]
    assert trained.startswith("baseline/seed-0, baseline/seed-1 and 4 others: does not fit an H100 in one process")
    assert "in evaluation" in evaluated


def test_an_unknown_gpu_is_an_error_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'TPU' is unknown; plans know H100, "):
        Resources(gpu="TPU")


def test_a_plan_above_its_budget_says_so(study: Study, store: Store):
    assert plan(study, store).over_budget == ()
    budget = study.sweep.budget.model_copy(update={"cpu_hours": 1e-9})
    frugal = replace(study, sweep=study.sweep.model_copy(update={"budget": budget}))
    (line,) = plan(frugal, store).over_budget
    assert "1e-09" in line and "CPU hours" in line


def test_the_detectable_difference_is_in_deviations_and_after_a_pilot_in_points(study: Study, store: Store):
    before = plan(study, store).detectable["tiny"]
    assert before.seeds == 2 and before.in_deviations and before.in_deviations > 3 and before.in_points is None
    scores = {("baseline", 0): 50.0, ("baseline", 1): 52.0, ("without/text", 0): 40.0, ("without/text", 1): 44.0}
    for trial in study.trials:
        for arm in trial.arms:
            if (arm, trial.seed) in scores:
                pretend_done(store, trial, {"shot_0/average": scores[arm, trial.seed]})
    after = plan(study, store).detectable["tiny"]
    assert after.deviation == pytest.approx(2**0.5)  # differences of -10 and -8
    assert after.in_points == pytest.approx(2**0.5 * before.in_deviations)
    assert "4 finished trials of this study" in after.in_words()


def test_a_pilot_with_other_seeds_tells_the_deviation_too(study: Study, store: Store, tiny_sweep: Path):
    scores = {("baseline", 0): 50.0, ("baseline", 1): 52.0, ("without/text", 0): 40.0, ("without/text", 1): 44.0}
    for trial in study.trials:
        if (trial.arms[0], trial.seed) in scores:
            pretend_done(store, trial, {"shot_0/average": scores[trial.arms[0], trial.seed]})
    tiny_sweep.write_text(tiny_sweep.read_text().replace("seeds: [0, 1]", "seeds: [7, 8, 9]"))
    found = plan(load_study(tiny_sweep), store).detectable["tiny"]
    assert found.seeds == 3 and found.deviation == pytest.approx(2**0.5)
    assert "4 finished trials in the store (seeds 0, 1)" in found.in_words()
    assert found.in_points_after_holm > found.in_points


def test_arms_that_are_the_same_trials_are_one_comparison_to_the_plan(tiny_sweep: Path, store: Store):
    two = plan(load_study(tiny_sweep), store).detectable["tiny"]
    tiny_sweep.write_text(tiny_sweep.read_text().replace("ablations:\n", "ablations:\n  again: {remove: data.mixture.text}\n"))
    assert plan(load_study(tiny_sweep), store).detectable["tiny"].in_deviations_after_holm == two.in_deviations_after_holm


def test_one_seed_can_detect_nothing(tiny_sweep: Path, store: Store):
    tiny_sweep.write_text(tiny_sweep.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    found = plan(load_study(tiny_sweep), store).detectable["tiny"]
    assert found.in_deviations is None and "one seed" in found.in_words()


def test_preparations_are_shared_and_listed(tiny_sweep: Path, store: Store):
    import yaml
    from tiny import TINY, tiny_experiment

    experiment = tiny_experiment(TINY, prepared=True)
    (tiny_sweep.parent.parent / "experiments" / "tiny.yaml").write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    planned = plan(load_study(tiny_sweep), store)
    assert len(planned.preparations) == 4  # an encoder and a language model for each seed
    assert all(preparation.status == "run" and preparation.trials == 3 and preparation.flops > 0 for preparation in planned.preparations)


def test_studies_that_are_planned_together_share_their_budgets(tiny_sweep: Path) -> None:
    def with_budget(hours: float | None) -> Study:
        study = load_study(tiny_sweep)
        return replace(study, sweep=study.sweep.model_copy(update={"budget": Budget(cpu_hours=hours)}))

    store = Store(tiny_sweep.parent / "store")
    needed = plan(with_budget(None), store).cost.cpu_hours
    assert needed is not None
    halves = [with_budget(0.6 * needed), with_budget(0.6 * needed)]
    assert plan_together(halves, store).over_budget == () and plan(halves[0], store).over_budget
    (line,) = plan_together([with_budget(0.4 * needed), with_budget(0.4 * needed)], store).over_budget
    assert line.startswith("together: ")
    (line,) = plan_together([with_budget(0.6 * needed), with_budget(None)], store).over_budget
    assert line.startswith("tiny: ")


def test_studies_on_other_gpus_than_one_another_are_summed_and_held_against_their_budgets(tiny_sweep: Path) -> None:
    def on(gpu: str | None, seed: int, hours: float | None = None) -> Study:
        tiny_sweep.write_text(re.sub(r"seeds: \[.*\]", f"seeds: [{seed}]", tiny_sweep.read_text()))
        study = load_study(tiny_sweep)
        resources = Resources(gpus=1, gpu=gpu) if gpu else Resources()
        return replace(study, sweep=study.sweep.model_copy(update={"resources": resources, "budget": Budget(gpu_hours=hours)}))

    store = Store(tiny_sweep.parent / "store")
    ((_, one),), ((_, other),) = (plan(on(gpu, seed), store).cost.gpu_hours.items() for gpu, seed in (("H100", 0), ("L40S", 1)))
    both = plan_together([on("H100", 0, one / 2), on("L40S", 1, other / 2)], store)
    assert both.cost.gpu_hours == {"H100 and L40S": pytest.approx(one + other)}
    assert both.over_budget[0].startswith("together: ")
    beside_cpus = plan_together([on("H100", 0, one / 2), on(None, 1)], store)
    assert beside_cpus.cost.gpu_hours == {"H100": pytest.approx(one)} and beside_cpus.over_budget


def test_of_studies_on_gpus_and_without_each_trial_is_in_one_sum_whatever_gpu_is_named(tiny_sweep: Path) -> None:
    def with_seed(seed: int) -> Study:
        tiny_sweep.write_text(re.sub(r"seeds: \[.*\]", f"seeds: [{seed}]", tiny_sweep.read_text()))
        return load_study(tiny_sweep)

    on_one, without, named = on_gpus(with_seed(0), gpus=1, cpus=4), with_seed(1), GpuAssumptions(("L40S",))
    store = Store(tiny_sweep.parent / "store")
    one, other = plan_together([on_one], store, gpus=named).cost, plan(without, store).cost
    for both in (plan_together(studies, store, gpus=named) for studies in ([on_one, without], [without, on_one])):
        assert both.cost.gpu_hours == {"L40S": pytest.approx(one.gpu_hours["L40S"])}
        assert both.cost.cpu_hours == pytest.approx(4 * one.gpu_hours["L40S"] + (other.cpu_hours or 0))
        summed = sum(row.cost.gpu_hours.get("L40S", 0) for row in both.rows)
        assert summed == pytest.approx(both.cost.gpu_hours["L40S"]), "rows show what the sum is of"


def test_measurements_are_shown_for_the_trials_that_run_on_such_a_device(tiny_sweep: Path) -> None:
    def with_seed(seed: int) -> Study:
        tiny_sweep.write_text(re.sub(r"seeds: \[.*\]", f"seeds: [{seed}]", tiny_sweep.read_text()))
        return load_study(tiny_sweep)

    on_one, without = on_gpus(with_seed(0), gpus=1), with_seed(1)
    store = Store(tiny_sweep.parent / "store")
    for device, study in (("NVIDIA H100 80GB HBM3", on_one), ("CPU", without)):
        planned = plan(study, store)
        step = MeasuredStep(planned.rows[0].name, device, 2.0, 1e12, 1e9, 1e9, 3, False)
        Measurements(store.root).add(step_key(study.trials[0].experiment, 1), step)
    alone = [{cost.device: cost.hours for cost in plan(study, store).measured} for study in (on_one, without)]
    both = {cost.device: cost.hours for cost in plan_together([on_one, without], store).measured}
    assert both == {device: pytest.approx(hours[device]) for device, hours in zip(("NVIDIA H100 80GB HBM3", "CPU"), alone, strict=True)}


def with_two_gpus(study: Study, **budget: float) -> Study:
    resources = Resources(gpus=2, workers=2, cpus=16, gpu="H100")
    return replace(study, sweep=study.sweep.model_copy(update={"resources": resources, "budget": Budget(**budget)}))


def test_cpu_hours_of_trials_on_gpus_are_the_cores_that_they_hold(study: Study, store: Store):
    planned = plan(with_two_gpus(study), store)
    assert planned.cost.gpu_hours.keys() == {"H100"}
    assert planned.cost.cpu_hours == pytest.approx(8 * planned.cost.gpu_hours["H100"])


def test_both_kinds_of_budget_hold_beside_gpus(study: Study, store: Store):
    free = plan(with_two_gpus(study), store)
    assert not free.over_budget and not free.not_estimated
    gpu, cpu = free.cost.gpu_hours["H100"], free.cost.cpu_hours
    enough = plan(with_two_gpus(study, gpu_hours=1.1 * gpu, cpu_hours=1.1 * cpu), store)
    assert not enough.over_budget and "evaluation" in enough.not_estimated[0]
    few_cores = plan(with_two_gpus(study, gpu_hours=1.1 * gpu, cpu_hours=0.9 * cpu), store)
    assert len(few_cores.over_budget) == 1 and "CPU hours" in few_cores.over_budget[0]
    assert len(plan(with_two_gpus(study, gpu_hours=0.9 * gpu, cpu_hours=0.9 * cpu), store).over_budget) == 2


def test_a_budget_of_cpu_hours_holds_whatever_gpu_is_named_on_the_command_line(study: Study, store: Store):
    limited = replace(study, sweep=study.sweep.model_copy(update={"budget": Budget(cpu_hours=1e-9)}))
    assert len(plan(limited, store).over_budget) == 1
    assert len(plan_together([limited], store, gpus=GpuAssumptions(("H100",))).over_budget) == 1


def test_a_budget_of_gpu_hours_without_gpus_is_reported_to_have_no_effect(study: Study, store: Store):
    planned = plan(replace(study, sweep=study.sweep.model_copy(update={"budget": Budget(gpu_hours=1)})), store)
    assert not planned.over_budget and any("has no effect" in line for line in planned.not_estimated)
