"""Average pooling of the patch grid, then one linear layer (MM1, section 3.2)."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Literal

from mm1_ablate.config.connector import SquareTokens

if TYPE_CHECKING:
    from torch import nn


class AveragePool(SquareTokens):
    """Adaptive average pooling to sqrt(n) x sqrt(n), then linear."""

    type: Literal["average_pool"] = "average_pool"

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> nn.Module:
        from mm1_ablate.model.connectors._pooling import AveragePoolModule

        return AveragePoolModule(isqrt(self.image_tokens), encoder_width, language_width)
