"""What a language model has read, as keys and values: read once, kept, and read on from by many.

Demonstrations are read once and each question of a batch continues from them; the 8-shot demonstrations continue from the 4-shot
ones. Rows are padded on the right and may hold gaps where shorter demonstrations were joined with longer ones: a gap is never
attended to and takes no position, so a row's outputs are those of the row alone, without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

if TYPE_CHECKING:
    from mm1_ablate.model.multimodal import MultimodalModel


@dataclass(frozen=True, slots=True)
class Context:
    """Rows of what was read so far. Reading on makes a new one and leaves this one as it is.

    Attributes:
        layers: keys and values of each layer, [B, heads, S, size] each; none where nothing was read.
        seen: bool [B, S], false at gaps.
        lengths: int64 [B], tokens read: the next token's position.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    seen: Tensor
    lengths: Tensor

    @classmethod
    def nothing(cls, rows: int, device: torch.device) -> Context:
        """Rows that have read nothing."""
        return cls((), torch.ones(rows, 0, dtype=torch.bool, device=device), torch.zeros(rows, dtype=torch.long, device=device))

    def select(self, rows: Tensor) -> Context:
        """The rows of these indices [R]; one may occur many times."""
        if len(self.lengths) == 1:  # the same for all: no copy
            count = len(rows)
            layers = tuple((keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1)) for keys, values in self.layers)
            return Context(layers, self.seen.expand(count, -1), self.lengths.expand(count))
        layers = tuple((keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.layers)
        return Context(layers, self.seen.index_select(0, rows), self.lengths.index_select(0, rows))

    def separate(self) -> list[Context]:
        """Each row alone, without its gaps."""
        kept = [seen.nonzero().flatten() for seen in self.seen]
        return [
            Context(
                tuple((keys[row : row + 1, :, kept[row]], values[row : row + 1, :, kept[row]]) for keys, values in self.layers),
                self.seen[row : row + 1, kept[row]],
                self.lengths[row : row + 1],
            )
            for row in range(len(kept))
        ]


def join(contexts: Sequence[Context]) -> Context:
    """Rows of several contexts in one batch, shorter ones with a gap at their end."""
    if len(contexts) == 1:
        return contexts[0]
    longest = max(context.seen.shape[1] for context in contexts)
    gaps = [longest - context.seen.shape[1] for context in contexts]

    def padded(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(tensor, (0, 0, 0, gap)) if gap else tensor for tensor, gap in zip(tensors, gaps, strict=True)])

    layers = tuple(
        (padded([context.layers[layer][0] for context in contexts]), padded([context.layers[layer][1] for context in contexts]))
        for layer in range(len(contexts[0].layers))
    )
    seen = torch.cat([pad(context.seen, (0, gap)) for context, gap in zip(contexts, gaps, strict=True)])
    return Context(layers, seen, torch.cat([context.lengths for context in contexts]))


def _cache(context: Context) -> DynamicCache:
    """A cache of transformers with these keys and values; it concatenates, so it never writes into them."""
    cache = DynamicCache()
    for number, (keys, values) in enumerate(context.layers):
        cache.update(keys[:, :, :0], values[:, :, :0], number)  # makes the layer
        layer: Any = cache.layers[number]
        layer.keys, layer.values = keys, values
    return cache


def read_on(model: MultimodalModel, context: Context, embeddings: Tensor, valid: Tensor, scored: Tensor) -> tuple[Context, Tensor]:
    """Read further tokens after a context.

    Args:
        embeddings: [B, T, D], padded on the right.
        valid: bool [B, T], false at padding.
        scored: bool [B, T], where logits are wanted; there must be one at least.

    Returns:
        The longer context, and logits [number scored, V] in the order of rows, then positions.
    """
    seen = torch.cat([context.seen, valid], dim=1)
    # Padding takes the position of the last token before it: never one beyond the model's context.
    positions = (context.lengths[:, None] + valid.cumsum(1) - 1).clamp(min=0)
    output: Any = model.language_model(
        inputs_embeds=embeddings,
        attention_mask=seen.long(),
        position_ids=positions,
        past_key_values=_cache(context),
        use_cache=True,
        logits_to_keep=scored,
    )
    layers = tuple((layer.keys, layer.values) for layer in output.past_key_values.layers)
    return Context(layers, seen, context.lengths + valid.sum(1)), output.logits


def last_of(valid: Tensor) -> Tensor:
    """Bool [B, T], true at each row's last valid position, where [B, T] is padded on the right."""
    return valid & (valid.cumsum(1) == valid.sum(1, keepdim=True))


def needs_equal_lengths(model: MultimodalModel) -> bool:
    """Whether a gap would change outputs: a sliding window counts places in the cache, not positions."""
    configuration: Any = model.language_model.config
    kinds = getattr(configuration, "layer_types", None)
    if kinds:
        return any("full" not in kind for kind in kinds)
    return getattr(configuration, "sliding_window", None) is not None
