"""Tokens and operations of training: what packed rows hold, and what training on them takes, by part of the model.

In: an experiment, the profile of its model (`model/profiler.py`), and what its packed rows hold. Out: operations of
the image encoder, the connector, the language model's blocks, its head, and attention inside the packed documents, forward and
backward. They are what `torch.utils.flop_counter` counts of the same step, so a utilisation computed from them is that of the
hardware: what is done twice counts twice.

* An encoder that is trained runs forward and backward; a frozen one forward only; one that was prepared and is frozen not at all,
  because its features are stored.
* Gradients that are not needed are not computed: those of frozen weights, and those that would only reach frozen parts.
* The head works at supervised positions alone, for only text is predicted.
* Attention takes the square of each document's length, both halves of it (kernels that skip the masked half do better than planned),
  twice forward and, as fused kernels make the scores again, five times backward.
* Activation checkpointing repeats the forward pass of what it covers: the language model's blocks and a trained encoder.

Evaluation and data loading are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.model.profile import ModelProfile


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
        most = most_images(experiment)
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


def epochs_read(experiment: Experiment, row: RowContent) -> dict[str, float]:
    """By source, how often a training reads it, about; no more than `max_epochs`."""
    sources = experiment.data.sources
    return {name: min(epochs, sources[name].max_epochs or epochs) for name, epochs in _epochs_needed(experiment, row).items()}


def used_up(experiment: Experiment, row: RowContent) -> str | None:
    """A sentence about data none of which lasts for the training; None where some does."""
    sources, needed = experiment.data.sources, _epochs_needed(experiment, row)
    if not needed or any(epochs < (sources[name].max_epochs or inf) for name, epochs in needed.items()):
        return None
    return (
        f"the data is used up before step {experiment.training.steps:,}: raise max_epochs of data.sources ({', '.join(needed)}),"
        " or train for fewer steps"
    )


def _epochs_needed(experiment: Experiment, row: RowContent) -> dict[str, float]:
    """Epochs of each source that a training needs, whatever `max_epochs` says."""
    training = experiment.training
    return {name: share * training.steps * training.batch_rows for name, share in row.epochs.items()}


def most_images(experiment: Experiment) -> int:
    """Images that a packed row holds at most."""
    packing = experiment.data.packing
    most = packing.row_tokens // packing.nominal_image_tokens
    return most if packing.max_images is None else min(most, packing.max_images)


def views_at_most(experiment: Experiment) -> int:
    """Pictures of the encoder's size that one image becomes at most."""
    return experiment.model.image_tokens_at_most // experiment.model.connector.image_tokens


@dataclass(frozen=True)
class Flops:
    """Operations by part."""

    image_encoder: float = 0.0
    connector: float = 0.0
    blocks: float = 0.0
    """Of the language model, attention apart."""
    head: float = 0.0
    attention: float = 0.0
    """Inside the packed documents."""

    @property
    def total(self) -> float:
        by_part: dict[str, float] = asdict(self)
        return sum(by_part.values())

    def __mul__(self, times: float) -> Flops:
        return Flops(**{name: value * times for name, value in asdict(self).items()})

    def to_json(self) -> dict[str, float]:
        return {**asdict(self), "total": self.total}


def is_checkpointed(experiment: Experiment) -> bool:
    """Whether activations are computed again in the backward pass instead of being kept."""
    return experiment.training.activation_checkpointing


def reads_features(experiment: Experiment) -> bool:
    """Whether images reach the model as features that its frozen encoder made of them before."""
    encoder = experiment.model.image_encoder
    return encoder.frozen and encoder.preparation is not None and experiment.model.sub_images is None


def row_flops(experiment: Experiment, parts: ModelProfile, row: RowContent) -> Flops:
    """Operations of training on one average packed row."""
    model = experiment.model
    again = 1 if is_checkpointed(experiment) else 0
    views = row.images * views_at_most(experiment)
    tokens, pairs = row.tokens(model.image_tokens_at_most), row.pairs(model.image_tokens_at_most)
    encoder, connector, language = parts.image_encoder, parts.connector, parts.language_model
    if reads_features(experiment):
        seeing = 0.0
    else:
        seeing = encoder.forward if model.image_encoder.frozen else encoder.forward * (1 + again) + encoder.backward
    return Flops(
        image_encoder=views * seeing,
        connector=views * (connector.forward + connector.backward),
        blocks=tokens * (language.forward * (1 + again) + language.backward),
        head=row.supervised * language.head * (4 if model.language_model.frozen else 6),
        attention=pairs * language.attention * (1 + again + 2.5),
    )


def training_flops(experiment: Experiment, parts: ModelProfile, row: RowContent) -> Flops:
    """Operations of training one trial from start to end."""
    return row_flops(experiment, parts, row) * (experiment.training.steps * experiment.training.batch_rows)


def preparation_flops(preparation: Preparation, parameters: Mapping[str, int]) -> float:
    """Operations of preparing an encoder (6 x parameters x patches) or a language model (6 x parameters x tokens): by rule, for they are
    few beside those of the trials."""
    settings = preparation.settings
    if settings.preparation is None:
        return 0.0
    if isinstance(settings, LanguageModel):
        section = settings.preparation
        return 6.0 * parameters["language_model"] * section.steps * section.batch_rows * section.row_tokens
    patches = settings.preparation.steps * settings.preparation.batch_images * settings.grid_side**2
    return 6.0 * parameters["image_encoder"] * patches
