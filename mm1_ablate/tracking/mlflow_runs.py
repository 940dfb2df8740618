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
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from mm1_ablate.config.metric_name import MetricName
from mm1_ablate.config.passwords import hidden, without_passwords
from mm1_ablate.config.settings import Settings, is_identity
from mm1_ablate.config.study import Arm, Study, Trial
from mm1_ablate.config.sweep.differences import in_words
from mm1_ablate.store.status import TrialState
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    import pandas
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run

VIEW = "by-arm"
"""Key of the view that the printed address opens."""
LONGEST_TAG = 7900
"""Characters; MLflow takes 8000."""
MOST_POINTS = 500
"""Of a curve, each key."""
SHOWN_DECIMALS = 2
"""Of scores: MLflow shows every digit that it gets. The store keeps them all."""
SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "GIT_PYTHON_REFRESH": "quiet"}
SILENT["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""Give up early on a server that does not answer: MLflow itself would retry for minutes, and the next call writes everything."""


WRITTEN_WITHIN = 120.0
"""Seconds to wait for another process that writes the same SQLite file."""
WITHOUT_FILES = "files missing"
"""Tag of runs whose files could not be written; another call tries again."""


class TrackingFailed(Exception):
    """MLflow could not be written. The store has everything all the same."""


class NotAnAddress(ValueError):
    """MLFLOW_TRACKING_URI is no address of MLflow's; the message says what may be meant."""


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


def tracking_uri(store: Store) -> str:
    """Where a store is shown in MLflow: MLFLOW_TRACKING_URI, or else its own SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.root / 'mlflow.db'}"


def short_metric(name: str) -> str:
    """A metric's name as MLflow shows it, whose columns are narrow: 'shot_8/average' is '8-shot', 'text_core/x' 'TextCore/x'."""
    try:
        metric = MetricName.parse(name)
    except ValueError:
        return _allowed(name)
    return _allowed(metric.title if metric.is_average else f"{metric.suite_title}/{metric.name.removeprefix('miniature_')}")


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
        with _alone(store):
            client = _client(store)
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
        told = f"MLflow at {tracking_uri(store)} could not be written: {_first_line(error)}{_advice(error)}"
        raise TrackingFailed(without_passwords(told)) from error


def _first_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return first if isinstance(error, NotAnAddress) else f"{type(error).__name__}: {first}"


def _advice(error: Exception) -> str:
    """What to do where somebody answers who is not MLflow: often a proxy that has it below a prefix."""
    if "error code 404" in str(error) or "not in a valid JSON format" in str(error):
        return "; what answers there is not MLflow: does its address end with a prefix, such as /mlflow? MLFLOW_TRACKING_URI must have it"
    return ""


def _kind(trial: Trial) -> str:
    return "trial" if trial.evaluation_fingerprint else "stage"


def _key(trial: Trial) -> str:
    """What its run is found by: an earlier stage is not judged, so it is what it is trained as."""
    return trial.evaluation_fingerprint or trial.fingerprint


# ---------------------------------------------------------------- MLflow
@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Only one process at a time works on MLflow's SQLite file: of several that find none, each would make its tables."""
    address = tracking_uri(store)
    if not address.startswith("sqlite:///"):
        yield
        return
    from filelock import FileLock

    database = Path(unquote(urlparse(address).path[1:]))
    database.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotImplementedError):  # of a file system without such locks
            stack.enter_context(FileLock(f"{database}.lock", timeout=WRITTEN_WITHIN))
        yield


def _require_address(address: str) -> None:
    """Whether an address is one that MLflow could be at. Without a scheme MLflow itself takes it for a folder, or fails on it.

    Raises:
        NotAnAddress: it is not.
    """
    if ":/" in address or address.startswith(("databricks", "uc", "file:", "/")) or Path(address).is_dir():
        return
    raise NotAnAddress(f"MLFLOW_TRACKING_URI is not an address: http:// is missing (http://{address}), or sqlite:/// before a file")


