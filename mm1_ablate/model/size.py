"""How many parameters a declared model has, without making it: parts are built on torch's meta device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.model_digests import local_identity
from mm1_ablate.config.image_encoder import TimmEncoder, VisionTransformer
from mm1_ablate.config.model import LanguageModel, frozen_parts
from mm1_ablate.model.meta_initialisation import shapes_only


def count_parameters(experiment: Experiment) -> dict[str, int]:
    """Parameters of image_encoder, connector, language_model; `total`; `trained` (those of frozen parts are not); and
    `without_embeddings`, the language model's, which learning-rate and FLOP rules are about."""
    settings = experiment.model
    encoder = _count_encoder(settings.image_encoder)
    language_model = _count_language_model(settings.language_model)
    with shapes_only():
        connector = settings.connector.build(encoder.width, settings.image_encoder.grid_side, language_model.width)
    counts = {"image_encoder": encoder.parameters, "connector": _number(connector), "language_model": language_model.parameters}
    total = sum(counts.values())
    frozen = sum(counts[part] for part in frozen_parts(settings))
    return {**counts, "total": total, "trained": total - frozen, "without_embeddings": language_model.without_embeddings}


@dataclass(frozen=True)
class _Part:
    parameters: int
    width: int
    without_embeddings: int = 0


# The arms of a sweep share most of their parts, and making a large one takes a second even on the meta device.
_COUNTED: dict[str, _Part] = {}


def _count_encoder(settings: VisionTransformer | TimmEncoder) -> _Part:
    from mm1_ablate.model.image_encoder import shape_of_encoder

    key = settings.model_dump_json(exclude={"preparation"})
    if key not in _COUNTED:
        encoder = shape_of_encoder(settings)
        _COUNTED[key] = _Part(_number(encoder), encoder.width)
    return _COUNTED[key]


def _count_language_model(settings: LanguageModel) -> _Part:
    from mm1_ablate.model.language_model import parameters_without_embeddings, shape_of_language_model, token_ids

    key = f"{settings.model_dump_json(exclude={'preparation'})} {local_identity(settings)}"
    if key not in _COUNTED:
        model = shape_of_language_model(settings, *token_ids(settings))
        _COUNTED[key] = _Part(_number(model), model.config.hidden_size, parameters_without_embeddings(model))
    return _COUNTED[key]


def _number(part: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())
