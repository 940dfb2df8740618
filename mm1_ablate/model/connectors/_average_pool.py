"""The torch module of `average_pool.py`."""

from __future__ import annotations

from torch import Tensor, nn

from mm1_ablate.model.grid import to_grid, to_tokens


class AveragePoolModule(nn.Module):
    """[images, side * side, encoder_width] to [images, tokens_per_side ** 2, language_width]."""

    def __init__(self, tokens_per_side: int, encoder_width: int, language_width: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(tokens_per_side)
        self.project = nn.Linear(encoder_width, language_width)

    def forward(self, patches: Tensor) -> Tensor:
        tokens: Tensor = self.project(to_tokens(self.pool(to_grid(patches))))
        return tokens
