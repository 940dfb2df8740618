"""MM1's base of the ablations on one GPU: a training step, packed attention and few-shot answers, with random weights and random data.

`python benchmarks/gpu.py` measures, in bf16 on the first GPU, the 1.2B base of `experiments/mm1_base.yaml` (ViT-L/14 at 336 px,
C-Abstractor with 144 tokens) on rows of 4,096 tokens with 16 images:
  step       the trial's own training step through Lightning: seconds, tokens per second, model FLOPs utilisation, peak memory,
  attention  the language model forward and backward, packed attention against transformers' dense mask,
  few_shot   `evaluation.evaluate.predict` against `generate` of transformers at 0, 4 and 8 shots, images encoded once in both.
It prints a table with the device's name, and with `--json FILE` keeps the numbers. Without a GPU it says so and ends with 2;
`--tiny --device cpu` runs the same code on a toy in seconds, whose numbers mean nothing.

Model FLOPs are those of forward and backward without what is computed again, of attention the unmasked half alone. Needs torch, timm,
transformers and lightning, neither Ray nor MLflow.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

import few_shot
import lightning.pytorch as lightning
import torch
from random_base import END, PADDING, declared, forget_peak, made, now, peak_memory, random_rows, vocabulary_of
from torch import Tensor

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.sweep.declaration import GPUS, gpu_of
from mm1_ablate.data.documents import Image
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import Batch
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.evaluation.evaluate import predict
from mm1_ablate.evaluation.evaluation_mode import evaluating
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.evaluation.requests import prepare_requests
from mm1_ablate.model.multimodal import MultimodalModel, build
from mm1_ablate.model.packed_attention import DocumentLayout, packed
from mm1_ablate.model.profiler import profile_connector, profile_encoder, profile_language_model
from mm1_ablate.training.activation_checkpointing import checkpointed_and_compiled
from mm1_ablate.training.fit import lightning_trainer
from mm1_ablate.training.module import PackedTraining

NO_GPU = 2


# ---------------------------------------------------------------- a training step
class Timer(lightning.Callback):
    """Seconds of each step, from one batch to the next, with all of its work done."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(now() - self.began)


class Steps:
    """The same few micro-batches at every step: nothing waits for data."""

    def __init__(self, batches: Sequence[Batch], steps: int) -> None:
        self.batches, self.steps = list(batches), steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Batch]]:
        return iter([self.batches] * self.steps)


def model_flops(experiment: Experiment, batches: Sequence[Batch]) -> float:
    """Of forward and backward passes over these batches, nothing done twice, of attention the unmasked half."""
    model, precision = experiment.model, experiment.training.precision
    encoder = profile_encoder(model.image_encoder, precision)
    language = profile_language_model(model.language_model, vocabulary_of(model.language_model), PADDING, END, precision)
    connector = profile_connector(model.connector, encoder.width, model.image_encoder.grid_side, language.width, precision, True)
    total = 0.0
    for batch in batches:
        images = len(batch.images) * (encoder.forward + encoder.backward + connector.forward + connector.backward)
        tokens = len(batch.tokens) * (language.forward + language.backward) + len(batch.targets) * language.head * 6
        pairs = sum(length * length for length in batch.document_lengths) / 2
        total += images + tokens + 3 * pairs * language.attention
    return total


def measure_step(experiment: Experiment, model: MultimodalModel, arguments: argparse.Namespace) -> dict[str, Any]:
    vocabulary = model.language_model.config.vocab_size
    batches = [random_rows(experiment, arguments.rows, vocabulary, seed) for seed in range(arguments.micro_batches)]
    settings, timer = experiment.training, Timer()
    forget_peak()
    trainer = lightning_trainer(precision=settings.precision, callbacks=[timer])
    model.train()
    with checkpointed_and_compiled(model, settings):
        trainer.fit(PackedTraining(model, settings, 1.0), Steps(batches, settings.steps))  # type: ignore[arg-type]
    memory = peak_memory()
    model.zero_grad(set_to_none=True)
    model.to(arguments.device)
    seconds = median(timer.seconds[arguments.warm_up :])
    tokens, flops = sum(len(batch.tokens) for batch in batches), model_flops(experiment, batches)
    return {
        "seconds": seconds,
        "tokens": tokens,
        "images": sum(len(batch.images) for batch in batches),
        "tokens_per_second": tokens / seconds,
        "model_flops": flops,
        "flops_per_second": flops / seconds,
        "utilisation": flops / seconds / arguments.peak if arguments.peak else None,
        "peak_memory_bytes": memory,
    }


