"""What a trial *is*, as canonical JSON, and its SHA-256.

In: settings. Out: plain JSON values in which everything is left out that makes no difference: fields at their default (so a
field added later with a default leaves old fingerprints alone), fields marked `HowItRuns`, the order of keys, 1 or 1.0,
45/45/10 or 9/9/2, data types of weight zero and sources that feed nothing. The `type` of a component is always kept, its version above
1, and the version of the miniature tokenizer's words. Where data is read from files, a digest of them goes in instead of where they lie.

Code that trains may depend on nothing that is left out here: not on the order of sources, nor on the size of weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from math import gcd, isfinite, lcm
from typing import Any

from mm1_ablate.config.data import Data, Source
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import contents_of
from mm1_ablate.config.identity.model_digests import local_identity
from mm1_ablate.config.model import Model
from mm1_ablate.config.settings import Component, Settings, is_identity

ABSENT = object()
MINIATURE_WORDS = 2
"""Version of the miniature tokenizer's vocabulary. Raised with it: a model's embeddings belong to the words that it was trained on."""


@cache
def _identity_fields(settings: type[Settings]) -> tuple[tuple[str, Any], ...]:
    """Names of the fields that are identity, each with its default in canonical form (`ABSENT`: it has none)."""
    fields = []
    for name, field in settings.model_fields.items():
        if is_identity(field):
            keep = name == "type" or field.is_required()
            fields.append((name, ABSENT if keep else canonical(field.get_default(call_default_factory=True, validated_data={}))))
    return tuple(sorted(fields))


def canonical(value: Any) -> Any:
    """Plain JSON values of settings or of what they hold, without what makes no difference.

    Raises:
        TypeError: for a type or number that has no canonical form; it must never reach a fingerprint by its `repr`.
    """
    if isinstance(value, Settings):
        own = {name: (canonical(getattr(value, name)), default) for name, default in _identity_fields(type(value))}
        version = {"version": value.version} if isinstance(value, Component) and value.version > 1 else {}
        words = {"tokenizer": f"miniature {MINIATURE_WORDS}"} if getattr(value, "tokenizer", None) == "miniature" else {}
        return {name: form for name, (form, default) in own.items() if not _same(form, default)} | version | words
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and isfinite(value):
        return int(value) if value.is_integer() else value
    if isinstance(value, list | tuple):
        return [canonical(entry) for entry in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: canonical(value[key]) for key in sorted(value)}
    raise TypeError(f"no canonical form for {value!r} of type {type(value).__name__}")


def _same(left: Any, right: Any) -> bool:
    """Equality of canonical forms. Python calls 1 and True equal, JSON does not."""
    return left is right or (left == right and _dump(left) == _dump(right))


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of settings or plain values: 64 hex digits."""
    return digest(canonical(value))


def digest(form: Any) -> str:
    """SHA-256 of what is canonical already."""
    return hashlib.sha256(_dump(form).encode()).hexdigest()


def short(full: str) -> str:
    """The 12 hex digits that people see."""
    return full[:12]


def integer_ratios(weights: Mapping[str, float]) -> dict[str, int]:
    """Smallest whole numbers in the ratio of the weights, without those of weight zero: 45, 45, 10 become 9, 9, 2."""
    exact = {name: Fraction(str(weight)) for name, weight in sorted(weights.items()) if weight}
    scale = lcm(*(weight.denominator for weight in exact.values()))
    whole = {name: int(weight * scale) for name, weight in exact.items()}
    divisor = gcd(*whole.values())
    return {name: number // divisor for name, number in whole.items()}


def source_identity(source: Source, form: dict[str, Any], contents: str | None = None) -> dict[str, Any]:
    """What a source reads: its canonical form without its weight, which is a share among siblings, and with a digest of its files.

    Args:
        contents: the digest, if it is known already.
    """
    own = {key: value for key, value in form.items() if key != "weight"}
    contents = contents_of(source) if contents is None else contents
    return {**own, "contents": contents} if contents else own


def data_identity(data: Data) -> dict[str, Any]:
    identity: dict[str, Any] = canonical(data)
    identity["mixture"] = integer_ratios({str(data_type): weight for data_type, weight in data.mixture.items()})
    sources = identity["sources"]
    identity["sources"] = {}
    for data_type in identity["mixture"]:
        siblings = {name: source.weight for name, source in data.sources.items() if source.data_type == data_type}
        for name, ratio in integer_ratios(siblings).items():
            own = source_identity(data.sources[name], sources[name])
            identity["sources"][name] = own if ratio == 1 else {**own, "weight": ratio}
    return identity


def experiment_identity(experiment: Experiment) -> dict[str, Any]:
    """What all seeds of an experiment share: everything that shapes the trained weights, and nothing else."""
    identity: dict[str, Any] = canonical(experiment)
    del identity["evaluation"]
    identity["data"] = data_identity(experiment.data)
    identity["model"] = model_identity(experiment.model, identity["model"])
    if experiment.starts_from is not None:
        # Of the earlier stage its training alone: the seed is that of the whole, and how it would be judged changes no weights.
        identity["starts_from"] = experiment_identity(experiment.starts_from)
    return identity


def model_identity(model: Model, form: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a model is: local weights and tokenizers are what is in them, not where they lie.

    Args:
        form: the model's canonical form, if it is known already; it is changed.
    """
    identity = canonical(model) if form is None else form
    for part, section in (("image_encoder", model.image_encoder), ("language_model", model.language_model)):
        identity[part] |= local_identity(section)
        if section.preparation is not None:
            preparation = identity[part]["preparation"]
            preparation["source"] = source_identity(section.preparation.source, preparation["source"])
            preparation |= local_identity(section.preparation)
    return identity


def training_identity(experiment: Experiment, seed: int, identity: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the trained weights of a trial depend on. Its `fingerprint` names the trial's folder.

    Args:
        identity: of the experiment (`experiment_identity`), if it is known already.
    """
    return {**(identity or experiment_identity(experiment)), "seed": seed}


def evaluation_identity(
    experiment: Experiment, training_fingerprint: str = "", task_records: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the scores of a trial depend on.

    Args:
        training_fingerprint: of the weights that are scored.
        task_records: name to record (settings or plain values) of the tasks in their order, so that an edited task is evaluated again.
            See `tasks.task_identities`.
    """
    section = canonical(experiment.evaluation)
    if task_records:
        section["tasks"] = list(task_records)
    for name, held_out in experiment.evaluation.losses.items():
        section["losses"][name]["source"] = source_identity(held_out.source, section["losses"][name]["source"])
    identity = {"evaluation": section, "training": training_fingerprint}
    if task_records:
        identity["tasks"] = canonical(dict(task_records))
    return identity
