"""KV cache: what a language model has read, as keys and values, read once and continued from by many.

Demonstrations are read once and each question of a batch continues from them; the 8-shot demonstrations continue from the 4-shot
ones. Rows are padded on the right and may hold gaps where shorter demonstrations were joined with longer ones: a gap is never
attended to and takes no position, so a row's outputs are those of the row alone, without padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.prompts import TokenisedPrompt
from mm1_ablate.evaluation.requests import Request
from mm1_ablate.evaluation.shared_attention import Layer, Reading, attending, can_share
from mm1_ablate.model.multimodal import MultimodalModel


@dataclass(frozen=True, slots=True)
class KVCache:
    """What each row has read so far, as keys and values. `extend_cache` makes a longer one and leaves this one as it is.

    Attributes:
        layers: keys and values of each layer (of each call of attention), [B, heads, S, size] each, of what was read after the prefix;
            empty where nothing was.
        seen: bool [B, S], false at gaps.
        lengths: int64 [B], tokens read, the prefix included: the next token's position.
        prefix: what rows share, P rows without a prefix of their own.
        prefix_of: int64 [B], each row's row of the prefix.
    """

    layers: tuple[Layer, ...]
    seen: Tensor
    lengths: Tensor
    prefix: KVCache | None = None
    prefix_of: Tensor | None = None

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> KVCache:
        """Rows that have not read anything."""
        return cls((), torch.ones(rows, 0, dtype=torch.bool, device=device), torch.zeros(rows, dtype=torch.long, device=device))

    @classmethod
    def after_prefixes(cls, caches: Sequence[KVCache], rows: Sequence[int]) -> KVCache:
        """Rows that continue from one of several caches of one row each, none of them with a prefix, without a copy of these.

        Args:
            rows: of each row, the number of its cache.
        """
        prefix = concatenate_rows(caches)
        device = prefix.lengths.device
        prefix_of = torch.tensor(rows, device=device)
        seen = torch.ones(len(rows), 0, dtype=torch.bool, device=device)
        return cls((), seen, prefix.lengths.index_select(0, prefix_of), prefix, prefix_of)

    def select(self, rows: Tensor) -> KVCache:
        """The rows of these indices [R]; one may occur many times. What is shared is not copied."""
        layers = tuple((keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.layers)
        prefix_of = None if self.prefix_of is None else self.prefix_of.index_select(0, rows)
        return KVCache(layers, self.seen.index_select(0, rows), self.lengths.index_select(0, rows), self.prefix, prefix_of)

    def branch(self, rows: Tensor) -> KVCache:
        """As `select`, for many rows that continue few: these become their prefix, where they have none themselves."""
        if self.prefix is not None:
            return self.select(rows)
        seen = torch.ones(len(rows), 0, dtype=torch.bool, device=rows.device)
        return KVCache((), seen, self.lengths.index_select(0, rows), self, rows)

    def flat(self) -> KVCache:
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
        return KVCache(layers, torch.cat([before.seen, self.seen], 1), self.lengths)

    def separate(self) -> list[KVCache]:
        """Each row alone, without its gaps and without a prefix."""
        whole = self.flat()
        kept = [seen.nonzero().flatten() for seen in whole.seen]
        return [
            KVCache(
                tuple((keys[row : row + 1, :, kept[row]], values[row : row + 1, :, kept[row]]) for keys, values in whole.layers),
                whole.seen[row : row + 1, kept[row]],
                whole.lengths[row : row + 1],
            )
            for row in range(len(kept))
        ]


def concatenate_rows(caches: Sequence[KVCache]) -> KVCache:
    """Rows of several caches without a prefix in one batch, shorter ones with a gap at their end."""
    if len(caches) == 1:
        return caches[0]
    longest = max(cache.seen.shape[1] for cache in caches)
    gaps = [longest - cache.seen.shape[1] for cache in caches]

    def padded(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(tensor, (0, 0, 0, gap)) if gap else tensor for tensor, gap in zip(tensors, gaps, strict=True)])

    layers = tuple(
        (padded([cache.layers[layer][0] for cache in caches]), padded([cache.layers[layer][1] for cache in caches]))
        for layer in range(len(caches[0].layers))
    )
    seen = torch.cat([pad(cache.seen, (0, gap)) for cache, gap in zip(caches, gaps, strict=True)])
    return KVCache(layers, seen, torch.cat([cache.lengths for cache in caches]))


def extend_cache(model: MultimodalModel, cache: KVCache, embeddings: Tensor, valid: Tensor, scored: Tensor) -> tuple[KVCache, Tensor]:
    """Run a language model over further tokens.

    Args:
        embeddings: [B, T, D], padded on the right. Where they have no values, all else has: see `preflight.check_readable`.
        valid: bool [B, T], false at padding; each row has one true at least.
        scored: bool [B, T], where logits are wanted, at valid positions; there must be one at least.

    Returns:
        The longer cache, and logits [number scored, V] in the order of rows, then positions.
    """
    # Padding takes the position of the last token before it: never one beyond the model's context.
    positions = (cache.lengths[:, None] + valid.cumsum(1) - 1).clamp(min=0)
    lengths = cache.lengths + valid.sum(1)
    language_model: Any = model.language_model
    if not can_share(language_model):
        arguments = {"inputs_embeds": embeddings, "position_ids": positions, "logits_to_keep": scored}
        return _extend_dynamic_cache(language_model, cache.flat(), valid, lengths, arguments)
    prefix = cache.prefix
    gaps = None if prefix is None or bool(prefix.seen.all()) else prefix.seen
    reading = Reading(prefix.layers if prefix else (), gaps, cache.prefix_of, cache.layers, cache.seen, valid)
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
    return KVCache(tuple(reading.read), reading.seen, lengths, prefix, cache.prefix_of), output.logits[0]


def _extend_dynamic_cache(
    language_model: Any, cache: KVCache, valid: Tensor, lengths: Tensor, arguments: dict[str, Any]
) -> tuple[KVCache, Tensor]:
    """As `extend_cache`, from a cache without prefix, with the model's own attention and the cache of transformers."""
    seen = torch.cat([cache.seen, valid], dim=1)
    dynamic = DynamicCache()
    for number, (keys, values) in enumerate(cache.layers):
        dynamic.update(keys[:, :, :0], values[:, :, :0], number)  # makes the layer
        layer: Any = dynamic.layers[number]
        layer.keys, layer.values = keys, values  # it concatenates, so it never writes into them
    output = language_model(**arguments, attention_mask=seen.long(), past_key_values=dynamic, use_cache=True)
    layers = tuple((layer.keys, layer.values) for layer in output.past_key_values.layers)
    return KVCache(layers, seen, lengths), output.logits


