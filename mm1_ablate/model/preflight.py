"""Whether a declared model can be made, before anything is trained: its paths, image encoder, connector and language model.

In: an experiment. Out: diagnostics by place in it. What settings can tell by themselves they do; here parts are made without values and run
once on a few tokens or an image, so that what timm, transformers or a connector of the user's own would raise when a trial begins is said
before, at its line; and so is that an earlier stage's connector has weights of other shapes. Making a large part, even without values,
takes seconds to import torch and timm or transformers: so passed checks are cached (`data/cache.py`), and without torch
it is read.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import look, once
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.config.identity.model_digests import local_identity
from mm1_ablate.config.image_encoder import ImageEncoder, TimmEncoder, VisionTransformer
from mm1_ablate.config.local_path import local, missing
from mm1_ablate.config.model import LanguageModel, Model
from mm1_ablate.config.settings import SettingError
from mm1_ablate.config.sweep.preflight import at_every_stage
from mm1_ablate.data.cache import known, remember
from mm1_ablate.data.hub import Unavailable
from mm1_ablate.data.tokenizer import load_tokenizer

LIMITS = ("meta tensor", "meta device", "'meta' backend", "data-dependent", "fake tensor")
"""Messages of torch if a part needs values while it is run without: not an error of its settings."""
LONGEST_REASON = 200
"""Characters of another library's words that are repeated."""
SOME_VOCABULARY = 1024
"""Tokens of a vocabulary where none is declared; only the size of the embeddings depends on it."""


# ---------------------------------------------------------------- paths and image encoders
def missing_models(experiment: Experiment) -> list[Diagnostic]:
    """Language models and tokenizers that are declared by a path that does not exist. Where data may not be looked at, none are
    reported."""
    return [] if look() == "nowhere" else at_every_stage(experiment, lambda stage: _missing(stage.model))


def _missing(model: Model) -> list[Diagnostic]:
    places: dict[tuple[str, ...], str | None] = {}
    places["language_model", "name"] = model.language_model.name
    if model.language_model.tokenizer != model.language_model.name:
        places["language_model", "tokenizer"] = model.language_model.tokenizer
    if model.image_encoder.preparation is not None:
        places["image_encoder", "preparation", "tokenizer"] = model.image_encoder.preparation.tokenizer
    return [Diagnostic(("model", *place), wrong) for place, value in places.items() if (path := local(value)) and (wrong := missing(path))]


def wrong_encoders(experiment: Experiment) -> list[Diagnostic]:
    """What is wrong with an image encoder that is named: timm has none such, its patches are of another size, it has no such block, or
    its weights are missing. Where data may not be looked at, neither are weights."""
    return at_every_stage(experiment, lambda stage: _wrong_encoder(stage.model))


def _wrong_encoder(model: Model) -> list[Diagnostic]:
    encoder = model.image_encoder
    if not isinstance(encoder, TimmEncoder):
        return []
    settings = encoder.model_copy(update={"preparation": None, **({"weights": None} if look() == "nowhere" else {})})
    return once(f"encoder {settings.model_dump_json()}", lambda: _wrong_timm_encoder(settings))


def _wrong_timm_encoder(encoder: TimmEncoder) -> list[Diagnostic]:
    key = fingerprint({"encoder": canonical(encoder.model_copy(update={"weights": None, "frozen": False}))})
    # Weights may be gone by now.
    if encoder.local_weights is None and known(key) is not None:
        return []
    from mm1_ablate.model.image_encoder import check_named

    try:
        check_named(encoder)
    except SettingError as error:
        return [Diagnostic(("model", "image_encoder", error.at), error.message)]
    except OSError:  # of a hub that cannot be reached, which is for the plan to say
        return []
    remember(key, {})
    return []


