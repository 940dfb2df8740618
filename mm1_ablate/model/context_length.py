"""How many tokens of context a language model has, from its configuration: the longest document or prompt that it takes."""

from __future__ import annotations

from typing import Any

from mm1_ablate.config.identity.data_digests import look
from mm1_ablate.config.identity.fingerprint import fingerprint
from mm1_ablate.config.identity.model_digests import local_identity
from mm1_ablate.config.local_path import local
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.data.cache import remembered
from mm1_ablate.data.hub import Unavailable, hub_if_reachable


def context_length_of(configuration: Any) -> int:
    """Tokens of context of a configuration of transformers. Those of a model with "longrope" positions (Phi-3) are its original ones: in
    longer ones it rotates all positions of all documents otherwise, so what is made of a document would depend on those that it is packed
    with."""
    most = int(configuration.max_position_embeddings)
    rope = getattr(configuration, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        original = rope.get("original_max_position_embeddings") or getattr(configuration, "original_max_position_embeddings", None)
        return min(most, int(original or most))
    return most


def context_length(settings: LanguageModel) -> int:
    """Tokens of context of a declared language model, from memory where they were asked for before.

    Raises:
        Unavailable: this machine lacks the configuration, or transformers refuses it, which `preflight.wrong_parts` reports.
    """
    if (declared := _declared(settings)) is not None:
        return declared

    def find() -> int:
        try:
            return context_length_of(_configuration(settings))
        except Exception as error:  # transformers raises its own types
            raise Unavailable from error

    name = local_identity(settings).get("name", settings.name)
    key = {"context length of": name, "model_type": settings.model_type, "configuration": settings.configuration}
    length: int = remembered(fingerprint(key), find)
    return length


def known_context_length(settings: LanguageModel) -> int | None:
    """The same, of what this machine has; None where it lacks it, or may not look."""
    if settings.name is not None and (local(settings.name) is None or look() == "nowhere"):
        return None
    try:
        return context_length(settings)
    except Unavailable:
        return None


def _declared(settings: LanguageModel) -> int | None:
    """The context that a file declares, where it depends on no other field."""
    declared = settings.configuration.get("max_position_embeddings")
    plain = settings.name is None and not {"rope_parameters", "rope_scaling"} & set(settings.configuration)
    return declared if plain and isinstance(declared, int) else None


def _configuration(settings: LanguageModel) -> Any:
    from transformers import AutoConfig

    if settings.name is not None:
        with hub_if_reachable(settings.name):
            return AutoConfig.from_pretrained(settings.name, trust_remote_code=False)
    return AutoConfig.for_model(settings.model_type or "", **settings.configuration)
