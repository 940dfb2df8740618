"""What `gpu.py` measures with: MM1's base (or a toy) with random weights, rows of random data, a clock and a GPU's peak memory."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.data.documents import Image
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import Batch, collate
from mm1_ablate.data.packing import TokenisedDocument
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.image_encoder import build_image_encoder
from mm1_ablate.model.language_model import build_language_model
from mm1_ablate.model.multimodal import MultimodalModel

REPOSITORY = Path(__file__).resolve().parent.parent
PADDING, END = 0, 1
LENGTHS = (0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05)
"""Documents of a row, as shares of its tokens; the images are dealt out to them in turn, as to interleaved pages."""


def declared(arguments: argparse.Namespace) -> Experiment:
    """The base without its weights and its tokenizer, or the toy."""
    file = "miniature" if arguments.tiny else "mm1_base"
    experiment = load_study(REPOSITORY / "experiments" / f"{file}.yaml", "nowhere").arms[0].experiment.model_dump(mode="json")
    model, training = experiment["model"], experiment["training"]
    model["language_model"]["preparation"] = None
    model["image_encoder"].update(preparation=None, frozen=False)
    if arguments.tiny:
        model["image_encoder"].update(image_size=24, patches_per_side=2, width=16, depth=1, heads=2)
        model["language_model"]["configuration"].update(hidden_size=32, num_hidden_layers=1, intermediate_size=64)
        model["language_model"]["scale_embeddings"] = False  # `generate` would not scale the tokens that it makes
    else:
        model["image_encoder"]["weights"] = None
    training.update(
        steps=arguments.warm_up + arguments.steps,
        warmup_steps=1,
        batch_rows=arguments.rows * arguments.micro_batches,
        micro_batch_rows=arguments.rows,
        precision=arguments.precision,
        activation_checkpointing=arguments.checkpointing,
        compile=arguments.compile,
    )
    return Experiment.model_validate(experiment)


def made(experiment: Experiment, device: str) -> MultimodalModel:
    """The model with random weights, made on its device: as `build`, without a tokenizer."""
    settings = experiment.model
    with torch.device(device):
        encoder = build_image_encoder(settings.image_encoder, weights=False)
        language_model = build_language_model(settings.language_model, vocabulary_of(settings.language_model), PADDING, END, weights=False)
        connector = settings.connector.build(encoder.width, settings.image_encoder.grid_side, language_model.config.hidden_size)
        return MultimodalModel(encoder, connector, language_model, settings.connector.image_tokens)


def vocabulary_of(settings: LanguageModel) -> int:
    """Tokens that are drawn from: as declared, else the miniature's."""
    declared = settings.configuration.get("vocab_size")
    return declared if isinstance(declared, int) else load_tokenizer("miniature").vocabulary_size


def random_rows(experiment: Experiment, rows: int, vocabulary: int, seed: int) -> Batch:
    """Full rows of random tokens and pictures, with as many images as a row may have."""
    packing, draws = experiment.data.packing, np.random.default_rng(seed)
    size = experiment.model.image_encoder.image_size
    most = packing.row_tokens // packing.nominal_image_tokens
    images = min(2 * most // 3, packing.max_images or most)
    text = packing.row_tokens - images * packing.nominal_image_tokens
    documents = []
    for row in range(rows):
        for place, share in enumerate(LENGTHS):
            pictures = []
            for number in range(place, images, len(LENGTHS)):
                pixels = draws.integers(0, 256, (size, size, 3), dtype=np.uint8)
                pictures.append(Image(f"{seed}/{row}/{number}", lambda pixels=pixels: pixels))
            tokens = tuple(draws.integers(3, vocabulary, max(1, round(share * text))).tolist())
            # Images among the text, each with some before it.
            pieces: list[Any] = [tokens[: len(tokens) - len(tokens) // 2]]
            pieces += [*pictures, tokens[len(tokens) - len(tokens) // 2 :]] if len(tokens) > 1 else pictures
            documents.append(TokenisedDocument(f"{row}/{place}", "random", tuple(pieces), tuple(pictures), 0, "interleaved"))
    return collate(documents, experiment.model.connector.image_tokens, 0, ImagePipeline(size))


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory() -> int | None:
    """Bytes that tensors took at most since the last reset; nothing on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
