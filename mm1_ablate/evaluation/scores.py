"""Scores of items in a long table, and the numbers that a study compares. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas

from mm1_ablate.evaluation.metrics import Prediction

if TYPE_CHECKING:
    from mm1_ablate.evaluation.task import Task

COLUMNS = [
    "task", "family", "shots", "item", "group", "demonstration_set", "prompt", "prediction", "log_likelihoods", "reference",
    "metric", "primary", "score",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judged:
    """A prediction and where it comes from.

    Attributes:
        demonstration_set: ids of the demonstrations, in order, with a space between.
        prompt: the question as people read it, without its demonstrations.
    """

    prediction: Prediction
    group: str
    demonstration_set: str
    prompt: str


def table(task: Task, shots: int, judged: Sequence[Judged]) -> pandas.DataFrame:
    """Scores of one task at one number of shots: a row for each metric and item, columns as in `COLUMNS`.

    `log_likelihoods` is a JSON list (empty text where text is generated) and `reference` the right choice, the only
    reference, or a JSON list of several, so that a stored table can be scored again without a model.
    """
    predictions = [one.prediction for one in judged]
    shared = {
        "task": task.task,
        "family": task.family,
        "shots": shots,
        "item": [one.item for one in predictions],
        "group": [one.group for one in judged],
        "demonstration_set": [one.demonstration_set for one in judged],
        "prompt": [one.prompt for one in judged],
        "prediction": [one.text for one in predictions],
        "log_likelihoods": [json.dumps(one.log_likelihoods) if one.choices else "" for one in predictions],
        "reference": [_reference(one) for one in predictions],
    }
    return pandas.concat(
        [
            pandas.DataFrame({**shared, "metric": metric.type, "primary": metric.type == task.primary, "score": metric.score(predictions)})
            for metric in task.metrics
        ],
        ignore_index=True,
    )[COLUMNS]


def _reference(prediction: Prediction) -> str:
    if prediction.choices and prediction.correct is not None:
        return prediction.choices[prediction.correct]
    return prediction.references[0] if len(prediction.references) == 1 else json.dumps(prediction.references)


def summarise(items: pandas.DataFrame) -> dict[str, float]:
    """Means over items, times 100, by metric name.

    `shot_8/<task>` is an image task's primary metric, `shot_8/<task>.<metric>` another of its metrics, `shot_8/average` the mean of
    the primary metrics over image tasks, each counting alike. Text tasks are `text_core/<task>` and `text_core/average`.
    """
    scores: dict[str, float] = {}
    averaged: dict[str, list[float]] = {}
    keys = ["family", "shots", "task", "metric", "primary"]
    means = 100 * items.groupby(keys, sort=False)["score"].mean()
    for (family, shots, task, metric, primary), mean in zip(means.index.tolist(), means, strict=True):
        suite = "text_core" if family == "text" else f"shot_{shots}"
        scores[f"{suite}/{task}" if primary else f"{suite}/{task}.{metric}"] = float(mean)
        if primary:
            averaged.setdefault(suite, []).append(float(mean))
    return scores | {f"{suite}/average": sum(own) / len(own) for suite, own in averaged.items()}
