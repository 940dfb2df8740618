"""Learned latents that read the patches in several layers (Perceiver resampler of Flamingo, Alayrac et al. 2022, section 3.1.1).

The layers are Flamingo's, as OpenFlamingo has them. What differs: patches have a learned position embedding, linear layers have biases,
heads share the encoder's width among them (OpenFlamingo: 8 of 64 channels whatever the width), latents start with a deviation of
width^-0.5 (there: 1), and a linear layer leads to the language model's width (there: cross-attention inside the language model).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveInt

from mm1_ablate.config.connector import LearnedQueries


class PerceiverResampler(LearnedQueries):
    """`image_tokens` latents; each layer lets them attend to patches and latents together, then a feed-forward of four times the width."""

    type: Literal["perceiver_resampler"] = "perceiver_resampler"
    depth: PositiveInt = 6
    """Number of layers, each a cross-attention and a feed-forward."""

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        from mm1_ablate.model.connectors._learned_queries import PerceiverResamplerModule

        heads = self.heads_at(encoder_width)
        return PerceiverResamplerModule(self.image_tokens, self.depth, heads, encoder_width, grid_side, language_width)
