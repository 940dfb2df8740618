"""Average pooling of the patch grid, then one linear layer (MM1, section 3.2)."""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal

from mm1_ablate.config.connector import SquareTokens


class AveragePool(SquareTokens):
    """Adaptive average pooling to sqrt(n) x sqrt(n), then linear."""

    type: Literal["average_pool"] = "average_pool"

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        from mm1_ablate.model.connectors._pooling import AveragePoolModule

        return AveragePoolModule(isqrt(self.image_tokens), encoder_width, language_width)
