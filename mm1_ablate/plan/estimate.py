"""What all that a plan still has to do costs, and which budgets forbid it.

In: the plan's rows, and what the store has of finished trials and of measured steps. Out: hours, as reckoned and as measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mm1_ablate.config.gpus import gpu_of
from mm1_ablate.config.sweep.declaration import Budget, Resources
from mm1_ablate.config.sweep.expand import Study, Trial
from mm1_ablate.plan.calibration import CPU, Line, MeasuredCost, Measurements, step_key
from mm1_ablate.plan.cost import Estimate, Machines, estimate_cpu, estimate_gpu
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    from mm1_ablate.plan.plan import PlanRow


def estimate(
    training: Sequence[str],
    prepared: float,
    asked: Resources,
    machines: Machines,
    rows: Mapping[str, PlanRow],
    trials: Mapping[str, Trial],
    resources: Mapping[str, Resources],
    store: Store,
) -> Estimate:
    """Hours of what is to be trained (its keys in the other arguments), and of so many operations of preparations, which run in float32
    with the resources `asked`. While a trial is on GPUs it holds CPU cores too."""
    on_gpu = [key for key in training if resources[key].gpus]
    finished = [(row.flops, seconds) for key, row in rows.items() if (seconds := training_seconds(trials[key], store)) is not None]
    on_cpu = sum(rows[key].flops for key in training if key not in set(on_gpu)) + (0.0 if asked.gpus else prepared)
    cpus = estimate_cpu(on_cpu, finished=finished, cpus=asked.cpus)
    if not asked.gpus and not any(rows[key].cost.gpu_hours for key in training):
        return cpus
    with_prepared = [machines.hours(prepared, "32-true")] if prepared or not training else []
    gpus = estimate_gpu([rows[key].cost.gpu_hours for key in training] + with_prepared, machines.utilisation or 0.0)
    held = sum(min(rows[key].cost.gpu_hours.values()) * resources[key].cpus / resources[key].gpus for key in on_gpu)
    if asked.gpus and prepared:
        held += min(with_prepared[0].values()) * asked.cpus / asked.gpus
    return replace(gpus, cpu_hours=held + (cpus.cpu_hours or 0.0))


def measured_costs(
    rows: Mapping[str, PlanRow],
    trials: Mapping[str, Trial],
    resources: Mapping[str, Resources],
    training: Sequence[str],
    prepared: float,
    asked: Resources,
    machines: Machines,
    measurements: Measurements,
) -> tuple[MeasuredCost, ...]:
    """What measured steps say, for each device that some were measured on; of so many operations of preparations too, which run with the
    resources `asked`: on cores at the rate that was measured, on a GPU, where they run in float32, at the one that is reckoned with.
    Where some trials ask for GPUs and others do not, a device stands for those of its kind."""
    if not measurements.known:
        return ()
    probes = {key: measurements.of(step_key(trial.experiment, resources[key].workers)) for key, trial in trials.items()}
    kinds = {bool(each.gpus) for each in resources.values()}
    costs = []
    for device in dict.fromkeys(device for found in probes.values() for device in found):
        known = {measured.name: measured for found in probes.values() if (measured := found.get(device)) is not None}
        line = Line.through([(measured.flops_per_step, measured.seconds_per_step) for measured in known.values()])
        on_gpu = device != CPU
        hours = {}
        for key, row in rows.items():
            steps, held = trials[key].experiment.training.steps, resources[key]
            own = probes[key].get(device)
            seconds = own.seconds_per_step if own else line.seconds(row.flops / steps / held.workers)
            hours[key] = seconds * steps / 3600 * (held.workers if on_gpu else held.cpus)
        here = [key for key in training if len(kinds) == 1 or bool(resources[key].gpus) == on_gpu]
        if len(kinds) > 1 and bool(asked.gpus) != on_gpu:
            preparing = 0.0
        elif on_gpu:
            name = gpu_of(device)
            preparing = min((replace(machines, gpus=(name,)) if name else machines).hours(prepared, "32-true").values())
        else:
            timed = [(measured.flops_per_step, measured.seconds_per_step) for measured in known.values()]
            preparing = estimate_cpu(prepared, finished=timed, cpus=asked.cpus).cpu_hours or 0.0
        total = sum(hours[key] for key in here) + preparing
        costs.append(MeasuredCost(device, tuple(known.values()), total, on_gpu, {rows[key].name: spent for key, spent in hours.items()}))
    return tuple(costs)


def over_budget(studies: Sequence[Study], cost: Estimate, measured: Sequence[MeasuredCost]) -> tuple[str, ...]:
    """Budgets that what remains would break. Several studies share the sum of their budgets where all declare one; else each that does
    must allow all that runs at its side. Where steps were measured, what they say counts and not the estimate."""
    gpus = {each.device: each.hours for each in measured if each.on_gpu}
    cpus = [each.hours for each in measured if not each.on_gpu]
    if gpus and cost.gpu_hours:
        least, reckoned = min(gpus.values()), min(cost.gpu_hours.values())
        held = cost.cpu_hours * least / reckoned if cost.cpu_hours is not None and reckoned else cost.cpu_hours
        cost = Estimate(held, gpus, cost.basis)
    elif cpus and cost.cpu_hours is not None and not cost.gpu_hours:
        cost = Estimate(min(cpus), {}, cost.basis)
    broken = []
    for kind in ("gpu_hours", "cpu_hours"):
        declared = [(study.name, limit) for study in studies if (limit := getattr(study.sweep.budget, kind)) is not None]
        if len(declared) == len(studies) > 1:
            declared = [("together", sum(limit for _, limit in declared))]
        for name, limit in declared:
            broken += [f"{name}: {line}" for line in cost.against(**{"gpu_hours": None, "cpu_hours": None, kind: limit})]
    return tuple(broken)


def not_reckoned(studies: Sequence[Study], cost: Estimate) -> tuple[str, ...]:
    """What the verdict about budgets leaves out, in words; nothing where none is declared."""
    budgets = {study.name: study.sweep.budget for study in studies if study.sweep.budget != Budget()}
    if not budgets:
        return ()
    lines = [
        "budgets are held against training and preparation: evaluation, reading of data and what workers tell each other are not in it"
    ]
    if not cost.gpu_hours:
        names = [name for name, budget in budgets.items() if budget.gpu_hours is not None]
        lines += [f"{name}: gpu_hours of the budget is held against nothing, for its trials ask for no GPU" for name in names]
    return tuple(lines)


def training_seconds(trial: Trial, store: Store) -> float | None:
    """How long a trial whose model is kept was trained, from the last point of its curve; nothing if it is not known."""
    folder = store.trial_folder(trial.fingerprint)
    if not store.has(folder / "model.pt"):
        return None
    store.download(folder / "curve.jsonl")
    try:
        return float(json.loads((folder / "curve.jsonl").read_text().splitlines()[-1])["seconds"])
    except (OSError, LookupError, ValueError):
        return None
