"""The torch module of `attention_pool.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttentionPoolModule(nn.Module):
    """[images, side * side, encoder_width] to [images, image_tokens, language_width]."""

    def __init__(self, image_tokens: int, heads: int, encoder_width: int, grid_side: int, language_width: int) -> None:
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
        tokens: Tensor = self.project(pooled)
        return tokens
