"""One whole system: data, model, training, evaluation. The unit that is trained and scored.

Defaults are chosen so that leaving a field out is the common choice; a field added later with a default that keeps the old
behaviour leaves old fingerprints alone (`fingerprint.py`). Fields marked `HowItRuns` are not part of a trial's identity.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from mm1_ablate.config.connector import LearnedQueries
from mm1_ablate.config.data import Data
from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.image_encoder import TimmEncoder
from mm1_ablate.config.model import Model
from mm1_ablate.config.settings import HowItRuns, SettingError, Settings
from mm1_ablate.config.training import Training


def _or_a_file(schema: dict[str, Any]) -> None:
    """In a file, a stage may be the path of another."""
    schema["anyOf"].insert(0, {"type": "string"})


class Experiment(Settings):
    """A whole system that can be trained and scored."""

    experiment: Annotated[str, HowItRuns]
    """Name of the experiment."""
    description: Annotated[str, HowItRuns] = ""
    """What the experiment is, in words; part of no fingerprint."""
    data: Data
    """What is trained on."""
    model: Model
    """What is trained: image encoder, connector, language model."""
    training: Training
    """How it is trained: steps, optimiser, learning rate, precision."""
    evaluation: Evaluation
    """What is measured after training: tasks, shots, demonstrations."""
    starts_from: Annotated[Experiment | None, Field(json_schema_extra=_or_a_file)] = None
    """An earlier stage: an experiment, or the path of its file relative to this one. Training starts from its final
    weights at the same seed; parameters per grid position are resampled if the resolution differs. Its own evaluation is not run."""

    @model_validator(mode="after")
    def _fits_the_earlier_stage(self) -> Experiment:
        if self.starts_from is not None:
            check_stages(self.model, self.starts_from.model)
        return self

    @model_validator(mode="after")
    def _rows_hold_what_is_trained_on(self) -> Experiment:
        packing = self.data.packing
        held_out = [held.source for held in self.evaluation.losses.values()]
        shown = any(source.shows_images for source in [*(self.data.sources[name] for name in self.data.shares()), *held_out])
        least = packing.nominal_image_tokens + 1 if shown else 2
        if packing.row_tokens < least:
            written = [name for name in ("row_tokens", "nominal_image_tokens") if name in packing.model_fields_set]
            what = f"an image, which counts nominal_image_tokens ({packing.nominal_image_tokens}), beside a token of its text"
            message = f"a row of {packing.row_tokens} tokens cannot hold {what if shown else 'a token and its target'}"
            fewer = ", or fewer nominal_image_tokens" if shown else ""
            raise SettingError(
                f"data.packing.{(written or ['row_tokens'])[0]}", f"{message}; expected row_tokens of at least {least}{fewer}"
            )
        return self

    @property
    def earlier(self) -> list[Experiment]:
        """The stages before this one, the first of all first."""
        return [] if self.starts_from is None else [*self.starts_from.earlier, self.starts_from]


def check_stages(model: Model, before: Model) -> None:
    """Whether a model can start from the weights of an earlier stage's.

    Raises:
        SettingError: at the field of the later stage that keeps it from it.
    """

    def same(path: str, ours: Any, theirs: Any) -> None:
        if ours != theirs:
            message = f"the earlier stage has {_in_words(theirs)} here, and this one {_in_words(ours)}: its weights do not fit; change both"
            raise SettingError(path, message)

    for part in ("image_encoder", "language_model"):
        if getattr(model, part).preparation is not None:
            message = "the weights come from the earlier stage (starts_from), so nothing is prepared for this one; leave it out"
            raise SettingError(f"model.{part}.preparation", message)
    for part, name, nothing in (("image_encoder", "weights", None), ("language_model", "initialisation", None)):
        ours, theirs = (getattr(getattr(one, part), name, nothing) for one in (model, before))
        if name in getattr(model, part).model_fields_set and ours not in (nothing, theirs):
            message = (
                "the weights come from the earlier stage (starts_from), so this has no effect; leave it out, or change the earlier stage"
            )
            raise SettingError(f"model.{part}.{name}", message)
    for name in ("name", "model_type", "tokenizer", "scale_embeddings", "configuration"):
        same(f"model.language_model.{name}", getattr(model.language_model, name), getattr(before.language_model, name))
    ours, theirs = model.image_encoder, before.image_encoder
    same("model.image_encoder.type", ours.type, theirs.type)
    for name in ("name",) if isinstance(ours, TimmEncoder) else ("width", "depth", "heads"):
        same(f"model.image_encoder.{name}", getattr(ours, name), getattr(theirs, name))
    if isinstance(ours, TimmEncoder) and ours.feature_layer > theirs.feature_layer:
        message = f"the earlier stage's model ends with block {theirs.feature_layer}, so it has no weights for block {ours.feature_layer}"
        raise SettingError("model.image_encoder.feature_layer", message)
    same("model.connector.type", model.connector.type, before.connector.type)
    free = {"frozen"} if isinstance(model.connector, LearnedQueries) else {"frozen", "image_tokens"}
    for name in type(model.connector).model_fields:
        if name not in free:
            same(f"model.connector.{name}", getattr(model.connector, name), getattr(before.connector, name))


def _in_words(value: Any) -> str:
    return "another value" if isinstance(value, dict) else "null" if value is None else f"'{value}'"
