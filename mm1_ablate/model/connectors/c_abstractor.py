"""C-Abstractor (Honeybee, Cha et al. 2023, section 4.2), the connector of MM1's base recipe.

The same function as Honeybee's for the same weights. Its position embedding starts at zero here, with a deviation of 0.02 there; what is
optional there, a layer norm before and tokens that end the image, is left out. How MM1's own is initialised is unknown.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal

from pydantic import PositiveInt

from mm1_ablate.config.connector import SquareTokens


class CAbstractor(SquareTokens):
    """Position embedding, RegStage(depth), adaptive average pooling to sqrt(n) x sqrt(n), RegStage(depth), two-layer SiLU MLP."""

    type: Literal["c_abstractor"] = "c_abstractor"
    hidden: PositiveInt = 1024
    """Channels of the convolutional stages."""
    depth: PositiveInt = 3
    """Blocks in each of the two stages."""
    mlp_depth: PositiveInt = 2
    """Linear layers of the perceptron at the end, SiLU between them."""

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        from mm1_ablate.model.connectors._pooling import CAbstractorModule

        tokens_per_side = isqrt(self.image_tokens)
        return CAbstractorModule(tokens_per_side, self.hidden, self.depth, self.mlp_depth, encoder_width, grid_side, language_width)
