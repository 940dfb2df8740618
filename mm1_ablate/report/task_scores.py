"""The basis of each task's score: number of items, floor (chance baseline) and ceiling.

In: a study and its item scores. Out: a `TaskScore` for each column such as shot_8/vqa, and the items that could not be evaluated. Floors
and ceilings follow from the items alone, so they are the same for all arms that were asked the same ones, and are remembered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.metric_name import MetricName
from mm1_ablate.config.study import Study
from mm1_ablate.config.task_record import Task
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.evaluation.chance_baselines import RULE, ceiling, chance_baseline
from mm1_ablate.evaluation.metrics import Metric, Prediction
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.evaluation.scores import metrics_of, references_of, split_references
from mm1_ablate.report.metric_info import Scale, scale_of
from mm1_ablate.version import __version__

KEYS = ["family", "shots", "task", "metric", "primary"]
NAMED = 3
"""Number of items without a score whose ids are given."""


@dataclass(frozen=True, slots=True)
class ScoreBounds:
    """Bounds of a task's score. None: unknown, or undefined.

    Attributes:
        floor: what needs no image and no question; on the scale of tables, as the ceiling.
        answer: the constant answer or choice that scores the floor; empty for a random choice.
        ceiling: what no model can surpass.
    """

    floor: float | None = None
    answer: str = ""
    ceiling: float | None = None


@dataclass(frozen=True)
class TaskScore:
    """What a column of the table stands on.

    Attributes:
        column: its name among the results, such as shot_8/vqa.
        rule: the type of its metric.
        items: by arm, over how many items its score is; where seeds differ, the fewest.
        bounds: by arm; of arms that were asked the same items they are the same.
    """

    column: str
    family: str
    task: str
    shots: int
    rule: str
    primary: bool
    scale: Scale
    items: Mapping[str, int]
    bounds: Mapping[str, ScoreBounds] = field(default_factory=dict)

    @property
    def usual(self) -> ScoreBounds:
        """Those of the first arm that has any."""
        return next(iter(self.bounds.values()), ScoreBounds())

    def lacks(self, arm: str) -> int:
        """How many items fewer than in the arm with most of them."""
        return max(self.items.values()) - self.items[arm] if arm in self.items else 0

    def is_below_floor(self, arm: str, mean: float) -> bool:
        """Whether a score is worse than what needs no image and no question."""
        least = self.bounds.get(arm, ScoreBounds()).floor
        return least is not None and self.scale.is_better(least - mean)


@dataclass(frozen=True, slots=True)
class UnscoredItems:
    """Items of a task that could not be evaluated, for one reason."""

    task: str
    reason: str
    count: int
    """In the trial that met most of them."""
    arms: tuple[str, ...]
    examples: tuple[str, ...]
    """The first of them."""

    def in_words(self) -> str:
        return f"{self.task}: {self.count:,} {self.reason} (first: {', '.join(self.examples)})"


@dataclass(frozen=True)
class TaskScores:
    """All columns, by name, and the items that could not be evaluated."""

    columns: Mapping[str, TaskScore] = field(default_factory=dict)
    unasked: tuple[UnscoredItems, ...] = ()

    def uneven_in_words(self) -> tuple[str, ...]:
        """A sentence on what is scored over fewer items in one arm than in another, if anything is."""
        found: dict[str, list[str]] = {}
        for column in self.columns.values():
            fewer = [f"{count:,} in {arm}" for arm, count in column.items.items() if column.lacks(arm)]
            if fewer:
                found.setdefault(f"{max(column.items.values()):,} items, but {', '.join(fewer)}", []).append(column.column)
        told = "; ".join(f"{', '.join(columns)} over {counts}" for counts, columns in found.items())
        return (f"⚑ Scored over fewer items in some arms than in others: {told}.",) if told else ()

    def to_json(self) -> dict[str, Any]:
        def one(column: TaskScore) -> dict[str, Any]:
            bounds = {arm: {"floor": own.floor, "answer": own.answer, "ceiling": own.ceiling} for arm, own in column.bounds.items()}
            return {"task": column.task, "metric": column.rule, "items": dict(column.items), "bounds": bounds}

        return {
            "columns": {name: one(column) for name, column in self.columns.items()},
            "unasked": [{name: getattr(one, name) for name in ("task", "reason", "count", "arms", "examples")} for one in self.unasked],
        }


def task_scores(study: Study, items: pd.DataFrame | None, remembered: MutableMapping[str, Any] | None = None) -> TaskScores:
    """What each task's score stands on.

    Args:
        items: item scores of all arms and seeds, in the columns of `evaluation.scores.COLUMNS` with arm and seed. What older or made-up
            tables lack is not told.
        remembered: floors and ceilings by what they follow from; what is computed is added.
    """
    if items is None or items.empty or not {*KEYS, "arm", "seed", "item", "score"} <= set(items.columns):
        return TaskScores()
    counted = items[items["score"].notna()].groupby([*KEYS, "arm", "seed"], sort=False, observed=True)["item"].nunique()
    fewest: dict[tuple[Any, ...], dict[str, int]] = {}
    by_arm_and_column = counted.groupby([*KEYS, "arm"], sort=False, observed=True).min().reset_index()
    for *column, arm, count in by_arm_and_column.itertuples(index=False):
        fewest.setdefault(tuple(column), {})[str(arm)] = int(count)
    bounds = _bounds(study, items, {} if remembered is None else remembered)
    order = {arm.name: place for place, arm in enumerate(study.arms)}
    columns = {}
    for key, by_arm in fewest.items():
        family, shots, task, rule, primary = str(key[0]), int(key[1]), str(key[2]), str(key[3]), bool(key[4])
        name = str(MetricName.of_task(family, shots, task, rule, primary))
        own = dict(sorted(by_arm.items(), key=lambda entry: order.get(entry[0], len(order))))
        scale = scale_of(family, rule)
        columns[name] = TaskScore(name, family, task, shots, rule, primary, scale, own, bounds.get((family, shots, task, rule), {}))
    return TaskScores(columns, _unasked(items, list(order)))


def _unasked(items: pd.DataFrame, arms: Sequence[str]) -> tuple[UnscoredItems, ...]:
    if "problem" not in items:
        return ()
    bad = items.loc[items["problem"].fillna("") != "", ["arm", "seed", "task", "item", "problem"]].drop_duplicates()
    bad = bad.assign(reason=bad["problem"].map(lambda problem: str(problem).partition(": ")[0]))
    found = []
    for (task, reason), rows in bad.groupby(["task", "reason"], sort=False):
        most = int(rows.groupby(["arm", "seed"])["item"].nunique().max())
        examples = tuple(str(item) for item in rows["item"].drop_duplicates()[:NAMED])
        met = set(rows["arm"])
        found.append(UnscoredItems(str(task), str(reason), most, tuple(arm for arm in arms if arm in met), examples))
    return tuple(sorted(found, key=lambda one: (one.task, -one.count, one.reason)))


# ---------------------------------------------------------------- floors and ceilings
def _bounds(
    study: Study, items: pd.DataFrame, remembered: MutableMapping[str, Any]
) -> dict[tuple[str, int, str, str], dict[str, ScoreBounds]]:
    """By family, shots, task and metric, the bounds of each arm."""
    if not {"problem", "reference", "log_likelihoods", "evaluation_seed"} <= set(items.columns):
        return {}
    records = _records(study)
    first = items[(items["problem"].fillna("") == "") & (items["family"] != "loss")]
    first = first[first["seed"] == first.groupby("arm")["seed"].transform("first")]
    first = first[first["evaluation_seed"] == first.groupby("arm")["evaluation_seed"].transform("first")]
    found: dict[tuple[str, int, str, str], dict[str, ScoreBounds]] = {}
    by_items: dict[tuple[Any, ...], ScoreBounds] = {}
    groups: Any = first.groupby(["arm", "family", "shots", "task", "metric"], sort=False)
    order = {arm.name: place for place, arm in enumerate(study.arms)}
    in_order = sorted(groups, key=lambda group: order.get(group[0][0], len(order)))
    for (arm, family, shots, task_name, rule), rows in in_order:
        evaluation, tasks = records[str(arm)]
        task = tasks.get(str(task_name))
        metric = next((metric for metric in metrics_of(task, evaluation) if metric.type == rule), None) if task else None
        if task is None or metric is None or (metric.floor == "none" and metric.ceiling == "none"):
            continue
        # The same questions at every number of shots and in nearly every arm.
        asked = [*rows["item"], *rows["reference"], *rows["log_likelihoods"].str.count(",").astype(str), *map(str, _correct(rows))]
        key = (_evaluation(evaluation), str(task_name), str(rule), _digest(asked))
        if key not in by_items:
            by_items[key] = _computed(metric, task, evaluation, rows, remembered)
        found.setdefault((str(family), int(shots), str(task_name), str(rule)), {})[str(arm)] = by_items[key]
    return found


def _records(study: Study) -> dict[str, tuple[Evaluation, dict[str, Task]]]:
    """By arm, how it was evaluated; without tasks whose records are missing now."""
    loaded: dict[str, dict[str, Task]] = {}
    for arm in study.arms:
        evaluation = arm.experiment.evaluation
        if _evaluation(evaluation) not in loaded:
            try:
                loaded[_evaluation(evaluation)] = {task.task: task for task in load_tasks(evaluation)}
            except (LookupError, ValueError, FileErrors):
                loaded[_evaluation(evaluation)] = {}
    return {arm.name: (arm.experiment.evaluation, loaded[_evaluation(arm.experiment.evaluation)]) for arm in study.arms}


def _evaluation(evaluation: Evaluation) -> str:
    return evaluation.model_dump_json()


def _computed(metric: Metric, task: Task, evaluation: Evaluation, rows: pd.DataFrame, remembered: MutableMapping[str, Any]) -> ScoreBounds:
    """The bounds of items: remembered, or computed and added to what is remembered."""
    chooses = task.kind == "choose"
    predictions = [
        _choice(str(item), reference, likelihoods, correct) if chooses else Prediction(str(item), "", references_of(reference))
        for item, reference, likelihoods, correct in zip(
            rows["item"], rows["reference"], rows["log_likelihoods"], _correct(rows), strict=True
        )
    ]
    settings = json.dumps([__version__, RULE, metric.model_dump(mode="json"), metric.floor, metric.ceiling])
    told = [json.dumps([one.item, one.references, one.choices, one.correct]) for one in predictions]
    try:
        of_split: list[str] = []
        if metric.wants_split_references:
            of_split = [evaluation.split, str(evaluation.seed), task.items.model_dump_json(), task.items.contents(evaluation.split)]
        key = _digest([settings, *sorted(told), *of_split])
        if key not in remembered:
            split = split_references(task, evaluation) if metric.wants_split_references else None
            least = chance_baseline(metric, predictions, split)
            highest = ceiling(metric, predictions, split)
            remembered[key] = {"floor": least.value if least else None, "answer": least.answer if least else "", "ceiling": highest}
    except (OSError, ValueError, LookupError):
        return ScoreBounds()  # annotation files that are not on this machine
    return ScoreBounds(**remembered[key])


def _correct(rows: pd.DataFrame) -> list[int | None]:
    """The position of the correct choice of each item; None where there are no choices, or in tables of earlier versions."""
    if "correct" not in rows:
        return [None] * len(rows)
    return [None if pd.isna(value) else int(value) for value in rows["correct"]]


def _choice(item: str, reference: str, likelihoods: str, correct: int | None) -> Prediction:
    """What of an item floors look at: how many choices there are, and which one is right."""
    choices = [str(number) for number in range(len(json.loads(likelihoods)))] if likelihoods else []
    if correct is None:
        return Prediction(item, "", (reference,), tuple(choices))
    choices[correct] = reference
    return Prediction(item, "", (), tuple(choices), correct)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()
