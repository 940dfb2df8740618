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

from mm1_ablate.evaluation.shared_attention import Layer, Reading, attending, can_share

if TYPE_CHECKING:
    from mm1_ablate.model.multimodal import MultimodalModel


@dataclass(frozen=True, slots=True)
class Context:
    """Rows of what was read so far. Reading on makes a new one and leaves this one as it is.

    Attributes:
        layers: keys and values of each layer (of each call of attention), [B, heads, S, size] each, of what was read after the prefix;
            none where nothing was.
        seen: bool [B, S], false at gaps.
        lengths: int64 [B], tokens read, the prefix included: the next token's position.
        prefix: what rows share, P rows without a prefix of their own.
        prefix_of: int64 [B], each row's row of the prefix.
    """

    layers: tuple[Layer, ...]
    seen: Tensor
    lengths: Tensor
    prefix: Context | None = None
    prefix_of: Tensor | None = None

    @classmethod
    def nothing(cls, rows: int, device: torch.device) -> Context:
        """Rows that have read nothing."""
        return cls((), torch.ones(rows, 0, dtype=torch.bool, device=device), torch.zeros(rows, dtype=torch.long, device=device))

    @classmethod
    def after(cls, contexts: Sequence[Context], rows: Sequence[int]) -> Context:
        """Rows that read on from one of several contexts of one row each, none of them with a prefix, without a copy of these.

        Args:
            rows: of each row, the number of its context.
        """
        prefix = join(contexts)
        device = prefix.lengths.device
        prefix_of = torch.tensor(rows, device=device)
        seen = torch.ones(len(rows), 0, dtype=torch.bool, device=device)
        return cls((), seen, prefix.lengths.index_select(0, prefix_of), prefix, prefix_of)

    def select(self, rows: Tensor) -> Context:
        """The rows of these indices [R]; one may occur many times. What is shared is not copied."""
        layers = tuple((keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.layers)
        prefix_of = None if self.prefix_of is None else self.prefix_of.index_select(0, rows)
        return Context(layers, self.seen.index_select(0, rows), self.lengths.index_select(0, rows), self.prefix, prefix_of)

    def branch(self, rows: Tensor) -> Context:
        """As `select`, for many rows that continue few: these become their prefix, where they have none themselves."""
        if self.prefix is not None:
            return self.select(rows)
        seen = torch.ones(len(rows), 0, dtype=torch.bool, device=rows.device)
        return Context((), seen, self.lengths.index_select(0, rows), self, rows)

    def flat(self) -> Context:
        """The same rows, each with a copy of its prefix."""
        if self.prefix is None or self.prefix_of is None:
            return self
        before = self.prefix.select(self.prefix_of)
        if not self.layers:
            return before
        layers = tuple(
            (torch.cat([keys, more_keys], 2), torch.cat([values, more_values], 2))
            for (keys, values), (more_keys, more_values) in zip(before.layers, self.layers, strict=True)
        )
        return Context(layers, torch.cat([before.seen, self.seen], 1), self.lengths)

    def separate(self) -> list[Context]:
        """Each row alone, without its gaps and without a prefix."""
        whole = self.flat()
        kept = [seen.nonzero().flatten() for seen in whole.seen]
        return [
            Context(
                tuple((keys[row : row + 1, :, kept[row]], values[row : row + 1, :, kept[row]]) for keys, values in whole.layers),
                whole.seen[row : row + 1, kept[row]],
                whole.lengths[row : row + 1],
            )
            for row in range(len(kept))
        ]


def join(contexts: Sequence[Context]) -> Context:
    """Rows of several contexts without a prefix in one batch, shorter ones with a gap at their end."""
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


def read_on(model: MultimodalModel, context: Context, embeddings: Tensor, valid: Tensor, scored: Tensor) -> tuple[Context, Tensor]:
    """Read further tokens after a context.

    Args:
        embeddings: [B, T, D], padded on the right. Where they have no values, all else has: see `preflight.check_readable`.
        valid: bool [B, T], false at padding; each row has one true at least.
        scored: bool [B, T], where logits are wanted, at valid positions; there must be one at least.

    Returns:
        The longer context, and logits [number scored, V] in the order of rows, then positions.
    """
    # Padding takes the position of the last token before it: never one beyond the model's context.
    positions = (context.lengths[:, None] + valid.cumsum(1) - 1).clamp(min=0)
    lengths = context.lengths + valid.sum(1)
    language_model: Any = model.language_model
    if not can_share(language_model):
        arguments = {"inputs_embeds": embeddings, "position_ids": positions, "logits_to_keep": scored}
        return _read_on_with_cache(language_model, context.flat(), valid, lengths, arguments)
    prefix = context.prefix
    gaps = None if prefix is None or bool(prefix.seen.all()) else prefix.seen
    reading = Reading(prefix.layers if prefix else (), gaps, context.prefix_of, context.layers, context.seen, valid)
    device = embeddings.device
    places = positions.flatten().index_select(0, reading.flat)[None].to(device)
    asked = scored.flatten().index_select(0, reading.flat).nonzero().flatten().to(device)
    reading.to(device)
    with attending(language_model):
        output = language_model(
            inputs_embeds=embeddings.flatten(0, 1).index_select(0, reading.flat)[None],
            position_ids=places,
            logits_to_keep=asked,
            attention_mask=None,
            use_cache=False,
            reading=reading,
        )
    return Context(tuple(reading.read), reading.seen, lengths, prefix, context.prefix_of), output.logits[0]


def _read_on_with_cache(
    language_model: Any, context: Context, valid: Tensor, lengths: Tensor, arguments: dict[str, Any]
) -> tuple[Context, Tensor]:
    """As `read_on`, from a context without prefix, with the model's own attention and the cache of transformers."""
    seen = torch.cat([context.seen, valid], dim=1)
    cache = DynamicCache()
    for number, (keys, values) in enumerate(context.layers):
        cache.update(keys[:, :, :0], values[:, :, :0], number)  # makes the layer
        layer: Any = cache.layers[number]
        layer.keys, layer.values = keys, values  # it concatenates, so it never writes into them
    output = language_model(**arguments, attention_mask=seen.long(), past_key_values=cache, use_cache=True)
    layers = tuple((layer.keys, layer.values) for layer in output.past_key_values.layers)
    return Context(layers, seen, lengths), output.logits


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
