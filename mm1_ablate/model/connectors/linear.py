"""One linear layer for each patch: every patch is an image token (LLaVA, Liu et al. 2023, section 4.1)."""

from __future__ import annotations

from typing import Any, Literal

from mm1_ablate.config.connector import TokenPerPatch


class Linear(TokenPerPatch):
    """Linear, from the encoder's width to the language model's."""

    type: Literal["linear"] = "linear"

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        from torch import nn

        return nn.Linear(encoder_width, language_width)
