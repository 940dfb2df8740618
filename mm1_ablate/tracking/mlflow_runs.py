"""A study's store shown in MLflow. Can be written again from the store at any time.

In: a study, its store, and the report's files if there are any. Out: in MLflow an experiment for the study, a run for each trial
(settings, curve, scores, arms), one of kind 'stage' for each earlier stage that trials start from, a parent run with the comparison, and
a view of the trials grouped by arm. Only the driver writes. A second call writes what is new, and nothing twice: runs are found by the
fingerprint that they are tagged with. Runs of trials that the study no longer has stay, as kind 'earlier', and out of the view.

Without MLFLOW_TRACKING_URI MLflow's database is a SQLite file in the store, and for a store on object storage in its folder on this
machine. It holds absolute places of artifacts: experiments of a store which was moved or copied are deleted and written anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from mm1_ablate.config.passwords import hidden, without_passwords
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.store.status import TrialState
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.run_contents import (
    LONGEST_TAG,
    changes,
    curve_metrics,
    digest,
    mean_metrics,
    parameters_of,
    score_metrics,
    short_metric,
)
from mm1_ablate.tracking.server import RunFiles, TrackingFailed, advice, connected_client, first_line, tracking_uri, writing_alone

if TYPE_CHECKING:
    import pandas
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run

VIEW = "by-arm"
"""Key of the view that the printed address opens."""
WITHOUT_FILES = "files missing"
"""Tag of runs whose files could not be written; another call tries again."""


@dataclass(frozen=True)
class Tracked:
    """Where a study is in MLflow."""

    tracking_uri: str
    experiment_id: str
    comparison_run: str
    trial_runs: dict[str, str] = field(default_factory=dict)
    """Run ids by evaluation fingerprint."""
    stage_runs: dict[str, str] = field(default_factory=dict)
    """Run ids of earlier stages, by training fingerprint."""
    written: int = 0
    """Runs of trials and earlier stages that this call wrote."""
    without_files: str | None = None
    """Why runs lack their files (the report, the accounts of data) where they do; metrics, parameters and tags are there all the same."""

    @property
    def view(self) -> str:
        """Path of the view grouped by arm, below the server's address."""
        return f"/#/experiments/{self.experiment_id}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"

    @property
    def report(self) -> str:
        """Path of the report, below the server's address."""
        return f"/#/experiments/{self.experiment_id}/runs/{self.comparison_run}/artifacts/report/report.html?workflowType=machine_learning"


def track(
    study: Study,
    store: Store,
    *,
    report: Path | None = None,
    table: pandas.DataFrame | None = None,
    verdict: str = "",
) -> Tracked:
    """Bring MLflow up to the store.

    Args:
        report: folder with report.html, report.md and figures, for the parent run.
        table: the comparison, rounded, for the parent run.
        verdict: the comparison in words, its conclusion first, in markdown.

    Raises:
        TrackingFailed: with what MLflow said.
    """
    store.refuse_links(store.root / "mlflow.db")
    store.refuse_links(store.root / "mlartifacts")
    try:
        with writing_alone(store):
            client = connected_client(store)
            experiment = _experiment(client, study, store)
            runs = _StudyRuns(client, experiment, study, store)
            written = 0
            ids: dict[str, dict[str, str]] = {"trial": {}, "stage": {}}
            for trial in (*study.stages, *study.trials):
                state = store.status(trial)
                if state.status in ("done", "failed"):
                    ids[_kind(trial)][_key(trial)], is_new = runs.write_trial(trial, state)
                    written += is_new
            runs.retag_earlier()
            runs.write_comparison(report, table, verdict)
            return Tracked(
                without_passwords(tracking_uri(store)), experiment, runs.comparison, ids["trial"], ids["stage"], written, runs.files.problem
            )
    except Exception as error:
        told = f"MLflow at {tracking_uri(store)} could not be written: {first_line(error)}{advice(error)}"
        raise TrackingFailed(without_passwords(told)) from error


def _kind(trial: Trial) -> str:
    return "trial" if trial.evaluation_fingerprint else "stage"


def _key(trial: Trial) -> str:
    """What its run is found by: an earlier stage is not judged, so it is what it is trained as."""
    return trial.evaluation_fingerprint or trial.fingerprint


# ---------------------------------------------------------------- MLflow
def _experiment(client: MlflowClient, study: Study, store: Store) -> str:
    """The study's experiment, made if need be, with its description and its view."""
    name = f"mm1-ablate/{study.name}"
    there = client.get_experiment_by_name(name)
    if there is not None and there.lifecycle_stage == "deleted":
        client.restore_experiment(there.experiment_id)
    if there is not None and _was_moved(there, store):
        client.rename_experiment(there.experiment_id, f"{name}, of a store that was moved ({there.experiment_id})")
        client.delete_experiment(there.experiment_id)
        there = None
    if there is None:
        local = not tracking_uri(store).startswith(("http", "databricks"))
        places = store.root / "mlartifacts" / store.study_folder(study).name
        experiment = _create_experiment(client, name, places.as_uri() if local else None)
    else:
        experiment = there.experiment_id
    tags = there.tags if there else {}
    described = without_passwords(study.sweep.description or study.name)
    wanted = {
        "mlflow.note.content": f"{described}\n\nTrials of the study '{study.name}'; see the run 'comparison'.",
        # Not documented, and harmless where they are not understood: no sidebar for chat traces, and a table that shows the arms.
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(_view(study)),
    }
    for key, value in wanted.items():
        if tags.get(key) != value:
            client.set_experiment_tag(experiment, key, value)
    return experiment


