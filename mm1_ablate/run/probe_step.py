"""A few real training steps of one experiment, timed. Runs in a process of its own, on the machine that trials would run on.

In: a request (an experiment and how it is to be run) as a mapping of plain values. Out: seconds of a step and the highest memory.
The model is the declared one with random weights, whose steps take as long; nothing is downloaded, prepared or kept. A step of many
micro-batches is estimated from steps of one and of two: what a micro-batch takes, and what a step takes beside them.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from math import ceil, isqrt
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.plan.estimate import CPU
from mm1_ablate.plan.flops import most_images, reads_features, views_at_most
from mm1_ablate.plan.memory import micro_batch_rows

if TYPE_CHECKING:
    from mm1_ablate.data.loader import Batch
    from mm1_ablate.model.multimodal import MultimodalModel

DISTINCT = 3
"""Steps whose batches are made; the others see them again."""


def measure(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the steps.

    Args:
        request: `experiment`; `workers` that a step is dealt to, of which one is measured; `made_up`, whether random documents replace
            the data; `steps` that are timed, after `warm_up` that are not.
        folder: of its own.
    """
    import torch

    from mm1_ablate.training.activation_checkpointing import checkpointed_and_compiled
    from mm1_ablate.training.fit import lightning_trainer
    from mm1_ablate.training.module import PackedTraining

    experiment = Experiment.model_validate(request["experiment"])
    training, on_gpu = experiment.training, torch.cuda.is_available()
    rows = micro_batch_rows(experiment, request["workers"])
    micro_batches = ceil(ceil(training.batch_rows / request["workers"]) / rows)
    together = min(2, micro_batches)
    model = _model(experiment)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    # Before the model was made some libraries were not loaded yet.
    before = _resident() - weights
    batches = list(islice(_batches(experiment, model, rows, together, request["made_up"]), DISTINCT))
    numbers = [together] * request["warm_up"] + [1, 2][:together] * request["steps"]
    steps = [batch[:number] for batch, number in zip(cycle(batches), numbers, strict=False)]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    clock = _Clock(on_gpu)
    module = PackedTraining(model, training, experiment.model.image_encoder.learning_rate_scale)
    model.train()
    with checkpointed_and_compiled(model, training):
        trainer = lightning_trainer(folder, precision=training.precision, callbacks=[clock.callback()])
        trainer.fit(module, _Loader(steps))
    timed = list(zip(numbers, clock.seconds, strict=True))[request["warm_up"] :]
    one = median(seconds for number, seconds in timed if number == 1)
    more = 0.0
    if together > 1:
        two = median(seconds for number, seconds in timed if number == 2)
        # Noise may make two micro-batches look as quick as one.
        more = two - one if two > one else two / 2
    # The images of all micro-batches of a step are on the device together.
    images = max(sum(micro.images.nbytes for micro in step) / len(step) for step in batches) * (micro_batches - together)
    peak = torch.cuda.max_memory_allocated() if on_gpu else max(0, _highest() - before)
    return {
        "device": torch.cuda.get_device_name() if on_gpu else CPU,
        "seconds_per_step": one + (micro_batches - 1) * more,
        "peak_bytes": float(peak + images),
        "steps": len(timed),
    }


class _Loader:
    """Lightning takes a list for several loaders, not for the steps of one."""

    def __init__(self, steps: list[list[Batch]]) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Batch]]:
        return iter(self._steps)


