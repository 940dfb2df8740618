"""The torch modules of connectors whose learned queries read the patches: `attention_pool.py`, `perceiver_resampler.py`."""

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


class PerceiverLayer(nn.Module):
    """Latents [images, image_tokens, width] attend to patches [images, side * side, width] and to themselves, then a feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_patches = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, latents: Tensor, patches: Tensor) -> Tensor:
        queries = self.norm_latents(latents)
        read = torch.cat([self.norm_patches(patches), queries], 1)
        attended, _ = self.attention(queries, read, read, need_weights=False)
        latents = latents + attended
        added: Tensor = self.feed_forward(latents)
        return latents + added


class PerceiverResamplerModule(nn.Module):
    """[images, side * side, encoder_width] to [images, image_tokens, language_width]."""

    def __init__(self, image_tokens: int, depth: int, heads: int, encoder_width: int, grid_side: int, language_width: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(image_tokens, encoder_width) * encoder_width**-0.5)
        # Without a sense of place, a latent could tell patches apart by content alone.
        self.positions = nn.Parameter(torch.randn(grid_side * grid_side, encoder_width) * encoder_width**-0.5)
        self.layers = nn.ModuleList(PerceiverLayer(encoder_width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(encoder_width)
        self.project = nn.Linear(encoder_width, language_width)

    def forward(self, patches: Tensor) -> Tensor:
        patches = patches + self.positions
        latents = self.latents.expand(len(patches), -1, -1)
        for layer in self.layers:
            latents = layer(latents, patches)
        tokens: Tensor = self.project(self.norm(latents))
        return tokens
