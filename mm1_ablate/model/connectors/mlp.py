"""A small multilayer perceptron for each patch: every patch is an image token (LLaVA-1.5, Liu et al. 2024, section 3.2)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveInt

from mm1_ablate.config.connector import TokenPerPatch


class Mlp(TokenPerPatch):
    """`layers` linear layers at the language model's width, GELU between them; LLaVA-1.5 has two."""

    type: Literal["mlp"] = "mlp"
    layers: PositiveInt = 2
    """Number of linear layers."""

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        from torch import nn

        modules: list[nn.Module] = [nn.Linear(encoder_width, language_width)]
        for _ in range(self.layers - 1):
            modules += [nn.GELU(), nn.Linear(language_width, language_width)]
        return nn.Sequential(*modules)
