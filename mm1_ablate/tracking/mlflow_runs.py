"""A study's store shown in MLflow. Can be written again from the store at any time.

In: a study, its store, and the comparison if there is one. Out: in MLflow an experiment for the study (`experiment.py`) with its runs
(`study_runs.py`): arms below the comparison, trials below their arms. Only the driver writes. A second call writes what is new, and nothing
twice. What was deleted is there again after it; what people wrote is left alone (`notes.py`, `own_runs.py`).

Without MLFLOW_TRACKING_URI MLflow's database is a SQLite file in the store, and for a store on object storage in its folder on this
machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.study import Study
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.experiment import ARMS, CHARTS, TRIALS, address_of, experiment_of, write_note
from mm1_ablate.tracking.own_runs import NOTE_MARK
from mm1_ablate.tracking.run_contents import short_changes
from mm1_ablate.tracking.server import PLACES, TrackingFailed, advice, connected_client, first_line, tracking_uri, writing_alone
from mm1_ablate.tracking.shown_study import ComparedStudy
from mm1_ablate.tracking.study_runs import StudyRuns, is_stage


@dataclass(frozen=True)
class Tracked:
    """Where a study is in MLflow."""

    tracking_uri: str
    experiment_id: str
    comparison_run: str
    arm_runs: dict[str, str] = field(default_factory=dict)
    """Run ids by name of the arm."""
    trial_runs: dict[str, str] = field(default_factory=dict)
    """Run ids by evaluation fingerprint."""
    stage_runs: dict[str, str] = field(default_factory=dict)
    """Run ids of earlier stages, by training fingerprint."""
    written: int = 0
    """Runs of trials and earlier stages that have ended and that this call wrote."""
    without_files: str | None = None
    """Why runs lack their files (the report, the accounts of data) where they do; metrics, parameters and tags are there all the same."""

    @property
    def view(self) -> str:
        """Path of the table of the arms, below the server's address."""
        return address_of(self.experiment_id, ARMS)

    @property
    def views(self) -> dict[str, str]:
        """Paths of all views by what they show."""
        return {"arms": self.view, "trials": address_of(self.experiment_id, TRIALS), "charts": address_of(self.experiment_id, CHARTS)}

    @property
    def report(self) -> str:
        """Path of the report, below the server's address."""
        return f"/#/experiments/{self.experiment_id}/runs/{self.comparison_run}/artifacts/report/report.html?workflowType=machine_learning"


def track(study: Study, store: Store, compared: ComparedStudy | None = None, remark: str = "") -> Tracked:
    """Bring MLflow up to the store.

    Args:
        compared: what the comparison says; None: there is none, or none that is new.
        remark: what stopped the study, for the description of its run.

    Raises:
        TrackingFailed: with what MLflow said.
    """
    store.refuse_links(store.root / "mlflow.db")
    store.refuse_links(store.root / PLACES)
    try:
        with writing_alone(store):
            return _track(study, store, compared, remark)
    except Exception as error:
        raise tracking_failed(store, error) from error


def tracking_failed(store: Store, error: Exception) -> TrackingFailed:
    """What MLflow said, for people."""
    return TrackingFailed(without_passwords(f"MLflow at {tracking_uri(store)} could not be written: {first_line(error)}{advice(error)}"))


def _track(study: Study, store: Store, compared: ComparedStudy | None, remark: str) -> Tracked:
    client = connected_client(store)
    experiment = experiment_of(client, study, store)
    runs = StudyRuns(client, experiment.experiment_id, study, store, tracking_uri(store))
    ids: dict[bool, dict[str, str]] = {False: {}, True: {}}
    written = 0
    for trial in (*study.stages, *study.trials):
        run, is_new = runs.write_trial(trial)
        if run is not None:
            ids[is_stage(trial)][trial.evaluation_fingerprint or trial.fingerprint] = run.run_id
        written += is_new
    runs.retire()
    runs.write_arms(compared, int(time.time() * 1000))
    runs.write_comparison(compared, remark)
    tracked = Tracked(
        without_passwords(tracking_uri(store)),
        experiment.experiment_id,
        runs.comparison.run_id,
        {name: run.run_id for name, run in runs.arms.items()},
        ids[False],
        ids[True],
        written,
        runs.files.problem,
    )
    if compared is not None or NOTE_MARK not in experiment.tags:
        write_note(client, experiment, *_note(study, tracked, compared))
    return tracked


def _note(study: Study, tracked: Tracked, compared: ComparedStudy | None) -> tuple[list[str], list[str], list[str]]:
    """The experiment's note: what stands before the rows of a table, the rows, and what stands after."""
    links = ", ".join(f"[{name}]({path.removeprefix('/')})" for name, path in tracked.views.items())
    described = [study.sweep.description] if study.sweep.description else []
    after = ["", f"Views: {links}. [The report]({tracked.report.removeprefix('/')})."]
    if compared is None:
        return [f"The study '{study.name}' has no comparison yet.", *described], [], after
    does = {arm.name: short_changes(arm) for arm in study.arms}
    title = ["", f"| arm | {compared.primary} | difference | verdict | changes |", "|---|---|---|---|---|"]
    rows = [
        "| " + " | ".join(cell.replace("|", "/") for cell in (name, arm.score, arm.difference, arm.verdict, does.get(name, ""))) + " |"
        for name, arm in compared.arms.items()
    ]
    return [f"**{compared.headline}**", *title], rows, [*after, *(["", *described] if described else [])]


def no_files(tracked: Tracked) -> str:
    """That MLflow has all but files, for people."""
    return f"MLflow at {tracked.tracking_uri} has metrics and tags, but no files of the study: {tracked.without_files}"
