"""Metrics: predictions of one task in, a score per item out. Each is one file here, with its settings and its rule.

A newcomer adds a file with one subclass of `Metric`; a task record then names it by `type`. numpy and the standard library only,
so that stored predictions can be scored again without a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from mm1_ablate.spec.settings import Component

Kind = Literal["generate", "choose"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model made of one item.

    Attributes:
        item: the item's id.
        text: the answer, stop strings cut off; of a choice, the one with the highest summed log-likelihood.
        references: the accepted answers.
        choices: what could be chosen from; empty where text is generated.
        correct: index of the right choice.
        log_likelihoods: of each choice, summed over its tokens, in nats.
    """

    item: str
    text: str
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    correct: int | None = None
    log_likelihoods: tuple[float, ...] = ()


class Metric(Component):
    """Settings of a metric, and its rule."""

    kind: ClassVar[Kind] = "generate"
    """Which kind of task it can score."""

    def score(self, predictions: Sequence[Prediction]) -> list[float]:
        """A score for each prediction, in order; 1.0 is a right answer, and tables show 100 times the mean.

        Args:
            predictions: all items of one task at one number of shots. Some metrics (CIDEr) depend on which items are there.
        """
        raise TypeError(f"{type(self).__name__} does not say how it scores")