# ---------------------------------------------------------------- attention
def measure_attention(experiment: Experiment, model: MultimodalModel, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of the language model over one micro-batch, and by how much logits differ from those of documents alone."""
    language_model, device = model.language_model, torch.device(arguments.device)
    batch = random_rows(experiment, arguments.rows, language_model.config.vocab_size, 0)
    lengths, positions = batch.document_lengths, batch.positions[None].to(device)
    embeddings = torch.randn(1, len(batch.tokens), model.width, device=device, generator=torch.Generator(device).manual_seed(0))
    embeddings = (embeddings * model.width**-0.5).requires_grad_()
    asked = batch.supervised.to(device)

    def ours() -> Tensor:
        with packed(language_model, DocumentLayout(lengths, device)) as more:
            return language_model(inputs_embeds=embeddings, position_ids=positions, logits_to_keep=asked, **more).logits

    def dense() -> Tensor:
        # transformers makes the mask out of the positions where there is no cache.
        return language_model(inputs_embeds=embeddings, position_ids=positions, logits_to_keep=asked, use_cache=False).logits

    def timed(run: Callable[[], Tensor]) -> tuple[float, int | None]:
        forget_peak()
        seconds = []
        for _ in range(arguments.warm_up + arguments.steps):
            began = now()
            with autocast(arguments):
                logits = run()
            logits.float().square().mean().backward()
            del logits
            seconds.append(now() - began)
        memory = peak_memory()
        language_model.zero_grad(set_to_none=True)
        embeddings.grad = None
        return median(seconds[arguments.warm_up :]), memory

    language_model.train()
    (our_seconds, our_memory), (dense_seconds, dense_memory) = timed(ours), timed(dense)
    language_model.eval()
    with torch.no_grad(), autocast(arguments):
        together = ours()[0].float()
        alone = torch.cat([language_model(inputs_embeds=part, use_cache=False).logits[0] for part in embeddings.split(lengths, 1)])
        # The dense mask's own rounding says how much of the difference is a matter of half precision.
        masked = dense()[0].float()
    alone = alone[asked].float()
    return {
        "tokens": len(batch.tokens),
        "packed_seconds": our_seconds,
        "dense_seconds": dense_seconds,
        "ratio": dense_seconds / our_seconds,
        "packed_peak_memory_bytes": our_memory,
        "dense_peak_memory_bytes": dense_memory,
        "packed_from_alone": (together - alone).abs().max().item(),
        "dense_from_alone": (masked - alone).abs().max().item(),
    }


def autocast(arguments: argparse.Namespace) -> AbstractContextManager[Any]:
    return torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.precision == "bf16-mixed")


# ---------------------------------------------------------------- few-shot answers
def measure_few_shot(experiment: Experiment, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of the same questions here and in `generate`. In half precision a near tie may turn an answer."""
    tokenizer, rows = load_tokenizer("miniature"), []
    model_settings = experiment.model.model_dump(mode="json")
    # Answers are read by the miniature's tokenizer, so the model has its words.
    model_settings["language_model"]["tokenizer"] = "miniature"
    model_settings["language_model"]["configuration"].pop("vocab_size", None)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "questions.yaml").write_text(few_shot.RECORD)

        def asking(items: int, shots: int) -> Experiment:
            tree = few_shot.experiment(folder, items, [shots]).model_dump(mode="json")
            tree["evaluation"]["batch_items"] = few_shot.BATCH
            return Experiment.model_validate({**tree, "model": model_settings})

        model = build(asking(1, 0), seed=0).to(arguments.device)
        pipeline = ImagePipeline(experiment.model.image_encoder.image_size)
        with evaluating(model), autocast(arguments):
            predict(model, asking(2, arguments.shots[-1]), tokenizer, pipeline)  # whatever is slow the first time
            for shots in arguments.shots:
                settings = asking(arguments.items, shots)
                questions = prepare_requests(load_tasks(settings.evaluation)[0], settings.evaluation, tokenizer).requests
                kept: dict[str, Tensor] = {}

                def encode(images: Sequence[Image], kept: dict[str, Tensor] = kept) -> list[Tensor]:
                    missing = [image for image in images if image.key not in kept]
                    for start in range(0, len(missing), 64):
                        several = missing[start : start + 64]
                        encoded = model.encode_images(pipeline.load(several).to(model.device))
                        kept.update(zip((image.key for image in several), encoded, strict=True))
                    return [kept[image.key] for image in images]

                began = now()
                ours = predict(model, settings, tokenizer, pipeline)["prediction"].tolist()
                middle = now()
                theirs = few_shot.generated(model, tokenizer, questions, shots, encode)
                seconds, their_seconds = middle - began, now() - middle
                equal = sum(own == other for own, other in zip(ours, theirs, strict=True)) / len(ours)
                rows.append(
                    {
                        "shots": shots,
                        "items": len(ours),
                        "seconds": seconds,
                        "generate_seconds": their_seconds,
                        "ratio": their_seconds / seconds,
                        "equal_answers": equal,
                    }
                )
    return rows


