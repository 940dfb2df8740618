"""Batches of documents of declared lengths, and what a plan would count of them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from tiny import tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.data.loader import Batch
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.plan.flops import RowContent

Documents = Sequence[tuple[int, int]]
"""Text tokens and images of each document; images come first, so that all text is predicted, but for text alone."""


def experiment_with(changes: dict[str, Any], prepared: bool = False) -> Experiment:
    """The tiny experiment with changes; whole sections before what is inside them."""
    # A copy: the sections given are changed in place by what is inside them.
    return tiny_experiment(dict(sorted(deepcopy(changes).items(), key=lambda change: change[0].count("."))), prepared)


def batch_of(experiment: Experiment, documents: Documents) -> Batch:
    """A flat batch of them, with random tokens and pixels."""
    image_tokens, size = experiment.model.connector.image_tokens, experiment.model.image_encoder.image_size
    vocabulary = load_tokenizer(experiment.model.language_model.tokenizer).vocabulary_size
    lengths = [text + images * image_tokens for text, images in documents]
    starts = [sum(lengths[:place]) for place in range(len(lengths))]
    places: list[int] = []
    supervised: list[int] = []
    for start, length, (text, images) in zip(starts, lengths, documents, strict=True):
        places += range(start, start + images * image_tokens)
        supervised += range(start + length - text - (1 if images else 0), start + length - 1)
    generator = torch.Generator().manual_seed(0)
    return Batch(
        tokens=torch.randint(vocabulary, (sum(lengths),), generator=generator),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        document_lengths=lengths,
        supervised=torch.tensor(supervised),
        targets=torch.randint(vocabulary, (len(supervised),), generator=generator),
        image_positions=torch.tensor(places, dtype=torch.int64),
        images=torch.randint(256, (sum(images for _, images in documents), 3, size, size), dtype=torch.uint8, generator=generator),
        documents=[str(number) for number in range(len(documents))],
    )


def content_of(documents: Documents) -> RowContent:
    """What a row of all of them holds."""
    return RowContent(
        text_tokens=sum(text for text, _ in documents),
        images=sum(images for _, images in documents),
        supervised=sum(text if images else text - 1 for text, images in documents),
        text_text=sum(text * text for text, _ in documents),
        text_images=sum(text * images for text, images in documents),
        images_images=sum(images * images for _, images in documents),
        measured=True,
    )
