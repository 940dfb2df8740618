"""Items that two arms answered differently. In: the item scores of a trial of each. Out: counts by task and shots, and examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mm1_ablate.config.settings import UnknownType
from mm1_ablate.evaluation.metrics import Metric, metric_class
from mm1_ablate.evaluation.scores import ids_of_line, references_of
from mm1_ablate.report.metric_info import Scale, scale_of

KEYS = ["task", "family", "shots", "evaluation_seed", "item", "metric"]
SHOWN = ["prediction", "log_likelihoods", "demonstration_set", "prompt", "reference", "score"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one arm was asked and said.

    Attributes:
        prompt: the question as people read it, without its demonstrations.
        demonstrations: their ids, in order.
        score: on the scale of tables.
        log_likelihoods: of each choice, in nats; empty where text is generated.
    """

    prompt: str
    demonstrations: tuple[str, ...]
    text: str
    score: float
    log_likelihoods: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """An item that both arms answered.

    Attributes:
        metric: the type of the metric that scores are of.
        references: the accepted answers; of a choice the right one.
    """

    task: str
    shots: int
    evaluation_seed: int
    item: str
    metric: str
    references: tuple[str, ...]
    first: Answer
    second: Answer
    scale: Scale

    @property
    def first_is_better(self) -> bool:
        return self.scale.is_better(self.first.score - self.second.score)

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("first", "second", "scale")}
        answers = {
            name: {field: getattr(one, field) for field in one.__slots__} for name, one in (("first", self.first), ("second", self.second))
        }
        return {**plain, **answers}


@dataclass(frozen=True, slots=True)
class Count:
    """How often which of two arms is better, on a task at a number of shots.

    Attributes:
        items: that both could be judged by; with demonstrations an item counts once for each evaluation seed.
        not_judged: that at least one could not be evaluated.
        first_score, second_score: aggregates over these items, on the scale of tables.
    """

    task: str
    shots: int
    metric: str
    items: int
    first_better: int
    second_better: int
    not_judged: int
    first_score: float
    second_score: float
    scale: Scale

    @property
    def equal(self) -> int:
        return self.items - self.first_better - self.second_better

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "scale"}
        return {**plain, "equal": self.equal}


def side_by_side(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """A row for each item of a task that both were asked, at each number of shots and evaluation seed, under the task's first metric.
    Without demonstrations evaluation seeds are alike, and there is one row for all.

    Args:
        first, second: item scores of a trial each, in the columns of `evaluation.scores.COLUMNS`.

    Returns:
        The columns KEYS, those of SHOWN twice (with `_first` and `_second`), and `gain`: how much better the first is, on the scale of
        tables; NaN where one of them has no score.
    """
    parts = [table[(table["family"] != "loss") & table["primary"].astype(bool)][KEYS + SHOWN] for table in (first, second)]
    both = parts[0].merge(parts[1], on=KEYS, suffixes=("_first", "_second"), sort=False)
    again = both.duplicated([key for key in KEYS if key != "evaluation_seed"])
    alone = (both["demonstration_set_first"] == "") & (both["demonstration_set_second"] == "")
    both = both[~(again & alone)].reset_index(drop=True)
    gain = pd.Series(float("nan"), index=both.index)
    for (family, metric), rows in both.groupby(["family", "metric"], sort=False):
        scale = scale_of(str(family), str(metric))
        points = scale.points if scale.higher_is_better else -scale.points
        gain[rows.index] = (rows["score_first"] - rows["score_second"]) * points
    return both.assign(gain=gain)


def counts(both: pd.DataFrame) -> list[Count]:
    """By task and number of shots, in the order in which they were asked.

    Args:
        both: see `side_by_side`.
    """
    found = []
    for (task, shots, family, metric), rows in both.groupby(["task", "shots", "family", "metric"], sort=False):
        judged = rows[rows["gain"].notna()]
        scores = [_aggregate(str(family), str(metric), judged[f"score_{which}"]) for which in ("first", "second")]
        found.append(
            Count(
                task=str(task),
                shots=int(str(shots)),
                metric=str(metric),
                items=len(judged),
                first_better=int((judged["gain"] > 0).sum()),
                second_better=int((judged["gain"] < 0).sum()),
                not_judged=len(rows) - len(judged),
                first_score=scores[0],
                second_score=scores[1],
                scale=scale_of(str(family), str(metric)),
            )
        )
    return found


def _aggregate(family: str, metric: str, scores: pd.Series) -> float:
    try:
        rule = metric_class(metric)
    except UnknownType:
        rule = Metric
    return float(rule.aggregate(scores.tolist()) * scale_of(family, metric).points)


def differing(both: pd.DataFrame, number: int, seed: int) -> list[Example]:
    """Items on which one arm is better, equally many for either as far as there are.

    Tasks take turns, as differences of one say nothing beside those of another; of each task those with the largest difference come
    first, and of equal ones those that `seed` draws. What comes back has first those where the first is better, and in each half the
    largest differences first.

    Args:
        both: see `side_by_side`.
        number: of examples, at most.
    """
    better = [_in_turn(both[both["gain"] > 0], seed), _in_turn(both[both["gain"] < 0], seed)]
    half = number // 2
    most = [min(len(better[0]), max(number - half, number - len(better[1]))), 0]
    most[1] = min(len(better[1]), number - most[0])
    found = []
    for table, count in zip(better, most, strict=True):
        taken = table.head(count)
        in_order = taken.loc[taken["gain"].abs().sort_values(ascending=False, kind="stable").index]
        found += [_example(row) for row in in_order.to_dict("records")]
    return found


def _in_turn(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The best example of each task, the second best of each, and so on."""
    drawn = [_drawn(seed, *key) for key in rows[["task", "shots", "evaluation_seed", "item"]].itertuples(index=False)]
    ordered = rows.assign(size=rows["gain"].abs().round(9), drawn=drawn).sort_values(["size", "drawn"], ascending=[False, True])
    return ordered.assign(turn=ordered.groupby("task").cumcount()).sort_values("turn", kind="stable")


def _drawn(seed: int, *key: object) -> str:
    """A pure function of the item, so that other examples do not move where items are added."""
    return hashlib.sha256("\x1f".join(map(str, (seed, *key))).encode()).hexdigest()


def _example(row: dict[Any, Any]) -> Example:
    scale = scale_of(row["family"], row["metric"])
    answers = [
        Answer(
            str(row[f"prompt_{which}"]),
            ids_of_line(str(row[f"demonstration_set_{which}"])),
            str(row[f"prediction_{which}"]),
            float(row[f"score_{which}"]) * scale.points,
            tuple(json.loads(row[f"log_likelihoods_{which}"] or "[]")),
        )
        for which in ("first", "second")
    ]
    return Example(
        task=row["task"],
        shots=int(row["shots"]),
        evaluation_seed=int(row["evaluation_seed"]),
        item=str(row["item"]),
        metric=row["metric"],
        references=references_of(str(row["reference_first"])),
        first=answers[0],
        second=answers[1],
        scale=scale,
    )


def margin(log_likelihoods: Sequence[float], correct: int) -> float | None:
    """By how many nats the right choice is likelier than the likeliest wrong one; None without a wrong one."""
    others = [value for place, value in enumerate(log_likelihoods) if place != correct]
    return log_likelihoods[correct] - max(others) if others and correct < len(log_likelihoods) else None
