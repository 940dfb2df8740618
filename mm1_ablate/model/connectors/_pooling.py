"""The torch modules of connectors that pool the grid of patches: `average_pool.py`, `c_abstractor.py`, `pixel_shuffle.py`."""

from __future__ import annotations

import torch
from timm.layers.norm import LayerNorm2d
from timm.models.regnet import RegStage
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


class CAbstractorModule(nn.Module):
    """[images, side * side, encoder_width] to [images, tokens_per_side ** 2, language_width].

    Args:
        hidden: channels of the convolutional stages.
        depth: blocks in each of the two stages.
    """

    def __init__(
        self, tokens_per_side: int, hidden: int, depth: int, mlp_depth: int, encoder_width: int, grid_side: int, language_width: int
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(grid_side * grid_side, encoder_width))
        self.before = _stage(depth, encoder_width, hidden)
        self.pool = nn.AdaptiveAvgPool2d(tokens_per_side)
        self.after = _stage(depth, hidden, hidden)
        layers: list[nn.Module] = [nn.Linear(hidden, language_width)]
        for _ in range(mlp_depth - 1):
            layers += [nn.SiLU(), nn.Linear(language_width, language_width)]
        self.project = nn.Sequential(*layers)

    def forward(self, patches: Tensor) -> Tensor:
        grid = self.before(to_grid(patches + self.positions))
        tokens: Tensor = self.project(to_tokens(self.after(self.pool(grid))))
        return tokens


def _stage(depth: int, channels: int, out_channels: int) -> nn.Module:
    return RegStage(depth, channels, out_channels, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
