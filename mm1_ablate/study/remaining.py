"""What all that a plan still has to do costs, and which budgets forbid it.

In: the plan's rows, and what the store has of finished trials and of measured steps. Out: hours, as reckoned and as measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mm1_ablate.spec.expansion import Study, Trial
from mm1_ablate.spec.sweep import Resources
from mm1_ablate.study.cost import Estimate, Machines, estimate_cpu, estimate_gpu
from mm1_ablate.study.measured import CPU, Line, MeasuredCost, Measurements, step_key
from mm1_ablate.study.store import Store

if TYPE_CHECKING:
    from mm1_ablate.study.plan import PlanRow


def estimate(
    training: Sequence[PlanRow],
    prepared: float,
    resources: Resources,
    machines: Machines,
    rows: Mapping[str, PlanRow],
    trials: Mapping[str, Trial],
    store: Store,
) -> Estimate:
    """Hours of what is to be trained, and of so many operations of preparations, which run in float32."""
    if resources.gpus or any(row.cost.gpu_hours for row in training):
        hours = [row.cost.gpu_hours for row in training] + ([machines.hours(prepared, "32-true")] if prepared or not training else [])
        return estimate_gpu(hours, machines.utilisation or 0.0)
    finished = [(row.flops, seconds) for key, row in rows.items() if (seconds := training_seconds(trials[key], store)) is not None]
    return estimate_cpu(sum(row.flops for row in training) + prepared, finished=finished, cpus=resources.cpus)


def measured_costs(
    rows: Mapping[str, PlanRow],
    trials: Mapping[str, Trial],
    resources: Mapping[str, Resources],
    training: set[str],
    measurements: Measurements,
) -> tuple[MeasuredCost, ...]:
    """What measured steps say, for each device that some were measured on."""
    probes = {key: measurements.of(step_key(trial.experiment, resources[key].workers)) for key, trial in trials.items()}
    costs = []
    for device in dict.fromkeys(device for found in probes.values() for device in found):
        known = {measured.name: measured for found in probes.values() if (measured := found.get(device)) is not None}
        line = Line.through([(measured.flops_per_step, measured.seconds_per_step) for measured in known.values()])
        on_gpu = device != CPU
        hours = {}
        for key, row in rows.items():
            steps, asked = trials[key].experiment.training.steps, resources[key]
            own = probes[key].get(device)
            seconds = own.seconds_per_step if own else line.seconds(row.flops / steps / asked.workers)
            hours[key] = seconds * steps / 3600 * (asked.workers if on_gpu else asked.cpus)
        total = sum(hours[key] for key in training)
        costs.append(MeasuredCost(device, tuple(known.values()), total, on_gpu, {rows[key].name: spent for key, spent in hours.items()}))
    return tuple(costs)


def over_budget(studies: Sequence[Study], cost: Estimate, measured: Sequence[MeasuredCost]) -> tuple[str, ...]:
    """Budgets that what remains would break. Several studies share the sum of their budgets where all declare one; else each that does
    must allow all that runs at its side. Where steps were measured, what they say counts and not the estimate."""
    gpus = {each.device: each.hours for each in measured if each.on_gpu}
    cpus = [each.hours for each in measured if not each.on_gpu]
    if gpus and cost.gpu_hours:
        cost = Estimate(None, gpus, cost.basis)
    elif cpus and cost.cpu_hours is not None:
        cost = Estimate(min(cpus), {}, cost.basis)
    broken = []
    for kind in ("gpu_hours", "cpu_hours"):
        declared = [(study.name, limit) for study in studies if (limit := getattr(study.sweep.budget, kind)) is not None]
        if len(declared) == len(studies) > 1:
            declared = [("together", sum(limit for _, limit in declared))]
        for name, limit in declared:
            broken += [f"{name}: {line}" for line in cost.against(**{"gpu_hours": None, "cpu_hours": None, kind: limit})]
    return tuple(broken)


def training_seconds(trial: Trial, store: Store) -> float | None:
    """How long a trial whose model is kept was trained, from the last point of its curve; nothing if it is not known."""
    folder = store.trial_folder(trial.fingerprint)
    if not store.has(folder / "model.pt"):
        return None
    store.bring(folder / "curve.jsonl")
    try:
        return float(json.loads((folder / "curve.jsonl").read_text().splitlines()[-1])["seconds"])
    except (OSError, LookupError, ValueError):
        return None
