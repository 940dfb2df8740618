"""The Python API: what `import mm1_ablate as mm` gives to programs and notebooks. docs/python_api.md is its page.

In: a sweep file and a store. Out: pandas frames, figures, plans. All of it is made by the functions that make what the commands show, so
that a number here is the number there, to the last digit. What ends a command with a sentence is a `StudyError` here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas
import typer

from mm1_ablate.commands.common import (
    INTERRUPTED,
    Stopped,
    read_finished,
    read_studies,
    require_own_place,
    require_store,
    store_place,
    using_store,
)
from mm1_ablate.config.sweep.differences import in_words
from mm1_ablate.plan.until_decided import as_needed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mm1_ablate.config import study as config_study
    from mm1_ablate.plan import plan as planning
    from mm1_ablate.report.comparison import StudyComparison
    from mm1_ablate.store.store import Store

DEFAULT_STORE = "ablations"
NOTEBOOK_COLUMNS = "100"
"""Characters of a line that `run` prints in a notebook, where COLUMNS says nothing else."""


class StudyError(Exception):
    """What ends a command with a sentence: a wrong file, a store that is missing, an exceeded budget. The text says what to do.

    Attributes:
        exit_code: of the command: 1 some trials failed or something could not be reached, 2 the file is wrong, 3 the budget forbids it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Study:
    """A study: what a sweep file declares, and what a store has of it.

    Frames are read from the store at each call, so that they grow while a study runs. All names of metrics are those of the sweep file:
    `shot_8/average`; scores are on a scale of 0 to 100, except losses.

    Args:
        sweep: a sweep file, or an experiment file: a study of that one system.
        store: a folder, or an address such as s3://BUCKET/PREFIX; by default MM1_ABLATE_STORE, or `ablations`. It need not exist yet.

    Raises:
        StudyError: the file is wrong (with all problems, their lines and columns), or the store cannot be used.
    """

    def __init__(self, sweep: str | Path, store: str | Path | None = None) -> None:
        self.path = Path(sweep)
        with _store(store) as records:
            self._study = read_finished(self.path, records)
        self.store = records.address
        self._compared: tuple[list[Any], StudyComparison] | None = None

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}, store={self.store!r}): {self.name}, {len(self._study.arms)} arms"

    # ------------------------------------------------------------ what is declared
    @property
    def name(self) -> str:
        return self._study.name

    @property
    def primary(self) -> str:
        """The metric that verdicts are about."""
        return self._study.sweep.compare.primary

    @property
    def metrics(self) -> list[str]:
        """The compared metrics, which are the columns of the report's table; the primary one among them."""
        return list(dict.fromkeys([*self._study.sweep.compare.metrics, self.primary]))

    @property
    def tracking_uri(self) -> str:
        """Where MLflow has the study, for `mlflow.MlflowClient`: MLFLOW_TRACKING_URI, or a file in the store."""
        from mm1_ablate.tracking.server import tracking_uri

        with _store(self.store) as records:
            return tracking_uri(records)

    def arms(self) -> pandas.DataFrame:
        """A line for each arm, baselines among them: arm, group, baseline, seeds (those that it needs so far, in a list), changes (all
        settings in which it differs from its baseline, in words)."""
        with self._reading() as (study, _):
            rows = [(arm.name, arm.group, arm.baseline, list(study.seeds_of(arm.name)), in_words(arm)) for arm in study.arms]
        return pandas.DataFrame(rows, columns=["arm", "group", "baseline", "seeds", "changes"])

    # ------------------------------------------------------------ what the store has
    def trials(self) -> pandas.DataFrame:
        """A line for each arm and seed, of what `mm1-ablate status` shows: arm, seed, trial, status (done, running, failed, interrupted,
        missing or not needed), reason, stage, step, steps, seconds, fingerprint, folder. A trial of several arms is in each of them."""
        from mm1_ablate.commands.status import status_json

        columns = ["arm", "seed", "trial", "status", "reason", "stage", "step", "steps", "seconds", "fingerprint", "folder"]
        with self._reading() as (study, records):
            known = status_json(study, records)
        order = {arm.name: place for place, arm in enumerate(study.arms)}
        ended = [{**one, "status": "not needed"} for one in known["not_run"]]
        rows = [{**one, "trial": one["name"], "arm": arm} for one in (*known["trials"], *ended) for arm in one["arms"]]
        rows.sort(key=lambda row: order[row["arm"]])
        return pandas.DataFrame(rows, columns=columns)

    def scores(self) -> pandas.DataFrame:
        """A line for each arm, seed and metric of the trials that are done: arm, seed, fingerprint, metric, value."""
        with self._reading() as (study, records):
            return records.results(study)

    def items(self) -> pandas.DataFrame:
        """A line for each question that a trial was asked, and metric: arm, seed, task, family, shots, evaluation_seed (the draw of
        demonstrations), item, prompt, prediction, reference, metric, primary (whether the task's averages are made of this metric), score
        (0 to 1) and what else evaluation keeps."""
        with self._reading() as (study, records):
            items = records.item_scores(study)
        if items is None:
            return pandas.DataFrame(columns=["arm", "seed", "task", "family", "shots", "item", "metric", "primary", "score"])
        first = ["arm", "seed"]
        return items[[*first, *(name for name in items.columns if name not in first)]]

    def curves(self) -> pandas.DataFrame:
        """A line for each point of the learning curves: arm, seed, fingerprint, step, loss, learning_rate, tokens, images, seconds."""
        with self._reading() as (study, records):
            return records.curves(study)

    # ------------------------------------------------------------ what the report says
    def comparison(self) -> pandas.DataFrame:
        """A line for each arm and metric, unrounded: the report's comparison.csv.

        Columns: arm, group, baseline, metric, mean, deviation (over seeds), difference (from the baseline), low, high (of its interval), p,
        p_adjusted, p_equivalent, n, method, differences_by_seed, verdict (of the primary metric)."""
        return _numbers(self._comparison().long())

    def table(self) -> pandas.DataFrame:
        """A line for each arm, rounded as the report's table shows it: for each compared metric the score, the difference from the baseline
        and its interval; the verdict, what was altered, notes."""
        from mm1_ablate.report.text import wide_table

        return _numbers(wide_table(self._comparison()))

    def expectations(self) -> pandas.DataFrame:
        """A line for each expectation that the sweep declares, with what became of it (`verdict`: confirmed, refuted, ...)."""
        return _numbers(pandas.DataFrame(self.to_json()["expectations"]))

    def paper(self) -> pandas.DataFrame:
        """A line for each arm that has a counterpart in a table of the MM1 paper, and metric: table, row (of the paper), arm, metric, ours,
        difference, low, high (from the baseline, and its interval), paper, paper_difference. NaN where there is no number."""
        from mm1_ablate.report.cells import cell_json

        columns = ["table", "row", "arm", "metric", "ours", "difference", "low", "high", "paper", "paper_difference"]
        comparison = self._comparison()
        rows = []
        for known in comparison.published:
            for arm, label in known.rows.items():
                row, numbers = comparison.row(arm), known.numbers(arm)
                for metric, number in numbers.items():
                    if metric in row.cells:
                        cell, reference = cell_json(row.cells[metric]), known.numbers(row.baseline).get(metric)
                        theirs = None if row.is_baseline or reference is None else number - reference
                        ours = (cell["mean"], cell["difference"], cell["low"], cell["high"])
                        rows.append((known.table, label, arm, metric, *ours, number, theirs))
        frame = pandas.DataFrame(rows, columns=columns)
        return frame.astype(dict.fromkeys(columns[4:], float))

    def figures(self) -> dict[str, Figure]:
        """The report's figures that there is something to draw for, by name: forest, shots, effects, curves."""
        from mm1_ablate.report import figures

        return figures.drawn(self._comparison(), self.curves())

    def to_json(self) -> dict[str, Any]:
        """All of the comparison, unrounded, as plain JSON values: the report's comparison.json."""
        return self._comparison().to_json()

    # ------------------------------------------------------------ what is to be done
    def plan(self, *, retry: bool = False, without_data: bool = False, gpus: Sequence[str] = (), utilisation: float | None = None) -> Plan:
        """What would run, why, and what it would cost; see `plan_together`."""
        return plan_together([self.path], self.store, retry=retry, without_data=without_data, gpus=gpus, utilisation=utilisation)

    def run(self, *, address: str | None = None, cpus: int | None = None, retry: bool = False, evaluate_only: bool = False) -> Study:
        """Train and evaluate what is missing, write the report, show it in MLflow: `mm1-ablate run`, whose words are printed. The file is
        read again. Trials that fail do not raise: `trials` tells which did, and why.

        Args:
            address: of a Ray cluster; by default RAY_ADDRESS, or this machine alone.
            cpus: cores to use on this machine; by default all.
            retry: whether failed trials are tried again.
            evaluate_only: train nothing; `mm1-ablate evaluate`.

        Returns:
            The study as it is then.

        Raises:
            StudyError: nothing was started, or something that is needed was lost.
            KeyboardInterrupt: it was interrupted; it continues where it was when it is run again.
        """
        from mm1_ablate.commands.run import run_sweep

        with _store(self.store) as records, _printing_on_a_page():
            run_sweep(self.path, records, address=address, cpus=cpus, retry=retry, evaluate_only=evaluate_only)
        return Study(self.path, self.store)

    # ------------------------------------------------------------ how
    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[config_study.Study, Store]]:
        """The study with the trials that it needs by what the store has now, and the store."""
        with _store(self.store) as records:
            yield as_needed(self._study, records), records

    def _comparison(self) -> StudyComparison:
        """The comparison, computed again where trials have changed."""
        from mm1_ablate.commands.comparison import compare_study

        with self._reading() as (study, records):
            require_store(records)
            states = [(trial.evaluation_fingerprint, records.status(trial)) for trial in study.trials]
            stand = [(key, state.status, state.reason, state.started, state.finished) for key, state in states]
            if self._compared is None or self._compared[0] != stand:
                self._compared = stand, compare_study(study, records)
        return self._compared[1]


