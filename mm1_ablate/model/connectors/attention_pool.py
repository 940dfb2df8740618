"""Attention pooling: learned queries read the patches by one cross-attention, then one linear layer (MM1, section 3.2).

MM1 says no more of it. Unverified, therefore: the layer norm before, the position embedding of the keys, the heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mm1_ablate.config.connector import LearnedQueries

if TYPE_CHECKING:
    from torch import Tensor, nn


class AttentionPool(LearnedQueries):
    """`image_tokens` learned queries, one multi-head cross-attention at the encoder's width, linear."""

    type: Literal["attention_pool"] = "attention_pool"

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> nn.Module:
        import torch
        from torch import nn

        heads = self.heads_at(encoder_width)

        class AttentionPoolModule(nn.Module):
            def __init__(self, image_tokens: int) -> None:
                super().__init__()
                self.queries = nn.Parameter(torch.randn(image_tokens, encoder_width) * encoder_width**-0.5)
                # Without a sense of place, a query could tell patches apart by content alone.
                self.positions = nn.Parameter(torch.randn(grid_side * grid_side, encoder_width) * encoder_width**-0.5)
                self.norm = nn.LayerNorm(encoder_width)
                self.attention = nn.MultiheadAttention(encoder_width, heads, batch_first=True)
                self.project = nn.Linear(encoder_width, language_width)

            def forward(self, patches: Tensor) -> Tensor:
                patches = self.norm(patches)
                queries = self.queries.expand(len(patches), -1, -1)
                pooled, _ = self.attention(queries, patches + self.positions, patches, need_weights=False)
                return self.project(pooled)

        return AttentionPoolModule(self.image_tokens)
