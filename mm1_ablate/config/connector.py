"""What every connector declares, and the kinds that share a rule: the bases of the files in `mm1_ablate/model/connectors/`."""

from __future__ import annotations

from math import isqrt
from typing import Any

from pydantic import PositiveInt, field_validator

from mm1_ablate.config.settings import Component, SettingError


class Connector(Component):
    """From patch features to image tokens. Each connector is a file in `mm1_ablate/model/connectors/`."""

    image_tokens: PositiveInt = 144
    """Tokens per image; with sub-images, tokens per sub-image."""
    frozen: bool = False
    """Not trained."""

    def check_grid(self, side: int) -> None:
        """Raise ValueError, saying what would do, if `image_tokens` cannot be made from a grid of side x side patches."""

    def check_width(self, encoder_width: int) -> None:
        """Raise SettingError at a field that does not go with features of this width. Asked where an encoder's settings say its width."""

    def build(self, encoder_width: int, grid_side: int, language_width: int) -> Any:
        """The torch module: [images, side * side, encoder_width] to [images, image_tokens, language_width]."""
        raise TypeError(f"{type(self).__name__} does not implement `build`")


class SquareTokens(Connector):
    """A connector that pools the grid of patches to a smaller square."""

    @field_validator("image_tokens")
    @classmethod
    def _square(cls, tokens: int) -> int:
        side = isqrt(tokens)
        if side * side != tokens:
            raise ValueError(
                f"{tokens} image tokens are not a square number, which pooling a grid needs;"
                f" the nearest are {side * side} and {(side + 1) ** 2}"
            )
        return tokens

    def check_grid(self, side: int) -> None:
        if self.image_tokens > side * side:
            raise ValueError(
                f"{self.image_tokens} image tokens cannot be pooled from a grid of {side} x {side} patches; at most {side * side}"
            )


class LearnedQueries(Connector):
    """A connector whose learned queries attend to the patches at the encoder's width: any number of image tokens."""

    heads: PositiveInt | None = None
    """Number of attention heads. None: one per 64 channels, or the next smaller number that divides the width."""

    def check_width(self, encoder_width: int) -> None:
        if self.heads is not None and encoder_width % self.heads:
            raise SettingError("heads", f"the encoder's width, {encoder_width}, is not a multiple of {self.heads} heads")

    def heads_at(self, encoder_width: int) -> int:
        """Attention heads at an encoder's width."""
        self.check_width(encoder_width)
        return self.heads or next(count for count in range(max(1, encoder_width // 64), 0, -1) if encoder_width % count == 0)


class TokenPerPatch(Connector):
    """A connector that makes one image token of each patch."""

    def check_grid(self, side: int) -> None:
        if self.image_tokens != side * side:
            raise ValueError(
                f"this connector makes one token per patch, so a grid of {side} x {side} gives {side * side} image tokens,"
                f" not {self.image_tokens}"
            )
