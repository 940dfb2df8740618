"""Average pooling of the patch grid, then one linear layer (MM1, section 3.2)."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Literal

from mm1_ablate.config.connector import SquareTokens

if TYPE_CHECKING:
    from torch import Tensor, nn


class AveragePool(SquareTokens):
    """Adaptive average pooling to sqrt(n) x sqrt(n), then linear."""

    type: Literal["average_pool"] = "average_pool"

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> nn.Module:
        from torch import nn

        from mm1_ablate.model.grid import to_grid, to_tokens

        class AveragePoolModule(nn.Module):
            def __init__(self, tokens_per_side: int) -> None:
                super().__init__()
                self.pool = nn.AdaptiveAvgPool2d(tokens_per_side)
                self.project = nn.Linear(encoder_width, language_width)

            def forward(self, patches: Tensor) -> Tensor:
                return self.project(to_tokens(self.pool(to_grid(patches))))

        return AveragePoolModule(isqrt(self.image_tokens))