def _create_experiment(client: MlflowClient, name: str, places: str | None) -> str:
    """A new experiment, or that of another process which was faster."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=places))
    except MlflowException as error:
        there = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
        if there is None:
            raise
        return str(there.experiment_id)


def _was_moved(experiment: Experiment, store: Store) -> bool:
    """Whether an experiment in the store's own database would put artifacts into another place than the store."""
    place = Path(unquote(urlparse(experiment.artifact_location).path))
    return "MLFLOW_TRACKING_URI" not in os.environ and not place.resolve().is_relative_to(store.root.resolve())


def _view(study: Study) -> dict[str, Any]:
    """The page's state: trials grouped by arm, the means of the compared metrics beside them."""
    metrics = [short_metric(name) for name in study.sweep.compare.metrics]
    return {
        "selectedColumns": ["attributes.`Duration`", "tags.`arm`", *(f"metrics.`{name}`" for name in metrics)],
        "searchFilter": "tags.kind = 'trial'",
        "orderByKey": f"metrics.`{short_metric(study.sweep.compare.primary)}`",
        "orderByAsc": False,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "arm"}]},
    }


def _runs(client: MlflowClient, experiment: str) -> dict[str, Run]:
    """Runs of ours by the fingerprint of `_key`, and 'comparison'. Of two for the same, which are there if the answer to a request was lost
    and MLflow's client sent it again, one is deleted."""
    found: dict[str, Run] = {}
    token = None
    while True:
        page = client.search_runs([experiment], filter_string="tags.kind LIKE '%'", max_results=1000, page_token=token)
        for run in page:
            key = "comparison" if run.data.tags["kind"] == "comparison" else run.data.tags.get("fingerprint", "")
            other = found.get(key)
            if other is not None and key:
                run, twice = (run, other) if "outcome" in run.data.tags else (other, run)
                client.delete_run(twice.info.run_id)
            found[key] = run
        token = page.token
        if not token:
            return found


