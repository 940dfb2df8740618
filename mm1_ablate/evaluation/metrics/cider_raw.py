"""CIDEr-D on strings as they are, split at white space: what pycocoevalcap's scorer gives without a tokeniser."""

from __future__ import annotations

from typing import Literal

from mm1_ablate.evaluation.metrics._cider import Cider, Words


class CiderRaw(Cider):
    """CIDEr-D of each caption: 0 to 10, where 1 is about what people reach on COCO. Over one item it is 0."""

    type: Literal["cider_raw"] = "cider_raw"

    def words(self) -> Words:
        return str.split
