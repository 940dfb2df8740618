"""Whether a language model and a connector can be made as declared, and whether they go with the other parts.

In: an experiment. Out: what is wrong, by place. What settings can tell by themselves they do; here parts are made without values and
run once on a few tokens or an image, so that what transformers or a connector of one's own would raise when a trial begins is said before,
at its line. What was found right is remembered (`found_right.py`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.found_right import known, remember
from mm1_ablate.spec.contents import look, once
from mm1_ablate.spec.experiment import Experiment
from mm1_ablate.spec.fingerprint import canonical, fingerprint
from mm1_ablate.spec.image_encoder import ImageEncoder, VisionTransformer
from mm1_ablate.spec.local_path import local
from mm1_ablate.spec.messages import Finding
from mm1_ablate.spec.model import LanguageModel, Model
from mm1_ablate.spec.settings import Misfit

LIMITS = ("meta tensor", "meta device", "'meta' backend", "data-dependent", "fake tensor")
"""What torch says where a part asks for values, which a part without values cannot give: no fault of its settings."""


LONGEST_REASON = 200
"""Characters of another library's words that are repeated."""
SOME_VOCABULARY = 1024
"""Tokens where nobody says how many there are; nothing but the size of embeddings hangs on it."""


class _NotHere(Exception):
    """A configuration that this machine lacks."""


def wrong_parts(experiment: Experiment) -> list[Finding]:
    """What is wrong with language models and connectors, of earlier stages too. A check for `spec.expansion.load_study`. Models that are
    given by a name or path are left alone where nothing may be looked at."""
    found = []
    for number, stage in enumerate([experiment, *reversed(experiment.earlier)]):
        below = ("starts_from",) * number
        parts = {"image_encoder": {"preparation"}, "language_model": {"preparation"}}
        key = f"parts {stage.model.model_dump_json(exclude=parts)}"
        found += [replace(finding, path=(*below, *finding.path)) for finding in once(key, partial(_wrong, stage.model))]
    return found


def _wrong(model: Model) -> list[Finding]:
    try:
        width = _width_of_language_model(model.language_model)
    except _NotHere:
        return []
    except Misfit as error:
        return [Finding(("model", "language_model", *error.at.split(".")), error.message)]
    try:
        _check_connector(model, width)
    except Misfit as error:
        return [Finding(("model", "connector", *(error.at.split(".") if error.at else ())), error.message)]
    return []


# ---------------------------------------------------------------- language models
def _width_of_language_model(settings: LanguageModel) -> int:
    """Channels of a language model that can be made and run.

    Raises:
        Misfit: at the field that is wrong.
        _NotHere: it is given by a name or path, and nothing is there or may be looked at.
    """
    if settings.name is not None and look() == "nowhere":
        raise _NotHere
    bare = settings.model_copy(update={"preparation": None, "frozen": False, "initialisation": "transformers", "scale_embeddings": False})
    key = fingerprint({"language_model": canonical(bare), "at": local(settings.name)})
    facts = known(key)
    if facts is None:
        facts = {"width": _made(settings)}
        remember(key, facts)
    return facts["width"]


def _made(settings: LanguageModel) -> int:
    from mm1_ablate.model.language_model import check_vocabulary, shape_of_language_model
    from mm1_ablate.model.packed_attention import NotPackable, check_packable

    field = "name" if settings.name is not None else "configuration"
    try:
        if _is_here(settings):
            check_vocabulary(settings, load_tokenizer(settings.tokenizer).vocabulary_size)
        model = shape_of_language_model(settings, *_token_ids(settings))
    except Misfit:
        raise
    except OSError as error:
        raise _NotHere from error
    except Exception as error:  # transformers raises its own types, and whatever a model does with values that it never saw
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise Misfit(_culprit(settings, cause), f"transformers cannot make this model: {_in_words(cause)}") from error
    for needed in ("hidden_size", "max_position_embeddings"):
        if not isinstance(getattr(model.config, needed, None), int):
            raise Misfit("name" if settings.name else "model_type", f"models of type {model.config.model_type} have no {needed}")
    try:
        check_packable(model)
    except NotPackable as error:
        raise Misfit("name" if settings.name else "model_type", f"{error}; choose another kind of model") from error
    except Exception as error:
        if not _is_limit(error):
            raise Misfit(field, f"such a model cannot be run: {_in_words(error)}") from error
    return int(model.config.hidden_size)


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
        Misfit: at the field that is wrong, or at none.
    """
    connector, encoder = model.connector, model.image_encoder
    side = encoder.grid_side
    bare = encoder.model_copy(update={"preparation": None, "frozen": False, "learning_rate_scale": 1.0})
    bare = bare if isinstance(bare, VisionTransformer) else bare.model_copy(update={"weights": None})
    code = f"{type(connector).__module__}.{type(connector).__qualname__}"
    ours = code.startswith("mm1_ablate.")
    settings = canonical(connector.model_copy(update={"frozen": False}))
    key = fingerprint({"connector": settings, "class": code, "encoder": canonical(bare), "language_width": language_width})
    # What a connector of one's own is can change without its settings.
    if ours and known(key) is not None:
        return
    width = _width_of_encoder(bare)
    if width is None:
        return
    connector.check_width(width)
    import torch

    from mm1_ablate.model.shapes_only import shapes_only

    expected = (2, connector.image_tokens, language_width)
    try:
        with shapes_only():
            module = connector.build(width, side, language_width)
        with torch.no_grad():
            given = module(torch.empty(2, side * side, width, device="meta"))
    except Misfit:
        raise
    except Exception as error:
        if _is_limit(error):
            return
        raise Misfit("", f"it cannot be made for features of width {width} on {side} x {side} patches: {_in_words(error)}") from error
    if tuple(getattr(given, "shape", ())) != expected:
        shape = list(getattr(given, "shape", ()))
        raise Misfit("", f"of 2 images it makes {shape or type(given).__name__}, not image tokens of shape {list(expected)}")
    if ours:
        remember(key, {})


def _width_of_encoder(settings: ImageEncoder) -> int | None:
    """Channels of an encoder's features; nothing where timm cannot make it, which `wrong_encoder` tells."""
    if isinstance(settings, VisionTransformer):
        return settings.width
    key = fingerprint({"encoder width": canonical(settings)})
    facts = known(key)
    if facts is None:
        from mm1_ablate.model.image_encoder import shape_of_encoder

        try:
            facts = {"width": shape_of_encoder(settings).width}
        except Exception:  # timm's own, by the kind of encoder
            return None
        remember(key, facts)
    return facts["width"]


def _is_limit(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or any(words in str(error).lower() for words in LIMITS)


def _in_words(error: Exception) -> str:
    lines: list[Any] = [line.strip() for line in str(error).splitlines() if line.strip()]
    # transformers puts the name of its check first and the reason below.
    reason = lines[1] if len(lines) > 1 and lines[0].startswith("Class validation error") else lines[0] if lines else type(error).__name__
    if isinstance(error, KeyError):
        reason = f"there is no {reason}"
    reason = reason.removeprefix("ValueError: ").removeprefix("TypeError: ")
    return reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON].rpartition(" ")[0] + " ..."
