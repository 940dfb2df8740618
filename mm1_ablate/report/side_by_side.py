"""Several studies in one table: arms of all of them, where they were measured alike.

In: studies and their comparisons. Out: one comparison with the arms of all, each judged within its own study; or why they cannot stand in
one table, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

from mm1_ablate.config.errors import listed
from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.differences import leaves, since_in_words
from mm1_ablate.report.cells import ArmRow, Cell, Hole
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.task_scores import TaskScore, TaskScores

MOST_SETTINGS = 4
"""Settings that differ which a refusal names."""
T = TypeVar("T")


@dataclass(frozen=True)
class Side:
    """A study beside others."""

    study: Study
    comparison: StudyComparison

    @property
    def name(self) -> str:
        return self.study.name


def refusals(sides: Sequence[Side]) -> list[str]:
    """Why studies cannot stand in one table, a line for each reason; empty where they can."""
    names = [side.name for side in sides]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        return [f"{listed(repeated, MOST_SETTINGS)} is named more than once: give each study once"]
    return list(chain.from_iterable(_against(sides[0], other) for other in sides[1:]))


def _against(first: Side, other: Side) -> Iterable[str]:
    ours, theirs = first.study.arms[0].experiment, other.study.arms[0].experiment
    both = f"'{other.name}' and '{first.name}' cannot be compared"
    if changed := since_in_words(ours, theirs):
        yield f"{both}: another baseline: {listed(changed, MOST_SETTINGS)}"
    old, new = leaves(ours.evaluation), leaves(theirs.evaluation)
    evaluated = [f"evaluation.{path} {old.get(path)}, now {new.get(path)}" for path in {**old, **new} if old.get(path) != new.get(path)]
    items = [side.comparison.rows[0].costs.get("evaluation items") for side in (first, other)]
    if evaluated:
        yield f"{both}: other items or another way to ask them: {listed(evaluated, MOST_SETTINGS)}"
    elif first.study.evaluation_digest(first.study.arms[0].name) != other.study.evaluation_digest(other.study.arms[0].name):
        yield f"{both}: other items: their tasks have changed"
    elif all(items) and items[0] != items[1]:
        yield f"{both}: other items: {items[0].value} and {items[1].value}"  # type: ignore[union-attr]
    judged = [(side.comparison.primary, side.comparison.confidence, side.comparison.margin) for side in (first, other)]
    if judged[0] != judged[1]:
        words = [f"{metric_title(primary)}, at {confidence:g}, ±{margin:g}" for primary, confidence, margin in judged]
        yield f"{both}: their verdicts are about other things: {words[1]}, and {words[0]}"


def joined(sides: Sequence[Side]) -> StudyComparison:
    """One comparison: the first study's baseline, and the arms of all under the names of their studies.

    Differences are those from an arm's own baseline at its own seeds, and verdicts are corrected within the arm's own study. A baseline
    whose trials are those of the first study stands in the table once.
    """
    parts = [_renamed(side, sides[0]) for side in sides]
    first = parts[0]
    metrics = _once(metric for part in parts for metric in part.metrics)
    all_metrics = _once([*metrics, *(metric for part in parts for metric in part.all_metrics)])
    rows = {row.name: row for part in parts for row in part.rows}
    scales = {metric: part.scale(metric) for part in reversed(parts) for metric in part.all_metrics}
    empty = {metric: Cell(float("nan"), float("nan"), 0, scale=scales[metric]) for metric in all_metrics}
    filled = [replace(row, cells={metric: row.cells.get(metric, empty[metric]) for metric in all_metrics}) for row in rows.values()]
    remarks = [f"{side.name}: {remark}" for side, part in zip(sides, parts, strict=True) for remark in part.remarks]
    seeds = {part.seeds for part in parts}
    about = ["Each arm is compared with the baseline of its own study, at its own seeds, and its verdict is corrected within that study."]
    about += ["The studies have other seeds, so scores of one are not paired with those of another."] if len(seeds) > 1 else []
    return replace(
        first,
        study=" and ".join([", ".join(side.name for side in sides[:-1]), sides[-1].name]),
        description="",
        metrics=metrics,
        all_metrics=all_metrics,
        seeds=_once(seed for part in parts for seed in part.seeds),
        families={f"{side.name}: {name}": size for side in sides for name, size in side.comparison.families.items()},
        rows=tuple(filled),
        holes=_once(hole for part in parts for hole in part.holes),
        expectations=tuple(chain.from_iterable(part.expectations for part in parts)),
        withdrawn=tuple(chain.from_iterable(part.withdrawn for part in parts)),
        effects=tuple(chain.from_iterable(part.effects for part in parts)),
        held_constant=tuple(title for title in first.held_constant if all(title in part.held_constant for part in parts)),
        descriptions={name: text for part in parts for name, text in part.descriptions.items()},
        remarks_on_declarations=tuple(
            f"{side.name}: {remark}" for side, part in zip(sides, parts, strict=True) for remark in part.remarks_on_declarations
        ),
        remarks=(*about, *remarks),
        data_losses=_once(loss for part in parts for loss in part.data_losses),
        tasks=_tasks(parts),
        published=(),
        detectable=float("nan"),
        looks=first.looks if len({part.looks for part in parts}) == 1 else None,
        false_verdicts=None,
    )


def _once(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _renamed(side: Side, first: Side) -> StudyComparison:
    """A comparison whose arms have the study before their names, and whose baseline is the first study's where it is the same trials."""
    baseline, other = side.study.arms[0].name, first.study.arms[0].name
    trials = [{trial.evaluation_fingerprint for trial in one.study.trials_of(one.study.arms[0].name)} for one in (side, first)]
    shared = side is first or trials[0] == trials[1]

    def name(arm: str) -> str:
        return other if arm == baseline and shared else f"{side.name}/{arm}"

    comparison = side.comparison

    def renamed(row: ArmRow) -> ArmRow:
        group = row.group if row.name == baseline else f"{side.name}/{row.group}"
        return replace(row, name=name(row.name), baseline=name(row.baseline), group=group)

    return replace(
        comparison,
        rows=tuple(renamed(row) for row in comparison.rows if row.name != baseline or not shared or side is first),
        holes=tuple(Hole(name(hole.arm), hole.seed, hole.reason) for hole in comparison.holes),
        effects=tuple(replace(effect, group=f"{side.name}/{effect.group}") for effect in comparison.effects),
        descriptions={f"{side.name}/{group}": text for group, text in comparison.descriptions.items()},
        tasks=TaskScores({column: _columns(score, name) for column, score in comparison.tasks.columns.items()}, comparison.tasks.unasked),
    )


def _columns(score: TaskScore, name: Callable[[str], str]) -> TaskScore:
    items = {name(arm): count for arm, count in score.items.items()}
    return replace(score, items=items, bounds={name(arm): bounds for arm, bounds in score.bounds.items()})


def _tasks(parts: Sequence[StudyComparison]) -> TaskScores:
    columns: dict[str, TaskScore] = {}
    for part in parts:
        for column, score in part.tasks.columns.items():
            known = columns.setdefault(column, score)
            columns[column] = replace(known, items={**known.items, **score.items}, bounds={**known.bounds, **score.bounds})
    return TaskScores(columns, _once(one for part in parts for one in part.tasks.unasked))
