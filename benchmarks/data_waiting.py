"""How long the miniature's training step waits for its data, with the loader's threads and without, on one torch thread.

`python benchmarks/data_waiting.py [STEPS [THREADS ...]]` trains `experiments/miniature.yaml` for some steps (default 60) with each number
of loader threads (default 0 1 2), with images as pixels and as the features that a frozen encoder prepared, twice each in turn, and prints
the share of the time between the first step and the last that the training waited for a batch, and the time of a step. Needs neither Ray
nor MLflow.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

import torch

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import Batch, BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.multimodal import build
from mm1_ablate.training.fit import train
from mm1_ablate.training.preparation import prepare

EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "miniature.yaml"


@dataclass(frozen=True)
class Timing:
    step_milliseconds: float
    waiting_share: float


class TimedLoader(BatchLoader):
    """Keeps when each step was handed out and how long had been waited until then."""

    def __iter__(self) -> Iterator[list[Batch]]:
        self.given: list[float] = []
        self.waited: list[float] = []
        for batch in super().__iter__():
            self.given.append(time.perf_counter())
            self.waited.append(self.waiting_seconds)
            yield batch

    def timing(self) -> Timing:
        """Without the first step: nothing can be ready before it, and torch warms up in it."""
        taken = self.given[-1] - self.given[1]
        steps = [later - earlier for earlier, later in zip(self.given[1:], self.given[2:], strict=False)]
        return Timing(1000 * median(steps), (self.waited[-1] - self.waited[1]) / taken)


def timed(experiment: Experiment, encoder: Path | None, threads: int) -> Timing:
    """One training of a fresh model."""
    training = experiment.training
    pipeline = ImagePipeline.of(experiment.model, encoder)
    tokenizer = load_tokenizer(experiment.model.language_model.tokenizer)
    image_tokens = experiment.model.connector.image_tokens
    loader = TimedLoader(experiment.data, tokenizer, image_tokens, pipeline, 0, training.steps, training.batch_rows, threads=threads)
    with TemporaryDirectory() as folder:
        train(build(experiment, 0), loader, training, 1.0, Path(folder), lambda progress: None)
    return loader.timing()


def main(steps: int, thread_counts: list[int]) -> None:
    torch.set_num_threads(1)
    declared = load_study(EXPERIMENT).arms[0].experiment
    training = declared.training.model_copy(update={"steps": steps})
    experiment = declared.model_copy(update={"training": training})
    with TemporaryDirectory() as folder:
        encoder = Path(folder)
        prepare_features(experiment, encoder)
        for name, features in (("pixels", None), ("features", encoder)):
            timings: dict[int, list[Timing]] = {threads: [] for threads in thread_counts}
            for _ in range(2):
                for threads in thread_counts:
                    timings[threads].append(timed(experiment, features, threads))
            for threads, each in timings.items():
                step, waiting = mean(timing.step_milliseconds for timing in each), mean(timing.waiting_share for timing in each)
                print(f"images as {name}, {threads} loader threads: {step:.0f} ms a step, waiting {waiting:.1%} of the time", flush=True)


def prepare_features(experiment: Experiment, folder: Path) -> None:
    """Features of all images of the encoder's source. What they say matters to no clock, so the encoder learns for two steps only."""
    encoder = experiment.model.image_encoder
    assert encoder.preparation is not None
    short = encoder.model_copy(update={"preparation": encoder.preparation.model_copy(update={"steps": 2})})
    model = experiment.model.model_copy(update={"image_encoder": short})
    (preparation,) = (each for each in preparations_of(experiment.model_copy(update={"model": model}), 0) if each.settings is short)
    prepare(preparation, folder, lambda progress: None)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, [int(threads) for threads in sys.argv[2:]] or [0, 1, 2])