# ---------------------------------------------------------------- the report
def table(results: dict[str, Any]) -> str:
    """The numbers as Markdown, as `docs/benchmarks.md` has them."""

    def memory(value: int | None) -> str:
        return "not measured" if value is None else f"{value / 2**30:.1f} GiB"

    precision, parameters = results["settings"]["precision"], results["parameters"] / 1e9
    lines = [f"{results['device']}, torch {results['torch']}, {precision}, {parameters:.2f} billion parameters", ""]
    lines += ["| what | measured |", "|---|---|"]
    if step := results.get("step"):
        share = "unknown peak" if step["utilisation"] is None else f"{step['utilisation']:.1%}"
        lines += [
            f"| training step of {step['tokens']:,} tokens, {step['images']} images | {step['seconds']:.3f} s |",
            f"| tokens per second | {step['tokens_per_second']:,.0f} |",
            f"| model FLOPs utilisation | {share} ({step['flops_per_second'] / 1e12:.1f} TFLOP/s) |",
            f"| peak memory | {memory(step['peak_memory_bytes'])} |",
        ]
    if attention := results.get("attention"):
        lines += [
            f"| language model, packed attention | {attention['packed_seconds']:.3f} s, {memory(attention['packed_peak_memory_bytes'])} |",
            f"| language model, dense mask | {attention['dense_seconds']:.3f} s, {memory(attention['dense_peak_memory_bytes'])}"
            f" ({attention['ratio']:.2f} x) |",
            f"| largest difference of logits from documents alone, packed / dense | {attention['packed_from_alone']:.2g} /"
            f" {attention['dense_from_alone']:.2g} |",
        ]
    for row in results.get("few_shot", []):
        seconds, ratio = f"{row['seconds']:.2f} s / {row['generate_seconds']:.2f} s", f"{row['ratio']:.1f} x"
        what = f"{row['items']} questions, {row['shots']} shots: here / `generate`"
        lines.append(f"| {what} | {seconds} ({ratio}, {row['equal_answers']:.0%} of answers equal) |")
    return "\n".join(lines)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: on machines without a GPU alone")
    parser.add_argument("--precision", choices=["bf16-mixed", "32-true"], default="bf16-mixed")
    parser.add_argument("--tiny", action="store_true", help="a toy, to see that the code runs")
    parser.add_argument("--parts", nargs="+", choices=["step", "attention", "few_shot"], default=["step", "attention", "few_shot"])
    parser.add_argument("--rows", type=int, default=4, help="rows of a micro-batch")
    parser.add_argument("--micro-batches", type=int, default=2, help="micro-batches of a step")
    parser.add_argument("--no-checkpointing", dest="checkpointing", action="store_false", help="keep all activations")
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--warm-up", type=int, default=3, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=10, help="steps whose median is told")
    parser.add_argument("--items", type=int, default=128, help="few-shot questions")
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--peak", type=float, help="operations per second of the device in bf16, where it is not known here")
    parser.add_argument("--json", type=Path, help="where to keep the numbers")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    arguments = parsed(words)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is to be seen, so nothing was measured; `--tiny --device cpu` shows that the code runs", file=sys.stderr)
        return NO_GPU
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU (a toy: these numbers mean nothing)"
    known = gpu_of(device)
    arguments.peak = arguments.peak or (GPUS[known].peak(arguments.precision) if known else None)
    torch.set_float32_matmul_precision("high")
    experiment = declared(arguments)
    model = made(experiment, arguments.device)
    results: dict[str, Any] = {
        "device": device,
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("json", "device")},
    }
    if "step" in arguments.parts:
        results["step"] = measure_step(experiment, model, arguments)
    if "attention" in arguments.parts:
        results["attention"] = measure_attention(experiment, model, arguments)
    del model
    forget_peak()
    if "few_shot" in arguments.parts:
        results["few_shot"] = measure_few_shot(experiment, arguments)
    print(json.dumps(results, indent=1))
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
