"""The torch module of `c_abstractor.py`."""

from __future__ import annotations

import torch
from timm.layers.norm import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn

from mm1_ablate.model.grid import to_grid, to_tokens


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
