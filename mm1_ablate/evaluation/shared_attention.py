"""Attention of many rows to a prefix that they share, without a copy of it for each: what makes demonstrations that are read once cheap.

A row attends to its prefix and to what it read since. The two parts are computed apart, each with the logarithm of its sum of weights,
and joined by these, which is exact (Juravsky et al. 2024, "Hydragen"). Rows of one prefix are one matrix, so the prefix takes part in
matrix products and not in products of a matrix and a vector, as it would in every row of a padded batch.

Registered with transformers as `mm1_shared_prefix`, for models whose attention goes through its interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from mm1_ablate.model.packed_attention import attending_by

NAME = "mm1_shared_prefix"
CPU_SCORES, DEVICE_SCORES = 1 << 20, 1 << 28
"""Attention scores that are computed together: what fits into a CPU's cache, and what is little memory on a GPU."""

Layer = tuple[Tensor, Tensor]
"""Keys and values of a call of attention, [rows, key heads, S, size] each; values may be of another size than keys."""


def _attend(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention outputs [N, heads, R, value size] and the logarithm of each row's sum of weights [N, heads, R, 1], float32.

    Args:
        query: [N, heads, R, size], scaled.
        keys, values: [N, heads, S, size] and [N, heads, S, value size].
        seen: bool, [N, R, S] or [N, 1, S]; None: everything is seen.
    """
    batch, heads, rows, _ = query.shape
    limit = CPU_SCORES if query.device.type == "cpu" else DEVICE_SCORES
    at_once = max(1, limit // max(1, batch * rows * keys.shape[2]))
    outputs, sums = [], []
    for start in range(0, heads, at_once):
        part = slice(start, start + at_once)
        scores = (query[:, part] @ keys[:, part].transpose(-1, -2)).float()
        if seen is not None:
            # Not minus infinity: a row that sees nothing here has a sum that counts nothing, instead of none.
            scores.masked_fill_(~seen[:, None], torch.finfo(scores.dtype).min)
        largest = scores.amax(-1, keepdim=True)
        weights = scores.sub_(largest).exp_()
        total = weights.sum(-1, keepdim=True)
        outputs.append((weights.to(values.dtype) @ values[:, part]).float() / total)
        sums.append(largest + total.log())
    return torch.cat(outputs, 1), torch.cat(sums, 1)


class Reading:
    """Rows that read on: what they attend to, and the keys and values that they add, by each call of attention in turn.

    The model sees all tokens of all rows end to end, so that it does no work on padding; only attention sees them as rows. A model may
    attend twice in a layer, or use a layer several times, so it is calls that are counted and not layers; it makes the same ones whatever
    it reads.

    Args:
        prefix: by call, of P prefixes.
        prefix_seen: bool [P, S], false at gaps; None: there are none.
        prefix_of: int64 [B], each row's prefix.
        own: by call, what each row read since, [B, heads, S, size]; none where it read nothing.
        own_seen: bool [B, S], of that.
        valid: bool [B, T], where a token is read now: N in all.
    """

    def __init__(
        self,
        prefix: Sequence[Layer],
        prefix_seen: Tensor | None,
        prefix_of: Tensor | None,
        own: Sequence[Layer],
        own_seen: Tensor,
        valid: Tensor,
    ) -> None:
        self.prefix = prefix
        self.own = own
        self.read: list[Layer] = []
        """By call, keys and values of what each row read since its prefix, what is read now included."""
        rows, self._tokens = valid.shape
        self.seen = torch.cat([own_seen, valid], dim=1)
        length = self.seen.shape[1]
        causal = torch.ones(self._tokens, length, dtype=torch.bool, device=valid.device).tril(length - self._tokens)
        self.own_seen = self.seen[:, None] & causal
        self.prefix_seen = None if prefix_seen is None else prefix_seen[:, None]
        self.flat = valid.flatten().nonzero().flatten()
        """Where the tokens lie among all places of the rows, int64 [N]."""
        self._places = valid.numel()
        if prefix and prefix_of is not None:
            self._prefixes = len(prefix[0][0])
            counts = prefix_of.bincount(minlength=self._prefixes)
            self._most = int(counts.max())
            order = prefix_of.argsort(stable=True)
            first = (counts.cumsum(0) - counts)[prefix_of[order]]
            place = torch.empty_like(prefix_of)
            place[order] = torch.arange(rows, device=prefix_of.device) - first
            self._place = prefix_of * self._most + place

    def to(self, device: torch.device | str) -> Reading:
        """The same for keys and values on another device, such as one where tensors have no values; `seen` stays where it is."""
        for name in ("own_seen", "prefix_seen", "flat", "_place"):
            value = getattr(self, name, None)
            if value is not None:
                setattr(self, name, value.to(device))
        return self

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[1, heads, N, size], [1, key heads, N, size], [1, key heads, N, value size], to [1, N, heads, value size]."""
        attended = self._attend_rows(self._rows(query), self._rows(key), self._rows(value), scaling)
        places = attended.reshape(self._places, *attended.shape[2:])
        return (places if len(self.flat) == self._places else places.index_select(0, self.flat))[None]

    def _rows(self, flat: Tensor) -> Tensor:
        """[1, heads, N, size] to [B, heads, T, size], zero at padding."""
        heads, count, size = flat.shape[1:]
        places = flat[0].transpose(0, 1)
        if count < self._places:
            places = flat.new_zeros(self._places, heads, size).index_copy_(0, self.flat, places)
        return places.reshape(-1, self._tokens, heads, size).transpose(1, 2)

    def _attend_rows(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[B, heads, T, size], [B, key heads, T, size], [B, key heads, T, value size], to [B, T, heads, value size]."""
        rows, heads, tokens, size = query.shape
        call = len(self.read)
        kinds = key.shape[1]
        # Under autocast rotary embeddings and norms leave keys in float32, which every product would round to the values' precision.
        key = key.to(value.dtype)
        if self.own:
            key, value = (torch.cat([before, now], 2) for before, now in zip(self.own[call], (key, value), strict=True))
        self.read.append((key, value))
        if not self.prefix:
            causal = key.shape[2] == tokens  # padding on the right is behind whatever sees
            mask = None if causal else self.own_seen[:, None]
            attended = scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scaling, enable_gqa=heads != kinds)
            return attended.transpose(1, 2)
        groups = heads // kinds
        # Heads that share keys and values are further rows of them.
        query = (query * scaling).reshape(rows, kinds, groups * tokens, size)
        output, total = _attend(query, key, value, self.own_seen.repeat(1, groups, 1) if groups > 1 else self.own_seen)
        before, sums = self._attend_to_prefix(call, query)
        output = torch.lerp(output, before, torch.sigmoid(sums - total))
        return output.to(query.dtype).view(rows, heads, tokens, value.shape[-1]).transpose(1, 2)

    def _attend_to_prefix(self, call: int, query: Tensor) -> tuple[Tensor, Tensor]:
        """As `_attend`, of rows [B, key heads, R, size], each to its own prefix."""
        keys, values = self.prefix[call]
        together = self._together(query)
        output, total = _attend(together, keys, values, self.prefix_seen)
        return self._apart(output, query.shape[2]), self._apart(total, query.shape[2])

    def _together(self, rows: Tensor) -> Tensor:
        """[B, heads, R, size] to [P, heads, most * R, size], the rows of a prefix after each other."""
        kinds, length, size = rows.shape[1:]
        if self._prefixes * self._most != len(rows) or self._prefixes > 1:
            placed = rows.new_zeros(self._prefixes * self._most, kinds, length, size)
            rows = placed.index_copy_(0, self._place, rows)
        grouped = rows.view(self._prefixes, self._most, kinds, length, size).transpose(1, 2)
        return grouped.reshape(self._prefixes, kinds, self._most * length, size)

    def _apart(self, grouped: Tensor, length: int) -> Tensor:
        """The inverse of `_together`."""
        kinds, size = grouped.shape[1], grouped.shape[3]
        rows = grouped.view(self._prefixes, kinds, self._most, length, size).transpose(1, 2)
        rows = rows.reshape(self._prefixes * self._most, kinds, length, size)
        return rows if self._prefixes == 1 else rows.index_select(0, self._place)


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    reading: Reading | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: [1, heads, N, size] each to [1, N, heads, value size]."""
    if reading is None:
        raise ValueError(f"{NAME} attention needs what is read; use `kv_cache.extend_cache`")
    if unknown := [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if more.get(name) is not None]:
        raise ValueError(f"{NAME} attention has no {', '.join(unknown)}, which {type(module).__name__} asks for")
    return reading.attend(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling).contiguous(), None


AttentionInterface.register(NAME, shared_prefix_attention)


def can_share(language_model: Any) -> bool:
    """Whether a model's attention goes through the interface and is plain causal attention to everything before."""
    configuration = language_model.config
    kinds = getattr(configuration, "layer_types", None) or []
    special = ("attn_logit_softcapping", "sliding_window", "attention_chunk_size")
    return (
        bool(getattr(language_model, "_supports_attention_backend", False))
        and all(kind == "full_attention" for kind in kinds)
        and all(getattr(configuration, name, None) is None for name in special)
        and configuration.model_type != "gpt_oss"  # its attention has sinks
    )


def attending(language_model: Any) -> AbstractContextManager[None]:
    """Make a transformers model use this attention."""
    return attending_by(NAME, language_model)
