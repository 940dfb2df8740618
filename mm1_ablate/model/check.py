"""Whether a declared model can be made, before anything is trained: without weights, and without torch where nothing of timm's is named.

Making a large encoder, even without values, takes timm and torch, seconds to import. So what was found right is remembered
(`check_cache.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mm1_ablate.config.errors import Finding
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import look, once
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.config.image_encoder import TimmEncoder
from mm1_ablate.config.local_path import local, missing
from mm1_ablate.config.model import Model
from mm1_ablate.config.settings import Misfit
from mm1_ablate.model.check_cache import known, remember


def missing_models(experiment: Experiment) -> list[Finding]:
    """Language models and tokenizers that are declared by a path where nothing is. A check for `load_study`; where data may
    not be looked at, there is nothing to say."""
    return [] if look() == "nowhere" else _of_all_stages(experiment, _missing)


def _of_all_stages(experiment: Experiment, wrong_with: Callable[[Model], list[Finding]]) -> list[Finding]:
    """What is wrong with an experiment's model and those of its earlier stages, by place in the experiment."""
    stages = enumerate([experiment, *reversed(experiment.earlier)])
    return [
        replace(finding, path=("starts_from",) * number + finding.path) for number, stage in stages for finding in wrong_with(stage.model)
    ]


def _missing(model: Model) -> list[Finding]:
    places: dict[tuple[str, ...], str | None] = {}
    places["language_model", "name"] = model.language_model.name
    if model.language_model.tokenizer != model.language_model.name:
        places["language_model", "tokenizer"] = model.language_model.tokenizer
    if model.image_encoder.preparation is not None:
        places["image_encoder", "preparation", "tokenizer"] = model.image_encoder.preparation.tokenizer
    return [Finding(("model", *place), wrong) for place, value in places.items() if (path := local(value)) and (wrong := missing(path))]


def wrong_encoder(experiment: Experiment) -> list[Finding]:
    """What is wrong with an image encoder that is named: timm has none such, its patches are of another size, it has no such block, or
    its weights are missing. A check for `load_study`. Where data may not be looked at, neither are weights."""
    return _of_all_stages(experiment, _wrong_encoder)


def _wrong_encoder(model: Model) -> list[Finding]:
    encoder = model.image_encoder
    if not isinstance(encoder, TimmEncoder):
        return []
    settings = encoder.model_copy(update={"preparation": None, **({"weights": None} if look() == "nowhere" else {})})
    return once(f"encoder {settings.model_dump_json()}", lambda: _looked_at(settings))


def _looked_at(encoder: TimmEncoder) -> list[Finding]:
    key = fingerprint({"encoder": canonical(encoder.model_copy(update={"weights": None, "frozen": False}))})
    # Weights may be gone by now.
    if encoder.local_weights is None and known(key) is not None:
        return []
    from mm1_ablate.model.image_encoder import check_named

    try:
        check_named(encoder)
    except Misfit as error:
        return [Finding(("model", "image_encoder", error.at), error.message)]
    except OSError:  # of a hub that cannot be reached, which is for the plan to say
        return []
    remember(key, {})
    return []
