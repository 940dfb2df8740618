"""Operations of training, by part, as the trial really does them.

In: an experiment, the profile of its model (`model/profiler.py`), and what its packed rows hold. Out: operations of
the image encoder, the connector, the language model's blocks, its head, and attention inside the packed documents, forward and
backward. They are what `torch.utils.flop_counter` counts of the same step, so a utilisation computed with them is that of the
hardware: what is done twice counts twice.

* An encoder that is trained runs forward and backward; a frozen one forward only; one that was prepared and is frozen not at all,
  because its features are kept.
* Gradients that nobody needs are not computed: those of frozen weights, and those that would only reach frozen parts.
* The head works at supervised positions alone, for only text is predicted.
* Attention takes the square of each document's length, both halves of it (kernels that skip the masked half do better than planned),
  twice forward and, as fused kernels make the scores again, five times backward.
* Activation checkpointing repeats the forward pass of what it covers: the language model's blocks and a trained encoder.

Evaluation and data loading are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.model.profile import ModelProfile
from mm1_ablate.plan.row_statistics import RowContent, views_at_most


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
        return sum(float(getattr(self, field.name)) for field in fields(self))

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
