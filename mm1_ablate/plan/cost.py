"""What a trial costs before it runs: hours by GPU, memory, and whether it fits.

In: operations (`flops.py`) and memory (`memory.py`) of a trial, and what is assumed of the GPUs. Out: numbers to decide by, and sentences
where something does not fit. Hours on a GPU are operations over (peak x utilisation), summed over a trial's workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.sweep.declaration import GPUS, UTILISATION, Resources, Strategy
from mm1_ablate.config.training import Precision
from mm1_ablate.model.profile import ModelProfile
from mm1_ablate.plan.flops import Flops, is_checkpointed
from mm1_ablate.plan.memory import (
    FLOAT,
    EvaluationMemory,
    MemoryByPart,
    TrainingMemory,
    evaluation_memory,
    fitting_rows,
    in_gib,
    micro_batch_rows,
    training_memory,
)

USUAL = ("H100", "A100-80GB")
"""GPUs for which hours are estimated by default."""
SHARDED_OVER = (2, 4, 8, 16, 32, 64)
"""Numbers of workers that a plan tries where a trial does not fit."""


@dataclass(frozen=True)
class GpuAssumptions:
    """What is assumed of the GPUs that trials run on."""

    names: tuple[str, ...] = ()
    """Names in `GPUS`; empty: the sweep's, or else the default ones."""
    utilisation: float | None = None
    """Share of the peak; None: the sweep's, or else `UTILISATION`."""

    def of(self, resources: Resources) -> GpuAssumptions:
        """The same with what a sweep says filled in."""
        named = (resources.gpu,) if resources.gpu is not None else USUAL
        return GpuAssumptions(self.names or named, self.utilisation or resources.utilisation or UTILISATION)

    def hours(self, flops: float, precision: str) -> dict[str, float]:
        """Hours of one GPU, by its name."""
        return {name: flops / (GPUS[name].peak(precision) * (self.utilisation or UTILISATION)) / 3600 for name in self.names}


@dataclass(frozen=True)
class TrialCost:
    """What one trial takes, from its start to its end."""

    memory: TrainingMemory
    """Of each of its workers, while it is trained."""
    evaluation: EvaluationMemory
    """Of each of its workers, while it is evaluated."""
    host: float
    """Bytes of its node that the worker that makes the weights needs for them: the whole model. With ddp each worker does."""
    gpu_hours: dict[str, float] = field(default_factory=dict)
    """By name of the GPU, over all workers; empty for trials without GPUs."""
    misfits: tuple[str, ...] = ()
    """Which GPUs cannot hold it, in words."""


def cost_of(experiment: Experiment, parts: ModelProfile, flops: Flops, resources: Resources, gpus: GpuAssumptions) -> TrialCost:
    """What a trial costs that has these parts and operations.

    Args:
        gpus: to give hours for, also where the trial asks for none; with none named, hours are given only where it asks for GPUs.
    """
    on_gpu, host = bool(resources.gpus or gpus.names), weights_on_host(parts)
    memory = training_memory(experiment, parts, resources.workers, resources.strategy)
    evaluation = evaluation_memory(experiment, parts, resources.workers, resources.strategy, on_gpu)
    if not on_gpu:
        return TrialCost(memory, evaluation, host)
    gpus = gpus.of(resources)
    hours = gpus.hours(flops.total, experiment.training.precision)
    return TrialCost(memory, evaluation, host, hours, tuple(does_not_fit(experiment, parts, resources, gpus.names)))


def does_not_fit(experiment: Experiment, parts: ModelProfile, resources: Resources, gpus: Sequence[str]) -> list[str]:
    """A sentence for each GPU that cannot hold a worker of a trial: what takes most memory there, and what would help."""
    workers, strategy = resources.workers, resources.strategy
    training, evaluation = (of(experiment, parts, workers, strategy) for of in (training_memory, evaluation_memory))
    how = f"with {strategy} over {workers} workers" if workers > 1 else "in one process"
    lines = []
    for name in gpus:
        capacity = GPUS[name].memory * min(1.0, resources.worker_gpus or 1.0)
        share = f" of which it has {resources.gpus:g}" if 0 < resources.gpus < 1 else ""
        where = f"does not fit {_article(name)} {name}{share}"
        if not training.fits(capacity):
            remedies = _remedies(experiment, parts, workers, strategy, capacity)
            helps = f"fits with {remedies}" if remedies else f"neither smaller micro-batches nor fsdp over {SHARDED_OVER[-1]} would help"
            lines.append(f"{where} {how} ({_mostly(training)}); {helps}")
        if not evaluation.fits(capacity):
            remedies = _remedies_of_evaluation(experiment, parts, workers, strategy, capacity)
            helps = f"fits with {remedies}" if remedies else f"neither smaller batches nor fsdp over {SHARDED_OVER[-1]} would help"
            lines.append(f"{where} in evaluation {how} ({_mostly(evaluation)}); {helps}")
    return lines