def _client(store: Store) -> MlflowClient:
    _require_address(tracking_uri(store))
    for name, value in (SILENT | IMPATIENT).items():
        os.environ.setdefault(name, value)
    # What a later call would only queue is not known to be written when the last tag says so.
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    store.root.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=tracking_uri(store))


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
class _RunFiles:
    """Writes files of runs. They go where the server says, not to the server, and that may be out of reach: then none is written.

    Attributes:
        problem: why not; None where all could be written so far.
    """

    def __init__(self, address: str, place: str) -> None:
        """
        Args:
            address: of MLflow.
            place: of a run's files, as the server says.
        """
        self.problem: str | None = None
        folder = urlparse(place)
        if address.startswith("http") and folder.scheme in ("", "file"):
            # Below the root is a folder for each experiment, then for each run.
            root = Path(unquote(folder.path)).parents[2]
            if not root.is_dir():
                self.problem = f"they belong in {root}, a folder of the server's that is not here (mlflow server --no-serve-artifacts)"

    def write(self, write: Callable[[], object]) -> bool:
        """Whether a call that writes files was made, and succeeded."""
        if self.problem is None:
            try:
                write()
            except Exception as error:
                self.problem = _first_line(error)
        return self.problem is None


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
        self.files = _RunFiles(tracking_uri(store), str(found.info.artifact_uri))

    def write_trial(self, trial: Trial, state: TrialState) -> tuple[str, bool]:
        """The run of a trial or earlier stage that has ended; returns its id and whether it was written now. A run of an earlier outcome is
        replaced."""
        scores = self.store.scores(trial) if state.status == "done" and _kind(trial) == "trial" else {}
        outcome = _digest([state.status, state.reason, scores])
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
        begun = _digest([outcome, began, parameters])
        if there is not None and there.data.tags.get("begun") == begun:
            run: str = there.info.run_id
        else:
            if there is not None:
                self.client.delete_run(there.info.run_id)
            tags = hidden(arms | self._trial_tags(trial, state)) | {"begun": begun}
            run = self.client.create_run(self.experiment, start_time=began, tags=tags, run_name=trial.name).info.run_id
        self._log_parameters(run, parameters)
        self._log_metrics(run, _curve_metrics(self.store.curve(trial), began) + _score_metrics(scores, ended))
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
        return tags | ({"group": arms[0].group, "changes": _changes(arms)} if _kind(trial) == "trial" else {})

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
        self._log_metrics(run, _mean_metrics(self.store.results(self.study), self.study))
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


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- what runs hold
def _changes(arms: Sequence[Arm]) -> str:
    """All in which the arms of a trial differ from their baselines; of several that differ in other things, each with its name."""
    told = {arm.name: in_words(arm) for arm in arms}
    if len(set(told.values())) == 1:
        return _fitting(next(iter(told.values())), "; ")
    return _fitting("\n".join(f"{name}: {words or 'the baseline'}" for name, words in told.items()), "\n")


def _fitting(text: str, between: str) -> str:
    """A text that is cut between two of its parts where it is too long for a tag."""
    return text if len(text) <= LONGEST_TAG else f"{text[:LONGEST_TAG].rpartition(between)[0] or text[:LONGEST_TAG]}{between}and more"


def parameters_of(trial: Trial) -> dict[str, str]:
    """What a trial is, flat: dotted paths of the experiment and their values. Where data comes from in detail is left to the store."""
    flat: dict[str, str] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, Settings):
            for name, declared in type(value).model_fields.items():
                if is_identity(declared) and name not in ("source", "sources"):
                    walk(f"{path}.{name}" if path else name, getattr(value, name))
        elif isinstance(value, dict):
            for name, entry in value.items():
                walk(f"{path}.{name}", entry)
        elif value is not None:
            flat[_allowed(path)] = (", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))[:6000]

    walk("", trial.experiment)
    flat["data.sources"] = ", ".join(trial.experiment.data.sources)
    return flat


def _curve_metrics(curve: pandas.DataFrame, began: int) -> list[Metric]:
    from mlflow.entities import Metric

    stride = max(1, -(-len(curve) // MOST_POINTS))
    metrics = []
    # From the end, so that the last point is among them.
    for point in curve.iloc[::-stride].to_dict("records"):
        at = began + int(1000 * point.get("seconds", 0))
        for key in ("loss", "learning_rate", "tokens", "images"):
            if isinstance(point.get(key), int | float):
                metrics.append(Metric(key, float(point[key]), at, int(point["step"])))
    return metrics


def _score_metrics(scores: Mapping[str, float], at: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(short_metric(name), round(value, SHOWN_DECIMALS), at, 0) for name, value in scores.items()]


def _mean_metrics(results: pandas.DataFrame, study: Study) -> list[Metric]:
    """The arms' means of the compared metrics."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    wanted = results[results["metric"].isin(study.sweep.compare.metrics)]
    means = wanted.groupby(["arm", "metric"], sort=False)["value"].mean().reset_index()
    rows = zip(means["arm"], means["metric"], means["value"], strict=True)
    return [Metric(_allowed(f"{short_metric(metric)} {arm}"), round(float(mean), SHOWN_DECIMALS), now, 0) for arm, metric, mean in rows]


def _allowed(name: str) -> str:
    """A name with only the characters that MLflow takes, and no part between slashes that a path would not keep."""
    parts = re.sub(r"[^\w\-. :/]", "-", name)[:250].split("/")
    return "/".join(f"-{part}" if part in ("", ".", "..") else part for part in parts)


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
