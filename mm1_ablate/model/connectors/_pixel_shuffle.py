"""The torch module of `pixel_shuffle.py`."""

from __future__ import annotations

from torch import Tensor, nn

from mm1_ablate.model.grid import to_grid, to_tokens


class PixelShuffleModule(nn.Module):
    """[images, side * side, encoder_width] to [images, (side / factor) ** 2, language_width].

    Args:
        factor: patches a side of the squares that become one token.
    """

    def __init__(self, factor: int, encoder_width: int, language_width: int) -> None:
        super().__init__()
        self.gather = nn.PixelUnshuffle(factor)
        width = encoder_width * factor * factor
        self.project = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, language_width), nn.GELU(), nn.Linear(language_width, language_width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        tokens: Tensor = self.project(to_tokens(self.gather(to_grid(patches))))
        return tokens