def _mostly(memory: MemoryByPart) -> str:
    return f"about {in_gib(memory.total)}, {memory.largest_in_words} of it"


def _remedies_of_evaluation(experiment: Experiment, parts: ModelProfile, workers: int, strategy: Strategy, capacity: float) -> str:
    """What makes an evaluation fit, the least change first."""
    evaluation = experiment.evaluation
    batch, found = evaluation.batch_items, []

    def fits(batch: int, precision: Precision, workers: int = workers, strategy: Strategy = strategy) -> bool:
        other = evaluation.model_copy(update={"batch_items": batch, "precision": precision})
        return evaluation_memory(experiment.model_copy(update={"evaluation": other}), parts, workers, strategy).fits(capacity)

    def fitting(precision: Precision, workers: int = workers, strategy: Strategy = strategy) -> int:
        """A half, a quarter, ... of the questions of a batch; 0 where not even one fits."""
        few = batch
        while few and not fits(few, precision, workers, strategy):
            few //= 2
        return few

    if few := fitting(evaluation.precision):
        found.append(f"evaluation.batch_items: {few}")
    half: Precision = "bf16-mixed"
    if evaluation.precision != half and (few := fitting(half)):
        found.append(f"evaluation.precision: {half}" + (f" and batch_items: {few}" if few < batch else ""))
    for count in SHARDED_OVER:
        if count < workers or (count == workers and strategy == "fsdp") or count > experiment.training.batch_rows:
            continue
        if fits(batch, evaluation.precision, count, "fsdp"):
            found.append(f"fsdp over {count}")
            break
        if not found and (few := fitting(evaluation.precision, count, "fsdp")):
            found.append(f"fsdp over {count} and evaluation.batch_items: {few}")
            break
    return ", or with ".join(found)


def _remedies(experiment: Experiment, parts: ModelProfile, workers: int, strategy: Strategy, capacity: float) -> str:
    """What makes a trial fit, the least change first."""
    found = []
    if rows := fitting_rows(experiment, parts, capacity, workers, strategy):
        found.append(f"micro_batch_rows: {rows}")
    keeping = experiment.model_copy(update={"training": experiment.training.model_copy(update={"activation_checkpointing": True})})
    if not is_checkpointed(experiment):
        if training_memory(keeping, parts, workers, strategy).fits(capacity):
            found.append("activation_checkpointing: true")
        elif not found and (rows := fitting_rows(keeping, parts, capacity, workers, strategy)):
            found.append(f"activation_checkpointing: true and micro_batch_rows: {rows}")
    rows = micro_batch_rows(experiment, workers)
    for count in SHARDED_OVER:
        if count < workers or (count == workers and strategy == "fsdp") or count > experiment.training.batch_rows:
            continue
        if training_memory(experiment, parts, count, "fsdp", min(rows, micro_batch_rows(experiment, count))).fits(capacity):
            found.append(f"fsdp over {count}")
            break
        if not found and (fitting := fitting_rows(keeping, parts, capacity, count, "fsdp")):
            found.append(f"fsdp over {count}, activation_checkpointing: true and micro_batch_rows: {fitting}")
            break
    return ", or with ".join(found)


def weights_on_host(parts: ModelProfile) -> float:
    """Bytes of a whole model where it is made or read."""
    return FLOAT * sum(part.parameters for part in (parts.image_encoder, parts.connector, parts.language_model))


def _article(name: str) -> str:
    return "an" if name[0] in "AHL" else "a"
