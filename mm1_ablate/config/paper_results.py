"""Numbers that the paper gives for arms like those of a sweep: which table, which row, which of our metrics.

In: `paper` of a sweep, and `mm1_ablate/config/mm1_results.yaml`. Out: the arms that have a counterpart in the paper and the numbers of
each, or what is wrong by place in the sweep file; and the lessons' own numbers, where `expect` says nothing of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import model_validator

from mm1_ablate.config.errors import Diagnostic, did_you_mean
from mm1_ablate.config.metric_name import AVERAGE, TEXT_CORE, MetricName
from mm1_ablate.config.settings import SettingError, Settings
from mm1_ablate.config.sweep.declaration import Expectation, Sweep
from mm1_ablate.config.yaml_file import read

RESULTS = Path(__file__).resolve().with_name("mm1_results.yaml")


class Table(Settings):
    """A table of the paper. A column is a metric if it is an average over tasks, such as shot_8 (or 8-shot) or text_core (or TextCore), or
    stands behind the column `shots`."""

    title: str
    about: str = ""
    label: str
    """What a row is called, of its columns: '{connector} {image_size} px'."""
    columns: list[str]
    rows: list[list[float | str]]

    @model_validator(mode="after")
    def _rows_fill_the_columns(self) -> Table:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise SettingError(f"rows.{index}", f"has {len(row)} cells, not one for each of the {len(self.columns)} columns")
        return self

    def numbers(self) -> dict[str, dict[str, float]]:
        """By label, the metrics of a row by our names, on a scale of 0 to 100; in the order of the paper."""
        numbers: dict[str, dict[str, float]] = {}
        for row in self.rows:
            cells = dict(zip(self.columns, row, strict=True))
            numbers.setdefault(self._label(cells), {}).update(self._metrics(cells))
        return numbers

    def _label(self, cells: Mapping[str, float | str]) -> str:
        return re.sub(r"\{([^}]*)\}", lambda match: _text(cells[match[1]]), self.label)

    def _metrics(self, cells: Mapping[str, float | str]) -> dict[str, float]:
        if "shots" in cells:
            tasks = self.columns[self.columns.index("shots") + 1 :]
            return {str(MetricName(f"shot_{_text(cells['shots'])}", task)): float(cells[task]) for task in tasks}
        return {str(metric): float(cells[column]) for column in self.columns if (metric := _average(column))}


class PaperResults(Settings):
    published: str
    """By whom."""
    tables: dict[str, Table]


@cache
def results() -> PaperResults:
    """The paper's numbers."""
    return read(RESULTS, PaperResults)[0]


@dataclass(frozen=True)
class Counterparts:
    """The rows of one table that arms of a sweep correspond to."""

    table: str
    rows: Mapping[str, str]
    """By arm, the label of its row; in the order of the paper."""

    def numbers(self, arm: str) -> Mapping[str, float]:
        """What the paper gives for an arm; empty where it has no counterpart."""
        return results().tables[self.table].numbers()[self.rows[arm]] if arm in self.rows else {}

    def to_json(self) -> dict[str, Any]:
        """The paper's numbers by arm, as plain JSON values."""
        rows = [{"arm": arm, "row": label, "metrics": dict(self.numbers(arm))} for arm, label in self.rows.items()]
        return {"table": self.table, "rows": rows}


def counterparts(sweep: Sweep, arms: Collection[str], complete: bool, baseline: str) -> tuple[Counterparts | None, list[Diagnostic]]:
    """The rows of the paper that arms of a sweep correspond to, and what is wrong with what it says of them.

    Args:
        arms: names of the arms that may be meant, baselines included.
        complete: whether all arms are known; if some could not be made, an unknown name says nothing.
        baseline: what the sweep's own baseline is called in the study, whatever the file calls it.
    """
    declared = sweep.paper
    if declared is None:
        return None, []
    tables = results().tables
    if declared.table not in tables:
        message = f"there is no table '{declared.table}'; expected one of {', '.join(tables)}"
        return None, [Diagnostic(("paper", "table"), message, did_you_mean(declared.table, tables))]
    labels = tables[declared.table].numbers()
    found, rows = [], {}
    for name in arms:
        called = [label for label in labels if f"/{name}".endswith(f"/{label}")]
        if called:
            rows[name] = max(called, key=len)
    for name, label in declared.rows.items():
        arm = baseline if name == "baseline" else name
        if arm not in arms:
            if complete:
                found.append(Diagnostic(("paper", "rows", name), f"there is no arm '{name}'", did_you_mean(name, arms), at_key=True))
        elif label not in labels:
            message = f"{declared.table} has no row '{label}'; its rows are {', '.join(labels)}"
            found.append(Diagnostic(("paper", "rows", name), message, did_you_mean(label, labels)))
        else:
            rows[arm] = label
    if not rows and complete and not found:
        message = f"no arm has the name of a row of {declared.table}; the rows are {', '.join(labels)}; name the row of each arm in 'rows'"
        found.append(Diagnostic(("paper",), message, at_key=True))
    order = {label: place for place, label in enumerate(labels)}
    return Counterparts(declared.table, dict(sorted(rows.items(), key=lambda row: order[row[1]]))), found


def with_numbers(expected: Expectation, known: Sequence[Counterparts], baseline: str) -> Expectation:
    """An expectation that says nothing of the paper, with the paper's numbers on it where both of its arms are there.

    Args:
        baseline: of the arm that is expected to differ.
    """
    if expected.paper:
        return expected
    than = expected.than or baseline
    for one in known:
        ours, theirs = one.numbers(expected.arm), one.numbers(than)
        if expected.metric in ours and expected.metric in theirs:
            numbers = f"{ours[expected.metric]:.1f} against {theirs[expected.metric]:.1f} {_where(expected.metric)}"
            return expected.model_copy(update={"paper": f"{one.rows[expected.arm]} against {one.rows[than]}: {numbers}"})
    return expected


def _where(metric: str) -> str:
    """'at 8 shots', 'on TextCore', 'on coco at 8 shots'."""
    parsed = MetricName.parse(metric)
    task = "" if parsed.name == AVERAGE else f"on {parsed.name} "
    return f"on {parsed.suite_title}" if parsed.suite == TEXT_CORE else f"{task}at {parsed.shots} shots"


def _average(column: str) -> MetricName | None:
    """The average over tasks that a column is."""
    try:
        metric = MetricName.parse(f"{column}/{AVERAGE}")
    except ValueError:
        return None
    return None if metric.is_loss else metric


def _text(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float | int) else value
