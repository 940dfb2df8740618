"""What the choice of evaluation items and of demonstrations adds to the variance of a mean difference: parts of crossed random effects.

In: the scores of two arms, or their differences, for each task [seeds, draws, items], and which items share demonstrations. Out:
`ItemNoise`: variances of the mean over tasks, each with its degrees of freedom. `statistics.py` adds the spread between seeds.

A draw is one drawing of demonstrations (`evaluation.seeds`). Tasks, and groups of items within a task, are drawn for independently, so
what a draw does to the items that share demonstrations, an episode, is a sample of its own. With E draws, an episode of m of the task's
n items, and r the deviations of an item's scores from its mean over draws,

    sum over draws and episodes of (sum of r over the episode)^2 / (n E)^2 * E / (E - 1)

estimates what demonstrations add (method of moments), along with the residual of items and draws, which the spread between items shows
as well and which is taken off once. What demonstrations do to seeds differently is in the spread between seeds and counts here again, on
the cautious side. With a single draw, what an episode has in common cannot be told from what its demonstrations do. There an episode is
the unit of sampling where a task has `ENOUGH` of them, and that covers the draw too. Where it has fewer, as the miniature's tasks of
four, items are the units and draws are not covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]
ENOUGH = 8
"""Episodes of a task that are units of sampling where demonstrations were drawn once."""


class Answers(NamedTuple):
    """Scores on the items of one task, or weighted sums of scores.

    Attributes:
        scores: [seeds, draws, items].
        sets: [draws, items], integers: items with the same number share demonstrations. None: there are none, or all items share them.
    """

    scores: Matrix
    sets: NDArray[np.int64] | None = None


def as_answers(task: ArrayLike | Answers) -> Answers:
    """[seeds, items] are answers of a single draw."""
    if isinstance(task, Answers):
        return task
    scores = np.atleast_2d(np.asarray(task, dtype=float))
    return Answers(scores[:, None] if scores.ndim == 2 else scores)


@dataclass(frozen=True)
class ItemNoise:
    """What the choice of evaluation items and demonstrations adds to the variance of a mean difference.

    `items` is the variance of the mean as seen between items (items and residual), `residual` the share of it that the spread between seeds
    shows as well; `draws` the variance as seen between draws, `draws_residual` the share of it that the spread between items shows as well;
    each with its degrees of freedom.
    """

    items: float
    items_degrees: float
    residual: float = 0.0
    residual_degrees: float = float("inf")
    draws: float = 0.0
    draws_degrees: float = float("inf")
    draws_residual: float = 0.0
    draws_residual_degrees: float = float("inf")
    covers_draws: bool = False
    """Whether there are several draws that differ, or enough episodes."""

    @property
    def of_draws(self) -> float:
        """What demonstrations add beyond the items."""
        return max(self.draws - self.draws_residual, 0.0)


def paired_item_noise(differences: Sequence[ArrayLike | Answers]) -> ItemNoise:
    """Item noise of paired differences.

    Args:
        differences: for each task [seeds, items] or `Answers`. The metric is the unweighted mean over tasks of the mean over items.
    """
    tasks = [as_answers(task) for task in differences]
    return item_noise(tasks, [Answers(np.zeros((1, *task.scores.shape[1:])), task.sets) for task in tasks])


def item_noise(scores: Sequence[ArrayLike | Answers], reference: Sequence[ArrayLike | Answers]) -> ItemNoise:
    """Item noise of the difference between two arms whose seeds are not paired: for each task [seeds, items] or `Answers`, same items."""
    items: list[tuple[float, float]] = []
    residuals: list[tuple[float, float]] = []
    draws: list[tuple[float, float]] = []
    draws_residuals: list[tuple[float, float]] = []
    covers = False
    for ours, theirs in zip(map(as_answers, scores), map(as_answers, reference), strict=True):
        arms = [units(arm) for arm in (ours, theirs)]
        count = arms[0].shape[1]
        if count < 2:
            raise ValueError("at least two items are needed in each task")
        means = arms[0].mean(axis=0) - arms[1].mean(axis=0)
        share = 1 / len(scores) ** 2
        items.append((float(means.var(ddof=1)) / count * share, count - 1))
        for arm in arms:
            seeds = len(arm)
            if seeds > 1:
                degrees = (seeds - 1) * (count - 1)
                centred = arm - arm.mean(axis=0) - arm.mean(axis=1, keepdims=True) + arm.mean()
                residuals.append((float((centred**2).sum()) / degrees / seeds / count * share, degrees))
        if ours.scores.shape[1] > 1:
            both, shared = _of_draws(ours.scores.mean(axis=0) - theirs.scores.mean(axis=0), ours.sets)
            draws += [(both[0] * share, both[1])] if both[1] else []
            draws_residuals += [(shared[0] * share, shared[1])] if shared[1] else []
            covers = covers or both[0] > 0
        covers = covers or _episodes(ours) >= ENOUGH
    return ItemNoise(*add(items), *add(residuals), *add(draws), *add(draws_residuals), covers_draws=covers)


def units(task: Answers) -> Matrix:
    """What is sampled, means over draws: [seeds, items]; or [seeds, episodes] where there is one draw and enough of them.

    The value of an episode is the mean of all plus its items' deviations from it, so that its mean over episodes is the mean over items
    whatever their sizes.
    """
    scores: Matrix = task.scores.mean(axis=1)
    episodes = _episodes(task)
    if task.sets is None or task.scores.shape[1] > 1 or not ENOUGH <= episodes < scores.shape[1]:
        return scores
    _, numbers = np.unique(task.sets[0], return_inverse=True)
    mean = scores.mean(axis=1, keepdims=True)
    deviations = np.array([np.bincount(numbers, weights=seed) for seed in scores - mean])
    found: Matrix = mean + deviations * episodes / scores.shape[1]
    return found


def _episodes(task: Answers) -> int:
    return 0 if task.sets is None else len(np.unique(task.sets[0]))


def _of_draws(means: Matrix, sets: NDArray[np.int64] | None) -> tuple[tuple[float, float], tuple[float, float]]:
    """The variance of the mean as seen between draws, and the share of it that is each item's own, with degrees of freedom.

    Args:
        means: [draws, items], over seeds.
    """
    draws, count = means.shape
    deviations = means - means.mean(axis=0)
    factor = draws / (draws - 1) / (count * draws) ** 2
    between, within, sizes = 0.0, 0.0, []
    for draw in range(draws):
        numbers = np.zeros(count, dtype=int) if sets is None else np.unique(sets[draw], return_inverse=True)[1]
        size = np.bincount(numbers)
        sums = np.bincount(numbers, weights=deviations[draw])
        squares = np.bincount(numbers, weights=deviations[draw] ** 2)
        # Alone with its demonstrations, an item is a unit whose spread has them already.
        shared = size > 1
        between += float((sums[shared] ** 2).sum())
        within += float(((squares - sums**2 / size)[shared] * size[shared] / (size[shared] - 1)).sum())
        sizes += size[shared].tolist()
    weights = np.array(sizes, dtype=float) ** 2
    episodes = float(weights.sum() ** 2 / (weights**2).sum()) if sizes else 0.0
    kept = (draws - 1) / draws
    return (between * factor, episodes * kept), (within * factor, (sum(sizes) - len(sizes)) * kept)


def add(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Sum of independent variance estimates and its Satterthwaite degrees of freedom."""
    total = sum(variance for variance, _ in variances)
    spread = sum(variance**2 / degrees for variance, degrees in variances)
    return total, total**2 / spread if spread else float("inf")
