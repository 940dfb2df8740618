"""VQA accuracy: agreement with the annotators, as the official evaluation of VQAv2 computes it. OK-VQA is scored by the same rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mm1_ablate.evaluation.metrics._annotators import AnnotatorAgreement, Form, normalise, stripped


class VqaAccuracy(AnnotatorAgreement):
    """How far the annotators agree with the answer: 1 where at least four of ten gave it, 0.9 for three, 0.6 for two, 0.3 for one.

    The rule of `vqaEval.py` of VQAv2, with its quirk: where all annotators agree to the letter, nothing is normalised, not even "Yes".
    """

    type: Literal["vqa_accuracy"] = "vqa_accuracy"

    def forms(self, annotators: Sequence[str]) -> tuple[Form, Form]:
        return (_normalised, _normalised) if len(set(map(stripped, annotators))) > 1 else (stripped, stripped)


def _normalised(answer: str) -> str:
    return normalise(stripped(answer))
