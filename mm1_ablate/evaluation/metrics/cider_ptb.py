"""CIDEr-D on tokens of the Penn Treebank, lower-cased and without punctuation: that of COCO's evaluation, without Java."""

from __future__ import annotations

from typing import Literal

from mm1_ablate.evaluation.metrics._cider import Cider, Words
from mm1_ablate.evaluation.ptb_tokenizer import ptb_tokens


class CiderPtb(Cider):
    """CIDEr-D of each caption: 0 to 10, where 1 is about what people reach on COCO. Over one item it is 0."""

    type: Literal["cider_ptb"] = "cider_ptb"

    def words(self) -> Words:
        return ptb_tokens
