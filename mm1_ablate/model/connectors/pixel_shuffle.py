"""Space to depth: each square of neighbouring patches is laid side by side into one token (InternVL 1.5, Chen et al. 2024, section 3.1).

The same tokens as InternVL's, Idefics3's and nanoVLM's but for the order of channels within one, which is a permutation of the next layer's
weights. The perceptron is InternVL's; Idefics3 and nanoVLM have one linear layer without a bias in its place.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal

from mm1_ablate.config.connector import SquareTokens


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

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        from mm1_ablate.model.connectors._pooling import PixelShuffleModule

        return PixelShuffleModule(grid_side // isqrt(self.image_tokens), encoder_width, language_width)
