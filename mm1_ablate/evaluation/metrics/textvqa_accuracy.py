"""TextVQA's accuracy: agreement with the annotators, all answers normalised. The rule of its own evaluator (M4C, now in MMF)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from mm1_ablate.evaluation.metrics._annotators import AnnotatorAgreement, Form, normalise, stripped


class TextvqaAccuracy(AnnotatorAgreement):
    """How far the annotators agree with the answer: 1 where at least four of ten gave it, 0.9 for three, 0.6 for two, 0.3 for one.

    The rule of TextVQA's evaluator (Singh et al. 2019, `m4c_evaluators.py`): the answer and those of all annotators are normalised as in
    VQAv2, whether annotators agree or not, after commas and question marks are removed and `'s` is set apart.
    """

    type: Literal["textvqa_accuracy"] = "textvqa_accuracy"

    def forms(self, annotators: Sequence[str]) -> tuple[Form, Form]:
        return _normalised, _normalised


@lru_cache(maxsize=1 << 16)
def _normalised(answer: str) -> str:
    return normalise(stripped(answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()))