# ---------------------------------------------------------------- language models and connectors
def wrong_parts(experiment: Experiment) -> list[Diagnostic]:
    """What is wrong with language models and connectors. Models that are given by a name or path are skipped where data may not be
    looked at."""

    def of_stage(stage: Experiment) -> list[Diagnostic]:
        parts = {"image_encoder": {"preparation"}, "language_model": {"preparation"}}
        models = [stage.model] if stage.starts_from is None else [stage.model, stage.starts_from.model]
        key = f"parts {' after '.join(model.model_dump_json(exclude=parts) for model in models)}"
        return once(key, partial(_wrong, *models)) or _not_recomputed(stage)

    return at_every_stage(experiment, of_stage)


def _wrong(model: Model, before: Model | None = None) -> list[Diagnostic]:
    try:
        width = facts_about(model.language_model)["width"]
    except Unavailable:
        return []
    except SettingError as error:
        return [Diagnostic(("model", "language_model", *error.at.split(".")), error.message)]
    try:
        _check_connector(model, width)
        if before is not None:
            _check_handed_on(model, before, width)
    except SettingError as error:
        return [Diagnostic(("model", "connector", *(error.at.split(".") if error.at else ())), error.message)]
    return []


def _not_recomputed(experiment: Experiment) -> list[Diagnostic]:
    """A language model that cannot be trained with `activation_checkpointing`."""
    if not experiment.training.activation_checkpointing:
        return []
    try:
        facts = facts_about(experiment.model.language_model)
    except (Unavailable, SettingError):
        return []
    message = (
        "transformers does not support activation checkpointing for this language model; leave it out, or choose another kind of model"
    )
    return [] if facts["recomputes"] else [Diagnostic(("training", "activation_checkpointing"), message)]


# ---------------------------------------------------------------- language models
def facts_about(settings: LanguageModel) -> dict[str, int]:
    """What is known of a language model that can be made and run: its `width` in channels, whether it `recomputes` activations.

    Raises:
        SettingError: at the field that is wrong.
        Unavailable: it is given by a name or path, and is missing there or may not be looked at.
    """
    if settings.name is not None and look() == "nowhere":
        raise Unavailable
    key = language_model_key(settings)
    facts: dict[str, int] | None = known(key)
    if facts is None:
        facts = _made(settings)
        remember(key, facts)
    return facts


def language_model_key(settings: LanguageModel) -> str:
    """All that what is found out about a language model depends on."""
    bare = settings.model_copy(update={"preparation": None, "frozen": False})
    # What is at a path may become another.
    return fingerprint({"language_model": canonical(bare), **local_identity(settings)})


def without_values(settings: LanguageModel) -> Any:
    """A declared language model without values, to be looked at.

    Raises:
        ValueError, OSError: as `language_model.build_language_model`.
    """
    from mm1_ablate.model.language_model import shape_of_language_model

    return shape_of_language_model(settings, *_token_ids(settings))


def _made(settings: LanguageModel) -> dict[str, int]:
    from mm1_ablate.model.language_model import check_vocabulary
    from mm1_ablate.model.packable import check_packable
    from mm1_ablate.model.packed_attention import NotPackable

    field = "name" if settings.name is not None else "configuration"
    try:
        if _is_here(settings):
            check_vocabulary(settings, load_tokenizer(settings.tokenizer).vocabulary_size)
        model = without_values(settings)
    except SettingError:
        raise
    except OSError as error:
        raise Unavailable from error
    except Exception as error:  # transformers raises its own types, and whatever a model does with values that it never saw
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise SettingError(_culprit(settings, cause), f"transformers cannot make this model: {first_line(cause)}") from error
    for needed in ("hidden_size", "max_position_embeddings"):
        if not isinstance(getattr(model.config, needed, None), int):
            raise SettingError("name" if settings.name else "model_type", f"models of type {model.config.model_type} have no {needed}")
    try:
        check_packable(model)
    except NotPackable as error:
        if error.field in settings.configuration:
            raise SettingError(f"configuration.{error.field}", f"{error}; leave it out, or choose another kind of model") from error
        raise SettingError("name" if settings.name else "model_type", f"{error}; choose another kind of model") from error
    except Exception as error:
        if not is_limit(error):
            raise SettingError(field, f"such a model cannot be run on packed documents: {first_line(error)}") from error
    if settings.scale_embeddings:
        _check_scale(settings, model.config.model_type)
    recomputes = int(getattr(model, "supports_gradient_checkpointing", False))
    return {"width": int(model.config.hidden_size), "recomputes": recomputes}