@dataclass(frozen=True)
class Plan:
    """What would run, why, and what it would cost."""

    trials: pandas.DataFrame
    """A line for each distinct trial: name, arms, seed, fingerprint, status, reason, parameters, tokens, flops and more."""
    detectable: pandas.DataFrame
    """A line for each study, by name: seeds, and the smallest true difference on the primary metric that they find with 80 % power, in
    standard deviations of the paired difference over seeds and, where finished trials tell the deviation, in points."""
    cost: dict[str, Any]
    """Of what remains to be done."""
    over_budget: tuple[str, ...]
    """Sentences on budgets that it exceeds; with any, `Study.run` starts nothing."""
    _planned: planning.Plan

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values: `mm1-ablate plan --json`."""
        return self._planned.to_json()


def plan_together(
    sweeps: Sequence[str | Path],
    store: str | Path | None = None,
    *,
    retry: bool = False,
    without_data: bool = False,
    gpus: Sequence[str] = (),
    utilisation: float | None = None,
) -> Plan:
    """What several sweeps would run, which share their trials. Nothing is trained.

    Args:
        sweeps: sweep files.
        store: as for `Study`.
        retry: whether failed trials are tried again.
        without_data: do not look at data, on a machine that lacks it; fingerprints are provisional then.
        gpus: names of GPUs, such as H100, to estimate hours and memory for; by default what the sweeps say.
        utilisation: share of its peak that a GPU reaches in training.

    Raises:
        StudyError: a file is wrong, or its data; or the store cannot be used.
    """
    from mm1_ablate.commands.plan import gpus_named
    from mm1_ablate.plan import plan as planning

    with _store(store) as records:
        assumed = gpus_named(list(gpus), utilisation)
        studies = read_studies([Path(sweep) for sweep in sweeps], "nowhere" if without_data else "check", begins=True)
        for study in studies:
            require_own_place(study, records)
        planned = planning.plan_together(studies, records, retry, assumed)
    known = planned.to_json()
    detectable = pandas.DataFrame.from_dict(known["detectable"], orient="index").rename_axis("study")
    return Plan(pandas.DataFrame(known["trials"]), detectable, known["cost"], planned.over_budget, planned)


def detectable_difference(deviation: float, seeds: int, *, confidence: float = 0.95, power: float = 0.8, comparisons: int = 1) -> float:
    """The smallest true difference that a study finds with a given power, by a paired t test over seeds.

    Args:
        deviation: standard deviation over seeds of the difference between an arm and its baseline, in points.
        seeds: of every arm; with fewer than two the answer is NaN.
        power: probability of finding it.
        comparisons: arms that are compared; the answer is for the first and hardest step of Holm's correction.

    Returns:
        In points, as `deviation`.
    """
    from mm1_ablate.report.statistics import minimum_detectable_effect

    return minimum_detectable_effect(deviation, seeds, confidence, power, comparisons)


def _numbers(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The frame with NaN in columns of which nothing is known, so that they are numbers as in other studies."""
    unknown = [name for name in frame.columns if frame[name].isna().all()]
    return frame.astype(dict.fromkeys(unknown, float))


@contextlib.contextmanager
def _store(place: str | Path | None) -> Iterator[Store]:
    """A store as others have left it. What ends a command raises `StudyError` here."""
    try:
        named = store_place(place if place is not None else os.environ.get("MM1_ABLATE_STORE") or DEFAULT_STORE)
        with using_store(named) as records:
            yield records
    except Stopped as stopped:
        if stopped.exit_code == INTERRUPTED:
            raise KeyboardInterrupt(stopped.message) from None
        raise StudyError(stopped.message, stopped.exit_code) from None
    except typer.Exit as ended:
        raise StudyError(str(ended.__cause__ or "it ended early; what was printed says why"), ended.exit_code) from ended


@contextlib.contextmanager
def _printing_on_a_page() -> Iterator[None]:
    """In a notebook, tables are as wide as its page, and lines are added below one another; a kernel claims to be a coloured terminal."""
    if "ipykernel" not in sys.modules:
        yield
        return
    before = dict(os.environ)
    os.environ["COLUMNS"] = before.get("COLUMNS", NOTEBOOK_COLUMNS)
    os.environ.pop("FORCE_COLOR", None)
    try:
        yield
    finally:
        for name in ("COLUMNS", "FORCE_COLOR"):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})
