"""Hours of what a plan still has to do, and the budgets that forbid it.

In: the plan's rows, and what the store has of finished trials and of timed steps (`probes.json`, which `run/probe.py` writes). Out: hours
by operations: on GPUs by peak and utilisation, on CPU cores by finished trials of the store, or without any by a rough rate; and hours by
timed steps, for each device that some were timed on. The steps of two arms give a line: what each step takes whatever it computes, and
what an operation takes. A measurement is stored under all that shapes a step (model, packing, mixture, rows, precision, how it is run),
not under seeds or numbers of steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.config.sweep.declaration import GPUS, Budget, Resources, gpu_of
from mm1_ablate.data.atomic_files import DamagedFile, read_json_or_nothing, write_json
from mm1_ablate.plan.cost import GpuAssumptions
from mm1_ablate.plan.trials import PlanRow
from mm1_ablate.store.records import checked
from mm1_ablate.store.store import Store

CPU = "CPU"
"""The device where there is no GPU: machines are not distinguished."""
CPU_RATE = 2e10
"""Operations per second of one CPU core on models as small as the miniature's: a rough guess, used only until a trial has been timed."""
HOW_IT_RUNS = ("micro_batch_rows", "activation_checkpointing", "compile")
"""Fields of training that shape a step's time without being part of a trial's identity."""
PREPARED_IN = "32-true"
"""Precision of preparations."""


# ---------------------------------------------------------------- by operations
@dataclass(frozen=True)
class CostEstimate:
    """How long what remains will take, and what that is based on."""

    cpu_hours: float | None
    gpu_hours: dict[str, float]
    """By name of the GPU; empty for studies without GPUs."""
    basis: str

    def against(self, *, gpu_hours: float | None, cpu_hours: float | None) -> list[str]:
        """Which limits the estimate breaks, in words. GPU hours are those of the fastest GPU named: a plan above that is above any."""
        broken = []
        if cpu_hours is not None and self.cpu_hours is not None and self.cpu_hours > cpu_hours:
            broken.append(f"about {self.cpu_hours:.3g} CPU hours are needed, the budget allows {cpu_hours:g}")
        if gpu_hours is not None and self.gpu_hours:
            name, least = min(self.gpu_hours.items(), key=lambda pair: pair[1])
            if least > gpu_hours:
                broken.append(f"about {least:.3g} {name} hours are needed, the budget allows {gpu_hours:g}")
        return broken


def estimate_gpu(hours: Sequence[dict[str, float]], utilisation: float) -> CostEstimate:
    """The sum of what trials and preparations take on GPUs, for the GPUs that all of them have hours for; where there is none such, each
    on the fastest of its own. What has no GPU is not in it."""
    hours = [each for each in hours if each]
    names = [name for name in hours[0] if all(name in each for each in hours)] if hours else []
    total = {name: sum(each[name] for each in hours) for name in names}
    if hours and not names:
        fastest = [min(each, key=lambda name: each[name]) for each in hours]
        total = {" and ".join(sorted(set(fastest))): sum(each[name] for each, name in zip(hours, fastest, strict=True))}
    return CostEstimate(None, total, f"an estimate: FLOPs over the GPU's peak at {utilisation:.0%} utilisation")


def estimate_cpu(flops: float, *, finished: Sequence[tuple[float, float]], cpus: float = 1) -> CostEstimate:
    """Hours of CPU cores for so many operations.

    Args:
        finished: (operations, seconds) of trials that this store has timed.
        cpus: CPU cores that a trial holds while it runs.
    """
    if finished and sum(done for done, _ in finished) > 0:
        seconds = flops * sum(spent for _, spent in finished) / sum(done for done, _ in finished) * cpus
        return CostEstimate(seconds / 3600, {}, f"from {len(finished)} finished trial{'s' if len(finished) > 1 else ''} of this store")
    return CostEstimate(flops / CPU_RATE / 3600, {}, f"rough: assumes {CPU_RATE:.0e} FLOP/s per core, as no trial has finished yet")