def _check_scale(settings: LanguageModel, model_type: str) -> None:
    from mm1_ablate.model.embedding_scale import embedding_scale
    from mm1_ablate.model.language_model import build_language_model

    own = embedding_scale(partial(build_language_model, settings, *_token_ids(settings), weights=False))
    if own != 1:
        does = (
            f"multiply embeddings by {own:.4g} themselves, so they would be scaled twice"
            if own
            else "normalise embeddings, so it has no effect"
        )
        raise SettingError("scale_embeddings", f"models of type {model_type} {does}; leave it out")


def _is_here(settings: LanguageModel) -> bool:
    """Whether the tokenizer is on this machine for sure, and may be looked at; those of a hub may have to be fetched."""
    return settings.tokenizer == "miniature" or (local(settings.tokenizer) is not None and look() != "nowhere")


def _token_ids(settings: LanguageModel) -> tuple[int, int, int]:
    from mm1_ablate.model.language_model import token_ids

    if settings.name is not None and _is_here(settings):
        return load_tokenizer(settings.tokenizer).vocabulary_size, 0, 0
    if settings.name is not None or isinstance(settings.configuration.get("vocab_size"), int) or _is_here(settings):
        return token_ids(settings)
    return SOME_VOCABULARY, 0, 0


def _culprit(settings: LanguageModel, error: Exception) -> str:
    """The declared field that an error of transformers' is about, as far as its words tell."""
    if settings.name is not None:
        return "name"
    words = re.sub(r"[^a-z0-9_]+", " ", str(error).lower().replace("hidden size", "hidden_size"))
    if "does not support" in str(error):
        return "model_type"
    named = [name for name in settings.configuration if name.lower() in words.split()]
    named += [name for name, value in settings.configuration.items() if isinstance(value, str) and value.lower() in words.split()]
    if named:
        return f"configuration.{named[0]}"
    return "model_type" if isinstance(error, ValueError) and not settings.configuration else _type_or_configuration(error)


def _type_or_configuration(error: Exception) -> str:
    about_the_type = ("Unrecognized", "does not support", "no model type")
    return "model_type" if any(words in str(error) for words in about_the_type) else "configuration"


# ---------------------------------------------------------------- connectors
def _check_connector(model: Model, language_width: int) -> None:
    """Whether a connector goes with the encoder and the language model.

    Raises:
        SettingError: at the field that is wrong, or at none.
    """
    connector, side = model.connector, model.image_encoder.grid_side
    key = _connector_key(model, language_width)
    if _is_ours(model) and known(key) is not None:
        return
    width = _width_of_encoder(_bare(model.image_encoder))
    if width is None:
        return
    connector.check_width(width)
    import torch

    from mm1_ablate.model.meta_initialisation import meta_initialisation

    expected = (2, connector.image_tokens, language_width)
    try:
        with meta_initialisation():
            module = connector.build(width, side, language_width)
        with torch.no_grad():
            given = module(torch.empty(2, side * side, width, device="meta"))
    except SettingError:
        raise
    except Exception as error:
        if is_limit(error):
            return
        raise SettingError(
            "", f"it cannot be made for features of width {width} on {side} x {side} patches: {first_line(error)}"
        ) from error
    if tuple(getattr(given, "shape", ())) != expected:
        shape = list(getattr(given, "shape", ()))
        raise SettingError("", f"for 2 images it returns {shape or type(given).__name__}, not image tokens of shape {list(expected)}")
    if _is_ours(model):
        remember(key, {})


