"""C-Abstractor (Honeybee, Cha et al. 2023, section 4.2), the connector of MM1's base recipe.

The same function as Honeybee's for the same weights. Its position embedding starts at zero here, with a deviation of 0.02 there; what is
optional there, a layer norm before and tokens that end the image, is left out. How MM1's own is initialised is unknown.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from mm1_ablate.config.connector import SquareTokens

if TYPE_CHECKING:
    from torch import Tensor, nn


class CAbstractor(SquareTokens):
    """Position embedding, RegStage(depth), adaptive average pooling to sqrt(n) x sqrt(n), RegStage(depth), two-layer SiLU MLP."""

    type: Literal["c_abstractor"] = "c_abstractor"
    hidden: PositiveInt = 1024
    """Channels of the convolutional stages."""
    depth: PositiveInt = 3
    """Blocks in each of the two stages."""
    mlp_depth: PositiveInt = 2

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> nn.Module:
        import torch
        from timm.layers import LayerNorm2d
        from timm.models.regnet import RegStage
        from torch import nn

        from mm1_ablate.model.grid import to_grid, to_tokens

        def stage(channels: int, out_channels: int) -> nn.Module:
            return RegStage(self.depth, channels, out_channels, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)

        class CAbstractorModule(nn.Module):
            def __init__(self, tokens_per_side: int, hidden: int, mlp_depth: int) -> None:
                super().__init__()
                self.positions = nn.Parameter(torch.zeros(grid_side * grid_side, encoder_width))
                self.before = stage(encoder_width, hidden)
                self.pool = nn.AdaptiveAvgPool2d(tokens_per_side)
                self.after = stage(hidden, hidden)
                layers: list[nn.Module] = [nn.Linear(hidden, language_width)]
                for _ in range(mlp_depth - 1):
                    layers += [nn.SiLU(), nn.Linear(language_width, language_width)]
                self.project = nn.Sequential(*layers)

            def forward(self, patches: Tensor) -> Tensor:
                grid = self.before(to_grid(patches + self.positions))
                return self.project(to_tokens(self.after(self.pool(grid))))

        return CAbstractorModule(isqrt(self.image_tokens), self.hidden, self.mlp_depth)