class _Clock:
    """Seconds of each step, the device waited for."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.seconds: list[float] = []
        self._began = 0.0

    def _now(self) -> float:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def callback(self) -> Any:
        import lightning.pytorch as lightning

        clock = self

        class Timer(lightning.Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                clock._began = clock._now()

            def on_train_batch_end(self, *_: Any) -> None:
                clock.seconds.append(clock._now() - clock._began)

        return Timer()


def _model(experiment: Experiment) -> MultimodalModel:
    """The declared model with random weights."""
    import torch

    from mm1_ablate.config.model import frozen_parts
    from mm1_ablate.data.tokenizer import load_tokenizer
    from mm1_ablate.model.image_encoder import build_image_encoder
    from mm1_ablate.model.language_model import build_language_model
    from mm1_ablate.model.multimodal import MultimodalModel

    settings = experiment.model
    tokenizer = load_tokenizer(settings.language_model.tokenizer)
    torch.manual_seed(0)
    encoder = build_image_encoder(settings.image_encoder, weights=False)
    language = build_language_model(settings.language_model, tokenizer.vocabulary_size, tokenizer.padding, tokenizer.end, weights=False)
    connector = settings.connector.build(encoder.width, settings.image_encoder.grid_side, language.config.hidden_size)
    return MultimodalModel(
        encoder,
        connector,
        language.float(),
        image_tokens=settings.connector.image_tokens,
        scale_embeddings=settings.language_model.scale_embeddings,
        frozen=frozen_parts(settings),
        views_at_most=views_at_most(experiment),
    )


def _batches(experiment: Experiment, model: MultimodalModel, rows: int, together: int, made_up: bool) -> Iterator[list[Batch]]:
    """Steps of so many micro-batches of so many rows, of the data or made up."""
    import torch

    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.loader import BatchLoader
    from mm1_ablate.data.tokenizer import load_tokenizer

    encoder, image_tokens = experiment.model.image_encoder, experiment.model.connector.image_tokens
    tokenizer = load_tokenizer(experiment.model.language_model.tokenizer)
    pipeline = ImagePipeline.of(experiment.model)
    found: Any
    if made_up:
        found = _made_up(experiment, rows, together)
    else:
        for name in experiment.data.shares():
            experiment.data.sources[name].make_ready()
        found = BatchLoader(
            experiment.data,
            tokenizer,
            image_tokens=image_tokens,
            image_pipeline=pipeline,
            seed=0,
            steps=DISTINCT,
            batch_rows=rows * together,
            micro_batch_rows=rows,
            threads=0,
        )
    for step in found:
        if reads_features(experiment):
            patches, width = encoder.grid_side**2, cast(int, model.encoder.width)
            step = [replace(micro, images=torch.randn(len(micro.images), patches, width)) for micro in step]
        yield step


def _made_up(experiment: Experiment, rows: int, together: int) -> Iterator[list[Batch]]:
    """Full rows of random tokens and pixels, each of one data type: as many of each as the mixture's shares say, as far as they can be."""
    import numpy as np

    from mm1_ablate.data.documents import Image
    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.loader import collate
    from mm1_ablate.data.packing import TokenisedDocument
    from mm1_ablate.data.tokenizer import load_tokenizer

    packing, encoder, sub_images = experiment.data.packing, experiment.model.image_encoder, experiment.model.sub_images
    tokenizer, random = load_tokenizer(experiment.model.language_model.tokenizer), np.random.default_rng(0)
    most = most_images(experiment)
    side = encoder.image_size * (1 + isqrt(sub_images.at_most - 1) if sub_images is not None else 1)
    pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
    picture = Image("made-up", lambda: pixels)

    def document(text: int, images: int) -> TokenisedDocument:
        tokens = tuple(int(token) for token in random.integers(0, tokenizer.vocabulary_size, max(1, text)))
        length = text + images * packing.nominal_image_tokens
        return TokenisedDocument("made-up", "made-up", (*[picture] * images, tokens), (picture,) * images, length)

    def row(data_type: str) -> list[TokenisedDocument]:
        if data_type == "text":
            return [document(packing.row_tokens, 0)]
        text = packing.row_tokens - most * packing.nominal_image_tokens
        return [document(text // most, 1) for _ in range(most)] if "captioned" in data_type else [document(text, most)]

    weights = {name: weight for name, weight in experiment.data.mixture.items() if weight}
    owed = dict.fromkeys(weights, 0.0)
    pipeline = ImagePipeline.of(experiment.model)
    while True:
        step = []
        for _ in range(together):
            documents: list[TokenisedDocument] = []
            for _ in range(rows):
                owed = {name: debt + weights[name] / sum(weights.values()) for name, debt in owed.items()}
                chosen = max(owed, key=lambda name: owed[name])
                owed[chosen] -= 1
                documents += row(chosen)
            step.append(collate(documents, experiment.model.connector.image_tokens, tokenizer.padding, pipeline))
        yield step


def _resident() -> int:
    """Bytes of memory that this process holds."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    except OSError:  # not Linux
        return _highest()


def _highest() -> int:
    """The most bytes of memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(request: Path, answer: Path) -> None:
    answer.write_text(json.dumps(measure(json.loads(request.read_text(encoding="utf-8")), answer.parent)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