def _check_handed_on(model: Model, before: Model, language_width: int) -> None:
    """Whether the weights of an earlier stage's connector fit, once they are resampled: by the rule of `training.fit.read_earlier_stage`.

    Raises:
        SettingError: they do not.
    """
    keys = [_connector_key(each, language_width) for each in (model, before)]
    key = fingerprint({"connector": keys[0], "of the earlier stage": keys[1]})
    if keys[0] == keys[1] or (_is_ours(model) and known(key) is not None):
        return
    from mm1_ablate.model.meta_initialisation import meta_initialisation
    from mm1_ablate.model.weight_conversion import resample_positions, state_dict_mismatch

    made = []
    for each in (model, before):
        width = _width_of_encoder(_bare(each.image_encoder))
        if width is None:
            return
        try:
            with meta_initialisation():
                made.append(each.connector.build(width, each.image_encoder.grid_side, language_width))
        except Exception:  # `_check_connector` reports it, for the stage whose connector it is
            return
    here, there = made
    try:
        states = resample_positions(there.state_dict(), here), here.state_dict()
        shapes = [{f"connector.{name}": tuple(value.shape) for name, value in state.items()} for state in states]
        wrong = state_dict_mismatch(*shapes)
    except Exception as error:
        if is_limit(error):
            return
        wrong = first_line(error)
    if wrong:
        its, earlier = (
            f"{each.connector.image_tokens} image tokens of {each.image_encoder.grid_side} x {each.image_encoder.grid_side} patches"
            for each in (model, before)
        )
        message = f"the weights of the earlier stage, with {earlier}, do not fit this one, with {its}: {wrong}; change image_tokens or"
        raise SettingError("", f"{message} the image or patch size of one of them, or the connector of both")
    if _is_ours(model):
        remember(key, {})


def _bare(encoder: ImageEncoder) -> ImageEncoder:
    """An encoder's settings without those that a connector does not depend on."""
    bare = encoder.model_copy(update={"preparation": None, "frozen": False, "learning_rate_scale": 1.0})
    return bare if isinstance(bare, VisionTransformer) else bare.model_copy(update={"weights": None})


def _code(model: Model) -> str:
    return f"{type(model.connector).__module__}.{type(model.connector).__qualname__}"


def _is_ours(model: Model) -> bool:
    """Whether a connector is one of the shipped ones: what one of a user's own is can change without its settings."""
    return _code(model).startswith("mm1_ablate.")


def _connector_key(model: Model, language_width: int) -> str:
    """All that the weights of a connector depend on."""
    settings, encoder = canonical(model.connector.model_copy(update={"frozen": False})), canonical(_bare(model.image_encoder))
    return fingerprint({"connector": settings, "class": _code(model), "encoder": encoder, "language_width": language_width})


def _width_of_encoder(settings: ImageEncoder) -> int | None:
    """Channels of an encoder's features; None where timm cannot make it, which `wrong_encoders` reports."""
    if isinstance(settings, VisionTransformer):
        return settings.width
    key = fingerprint({"encoder width": canonical(settings)})
    facts: dict[str, int] | None = known(key)
    if facts is None:
        from mm1_ablate.model.image_encoder import shape_of_encoder

        try:
            facts = {"width": shape_of_encoder(settings).width}
        except Exception:  # timm's own, by the kind of encoder
            return None
        remember(key, facts)
    return facts["width"]


def is_limit(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or any(words in str(error).lower() for words in LIMITS)


def first_line(error: Exception) -> str:
    lines: list[Any] = [line.strip() for line in str(error).splitlines() if line.strip()]
    # transformers puts the name of its check first and the reason below.
    reason = lines[1] if len(lines) > 1 and lines[0].startswith("Class validation error") else lines[0] if lines else type(error).__name__
    if isinstance(error, KeyError):
        reason = f"there is no {reason}"
    reason = reason.removeprefix("ValueError: ").removeprefix("TypeError: ")
    return reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON].rpartition(" ")[0] + " ..."
