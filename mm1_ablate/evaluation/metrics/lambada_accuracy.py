"""Whether greedy decoding gives the right continuation: `acc` of LAMBADA in lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mm1_ablate.evaluation.metrics import Metric, Prediction, References
from mm1_ablate.evaluation.metrics._likelihood import of_right_choice


class LambadaAccuracy(Metric):
    """1 if each token of the right continuation is the most likely one, so that the last word would be generated; else 0."""

    type: Literal["lambada_accuracy"] = "lambada_accuracy"
    kind = "choose"
    floor = "none"
    ceiling = "one"

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        return [float(of_right_choice(prediction, prediction.greedy, "whether greedy decoding gives it,")) for prediction in predictions]
