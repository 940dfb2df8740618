"""In: a configuration of transformers. Out: how long a document may be for the model that it is of."""

from __future__ import annotations

from typing import Any


def context_length_of(configuration: Any) -> int:
    """Tokens of context. Those of a model with "longrope" positions (Phi-3) are its original ones: in longer ones it rotates all positions
    of all documents otherwise, so what is made of a document would depend on those that it is packed with."""
    most = int(configuration.max_position_embeddings)
    rope = getattr(configuration, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        original = rope.get("original_max_position_embeddings") or getattr(configuration, "original_max_position_embeddings", None)
        return min(most, int(original or most))
    return most
