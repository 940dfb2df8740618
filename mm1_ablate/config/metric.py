"""The base of metrics: settings, and the rule that makes of the predictions of one task a score per item.

Each metric is a file in `mm1_ablate/evaluation/metrics/`, or a class of the user's own. The standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from mm1_ablate.config.settings import Component

Kind = Literal["generate", "choose", "likelihood"]
Floor = Literal["constant_answer", "constant_choice", "none"]
Ceiling = Literal["one", "best_reference", "none"]
References = Sequence[Sequence[str]]
"""The references of each item."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model made of one item.

    Attributes:
        item: the item's id.
        text: the answer, stop strings cut off; of a choice, the one with the highest summed log-likelihood.
        references: the accepted answers. Of several annotators, the answer of each, equal ones included.
        choices: what could be chosen from; empty where text is generated. A text whose likelihood alone is of interest is the only one.
        correct: index of the right choice.
        log_likelihoods: of each choice, summed over its tokens, in nats.
        greedy: of each choice, whether each of its tokens is the most likely one, so that greedy decoding would give it.
        token_counts: of each choice, over which tokens its log-likelihood is summed.
        byte_counts: of each choice, in UTF-8; empty: those of the choice as it stands.
        reference_log_likelihoods: where text is generated, of the first reference, summed over its tokens, in nats; empty: not asked.
    """

    item: str
    text: str
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    correct: int | None = None
    log_likelihoods: tuple[float, ...] = ()
    greedy: tuple[bool, ...] = ()
    token_counts: tuple[int, ...] = ()
    byte_counts: tuple[int, ...] = ()
    reference_log_likelihoods: tuple[float, ...] = ()


class Metric(Component):
    """Settings of a metric, and its rule."""

    kind: ClassVar[Kind] = "generate"
    """Kind of task that it can score. A metric of kind choose also scores tasks of kind likelihood, whose single choice is correct."""
    scale: ClassVar[float] = 100.0
    """Tables show this many times the aggregate of item scores. Averages over tasks are made of metrics of scale 100."""
    higher_is_better: ClassVar[bool] = True
    floor: ClassVar[Floor] = "constant_answer"
    """Score of a model that learnt nothing: the best constant answer, the best constant choice (at least a random one), or none."""
    ceiling: ClassVar[Ceiling] = "none"
    """Highest possible score: 1 for every item, the best of each item's references as its answer, or unknown."""

    @property
    def wants_split_references(self) -> bool:
        """Whether scoring needs the references of the whole split, beside those of the items that were asked."""
        return False

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        """A score for each prediction, in order; nan where an item cannot be judged because it has no reference.

        Args:
            predictions: all items of one task at one number of shots. Some metrics (CIDEr) depend on which items are there.
            split_references: of every item of the split, asked or not; given to metrics that want them.
        """
        raise TypeError(f"{type(self).__name__} does not implement `score`")

    def means_of_constants(
        self, answers: Sequence[str], predictions: Sequence[Prediction], split_references: References | None = None
    ) -> list[float]:
        """For each answer the aggregate, before `scale`, if it were given to every item. A metric that can tell it of many answers at once
        says so here; this scores all items once for each, which `floors.constant_answer` does of a limited number."""
        return [self.aggregate(self.score([replace(one, text=answer) for one in predictions], split_references)) for answer in answers]

    def answer(self, prediction: Prediction) -> str:
        """A model's answer as this metric sees it, for display: a score of 1 beside a wrong answer would be puzzling.

        A text whose likelihood alone was asked is an answer only if greedy decoding would give it.
        """
        return "" if len(prediction.choices) == 1 and prediction.greedy == (False,) else prediction.text

    @classmethod
    def aggregate(cls, scores: Sequence[float]) -> float:
        """One number out of the scores of all items, before `scale`: their mean, over items that could be judged."""
        judged = [score for score in scores if not math.isnan(score)]
        return math.fsum(judged) / len(judged) if judged else math.nan