def training_seconds(trial: Trial, store: Store) -> float | None:
    """How long a trial was trained whose model is saved, from the last point of its curve; None where it is not known."""
    folder = store.trial_folder(trial.fingerprint)
    if not store.has(folder / "model.pt"):
        return None
    store.download(folder / "curve.jsonl")
    try:
        return float(json.loads((folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()[-1])["seconds"])
    except (OSError, LookupError, ValueError, TypeError):
        return None


# ---------------------------------------------------------------- by timed steps
@dataclass(frozen=True)
class MeasuredStep:
    """Steps of one arm on one device, in a single process."""

    name: str
    """Of the trial that was measured."""
    device: str
    seconds_per_step: float
    """Of one worker, without communication between workers."""
    flops_per_step: float
    """Of one worker, as the plan estimates them."""
    peak_bytes: float
    """The highest that torch held on a GPU, or that the process grew by on a CPU."""
    expected_bytes: float
    """The same as the plan estimates it, for one process."""
    steps: int
    """Number of timed steps; the first ones are not timed."""
    made_up_data: bool

    @property
    def operations_per_second(self) -> float:
        return self.flops_per_step / self.seconds_per_step

    def utilisation(self, precision: str) -> float | None:
        """Share of the device's peak, if it is known."""
        name = gpu_of(self.device)
        return self.operations_per_second / GPUS[name].peak(precision) if name else None


def step_key(experiment: Experiment, workers: int) -> str:
    """The identity of a step's time."""
    training = experiment.training
    how = {name: getattr(training, name, None) for name in HOW_IT_RUNS}
    what = {"batch_rows": training.batch_rows, "precision": training.precision, "optimizer": canonical(training.optimizer)}
    parts = {"model": canonical(experiment.model), "data": canonical(experiment.data)}
    return fingerprint({**parts, **what, **how, "workers": workers})


class Measurements:
    """The timed steps of a store."""

    def __init__(
        self, root: Path, write: Callable[[Path, Any], None] = write_json, damaged: Callable[[Path, str], None] = lambda path, why: None
    ) -> None:
        """
        Args:
            root: of the store.
            write: writes a file of the store.
            damaged: told that the file is damaged, and why. The next probe writes it again.
        """
        self.path, self._write = Path(root) / "probes.json", write
        try:
            shape = dict[str, dict[str, dict[str, Any]]]
            self.known: dict[str, dict[str, dict[str, Any]]] = checked(self.path, read_json_or_nothing(self.path), shape)
            for key in self.known:
                self.of(key)
        except (DamagedFile, TypeError) as error:
            damaged(self.path, error.why if isinstance(error, DamagedFile) else str(error))
            self.known = {}

    def of(self, key: str) -> dict[str, MeasuredStep]:
        """By device."""
        return {device: MeasuredStep(**record) for device, record in self.known.get(key, {}).items()}

    def add(self, key: str, measured: MeasuredStep) -> None:
        self.known.setdefault(key, {})[measured.device] = asdict(measured)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(self.path, self.known)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step as a linear function of its operations."""

    start: float
    slope: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> StepTime:
        """Through the cheapest and the most expensive of (operations, seconds); through the origin where that has no positive slope or a
        negative start."""
        (least, quick), (most, slow) = min(points), max(points)
        slope = (slow - quick) / (most - least) if most > least else 0.0
        start = quick - slope * least
        if slope > 0 and start >= 0:
            return cls(start, slope)
        return cls(0.0, sum(seconds for _, seconds in points) / sum(flops for flops, _ in points))

    def seconds(self, flops: float) -> float:
        return self.start + self.slope * flops


@dataclass(frozen=True)
class MeasuredCost:
    """The cost of all that remains by the steps timed on one device."""

    device: str
    probes: tuple[MeasuredStep, ...]
    hours: float
    """Of the device, for trainings and preparations: GPU hours summed over workers, or hours of all CPU cores that a trial holds."""
    on_gpu: bool
    by_trial: dict[str, float]
    """Hours from start to end, by name."""

    def to_json(self) -> dict[str, Any]:
        probes = [asdict(probe) | {"operations_per_second": probe.operations_per_second} for probe in self.probes]
        return {"device": self.device, "hours": self.hours, "on_gpu": self.on_gpu, "hours_by_trial": self.by_trial, "probes": probes}


# ---------------------------------------------------------------- what remains
@dataclass(frozen=True)
class Workload:
    """All trials of a plan, and what of them is still to be done."""

    rows: tuple[PlanRow, ...]
    """Trials and earlier stages."""
    to_train: tuple[PlanRow, ...]
    """Those of them that are to be trained, each model once."""
    preparation_flops: float
    """Of the preparations that are to be made, which run in float32."""
    resources: Resources
    """Of preparations."""
    gpus: GpuAssumptions

    def estimate(self, store: Store) -> CostEstimate:
        """Hours by operations. While a trial is on GPUs it holds CPU cores too."""
        prepared, asked = self.preparation_flops, self.resources
        finished = [(row.flops, seconds) for row in self.rows if (seconds := training_seconds(row.trial, store)) is not None]
        on_cpu = sum(row.flops for row in self.to_train if not row.resources.gpus) + (0.0 if asked.gpus else prepared)
        cpus = estimate_cpu(on_cpu, finished=finished, cpus=asked.cpus)
        if not asked.gpus and not any(row.cost.gpu_hours for row in self.to_train):
            return cpus
        with_prepared = [self.gpus.hours(prepared, PREPARED_IN)] if prepared or not self.to_train else []
        gpus = estimate_gpu([row.cost.gpu_hours for row in self.to_train] + with_prepared, self.gpus.utilisation or 0.0)
        on_gpu = [row for row in self.to_train if row.resources.gpus]
        held = sum(min(row.cost.gpu_hours.values()) * row.resources.cpus / row.resources.gpus for row in on_gpu)
        if asked.gpus and prepared:
            held += min(with_prepared[0].values()) * asked.cpus / asked.gpus
        return replace(gpus, cpu_hours=held + (cpus.cpu_hours or 0.0))

    def measured(self, measurements: Measurements) -> tuple[MeasuredCost, ...]:
        """Hours by timed steps, for each device that there are some of."""
        if not measurements.known:
            return ()
        steps = [measurements.of(step_key(row.trial.experiment, row.resources.workers)) for row in self.rows]
        devices = dict.fromkeys(device for by_device in steps for device in by_device)
        return tuple(self._measured_on(device, [by_device.get(device) for by_device in steps]) for device in devices)

    def _measured_on(self, device: str, steps: Sequence[MeasuredStep | None]) -> MeasuredCost:
        """Hours on one device. Where some trials ask for GPUs and others do not, a device counts for those of its kind.

        Args:
            steps: for each row, its step timed on the device.
        """
        known = {step.name: step for step in steps if step is not None}
        timed = [(step.flops_per_step, step.seconds_per_step) for step in known.values()]
        line, on_gpu = StepTime.through(timed), device != CPU
        by_name, by_model = {}, {}
        for row, own in zip(self.rows, steps, strict=True):
            count, resources = row.trial.experiment.training.steps, row.resources
            seconds = own.seconds_per_step if own else line.seconds(row.flops / count / resources.workers)
            hours = seconds * count / 3600 * (resources.workers if on_gpu else resources.cpus)
            by_name[row.name] = by_model[row.fingerprint] = hours
        one_kind = len({bool(row.resources.gpus) for row in self.rows}) == 1
        here = [row for row in self.to_train if one_kind or bool(row.resources.gpus) == on_gpu]
        preparing = self._preparation_hours(device, timed) if one_kind or bool(self.resources.gpus) == on_gpu else 0.0
        total = sum(by_model[row.fingerprint] for row in here) + preparing
        return MeasuredCost(device, tuple(known.values()), total, on_gpu, by_name)

    def _preparation_hours(self, device: str, timed: Sequence[tuple[float, float]]) -> float:
        """On cores at the rate that was timed; on a GPU, where preparations run in float32, at the assumed utilisation."""
        if device == CPU:
            return estimate_cpu(self.preparation_flops, finished=timed, cpus=self.resources.cpus).cpu_hours or 0.0
        name = gpu_of(device)
        gpus = replace(self.gpus, names=(name,)) if name else self.gpus
        return min(gpus.hours(self.preparation_flops, PREPARED_IN).values())


# ---------------------------------------------------------------- budgets
def over_budget(studies: Sequence[Study], cost: CostEstimate, measured: Sequence[MeasuredCost]) -> tuple[str, ...]:
    """Sentences on budgets that what remains would exceed. Several studies share the sum of their budgets where all declare one; else each
    that does must allow all that runs at its side. Where steps were timed, their hours count and not the estimate."""
    gpus = {each.device: each.hours for each in measured if each.on_gpu}
    cpus = [each.hours for each in measured if not each.on_gpu]
    if gpus and cost.gpu_hours:
        least, estimated = min(gpus.values()), min(cost.gpu_hours.values())
        held = cost.cpu_hours * least / estimated if cost.cpu_hours is not None and estimated else cost.cpu_hours
        cost = CostEstimate(held, gpus, cost.basis)
    elif cpus and cost.cpu_hours is not None and not cost.gpu_hours:
        cost = CostEstimate(min(cpus), {}, cost.basis)
    broken = []
    for kind in ("gpu_hours", "cpu_hours"):
        declared = [(study.name, limit) for study in studies if (limit := getattr(study.sweep.budget, kind)) is not None]
        if len(declared) == len(studies) > 1:
            declared = [("together", sum(limit for _, limit in declared))]
        for name, limit in declared:
            broken += [f"{name}: {line}" for line in cost.against(**{"gpu_hours": None, "cpu_hours": None, kind: limit})]
    return tuple(broken)


def not_estimated(studies: Sequence[Study], cost: CostEstimate) -> tuple[str, ...]:
    """Sentences on what the verdict about budgets leaves out; none where no budget is declared."""
    budgets = {study.name: study.sweep.budget for study in studies if study.sweep.budget != Budget()}
    if not budgets:
        return ()
    lines = ["budgets cover training and preparation; evaluation, loading of data and communication between workers are not estimated"]
    if not cost.gpu_hours:
        names = [name for name, budget in budgets.items() if budget.gpu_hours is not None]
        lines += [f"{name}: gpu_hours of the budget has no effect, because its trials request no GPU" for name in names]
    return tuple(lines)
