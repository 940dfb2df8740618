"""Causal attention inside each document of a flat row of documents, and nowhere else.

transformers would build a dense [T, T] mask. Here every document is attended to on its own: on a CPU, documents of like length
go through one call, padded on the right, which causality makes harmless; on CUDA in half precision, torch's variable-length kernel takes
them all. Sliding windows are kept. Registered with transformers as `mm1_packed`; a forward pass under `packed(model, lengths)` uses it,
any other does not.

A model of which a layer would see other documents all the same, or attend otherwise than it was made to, is refused (`packable.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "mm1_packed"
OTHERWISE = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")
"""Arguments by which transformers requests an attention that the functions here do not compute."""
# A bucket may hold documents down to this share of its longest: fewer calls against less padding.
_SHORTEST_IN_BUCKET = 0.6


class NotPackable(ValueError):
    """A language model to which documents cannot be given in one row; says why not, and what field of a configuration it is about."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class DocumentLayout:
    """Where each document of a flat row lies; made once per batch and shared by all layers.

    Attributes:
        lengths: documents' lengths in tokens; their sum is T.
        cumulative: int32 [documents + 1] on the device: where each document begins, and T.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.device = device
        self.longest = max(self.lengths, default=0)
        self._windows: dict[tuple[int, int], Tensor] = {}
        self._starts = torch.tensor([0, *self.lengths]).cumsum(0)
        self.cumulative = self._starts.to(device=device, dtype=torch.int32)

    @cached_property
    def in_buckets(self) -> tuple[list[Tensor], Tensor]:
        """For each bucket, positions [documents, longest] in the row, where padding repeats a document's last token; and where in the
        concatenated padded buckets each of the T tokens lies. Made when it is asked for: the variable-length kernel needs none."""
        starts, buckets = self._starts, []
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__, reverse=True)
        kept = torch.empty(sum(self.lengths), dtype=torch.long)
        offset = 0
        while order:
            longest = self.lengths[order[0]]
            members = [document for document in order if self.lengths[document] >= _SHORTEST_IN_BUCKET * longest]
            order = order[len(members) :]
            columns = torch.arange(longest)
            length = torch.tensor([self.lengths[document] for document in members])[:, None]
            start = starts[torch.tensor(members)][:, None]
            buckets.append((start + columns.clamp(max=length - 1)).to(self.device))
            inside = columns < length
            kept[(start + columns)[inside]] = (offset + torch.arange(len(members) * longest).view(len(members), longest))[inside]
            offset += len(members) * longest
        return buckets, kept.to(self.device)

    def window(self, tokens: int, length: int) -> Tensor | None:
        """Bool [length, length], true where a token sees another: itself and so many less one before. None where all fit into it."""
        if length <= tokens:
            return None
        if (tokens, length) not in self._windows:
            places = torch.arange(length, device=self.device)
            back = places[:, None] - places
            self._windows[tokens, length] = (back >= 0) & (back < tokens)
        return self._windows[tokens, length]


def _attend_in_buckets(
    query: Tensor, key: Tensor, value: Tensor, layout: DocumentLayout, scaling: float | None, window: int | None, dropout: float
) -> Tensor:
    """[heads, T, size] each to [T, heads, size]."""
    grouped = key.shape[0] != query.shape[0]
    outputs = []
    buckets, kept = layout.in_buckets
    for index in buckets:
        documents, longest = index.shape
        flat = index.flatten()
        queries, keys, values = (
            torch.unflatten(part.index_select(1, flat), 1, (documents, longest)).transpose(0, 1) for part in (query, key, value)
        )
        seen = None if window is None else layout.window(window, longest)
        attended = scaled_dot_product_attention(queries, keys, values, seen, dropout, seen is None, scale=scaling, enable_gqa=grouped)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, kept)


def _attend_on_cuda(query: Tensor, key: Tensor, value: Tensor, layout: DocumentLayout, scaling: float | None, window: int | None) -> Tensor:
    """As `_attend_in_buckets`, by the variable-length kernel."""
    from torch.nn.attention.varlen import varlen_attn

    queries, keys, values = (part.transpose(0, 1).contiguous() for part in (query, key, value))
    # One tensor for queries and keys: that they are the same is what lets torch take cuDNN's kernel for a causal pass.
    bounds, longest = layout.cumulative, layout.longest
    attended = varlen_attn(
        queries,
        keys,
        values,
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=key.shape[0] != query.shape[0],
    )
    assert isinstance(attended, Tensor)
    return attended


def _kernel_dtype(query: Tensor, value: Tensor) -> torch.dtype | None:
    """The half precision in which the variable-length kernel can take these [heads, T, size]; None where it cannot.

    Under autocast, rotary embeddings and norms leave queries and keys in float32, which scaled_dot_product_attention would cast by itself
    and a custom kernel would not. Head sizes are the flash kernel's: multiples of 8, up to 256; GPUs those since Ampere.
    """
    if not query.is_cuda:
        return None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    sizes = {query.shape[-1], value.shape[-1]}
    fits = len(sizes) == 1 and all(size % 8 == 0 and size <= 256 for size in sizes)
    if dtype not in (torch.float16, torch.bfloat16) or not fits or torch.cuda.get_device_capability(query.device) < (8, 0):
        return None
    return dtype


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    document_layout: DocumentLayout | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: [1, heads, T, size] each to [1, T, heads, size].

    Raises:
        NotPackable: a layer asks for an attention that is not this one.
    """
    if document_layout is None:
        raise NotPackable(f"{type(module).__name__} does not pass on which documents are packed")
    others = [name for name in OTHERWISE if more.get(name) is not None]
    others += ["an attention mask of its own"] * (attention_mask is not None)
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        others.append("attention to later tokens")
    if others:
        raise NotPackable(f"{type(module).__name__} requests {', '.join(others)}, which packed documents do not support")
    if not dropout and (dtype := _kernel_dtype(query[0], value[0])) is not None:
        halves = query[0].to(dtype), key[0].to(dtype), value[0].to(dtype)
        return _attend_on_cuda(*halves, document_layout, scaling, sliding_window)[None], None
    return _attend_in_buckets(query[0], key[0], value[0], document_layout, scaling, sliding_window, dropout)[None], None


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def attending_by(name: str, language_model: Any) -> Iterator[None]:
    """Make a transformers model use a registered attention function. One without a mask function there gets no mask built."""
    before = language_model.config._attn_implementation
    language_model.config._attn_implementation = name
    try:
        yield
    finally:
        language_model.config._attn_implementation = before


@contextmanager
def packed(language_model: Any, layout: DocumentLayout) -> Iterator[dict[str, Any]]:
    """Make a transformers model attend inside documents only; gives the arguments that its forward pass needs.

    `use_cache` is off because its default is on.
    """
    with attending_by(NAME, language_model):
        yield {"attention_mask": None, "use_cache": False, "document_layout": layout}


def packed_throughout(language_model: Any) -> AbstractContextManager[None]:
    """Hold what `packed` sets also between forward passes: activations that are computed again on the way back need it there."""
    return attending_by(NAME, language_model)
