"""What a part of a model takes: its size, its operations, what it keeps. Plain numbers, so that a plan that knows them needs no torch.

`profile.py` finds them out; the plan's operations and memory are reckoned from them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """What a part does for one image or one token. Operations and bytes; widths and depths as far as the part has them."""

    parameters: int
    forward: float = 0.0
    """Operations of a forward pass; of a language model without attention and head."""
    backward: float = 0.0
    saved: float = 0.0
    """Bytes kept from the forward for the backward pass, half-precision copies of weights apart."""
    copies: float = 0.0
    """Bytes of half-precision copies of weights that mixed precision makes."""
    width: int = 0
    """Channels of what it hands on."""
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
    cache: int = 0
    """Of a language model, numbers that it keeps of a token as keys and values, over all layers."""
    counted: bool = True
    """False where a part cannot be rehearsed: operations are then 2 for each parameter forward and 4 backward."""
