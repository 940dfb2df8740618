"""What a trial costs before it runs: hours by GPU, memory, and whether it fits.

In: operations (`flops.py`) and memory (`memory.py`) of trials, and what is assumed of the machines. Out: numbers to decide by, and
sentences where something does not fit. Hours on a GPU are operations over (peak x utilisation), summed over a trial's workers; hours on
a CPU come from finished trials of the store, and only without any from a rough rate. Steps that were really measured are in
`calibration.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.gpus import GIB, GPUS, UTILISATION
from mm1_ablate.config.sweep.declaration import Resources
from mm1_ablate.model.profile import ModelProfile
from mm1_ablate.plan.evaluation_memory import EvaluationMemory, evaluation_memory
from mm1_ablate.plan.flops import is_checkpointed
from mm1_ablate.plan.memory import FLOAT, Amounts, Memory, Strategy, fitting_rows, micro_batch_rows, training_memory

CPU_RATE = 2e10
"""Operations per second of one CPU core on models as small as the miniature's: a rough guess, used only until a trial has been timed."""
USUAL = ("H100", "A100-80GB")
"""GPUs that hours are given for where nobody names one."""


SHARDED_OVER = (2, 4, 8, 16, 32, 64)
"""Numbers of workers that a plan tries where a trial does not fit."""


@dataclass(frozen=True)
class Machines:
    """What is assumed of the GPUs that trials run on."""

    gpus: tuple[str, ...] = ()
    """Names in `GPUS`; nothing: what the sweep says, or else the usual ones."""
    utilisation: float | None = None
    """Share of the peak; nothing: what the sweep says, or else `UTILISATION`."""

    def of(self, resources: Resources) -> Machines:
        """The same with what a sweep says filled in."""
        named = (resources.gpu,) if resources.gpu is not None else USUAL
        return Machines(self.gpus or named, self.utilisation or resources.utilisation or UTILISATION)

    def hours(self, flops: float, precision: str) -> dict[str, float]:
        """Hours of one GPU by its name."""
        return {name: flops / (GPUS[name].peak(precision) * (self.utilisation or UTILISATION)) / 3600 for name in self.gpus}


def does_not_fit(experiment: Experiment, parts: ModelProfile, resources: Resources, gpus: Sequence[str]) -> list[str]:
    """Which of the GPUs cannot hold a worker of a trial, what takes most there, and what would help; nothing where all can."""
    workers, strategy = resources.workers, resources.strategy
    training, evaluation = (reckon(experiment, parts, workers, strategy) for reckon in (training_memory, evaluation_memory))
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
            lines.append(f"{where} while it is evaluated {how} ({_mostly(evaluation)}); {helps}")
    return lines


def _mostly(memory: Amounts) -> str:
    return f"about {in_gib(memory.total)}, {memory.largest} {in_gib(getattr(memory, memory.largest))} of it"


def _remedies_of_evaluation(experiment: Experiment, parts: ModelProfile, workers: int, strategy: Strategy, capacity: float) -> str:
    """What makes an evaluation fit, the least change first."""
    evaluation = experiment.evaluation
    batch, found = evaluation.batch_items, []

    def fits(batch: int, precision: str, workers: int = workers, strategy: Strategy = strategy) -> bool:
        other = evaluation.model_copy(update={"batch_items": batch, "precision": precision})
        return evaluation_memory(experiment.model_copy(update={"evaluation": other}), parts, workers, strategy).fits(capacity)

    def fitting(precision: str, workers: int = workers, strategy: Strategy = strategy) -> int:
        """A half, a quarter, ... of the questions of a batch; 0 where not even one fits."""
        few = batch
        while few and not fits(few, precision, workers, strategy):
            few //= 2
        return few

    if few := fitting(evaluation.precision):
        found.append(f"evaluation.batch_items: {few}")
    half = "bf16-mixed"
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


def in_gib(amount: float) -> str:
    return f"{amount / GIB:,.3g} GiB" if amount >= 0.5 * GIB else f"{amount / 2**20:,.3g} MiB"


@dataclass(frozen=True)
class TrialCost:
    """What one trial takes, from its start to its end."""

    memory: Memory
    """Of each of its workers, while it is trained."""
    evaluation: EvaluationMemory
    """Of each of its workers, while it is evaluated."""
    host: float
    """Bytes of its node that the worker which makes the weights takes for them: the whole model. With ddp each worker does."""
    gpu_hours: dict[str, float] = field(default_factory=dict)
    """By name of the GPU, over all workers; empty for trials that ask for none."""
    misfits: tuple[str, ...] = ()
    """Which GPUs cannot hold it, in words."""


@dataclass(frozen=True)
class Estimate:
    """How long what remains will take, and how that was reckoned."""

    cpu_hours: float | None
    gpu_hours: dict[str, float]
    """By name of the GPU; empty for studies that ask for none."""
    basis: str

    def against(self, *, gpu_hours: float | None, cpu_hours: float | None) -> list[str]:
        """Which limits the estimate breaks, in words. GPU hours are held against the fastest GPU named: a plan above that is above any."""
        broken = []
        if cpu_hours is not None and self.cpu_hours is not None and self.cpu_hours > cpu_hours:
            broken.append(f"about {self.cpu_hours:.3g} CPU hours are needed, the budget allows {cpu_hours:g}")
        if gpu_hours is not None and self.gpu_hours:
            name, least = min(self.gpu_hours.items(), key=lambda pair: pair[1])
            if least > gpu_hours:
                broken.append(f"about {least:.3g} {name} hours are needed, the budget allows {gpu_hours:g}")
        return broken


def estimate_gpu(hours: Sequence[dict[str, float]], utilisation: float) -> Estimate:
    """The sum of what trials and preparations take on GPUs, for the GPUs that all of them are reckoned for; where there is none such, each
    on the fastest of its own. What has no GPU is not in it."""
    hours = [each for each in hours if each]
    names = [name for name in hours[0] if all(name in each for each in hours)] if hours else []
    total = {name: sum(each[name] for each in hours) for name in names}
    if hours and not names:
        fastest = [min(each, key=lambda name: each[name]) for each in hours]
        total = {" and ".join(sorted(set(fastest))): sum(each[name] for each, name in zip(hours, fastest, strict=True))}
    return Estimate(None, total, f"an estimate: operations over the GPU's peak at {utilisation:.0%} utilisation")


def estimate_cpu(flops: float, *, finished: Sequence[tuple[float, float]], cpus: float = 1) -> Estimate:
    """Hours of CPU cores for so many operations.

    Args:
        finished: (operations, seconds) of trials that this store has timed.
        cpus: CPU cores that a trial holds while it runs.
    """
    if finished and sum(done for done, _ in finished) > 0:
        seconds = flops * sum(spent for _, spent in finished) / sum(done for done, _ in finished) * cpus
        return Estimate(seconds / 3600, {}, f"from {len(finished)} finished trial{'s' if len(finished) > 1 else ''} of this store")
    return Estimate(flops / CPU_RATE / 3600, {}, f"rough: no finished trial to go by, {CPU_RATE:.0e} operations a second and core")
