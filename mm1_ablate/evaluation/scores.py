"""Predictions in a table, the scores of items in a long table, and the numbers that a study compares. No torch.

Predictions hold all that metrics need, so that changed metrics score them again without a model: `scored(predictions, tasks)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeVar

import numpy
import pandas
from numpy.typing import NDArray

from mm1_ablate.config.evaluation import Evaluation, TaskGroup
from mm1_ablate.config.metric_name import AVERAGE, PROBABILITY, MetricName, suite_of
from mm1_ablate.config.task_record import Task
from mm1_ablate.evaluation.metrics import Metric, Prediction, References, metric_class
from mm1_ablate.evaluation.metrics.probability import Probability

ASKED = [
    "task", "family", "shots", "evaluation_seed", "place", "item", "group", "demonstration_set", "set_number", "replaced", "prompt",
    "problem", "prediction", "correct",
]  # fmt: skip
LISTS = [field.name for field in fields(Prediction) if field.name not in ("item", "text", "correct")]
"""Fields of a prediction that are lists: JSON in a table."""
PREDICTION_COLUMNS = [*ASKED, *LISTS]
COLUMNS = [
    "task", "family", "shots", "evaluation_seed", "item", "group", "demonstration_set", "set_number", "replaced", "prompt", "problem",
    "prediction", "log_likelihoods", "reference", "correct", "metric", "primary", "score",
]  # fmt: skip
LOSS_COLUMNS = ["loss", "place", "document", "data_type", "nats", "tokens", "text_nats", "bytes", "problem"]
"""Of measured held-out documents, a row each."""


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """An item at a number of shots under an evaluation seed: what came out, or why it could not be asked.

    Attributes:
        place: the item's number in its task.
        demonstration_set: ids of the demonstrations, in order, with a space between (`ids_in_line`).
        set_number: which of several sets that is: see `demonstrations.assigned_sets`.
        replaced: demonstrations that could not be shown and why, with '; ' between.
        prompt: the question as people read it, without its demonstrations.
        problem: why it could not be asked; empty where there is a prediction.
    """

    shots: int
    evaluation_seed: int
    place: int
    item: str
    group: str
    demonstration_set: str
    set_number: int
    replaced: str
    prompt: str
    problem: str
    prediction: Prediction | None


def ids_in_line(ids: Sequence[str]) -> str:
    """Ids in one text, as the column `demonstration_set` has them: a space between, spaces inside an id as %20."""
    return " ".join(one.replace("%", "%25").replace(" ", "%20") for one in ids)


def ids_of_line(line: str) -> tuple[str, ...]:
    """The ids that `ids_in_line` wrote."""
    return tuple(one.replace("%20", " ").replace("%25", "%") for one in line.split(" ") if one)


def predictions_table(task: Task, asked: Sequence[ItemOutcome]) -> pandas.DataFrame:
    """A row for each item, number of shots and evaluation seed, columns as in `PREDICTION_COLUMNS`; lists are JSON."""
    rows = []
    for one in asked:
        row = {name: getattr(one, name) for name in ASKED if name not in ("task", "family", "prediction", "correct")}
        prediction = one.prediction or Prediction(one.item, "", ())
        lists = {name: json.dumps(getattr(prediction, name)) for name in LISTS}
        rows.append(
            {"task": task.task, "family": task.family, **row, "prediction": prediction.text, "correct": prediction.correct, **lists}
        )
    frame = pandas.DataFrame(rows, columns=PREDICTION_COLUMNS)
    return frame.astype({"correct": "Int64"})


def merged(parts: Sequence[pandas.DataFrame], tasks: Sequence[Task]) -> pandas.DataFrame:
    """The predictions of several processes in one table, in the order of one process: tasks, shots, evaluation seeds, items."""
    joined = pandas.concat(parts, ignore_index=True)
    order = {task.task: number for number, task in enumerate(tasks)}
    keys = joined[["task", "shots", "evaluation_seed", "place"]].assign(task=joined["task"].map(order))
    return joined.loc[keys.sort_values(list(keys.columns), kind="stable").index].reset_index(drop=True)


def predictions_of(table: pandas.DataFrame) -> list[Prediction]:
    """The predictions that rows of a table hold. Fields that an older table lacks have their defaults."""
    found = []
    kept = [name for name in LISTS if name in table.columns]
    for row in table.to_dict("records"):
        lists: dict[str, Any] = {name: _tuple(json.loads(row[name])) for name in kept}
        correct = None if pandas.isna(row["correct"]) else int(row["correct"])
        found.append(Prediction(item=row["item"], text=row["prediction"], correct=correct, **lists))
    return found


def _tuple(value: Any) -> Any:
    return tuple(_tuple(entry) for entry in value) if isinstance(value, list) else value


def scored(predictions: pandas.DataFrame, tasks: Sequence[Task], evaluation: Evaluation) -> pandas.DataFrame:
    """Item scores of predictions: a row for each metric and row of `predictions`, columns as in `COLUMNS`. Needs no model.

    Items that could not be asked or judged have no score (NaN). `log_likelihoods` is a JSON list (empty text where text is generated),
    `reference` the right choice, the only reference, or a JSON list of several, and `correct` the place of the right choice, from 0.
    """
    records = {task.task: task for task in tasks}
    references = cache(lambda name: split_references(records[name], evaluation))
    tables = []
    for (name, _, _), rows in predictions.groupby(["task", "shots", "evaluation_seed"], sort=False):
        task = records[str(name)]
        answered = rows["problem"] == ""
        own = predictions_of(rows[answered])
        shown = rows.assign(
            reference=pandas.Series([_reference(one) for one in own], index=rows.index[answered], dtype=object),
            log_likelihoods=rows["log_likelihoods"].where(rows["log_likelihoods"] != "[]", ""),
        )
        shown["reference"] = shown["reference"].fillna("")
        for metric in metrics_of(task, evaluation):
            found = metric.score(own, references(task.task) if metric.wants_split_references else None) if own else []
            scores = pandas.Series(found, index=rows.index[answered], dtype=float)
            answers = pandas.Series([metric.answer(one) for one in own], index=rows.index[answered], dtype=object)
            named = shown.assign(metric=metric.type, primary=metric.type == task.primary, score=scores, prediction=answers)
            tables.append(named.fillna({"prediction": ""})[COLUMNS])
    return pandas.concat(tables, ignore_index=True)


def metrics_of(task: Task, evaluation: Evaluation) -> list[Metric]:
    """What the items of a task are scored by: the metrics of its record, the primary one first, and what the evaluation adds."""
    return [*task.metrics, *([Probability()] if evaluation.probability else [])]


def item_scores(
    predictions: pandas.DataFrame, documents: pandas.DataFrame, tasks: Sequence[Task], evaluation: Evaluation
) -> pandas.DataFrame:
    """Item scores of predictions (`scored`), then those of measured held-out documents (`loss_items`); columns as in `COLUMNS`."""
    items = scored(predictions, tasks, evaluation)
    if documents.empty:
        return items
    empty = {column: "" for column in COLUMNS if items[column].dtype == object or pandas.api.types.is_string_dtype(items[column])}
    losses = loss_items(documents, evaluation.evaluation_seeds[0]).reindex(columns=COLUMNS).fillna({**empty, "set_number": 0})
    return pandas.concat([items, losses.astype({"set_number": int})], ignore_index=True)


def loss_items(documents: pandas.DataFrame, evaluation_seed: int) -> pandas.DataFrame:
    """Item scores of documents that `held_out_loss.measure` measured, in columns of `COLUMNS`, family "loss".

    The metrics are `loss`, in nats per token, and `bits_per_byte`.

    A score is a document's sum over the mean length of all documents, so that the mean of scores is the sum of all over the length of all.
    """
    tables = []
    for name, rows in documents.groupby("loss", sort=False):
        rows = rows.sort_values("place", kind="stable")
        measured = rows["problem"] == ""
        if not measured.any():
            raise ValueError(f"evaluation.losses.{name}: no document could be read: {'; '.join(rows['problem'].drop_duplicates()[:3])}")
        for metric, sums, lengths in (
            ("loss", rows["nats"], rows["tokens"]),
            ("bits_per_byte", rows["text_nats"] / math.log(2), rows["bytes"]),
        ):
            if not lengths[measured].sum():
                continue
            tables.append(
                pandas.DataFrame(
                    {
                        "task": name,
                        "family": "loss",
                        "shots": 0,
                        "evaluation_seed": evaluation_seed,
                        "item": rows["document"],
                        "group": rows["data_type"],
                        "problem": rows["problem"],
                        "metric": metric,
                        "primary": True,
                        "score": (sums / lengths[measured].mean()).where(measured),
                    }
                )
            )
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame()


def split_references(task: Task, evaluation: Evaluation) -> References:
    """The references of every item of the split that a task is asked about, asked or not."""
    items = task.items.open(split=evaluation.split, count=None, seed=evaluation.seed)
    return tuple(item.references for item in items.queries if item.references)


def _reference(prediction: Prediction) -> str:
    if prediction.choices and prediction.correct is not None:
        return prediction.choices[prediction.correct]
    return prediction.references[0] if len(prediction.references) == 1 else json.dumps(prediction.references)


def references_of(reference: str) -> tuple[str, ...]:
    """The references that the table of item scores holds: the only one, or several as a JSON list."""
    if reference.startswith("["):
        try:
            several = json.loads(reference)
        except ValueError:
            return (reference,)
        if isinstance(several, list) and len(several) != 1:
            return tuple(map(str, several))
    return (reference,)


def _aggregate(family: str, metric: str, own: pandas.DataFrame) -> float:
    """The number of tables for the items of a task under a metric: the mean over evaluation seeds; nan where none could be judged."""
    if family == "loss":  # held-out documents: their scores are made such that the mean is the ratio of totals
        return float(own["score"].mean())
    rule = metric_class(metric)
    found = [rule.aggregate(scores.tolist()) for _, scores in own.groupby("evaluation_seed", sort=False)["score"]]
    return rule.scale * math.fsum(found) / len(found)


def summarise(items: pandas.DataFrame, groups: Mapping[str, TaskGroup] | None = None) -> dict[str, float]:
    """The value of each metric over its items, times its scale (100 for all but perplexity and the like), by metric name.

    `shot_8/<task>` is an image task's primary metric, `shot_8/<task>.<metric>` another of its metrics, `shot_8/average` the mean of
    the primary metrics over image tasks, each counting alike, and `shot_8/<group>` the mean over the group's image tasks;
    `shot_8/average.probability` and `shot_8/<group>.probability` are the same means of the probability of the right answer. Text tasks are
    `text_core/<task>`, `text_core/average` and `text_core/<group>`; held-out documents `loss/<name>` and `bits_per_byte/<name>`. Metrics of
    another scale than 100 enter no average. Items without a score do not count.

    Raises:
        ValueError: where no item of a task has a score.
    """
    scores: dict[str, float] = {}
    averaged: dict[tuple[str, str], dict[str, float]] = {}
    keys = ["family", "shots", "task", "metric", "primary"]
    for (family, shots, task, metric, primary), own in items.groupby(keys, sort=False):
        value = _aggregate(str(family), str(metric), own)
        if math.isnan(value):
            reasons = "; ".join(own["problem"].drop_duplicates()[:3]).strip("; ")
            reasons = reasons or "none has a reference, or the model's results are not numbers"
            raise ValueError(f"task {task} at {shots} shots: no item has a score under {metric}: {reasons}")
        scores[str(MetricName.of_task(str(family), int(str(shots)), str(task), str(metric), bool(primary)))] = value
        if family == "loss":
            continue
        rule = "" if primary else str(metric)
        if rule in ("", PROBABILITY) and metric_class(str(metric)).scale == 100:
            averaged.setdefault((suite_of(str(family), int(str(shots)), str(metric)), rule), {})[str(task)] = value
    for (suite, rule), values in averaged.items():
        means = {AVERAGE: sum(values.values()) / len(values)}
        means |= {name: mean for name in groups or {} if (mean := group_mean(name, groups or {}, values)) is not None}
        scores |= {str(MetricName.of_average(suite, name, rule)): mean for name, mean in means.items()}
    return scores


Value = TypeVar("Value", float, NDArray[numpy.float64])


def group_mean(name: str, groups: Mapping[str, TaskGroup], values: Mapping[str, Value]) -> Value | None:
    """The weighted mean over a group's members; None where none of its tasks is in the suite.

    Args:
        values: by task of the suite that enters averages; numbers, or arrays of one shape.
    """
    group = groups[name]
    found: list[tuple[float, Value]] = []
    for member in group.tasks:
        value = group_mean(member, groups, values) if member in groups else values.get(member)
        if value is not None:
            found.append((group.weights.get(member, 1.0), value))
    if not found:
        return None
    total = found[0][0] * found[0][1]
    for weight, value in found[1:]:
        total = total + weight * value
    return total / sum(weight for weight, _ in found)