# ---------------------------------------------------------------- runs
class _StudyRuns:
    """The runs of a study in its experiment: one for each trial and earlier stage, below that of the comparison."""

    def __init__(self, client: MlflowClient, experiment: str, study: Study, store: Store) -> None:
        self.client, self.experiment, self.study, self.store = client, experiment, study, store
        self.there = _runs(client, experiment)
        """Those that were there before, by `_key`."""
        comparison = self.there.get("comparison")
        tags = {"kind": "comparison", "study": study.name}
        found = comparison or client.create_run(experiment, tags=tags, run_name="comparison")
        self.comparison: str = found.info.run_id
        self.files = RunFiles(tracking_uri(store), str(found.info.artifact_uri))

    def write_trial(self, trial: Trial, state: TrialState) -> tuple[str, bool]:
        """The run of a trial or earlier stage that has ended; returns its id and whether it was written now. A run of an earlier outcome is
        replaced."""
        scores = self.store.scores(trial) if state.status == "done" and _kind(trial) == "trial" else {}
        outcome = digest([state.status, state.reason, scores])
        there, arms = self.there.get(_key(trial)), self._arm_tags(trial)
        if there is not None and there.data.tags.get("outcome") == outcome:
            for key, value in arms.items():
                if there.data.tags.get(key) != value:
                    self.client.set_tag(there.info.run_id, key, value)
            if WITHOUT_FILES in there.data.tags and self._log_data(there.info.run_id, trial):
                self.client.delete_tag(there.info.run_id, WITHOUT_FILES)
            return there.info.run_id, False
        began = int((state.started or state.finished or 0) * 1000)
        ended = int((state.finished or 0) * 1000) or began
        parameters = parameters_of(trial) | {"seed": str(trial.seed)}
        # A run that was cut short is gone on with: were it written anew each time, each failure would leave one more deleted run.
        begun = digest([outcome, began, parameters])
        if there is not None and there.data.tags.get("begun") == begun:
            run: str = there.info.run_id
        else:
            if there is not None:
                self.client.delete_run(there.info.run_id)
            tags = hidden(arms | self._trial_tags(trial, state)) | {"begun": begun}
            run = self.client.create_run(self.experiment, start_time=began, tags=tags, run_name=trial.name).info.run_id
        self._log_parameters(run, parameters)
        self._log_metrics(run, curve_metrics(self.store.curve(trial), began) + score_metrics(scores, ended))
        if not self._log_data(run, trial):
            self.client.set_tag(run, WITHOUT_FILES, str(self.files.problem)[:LONGEST_TAG])
        self.client.set_terminated(run, "FINISHED" if state.status == "done" else "FAILED", end_time=ended)
        # Last: a run without its outcome was cut short, and is written again.
        self.client.set_tag(run, "outcome", outcome)
        return run, True

    def _arm_tags(self, trial: Trial) -> dict[str, str]:
        """What may change when the study is edited."""
        arms = [self.study.arm(name) for name in trial.arms]
        tags = {
            "kind": _kind(trial),
            "arm": trial.arms[0],
            "arms": ", ".join(trial.arms)[:8000],
            "mlflow.runName": trial.name,
            "mlflow.parentRunId": self.comparison,
        }
        return tags | ({"group": arms[0].group, "changes": changes(arms)} if _kind(trial) == "trial" else {})

    def _trial_tags(self, trial: Trial, state: TrialState) -> dict[str, str]:
        """What a trial is, and what it failed of."""
        tags = {
            "study": self.study.name,
            "seed": str(trial.seed),
            "fingerprint": _key(trial),
            "training_fingerprint": trial.fingerprint,
            "folder": str(self.store.trial_folder(trial)),
        }
        if _kind(trial) == "stage":
            tags["stage"] = f"{len(trial.earlier) + 1}: {trial.experiment.experiment}"
        if trial.earlier:
            tags["starts_from"] = trial.earlier[-1].fingerprint
        if state.status == "failed":
            error = self.store.error(self.store.failed_folder(trial)) or ""
            tags["mlflow.note.content"] = f"Failed: {state.reason}\n\n```\n{error[-6000:]}\n```"
        return tags

    def _log_parameters(self, run: str, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        logged = [Param(key, without_passwords(value)) for key, value in parameters.items()]
        for start in range(0, len(logged), 100):
            self.client.log_batch(run, params=logged[start : start + 100])

    def _log_metrics(self, run: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run, metrics=metrics[start : start + 1000])

    def _log_data(self, run: str, trial: Trial) -> bool:
        """What became of the trial's data; returns whether the file with all of it could be written."""
        sources = self.store.data_account(trial)
        lost = [f"{source}: {one['in_words']}" for source, counts in sources.items() for one in counts.get("lost", ())]
        if lost:
            self.client.set_tag(run, "lost data", without_passwords("; ".join(lost))[:8000])
        account = self.store.trial_folder(trial) / "data.json"
        return not account.exists() or self.files.write(lambda: self.client.log_artifact(run, str(account)))

    def retag_earlier(self) -> None:
        """Take runs that this store wrote for trials which the study no longer has out of the view, whose means they would spoil. Likewise
        earlier stages that no trial starts from any more, or that are trials now."""
        current = {_key(trial) for trial in (*self.study.stages, *self.study.trials)}
        for key, run in self.there.items():
            tags = run.data.tags
            ours = tags.get("study") == self.study.name and Path(tags.get("folder", "/")).is_relative_to(self.store.root)
            if tags["kind"] in ("trial", "stage") and key not in current and ours:
                self.client.set_tag(run.info.run_id, "kind", "earlier")

    def write_comparison(self, report: Path | None, table: pandas.DataFrame | None, verdict: str) -> None:
        """The parent run: means of the arms as metrics, the table, the report, the verdict as its description."""
        run = self.comparison
        self._log_metrics(run, mean_metrics(self.store.results(self.study), self.study))
        if table is not None:
            # As `log_table` does it, which would append to what an earlier call wrote.
            values = json.loads(table.to_json(orient="split", index=False))
            if self.files.write(lambda: self.client.log_dict(run, values, "comparison.json")):
                self.client.set_tag(run, "mlflow.loggedArtifacts", json.dumps([{"path": "comparison.json", "type": "table"}]))
        if report is not None and report.exists():
            self.files.write(lambda: self.client.log_artifacts(run, str(report), "report"))
        if verdict:
            self.client.set_tag(run, "mlflow.note.content", without_passwords(verdict)[:8000])
        states = {self.store.status(trial).status for trial in self.study.trials}
        self.client.set_terminated(run, "KILLED" if "interrupted" in states else "FAILED" if "failed" in states else "FINISHED")


def no_files(tracked: Tracked) -> str:
    """That MLflow has all but files, for people."""
    return f"MLflow at {tracked.tracking_uri} has metrics and tags, but no files of the study: {tracked.without_files}"


# ---------------------------------------------------------------- while a study runs
@contextlib.contextmanager
def keep_tracking(study: Study, store: Store, say: Callable[[str], None], interval: float = 20.0) -> Iterator[None]:
    """Show in MLflow what ends while a block runs, every so many seconds. If MLflow fails, that is reported once; it may recover."""
    ended = threading.Event()

    def loop() -> None:
        done, failing, without_files = 0, False, False
        while not ended.wait(interval):
            try:
                store.refresh(at_most_every=interval)
                count = sum(store.has_scores(trial) for trial in study.trials)
                count += sum(store.status(stage).status in ("done", "failed") for stage in study.stages)
                if count != done:
                    tracked = track(study, store)
                    done, failing = count, False
                    if tracked.without_files and not without_files:
                        say(no_files(tracked))
                        without_files = True
            except Exception as error:
                if not failing:
                    say(f"{error}; the study continues without MLflow")
                failing = True

    thread = threading.Thread(target=loop, name="mlflow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
