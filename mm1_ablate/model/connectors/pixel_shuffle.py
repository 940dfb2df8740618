"""Space to depth: each square of neighbouring patches is laid side by side into one token (InternVL 1.5, Chen et al. 2024, section 3.1).

The same tokens as InternVL's, Idefics3's and nanoVLM's but for the order of channels within one, which is a permutation of the next layer's
weights. The perceptron is InternVL's; Idefics3 and nanoVLM have one linear layer without a bias in its place.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Literal

from mm1_ablate.config.connector import SquareTokens

if TYPE_CHECKING:
    from torch import Tensor, nn


class PixelShuffle(SquareTokens):
    """Squares of patches concatenated, normalised, and a two-layer GELU perceptron to the language model's width."""

    type: Literal["pixel_shuffle"] = "pixel_shuffle"

    def check_grid(self, side: int) -> None:
        super().check_grid(side)
        tokens_per_side = isqrt(self.image_tokens)
        if side % tokens_per_side:
            fitting = ", ".join(str(count * count) for count in range(1, side + 1) if side % count == 0)
            raise ValueError(
                f"a grid of {side} x {side} patches cannot be cut into {tokens_per_side} x {tokens_per_side} equal squares for"
                f" {self.image_tokens} image tokens; it can for {fitting}"
            )

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> nn.Module:
        from torch import nn

        from mm1_ablate.model.grid import to_grid, to_tokens

        factor = grid_side // isqrt(self.image_tokens)

        class PixelShuffleModule(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gather = nn.PixelUnshuffle(factor)
                width = encoder_width * factor * factor
                self.project = nn.Sequential(
                    nn.LayerNorm(width), nn.Linear(width, language_width), nn.GELU(), nn.Linear(language_width, language_width)
                )

            def forward(self, patches: Tensor) -> Tensor:
                return self.project(to_tokens(self.gather(to_grid(patches))))

        return PixelShuffleModule()
