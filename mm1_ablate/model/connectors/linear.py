"""One linear layer for each patch: every patch is an image token (LLaVA, Liu et al. 2023, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mm1_ablate.config.connector import TokenPerPatch

if TYPE_CHECKING:
    from torch import nn


class Linear(TokenPerPatch):
    """Linear, from the encoder's width to the language model's."""

    type: Literal["linear"] = "linear"

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> nn.Module:
        from torch import nn

        return nn.Linear(encoder_width, language_width)
