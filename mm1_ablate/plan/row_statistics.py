"""What packed rows hold, and what a trial trains on over all its steps.

In: an experiment. Out: tokens and images, counted on real rows or as declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from mm1_ablate.config.experiment import Experiment

MOST_READ = 200_000_000
"""Bytes that a plan may read to make data ready for counting: some seconds."""
ROWS_COUNTED = 64
"""Rows packed to see what a row holds on average."""


class TooMuchToRead(Exception):
    """Data that would take long to be made ready."""


@dataclass(frozen=True)
class RowContent:
    """What a packed row holds on average, counted on real rows where the data can be opened, else as declared.

    Attention takes the square of each document's length, and an image is as long as the connector makes it: so documents are kept as
    the sums, over a row, of text x text, text x images and images x images.
    """

    text_tokens: float
    images: float
    supervised: float
    """Text tokens that something in their document predicts."""
    text_text: float
    text_images: float
    images_images: float
    measured: bool
    epochs: Mapping[str, float] = field(default_factory=dict)
    """By source, how much of an epoch of it goes into a row; empty where it was not counted."""

    def pairs(self, image_tokens: int) -> float:
        """Pairs of tokens of one document, in a row, when each image is so many tokens."""
        return self.text_text + 2 * image_tokens * self.text_images + image_tokens**2 * self.images_images

    def tokens(self, image_tokens: int) -> float:
        """Tokens of a row when each image is so many."""
        return self.text_tokens + image_tokens * self.images

    @classmethod
    def declared(cls, experiment: Experiment) -> RowContent:
        """Full rows, each of one data type in the mixture's shares: as many images as the packing allows where the type has any, in
        documents of one image each where they are captioned, and otherwise in one document."""
        packing = experiment.data.packing
        weights = {name: weight for name, weight in experiment.data.mixture.items() if weight}
        most = packing.row_tokens // packing.nominal_image_tokens
        most = min(most, packing.max_images if packing.max_images is not None else most)
        text_tokens = images = supervised = text_text = text_images = images_images = 0.0
        for data_type, weight in weights.items():
            share = weight / sum(weights.values())
            here = 0 if data_type == "text" else most
            text = packing.row_tokens - here * packing.nominal_image_tokens
            documents = max(1, here) if "captioned" in data_type else 1
            text_tokens += share * text
            images += share * here
            supervised += share * (text if here else max(0, text - 1))
            text_text += share * text * text / documents
            text_images += share * text * here / documents
            images_images += share * here * here / documents
        return cls(text_tokens, images, supervised, text_text, text_images, images_images, measured=False)


@dataclass(frozen=True)
class TrialTokens:
    """What a trial trains on, over all its steps."""

    text: int
    images: int
    image_tokens: int

    @property
    def total(self) -> int:
        return self.text + self.image_tokens


def trial_tokens(experiment: Experiment, row: RowContent) -> TrialTokens:
    """Tokens and images of all steps: rows x what a row holds; an image counts what the connector makes of it, of sub-images at most."""
    rows = experiment.training.steps * experiment.training.batch_rows
    images = round(rows * row.images)
    return TrialTokens(round(rows * row.text_tokens), images, images * experiment.model.image_tokens_at_most)


def views_at_most(experiment: Experiment) -> int:
    """Pictures of the encoder's size that one image becomes at most."""
    return experiment.model.image_tokens_at_most // experiment.model.connector.image_tokens


def count_rows(experiment: Experiment) -> RowContent:
    """What a packed row holds on average, from the first rows that a trial of seed 0 would see; no image is rendered or decoded.

    Raises:
        ValueError: there is no row, or too much of a source is unreadable.
        TooMuchToRead: it would take long to make the data ready.
    """
    from mm1_ablate.data.documents import Image
    from mm1_ablate.data.packing import open_packed_rows
    from mm1_ablate.data.tokenizer import load_tokenizer

    data = experiment.data
    for name in data.shares():
        data.sources[name].make_ready(_not_too_much)
    rows = open_packed_rows(data, load_tokenizer(experiment.model.language_model.tokenizer), 0)
    packed = list(islice(rows, ROWS_COUNTED))
    if not packed:
        raise ValueError("no row can be made of the data")
    documents = [document for row in packed for document in row]
    nominal = data.packing.nominal_image_tokens
    images = [len(document.images) for document in documents]
    texts = [document.nominal_length - count * nominal for document, count in zip(documents, images, strict=True)]
    text = sum(texts)
    # Nothing in a document comes before its first token, so nothing predicts it.
    unpredicted = sum(1 for document in documents if document.segments and not isinstance(document.segments[0], Image))
    # The packer reads ahead: of what was read, only so much is in these rows.
    read = sum(account["tokens"] for account in rows.accounting.account().values())
    part = sum(document.nominal_length for document in documents) / read / len(packed) if read else 0.0
    return RowContent(
        text_tokens=text / len(packed),
        images=sum(images) / len(packed),
        supervised=(text - unpredicted) / len(packed),
        text_text=sum(length * length for length in texts) / len(packed),
        text_images=sum(length * count for length, count in zip(texts, images, strict=True)) / len(packed),
        images_images=sum(count * count for count in images) / len(packed),
        measured=True,
        epochs={name: epochs * part for name, epochs in rows.mixture.epochs.items()},
    )


def _not_too_much(what: str, done: int, in_all: int) -> None:
    if in_all > MOST_READ:
        raise TooMuchToRead(what)
