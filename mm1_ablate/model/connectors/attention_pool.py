"""Attention pooling: learned queries read the patches by one cross-attention, then one linear layer (MM1, section 3.2).

MM1 says no more of it. Unverified, therefore: the layer norm before, the position embedding of the keys, the heads.
"""

from __future__ import annotations

from typing import Any, Literal

from mm1_ablate.config.connector import LearnedQueries


class AttentionPool(LearnedQueries):
    """`image_tokens` learned queries, one multi-head cross-attention at the encoder's width, linear."""

    type: Literal["attention_pool"] = "attention_pool"

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        from mm1_ablate.model.connectors._learned_queries import AttentionPoolModule

        return AttentionPoolModule(self.image_tokens, self.heads_at(encoder_width), encoder_width, grid_side, language_width)
