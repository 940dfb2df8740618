"""Real steps that were timed, and what they say of trials that were not.

In: `probes.json` of the store, where `benchmark_step.py` has left the time of a step and the highest memory of some arms by device. Out:
seconds of a step for any trial, by its operations. Two arms give a line: what each step takes beside its operations, and what an operation
takes. A measurement is kept under all that shapes a step (model, packing, mixture, rows, precision, how it is run), not under seeds or
numbers of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.gpus import gpu_of
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.data.atomic_files import read_json_or_nothing, write_json

CPU = "CPU"
"""The device where there is no GPU: one machine's cores are not told from another's."""
HOW_IT_RUNS = ("micro_batch_rows", "activation_checkpointing", "compile")
"""Fields of training that shape a step's time without being part of a trial's identity."""


@dataclass(frozen=True)
class Measured:
    """Steps of one arm on one device, in a single process."""

    name: str
    """Of the trial that was measured."""
    device: str
    seconds_per_step: float
    """Of one worker, without what it takes to tell the others."""
    flops_per_step: float
    """Of one worker, as the plan reckons them."""
    peak_bytes: float
    """The highest that torch held on a GPU, or that the process grew by on a CPU."""
    expected_bytes: float
    """The same as the plan reckons it, for one process."""
    steps: int
    """That were timed, after some that were not."""
    made_up_data: bool

    @property
    def operations_per_second(self) -> float:
        return self.flops_per_step / self.seconds_per_step

    def utilisation(self, precision: str) -> float | None:
        """Share of the device's peak, if it is known."""
        from mm1_ablate.config.gpus import GPUS

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
    """What a store has of them."""

    def __init__(self, root: Path, write: Callable[[Path, Any], None] = write_json) -> None:
        """
        Args:
            root: of the store.
            write: writes a file of the store.
        """
        self.path, self._write = Path(root) / "probes.json", write
        self.known: dict[str, dict[str, dict[str, Any]]] = read_json_or_nothing(self.path)

    def of(self, key: str) -> dict[str, Measured]:
        """By device."""
        return {device: Measured(**record) for device, record in self.known.get(key, {}).items()}

    def add(self, key: str, measured: Measured) -> None:
        self.known.setdefault(key, {})[measured.device] = asdict(measured)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(self.path, self.known)


@dataclass(frozen=True)
class Line:
    """Seconds of a step by its operations."""

    start: float
    slope: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """Through the cheapest and the dearest of (operations, seconds); through the origin where that makes no sense."""
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
    """What the steps measured on one device say of all that remains."""

    device: str
    probes: tuple[Measured, ...]
    hours: float
    """Of the device, preparations with them: of GPUs summed over workers, of CPU cores over those that a trial holds."""
    on_gpu: bool
    by_trial: dict[str, float]
    """Hours from start to end, by name."""

    def to_json(self) -> dict[str, Any]:
        probes = [asdict(probe) | {"operations_per_second": probe.operations_per_second} for probe in self.probes]
        return {"device": self.device, "hours": self.hours, "on_gpu": self.on_gpu, "hours_by_trial": self.by_trial, "probes": probes}