def read_questions(embedder: PromptEmbedder, cache: KVCache, questions: Sequence[TokenisedPrompt]) -> tuple[KVCache, Tensor]:
    """Read a batch of questions after what stands before each.

    Returns:
        The longer cache, [B], and the logits of the token after each question, [B, V].
    """
    embeddings, valid = embedder(questions)
    return extend_cache(embedder.model, cache, embeddings, valid, last_positions(valid))


def last_positions(valid: Tensor) -> Tensor:
    """Bool [B, T], true at each row's last valid position, where [B, T] is padded on the right."""
    return valid & (valid.cumsum(1) == valid.sum(1, keepdim=True))


def needs_equal_lengths(model: MultimodalModel) -> bool:
    """Whether a gap would change outputs: a sliding window counts places in the cache, not positions."""
    configuration: Any = model.language_model.config
    kinds = getattr(configuration, "layer_types", None)
    if kinds:
        return any("full" not in kind for kind in kinds)
    return getattr(configuration, "sliding_window", None) is not None


# ---------------------------------------------------------------- demonstrations
Key = tuple[bool, tuple[str, ...]]
"""Whether demonstrations have their images, and their ids."""


class DemonstrationCache:
    """Keys and values of sets of demonstrations, read once and kept while a coming request needs them.

    A set of more shots continues from the same set of fewer.
    """

    def __init__(self, embedder: PromptEmbedder, shots: Sequence[int]) -> None:
        self.embedder = embedder
        self.shots = shots
        self._kept: dict[Key, KVCache] = {}

    def before(self, batch: Sequence[Request], shots: int) -> KVCache:
        """The cache of each request's demonstrations, [B]."""
        if not any(one.before(shots) for one in batch):
            return KVCache.empty(len(batch), self.embedder.device)
        missing = {key: one for one in batch if (key := _key(one, shots)) not in self._kept}
        if missing:
            fewer = max((other for other in self.shots if 0 < other < shots), default=0)
            start = self.before(list(missing.values()), fewer) if fewer else KVCache.empty(len(missing), self.embedder.device)
            further = [TokenisedPrompt(tuple(_segments(one.before(shots)[fewer:]))) for one in missing.values()]
            embeddings, valid = self.embedder(further)
            scored = torch.zeros_like(valid)
            scored[0, 0] = True  # one position, as no logits are wanted
            read, _ = extend_cache(self.embedder.model, start, embeddings, valid, scored)
            self._kept.update(zip(missing, read.separate(), strict=True))
        keys = [_key(one, shots) for one in batch]
        distinct = list(dict.fromkeys(keys))
        place = {key: number for number, key in enumerate(distinct)}
        return KVCache.after_prefixes([self._kept[key] for key in distinct], [place[key] for key in keys])

    def keep_only(self, coming: Sequence[Request]) -> None:
        """Forget what no coming question needs."""
        needed = {_key(one, shots) for one in coming for shots in self.shots}
        self._kept = {key: cache for key, cache in self._kept.items() if key in needed}


def _key(one: Request, shots: int) -> Key:
    return bool(shots), one.set_at(shots)


def _segments(prompts: Sequence[TokenisedPrompt]) -> Iterator[Any]:
    for prompt in prompts:
        yield from prompt.segments
