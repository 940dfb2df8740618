"""Learned latents that read the patches in several layers (Perceiver resampler of Flamingo, Alayrac et al. 2022, section 3.1.1).

The layers are Flamingo's, as OpenFlamingo has them. What differs: patches have a learned position embedding, linear layers have biases,
heads share the encoder's width among them (OpenFlamingo: 8 of 64 channels whatever the width), latents start with a deviation of
width^-0.5 (there: 1), and a linear layer leads to the language model's width (there: cross-attention inside the language model).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from mm1_ablate.config.connector import LearnedQueries

if TYPE_CHECKING:
    from torch import Tensor, nn


class PerceiverResampler(LearnedQueries):
    """`image_tokens` latents; each layer lets them attend to patches and latents together, then a feed-forward of four times the width."""

    type: Literal["perceiver_resampler"] = "perceiver_resampler"
    depth: PositiveInt = 6

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> nn.Module:
        import torch
        from torch import nn

        heads = self.heads_at(encoder_width)

        class Layer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm_patches = nn.LayerNorm(encoder_width)
                self.norm_latents = nn.LayerNorm(encoder_width)
                self.attention = nn.MultiheadAttention(encoder_width, heads, batch_first=True)
                self.feed_forward = nn.Sequential(
                    nn.LayerNorm(encoder_width),
                    nn.Linear(encoder_width, 4 * encoder_width),
                    nn.GELU(),
                    nn.Linear(4 * encoder_width, encoder_width),
                )

            def forward(self, latents: Tensor, patches: Tensor) -> Tensor:
                queries = self.norm_latents(latents)
                read = torch.cat([self.norm_patches(patches), queries], 1)
                attended, _ = self.attention(queries, read, read, need_weights=False)
                latents = latents + attended
                return latents + self.feed_forward(latents)

        class PerceiverResamplerModule(nn.Module):
            def __init__(self, image_tokens: int, depth: int) -> None:
                super().__init__()
                self.latents = nn.Parameter(torch.randn(image_tokens, encoder_width) * encoder_width**-0.5)
                # Without a sense of place, a latent could tell patches apart by content alone.
                self.positions = nn.Parameter(torch.randn(grid_side * grid_side, encoder_width) * encoder_width**-0.5)
                self.layers = nn.ModuleList(Layer() for _ in range(depth))
                self.norm = nn.LayerNorm(encoder_width)
                self.project = nn.Linear(encoder_width, language_width)

            def forward(self, patches: Tensor) -> Tensor:
                patches = patches + self.positions
                latents = self.latents.expand(len(patches), -1, -1)
                for layer in self.layers:
                    latents = layer(latents, patches)
                return self.project(self.norm(latents))

        return PerceiverResamplerModule(self.image_tokens, self.depth)
