"""What has changed for the arms of one name: between two states of a study, or two stores.

In: a study with its results and its comparison, then and now. Out: a line for each arm: its scores then and now, the change with an
interval, its verdicts, and which settings and which code are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.differences import leaves, since_in_words
from mm1_ablate.report.cells import ArmRow
from mm1_ablate.report.comparison import StudyComparison
from mm1_ablate.report.formats import DASH, difference, number
from mm1_ablate.report.metric_info import Scale
from mm1_ablate.report.scores import Scores
from mm1_ablate.report.statistics import Estimate
from mm1_ablate.report.terminal import fit

NOW, THEN = "now/", "then/"


@dataclass(frozen=True)
class State:
    """A study at a time or in a store.

    Attributes:
        results, items: as in `comparison.compare`.
    """

    study: Study
    comparison: StudyComparison
    results: pd.DataFrame
    items: pd.DataFrame | None


@dataclass(frozen=True)
class ArmChange:
    """An arm then and now.

    Attributes:
        then, now: its rows; None where it was not there.
        changes: now less then, by metric; None where either has no score. Paired over the seeds that both have.
        settings: in what it is trained or evaluated otherwise, and by which other code.
        same_trials: whether the scores are those of the same trials.
    """

    name: str
    then: ArmRow | None
    now: ArmRow | None
    changes: dict[str, Estimate | None]
    settings: tuple[str, ...]
    same_trials: bool

    @property
    def verdict(self) -> str:
        """'worse', 'leaning → worse', 'joined: worse', 'left: worse'."""
        if self.now is None or self.then is None:
            return f"joined: {self.now.verdict}" if self.now else f"left: {self.then.verdict if self.then else DASH}"
        return self.now.verdict if self.now.verdict == self.then.verdict else f"{self.then.verdict} → {self.now.verdict}"


@dataclass(frozen=True)
class Since:
    """All arms of two states of a study.

    Attributes:
        metrics: of the table of now, the primary one among them.
    """

    study: str
    of: str
    """What it is compared with: 'commit 1f00ba47', 'the store /data/other'."""
    primary: str
    metrics: tuple[str, ...]
    scales: dict[str, Scale]
    arms: tuple[ArmChange, ...]

    def headline(self) -> str:
        """How many arms have another verdict, in one sentence."""
        both = [arm for arm in self.arms if arm.now and arm.then]
        other = [arm.name for arm in both if arm.now and arm.then and arm.now.verdict != arm.then.verdict]
        parts = [f"{len(other)} of {len(both)} arms have another verdict" + (f" ({', '.join(other)})" if 0 < len(other) < 7 else "")]
        for words, own in (("joined", [arm for arm in self.arms if not arm.then]), ("left", [arm for arm in self.arms if not arm.now])):
            parts += [f"{len(own)} {words}"] if own else []
        return f"{self.study} since {self.of} – {'; '.join(parts)}."

    def frame(self) -> pd.DataFrame:
        """A line for each arm and metric, unrounded."""
        lines = []
        for arm in self.arms:
            for metric in self.metrics:
                then, now = (row.cells.get(metric) if row else None for row in (arm.then, arm.now))
                change = arm.changes.get(metric)
                shown = change.shown if change else None
                lines.append(
                    {
                        "arm": arm.name,
                        "metric": metric,
                        "then": then.mean if then else float("nan"),
                        "now": now.mean if now else float("nan"),
                        "change": change.difference if change else float("nan"),
                        "low": shown.low if shown else float("nan"),
                        "high": shown.high if shown else float("nan"),
                        "verdict": arm.verdict if metric == self.primary else "",
                        "same_trials": arm.same_trials,
                        "settings": "; ".join(arm.settings) if metric == self.primary else "",
                    }
                )
        return pd.DataFrame(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what is unknown is null."""
        frame = self.frame()
        lines = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return {"study": self.study, "since": self.of, "arms": lines}

    def lines(self) -> list[list[str]]:
        """The table in words, in the columns of `titles`."""
        return [[arm.name, *(self._cell(arm, metric) for metric in self.metrics), arm.verdict, self._settings(arm)] for arm in self.arms]

    def titles(self) -> list[str]:
        """Of the columns."""
        return ["arm", *map(metric_title, self.metrics), "verdict", "what is trained or evaluated otherwise"]

    def _cell(self, arm: ArmChange, metric: str) -> str:
        scale, change = self.scales[metric], arm.changes.get(metric)
        then, now = (number(row.cells[metric].mean if row and metric in row.cells else None, scale) for row in (arm.then, arm.now))
        return f"{then} → {now}" + (f" ({difference(change, scale)})" if change and not arm.same_trials else "")

    @staticmethod
    def _settings(arm: ArmChange) -> str:
        return "; ".join(arm.settings) or ("the same trials" if arm.same_trials else DASH)

    def markdown(self) -> str:
        """A document of one table."""
        rows = [self.titles(), ["---"] * len(self.titles()), *self.lines()]
        table = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
        return "\n".join([f"# {self.study} since {self.of}", "", self.headline(), "", ABOUT, "", *table]) + "\n"

    def show(self, console: Console) -> None:
        """The table, for a terminal."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
        for place, title in enumerate(self.titles()):
            table.add_column(Text(title), justify="right" if 0 < place <= len(self.metrics) else "left", overflow="fold")
        for line in self.lines():
            table.add_row(*map(Text, line))
        fit(table, console)
        console.print(table)
        console.print()
        console.print(Text(self.headline(), style="bold"))
        console.print(Text(ABOUT, style="dim"))


ABOUT = (
    "Scores then → now, and in brackets the change with its interval, paired over the seeds that both have, uncorrected. "
    "A change of an arm is not a change of its difference from the baseline: that is in its verdict."
)


def since(then: State, now: State, of: str) -> Since:
    """Compare two states of a study.

    Args:
        of: what the earlier one is, in words.
    """
    comparison = now.comparison
    metrics = comparison.metrics
    scales = {metric: comparison.scale(metric) for metric in metrics}
    scores = _scores(then, now, scales)
    names = dict.fromkeys([*(row.name for row in comparison.rows), *(row.name for row in then.comparison.rows)])
    rows = [{row.name: row for row in state.comparison.rows} for state in (then, now)]
    arms = []
    for name in names:
        old, new = rows[0].get(name), rows[1].get(name)
        changes = {metric: scores.difference(f"{NOW}{name}", f"{THEN}{name}", metric) for metric in metrics} if old and new else {}
        same = bool(old and new) and _trials(then, name) == _trials(now, name) and not _moved(changes)
        arms.append(ArmChange(name, old, new, changes, _otherwise(then, now, name) if old and new else (), same))
    return Since(comparison.study, of, comparison.primary, metrics, scales, tuple(arms))


def _scores(then: State, now: State, scales: dict[str, Scale]) -> Scores:
    both = [(THEN, then), (NOW, now)]
    results = pd.concat([state.results.assign(arm=prefix + state.results["arm"].astype(str)) for prefix, state in both])
    parts = [state.items.assign(arm=prefix + state.items["arm"].astype(str)) for prefix, state in both if state.items is not None]
    items = pd.concat(parts, ignore_index=True) if len(parts) == len(both) else None
    groups = now.study.arms[0].experiment.evaluation.groups
    return Scores(results, items, now.comparison.confidence, groups, scales)


def _trials(state: State, arm: str) -> set[str]:
    """The identities of the trials of an arm that have scores."""
    seeds = {int(seed) for seed in state.results.loc[state.results["arm"] == arm, "seed"]}
    return {trial.evaluation_fingerprint for trial in state.study.trials_of(arm) if trial.seed in seeds}


def _moved(changes: dict[str, Estimate | None]) -> bool:
    """Whether any score is another: trials of one identity in two stores need not have the same."""
    return any(change is not None and any(change.by_seed) for change in changes.values())


def _otherwise(then: State, now: State, name: str) -> tuple[str, ...]:
    """In what an arm differs from itself: settings, then code."""
    old, new = (state.study.arm(name).experiment for state in (then, now))
    before, after = leaves(old.evaluation), leaves(new.evaluation)
    evaluated = [
        f"evaluation.{path} {before.get(path)}, now {after.get(path)}"
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    ]
    return (*since_in_words(old, new), *evaluated, *_code(then.comparison.row(name), now.comparison.row(name)))


def _code(then: ArmRow, now: ArmRow) -> Sequence[str]:
    titles = [title for title, measure in now.costs.items() if measure.kind == "code" and title in then.costs]
    return [f"{title} {then.costs[title].value}, now {now.costs[title].value}" for title in titles if then.costs[title] != now.costs[title]]
