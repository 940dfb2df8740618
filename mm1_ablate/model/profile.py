"""What a model takes: its size, its operations, what it keeps in memory. Plain numbers, so that a plan that knows them needs no torch.

`profiler.py` finds them out; operations and memory of a plan are computed from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mm1_ablate.config.model import Model, frozen_parts


@dataclass(frozen=True)
class PartProfile:
    """What an image encoder or a connector takes for one image, a language model for one token. Operations and bytes; widths and depths as
    far as the part has them."""

    parameters: int
    forward: float = 0.0
    """Operations of a forward pass; of a language model without attention and head."""
    backward: float = 0.0
    saved: float = 0.0
    """Bytes kept from the forward for the backward pass, half-precision copies of weights apart."""
    copies: float = 0.0
    """Bytes of half-precision copies of weights that mixed precision makes."""
    width: int = 0
    """Channels of its output."""
    blocks: int = 1
    largest_block: int = 0
    """Parameters of its largest block: what a sharded model gathers at a time."""
    attention: float = 0.0
    """Of a language model, operations of the forward pass for each pair of tokens of a document, over all layers and heads; the
    backward pass has two and a half times as many."""
    head: int = 0
    """Of a language model, weights of its head."""
    vocabulary: int = 0
    matrices: int = 0
    """Of a language model, parameters that Muon takes."""
    without_embeddings: int = 0
    """Of a language model, parameters without embeddings and head: N of learning-rate and FLOP rules."""
    cache: int = 0
    """Of a language model, numbers of its keys and values of a token, over all layers."""
    counted: bool = True
    """False where it could not be run without values: operations are then 2 for each parameter forward and 4 backward."""
    reason: str = ""
    """Why operations are not counted."""


@dataclass(frozen=True)
class ModelProfile:
    """The profiles of a model's parts."""

    image_encoder: PartProfile
    connector: PartProfile
    language_model: PartProfile

    @property
    def not_counted(self) -> dict[str, str]:
        """The parts whose operations are estimated from their parameters, and why."""
        return {name: part.reason for name, part in vars(self).items() if not part.counted}

    def parameters(self, settings: Model) -> dict[str, int]:
        """Parameters of image_encoder, connector, language_model; `total`; `trained` (those of frozen parts are not); and
        `without_embeddings`, the language model's.

        Args:
            settings: of the model that this is the profile of.
        """
        counts: dict[str, int] = {name: part.parameters for name, part in vars(self).items()}
        total = sum(counts.values())
        trained = total - sum(counts[part] for part in frozen_parts(settings))
        return {**counts, "total": total, "trained": trained, "without_embeddings": self.language_model.without_embeddings}
