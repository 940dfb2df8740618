"""Tables with more columns than a page has room for, as several that fit: of metrics by their suite, of what arms took and saw.

In: a `StudyComparison`. Out: the columns of each table, under a title.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from mm1_ablate.config.metric_name import AVERAGE, TEXT_CORE, MetricName, metric_title
from mm1_ablate.report.cells import ArmRow, amount
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.formats import DASH

MOST_METRICS, MOST_COSTS = 6, 7
"""Columns of a table, beside the arm."""
T = TypeVar("T")


def in_parts(columns: Sequence[T], most: int) -> list[Sequence[T]]:
    """Columns in parts of about the same size, as few as it takes: 8 of at most 6 are 4 and 4."""
    number = -(-len(columns) // most)
    ends = [round(len(columns) * place / number) for place in range(number + 1)] if number else []
    return [columns[start:end] for start, end in pairwise(ends)]


def metric_tables(metrics: Iterable[str]) -> list[tuple[str, Sequence[str]]]:
    """Metrics by their suite, under its title: 'TextCore', '0-shot, 4-shot'. Small suites share a table, of large ones there are parts."""
    suites: dict[str, list[str]] = {}
    for metric in in_order(metrics):
        suites.setdefault(MetricName.parse(metric).suite, []).append(metric)
    tables: list[tuple[str, Sequence[str]]] = []
    for suite, own in suites.items():
        title = metric_title(f"{suite}/{AVERAGE}").partition(" ")[0]
        if tables and len(tables[-1][1]) + len(own) <= MOST_METRICS:
            tables[-1] = (f"{tables[-1][0]}, {title}", [*tables[-1][1], *own])
        else:
            tables += [(title, part) for part in in_parts(own, MOST_METRICS)]
    return tables


def in_order(metrics: Iterable[str]) -> list[str]:
    """Metrics by their suite: TextCore, then shots from none to many, then losses."""
    return sorted(metrics, key=_place)


def _place(metric: str) -> tuple[int, int]:
    name = MetricName.parse(metric)
    return (0, 0) if name.suite == TEXT_CORE else (2, 0) if name.shots is None else (1, name.shots)


@dataclass(frozen=True)
class Costs:
    """What arms took and saw."""

    same: tuple[str, ...]
    """'image tokens 4': what all arms have in common."""
    tables: tuple[Sequence[str], ...]
    """The titles of the other measures, table by table."""


def costs_of(comparison: StudyComparison) -> Costs:
    titles = dict.fromkeys(title for row in comparison.rows for title in row.costs)
    shown = {title: {cost(row, title) for row in comparison.rows} for title in titles}
    same = tuple(f"{title} {next(iter(values))}" for title, values in shown.items() if len(values) == 1)
    return Costs(same, tuple(in_parts([title for title, values in shown.items() if len(values) > 1], MOST_COSTS)))


def cost(row: ArmRow, title: str) -> str:
    """A measure of an arm in words."""
    return amount(row.costs[title].value) if title in row.costs else DASH
