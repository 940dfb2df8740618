"""VizWiz's accuracy: agreement of the normalised answer with the annotators' as they are published. The rule of its own evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from mm1_ablate.evaluation.metrics._annotators import CONTRACTIONS, AnnotatorAgreement, Form, normalised, stripped

_STRAIGHT = {"aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove"}
"""Left out apostrophes that the evaluator gives back as VQAv2's does."""
_STRAIGHT_BEFORE = {"couldn'tve", "hadn'tve"}
"""Of these the part that is there already has a straight apostrophe, what is given back a curly one."""


def _curly(text: str) -> str:
    return text.replace("'", "’")


# A quirk: in the evaluator's table nearly all apostrophes are curly, so "dont" becomes "don’t", which no annotator typed so.
_CONTRACTIONS = {
    word if word in _STRAIGHT_BEFORE else _curly(word): full if word in _STRAIGHT else _curly(full) for word, full in CONTRACTIONS.items()
}


class VizwizAccuracy(AnnotatorAgreement):
    """How far the annotators agree with the answer: 1 where at least four of ten gave it, 0.9 for three, 0.6 for two, 0.3 for one.

    The rule of VizWiz's evaluator (Gurari et al. 2018, `vqaEval.py` of its API): the answer is always normalised as in VQAv2, annotators'
    answers never, as they are published in lower case and without punctuation.
    """

    type: Literal["vizwiz_accuracy"] = "vizwiz_accuracy"

    def forms(self, annotators: Sequence[str]) -> tuple[Form, Form]:
        return _normalised, str


@lru_cache(maxsize=1 << 16)
def _normalised(answer: str) -> str:
    return normalised(stripped(answer), _CONTRACTIONS)
