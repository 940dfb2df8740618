"""The record of truth: what every trial is, how far it has come, what it scored. Everything else can be rebuilt from here.

In: studies and their trials. Out: states, scores, items, curves and holes. A folder for each trial, named by the first 12 digits
of its training fingerprint and holding all of them; scores in a folder for each evaluation fingerprint, so that a changed
evaluation scores the kept model again and trains nothing.

    trials/<12>/    trial.json, status.json, progress.json, last.ckpt, model.pt, curve.jsonl, error.txt, log.txt,
                    data.json, predictions/<12>.{json,parquet}, evaluations/<12>/{evaluation.json, scores.json, items.parquet}
    prepared/<12>/  preparation.json, status.json, progress.json, weights.pt, features.../
    studies/<name>/ sweep.yaml, contents.json, report/

Whoever works on a folder holds a lock on it that ends with its process, however that ends: a folder that says "running" without
a holder was interrupted. Files are written beside their place and moved there, so that none is ever half there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mm1_ablate.spec.contents import to_be_recorded
from mm1_ablate.spec.experiment import Experiment
from mm1_ablate.spec.fingerprint import short
from mm1_ablate.spec.preparation import Preparation, preparations_of
from mm1_ablate.study.code_version import code_version
from mm1_ablate.study.files import read_json, read_json_or_nothing, replacing, write_atomically, write_json
from mm1_ablate.study.predictions import evaluation_of, evaluation_record, write_records

if TYPE_CHECKING:
    import pandas

    from mm1_ablate.spec.expansion import Study, Trial

Status = Literal["missing", "running", "interrupted", "done", "failed"]

HELD = 75
"""Exit code of a child whose folder another process holds."""
RUN = "MM1_ABLATE_RUN"
"""Environment variable of children: which run they work for."""
_held: set[Path] = set()
"""Folders that this process holds: asking for a lock that the process has would lose it."""


class AlreadyRunning(Exception):
    """Another process works on this folder."""


class FingerprintCollision(Exception):
    """Two fingerprints share their first 12 digits. They stand for different trials: use another store for one of them."""


@dataclass(frozen=True)
class TrialState:
    """Where a trial or a preparation stands."""

    status: Status
    reason: str
    """Why, in a few words: what is left to do, what it failed of."""
    trained: bool = False
    """Whether the trained model is kept (a preparation: whether it is done)."""
    stage: str | None = None
    step: int = 0
    steps: int = 0
    loss: float | None = None
    started: float | None = None
    """Seconds since the epoch; nothing if it never ran."""
    finished: float | None = None
    stage_started: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long its last run has taken, or takes so far."""
        if self.started is None:
            return None
        return (self.finished or time.time()) - self.started


class Store:
    """A store in a local (or shared) folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()

    # ------------------------------------------------------------ places
    def trial_folder(self, trial: Trial | str) -> Path:
        """The folder of a trial, or of a training fingerprint."""
        return self.root / "trials" / short(trial if isinstance(trial, str) else trial.fingerprint)

    def evaluation_folder(self, trial: Trial) -> Path:
        return self.trial_folder(trial) / "evaluations" / short(trial.evaluation_fingerprint)

    def prepared_folder(self, preparation: Preparation) -> Path:
        return self.root / "prepared" / short(preparation.fingerprint)

    def study_folder(self, study: Study) -> Path:
        """Where a study keeps its sweep and its report."""
        return self._study_folder(study.name)

    def _study_folder(self, name: str) -> Path:
        return self.root / "studies" / re.sub(r"[^\w.-]+", "-", name)

    # ------------------------------------------------------------ what is to be done
    def write_trial(self, trial: Trial) -> Path:
        """Record what a trial is and how it is to be run now; returns its folder.

        Raises:
            FingerprintCollision: the folder is another trial's.
        """
        folder = self.trial_folder(trial.fingerprint)
        declared = trial.experiment.model_dump(mode="json")
        # Whoever trains it is told what it starts from: a fingerprint may hold the contents of files, which are not looked at again.
        prepared = {part.kind: part.fingerprint for part in preparations_of(trial.experiment, trial.seed)}
        record = {"fingerprint": trial.fingerprint, "seed": trial.seed, "name": trial.name, "experiment": declared, "prepared": prepared}
        if trial.earlier:
            record["starts_from"] = trial.earlier[-1].fingerprint
        if not trial.evaluation_fingerprint:
            # An earlier stage may be an arm too, of this study or another: then it goes by its name there.
            record["name"] = read_json_or_nothing(folder / "trial.json").get("name", trial.name)
        _write_record(folder / "trial.json", record)
        if not trial.evaluation_fingerprint:
            return folder
        record = evaluation_record(trial)
        _write_record(self.evaluation_folder(trial) / "evaluation.json", record)
        write_records(record, self.evaluation_folder(trial))
        return folder

    def write_preparation(self, preparation: Preparation) -> Path:
        """Record what a preparation is; returns its folder."""
        folder = self.prepared_folder(preparation)
        record = {"fingerprint": preparation.fingerprint, "name": preparation.name, "preparation": preparation.model_dump(mode="json")}
        _write_record(folder / "preparation.json", record)
        return folder

    def write_study(self, study: Study) -> Path:
        """Keep a copy of the sweep file, and what its data is, for machines without it; returns the study's folder."""
        folder = self.study_folder(study)
        if study.path.exists():
            write_atomically(folder / "sweep.yaml", study.path.read_bytes())
        if contents := to_be_recorded():
            write_json(folder / "contents.json", contents)
        return folder

    def recorded_contents(self, study: str) -> dict[str, str]:
        """What the last run of a study of this name saw of its data, for `spec.contents`; empty where there was none."""
        try:
            return read_json_or_nothing(self._study_folder(study) / "contents.json")
        except OSError:  # no folder at all: whoever reads the store next says so
            return {}

    def read_trial(self, fingerprint: str, evaluation: str | None = None) -> tuple[Experiment, int]:
        """A trial's experiment and seed, with the evaluation of a fingerprint; the user's own tasks as they were when that was recorded."""
        folder = self.trial_folder(fingerprint)
        record = read_json(self._record_of(fingerprint))
        experiment = Experiment.model_validate(record["experiment"])
        if evaluation is not None:
            experiment = experiment.model_copy(update={"evaluation": evaluation_of(folder / "evaluations" / short(evaluation))})
        return experiment, record["seed"]

    def read_prepared(self, fingerprint: str) -> dict[str, Path]:
        """The folders of what a trial starts from, by kind."""
        return {kind: self.root / "prepared" / short(part) for kind, part in read_json(self._record_of(fingerprint))["prepared"].items()}

    def read_start(self, fingerprint: str) -> Path | None:
        """The folder of the earlier stage whose weights a trial starts from; nothing where there is none."""
        earlier = read_json(self._record_of(fingerprint)).get("starts_from")
        return None if earlier is None else self.trial_folder(earlier)

    def _record_of(self, fingerprint: str) -> Path:
        return self.trial_folder(fingerprint) / "trial.json"

    def read_preparation(self, fingerprint: str) -> Preparation:
        record = read_json(self.root / "prepared" / short(fingerprint) / "preparation.json")
        return Preparation.model_validate(record["preparation"])

    # ------------------------------------------------------------ where things stand
    def status(self, trial: Trial) -> TrialState:
        """Where a trial stands, for its own evaluation; an earlier stage, which has none, is done when it is trained.

        Raises:
            FingerprintCollision: its folder is another trial's.
        """
        folder = self.trial_folder(trial.fingerprint)
        _check_fingerprint(folder / "trial.json", trial.fingerprint)
        trained = (folder / "model.pt").exists()
        record = read_json_or_nothing(folder / "status.json")
        times: dict[str, Any] = {"started": record.get("started"), "finished": record.get("finished")}
        if self.has_scores(trial):
            return TrialState("done", "finished", trained, **times)
        if trained and not trial.evaluation_fingerprint:
            return TrialState("done", "trained", trained, **times)
        if record.get("status") == "running":
            return self._working(folder, record, trained)
        failed_here = record.get("stage") != "evaluate" or record.get("evaluation") == trial.evaluation_fingerprint
        if record.get("status") == "failed" and failed_here:
            return TrialState("failed", record["reason"], trained, record.get("stage"), **times)
        if trained:
            return TrialState("missing", "trained; to be evaluated only", trained)
        for preparation in preparations_of(trial.experiment, trial.seed):
            state = self.preparation_status(preparation)
            if state.status == "failed":
                return TrialState("failed", f"its preparation '{preparation.name}' failed: {state.reason}", stage="prepare")
        for stage in trial.earlier[-1:]:
            state, which = self.status(stage), f"its earlier stage '{stage.experiment.experiment}'"
            if state.status == "failed":
                return TrialState("failed", f"{which} failed: {state.reason}", stage="train")
            if state.status in ("running", "interrupted"):
                return TrialState("missing", f"never run; {which} is {state.status}: {state.reason}")
        return TrialState("missing", "never run")

    def has_scores(self, trial: Trial) -> bool:
        """Whether a trial has been evaluated as it is declared."""
        if not trial.evaluation_fingerprint:
            return False
        folder = self.evaluation_folder(trial)
        return (folder / "scores.json").exists() and (folder / "items.parquet").exists()

    def preparation_status(self, preparation: Preparation) -> TrialState:
        """Where a preparation stands."""
        folder = self.prepared_folder(preparation)
        _check_fingerprint(folder / "preparation.json", preparation.fingerprint)
        record = read_json_or_nothing(folder / "status.json")
        status = record.get("status", "missing")
        if status == "running":
            return self._working(folder, record, trained=False)
        reason = {"missing": "never run", "done": "finished"}.get(status) or record["reason"]
        return TrialState(status, reason, status == "done", "prepare", started=record.get("started"), finished=record.get("finished"))

    def _working(self, folder: Path, record: dict[str, Any], trained: bool) -> TrialState:
        progress = read_json_or_nothing(folder / "progress.json")
        step, steps = progress.get("step", 0), progress.get("steps", 0)
        reached = f"{progress['stage']} {step} of {steps}" if progress else "started"
        live = is_held(folder)
        return TrialState(
            "running" if live else "interrupted",
            reached if live else f"stopped at {reached}",
            trained,
            progress.get("stage", record.get("stage")),
            step,
            steps,
            progress.get("loss"),
            started=record.get("started"),
            finished=None if live else progress.get("time"),
            stage_started=progress.get("stage_started"),
        )

    # ------------------------------------------------------------ doing it
    @contextlib.contextmanager
    def hold(self, folder: Path, wait: bool = False) -> Iterator[None]:
        """Be the one that works on a trial's or preparation's folder, until the block or the process ends.

        Args:
            wait: for whoever holds it now.

        Raises:
            AlreadyRunning: another process holds it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "a+b") as lock:
            until = time.monotonic() + 1.0
            while True:
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # For an instant it may be someone who looks at the status.
                    if not wait and time.monotonic() > until:
                        raise AlreadyRunning(f"{folder} is another process's") from None
                    time.sleep(0.5 if time.monotonic() > until else 0.02)
            _held.add(folder)
            try:
                yield
            finally:
                _held.discard(folder)

    def start(self, folder: Path, stage: str, evaluation: str | None = None) -> None:
        """Say that a held folder is being worked on."""
        previous = read_json_or_nothing(folder / "status.json")
        started = previous["started"] if previous.get("status") == "running" and previous.get("pid") == os.getpid() else time.time()
        (folder / "error.txt").unlink(missing_ok=True)
        if previous.get("pid") != os.getpid():
            (folder / "progress.json").unlink(missing_ok=True)
        record = {"status": "running", "stage": stage, "evaluation": evaluation, "started": started, "code": _code(folder, previous)}
        write_json(folder / "status.json", record | {"host": socket.gethostname(), "pid": os.getpid(), "run": os.environ.get(RUN)})

    def finish(self, folder: Path) -> None:
        """Say that a folder's work is done."""
        record = read_json_or_nothing(folder / "status.json")
        write_json(folder / "status.json", record | {"status": "done", "finished": time.time()})

    def fail(self, folder: Path, reason: str) -> None:
        """Say in a line why a folder's work failed."""
        record = read_json_or_nothing(folder / "status.json")
        write_json(folder / "status.json", record | {"status": "failed", "reason": reason, "finished": time.time()})

    def recorded(self, folder: Path) -> str:
        """The status that a folder's record has, whether or not it still holds."""
        return read_json_or_nothing(folder / "status.json").get("status", "missing")

    def holder(self, folder: Path) -> tuple[str, str | None]:
        """Who began the work that a folder's record speaks of: the host, and the run if it was one."""
        record = read_json_or_nothing(folder / "status.json")
        return record.get("host", "an unknown host"), record.get("run")

    def retry(self, folder: Path) -> None:
        """Let a failure be tried again. What code trained it so far stays known."""
        record = read_json_or_nothing(folder / "status.json")
        if record.get("status") == "failed":
            write_json(folder / "status.json", {"status": "missing", "code": record.get("code")})

    def code(self, trial: Trial) -> str | None:
        """The version of the code that trained a trial, several joined if it was gone on with; nothing if that is not known."""
        return read_json_or_nothing(self.trial_folder(trial) / "status.json").get("code")

    def write_evaluation(self, fingerprint: str, evaluation: str, items: pandas.DataFrame, scores: dict[str, float]) -> None:
        """Keep a trial's item scores and their summary; the summary last, because it says that all is there."""
        folder = self.trial_folder(fingerprint) / "evaluations" / short(evaluation)
        with replacing(folder / "items.parquet") as beside:
            items.to_parquet(beside, index=False)
        write_json(folder / "scores.json", {"scores": scores, "finished": time.time()})

    # ------------------------------------------------------------ what came out
    def scores(self, trial: Trial) -> dict[str, float]:
        """Summary of a trial that is done, by metric."""
        return read_json(self.evaluation_folder(trial) / "scores.json")["scores"]

    def items(self, trial: Trial) -> pandas.DataFrame:
        """Item scores of a trial that is done, as `evaluation.evaluate` gives them."""
        import pandas

        return pandas.read_parquet(self.evaluation_folder(trial) / "items.parquet")

    def results(self, study: Study) -> pandas.DataFrame:
        """All scores of a study so far: arm, seed, fingerprint, metric, value. A trial of several arms is in each of them."""
        import pandas

        rows = []
        for trial in study.trials:
            if self.has_scores(trial):
                scores = self.scores(trial)
                rows += [(arm, trial.seed, trial.fingerprint, metric, value) for arm in trial.arms for metric, value in scores.items()]
        order = {arm.name: index for index, arm in enumerate(study.arms)}
        rows.sort(key=lambda row: (order[row[0]], row[1]))
        return pandas.DataFrame(rows, columns=["arm", "seed", "fingerprint", "metric", "value"])

    def holes(self, study: Study) -> list[tuple[str, int, str]]:
        """What a study lacks: arm, seed and why."""
        return [
            (arm.name, trial.seed, f"{state.status}: {state.reason}")
            for arm in study.arms
            for trial in study.trials_of(arm.name)
            if (state := self.status(trial)).status != "done"
        ]

    def data_account(self, trial: Trial) -> dict[str, dict[str, Any]]:
        """What became of a trial's data so far, by source: see `data.tally.Tally.account`. Empty before its first checkpoint."""
        return read_json_or_nothing(self.trial_folder(trial) / "data.json")

    def curve(self, trial: Trial) -> pandas.DataFrame:
        """A trial's training: step, loss, learning_rate, tokens, images, seconds. Empty before its first point."""
        import pandas

        path = self.trial_folder(trial.fingerprint) / "curve.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        # The last line may be being written.
        points = [json.loads(line) for line in lines if line.endswith("}")]
        return pandas.DataFrame(points, columns=None if points else ["step", "loss", "learning_rate", "tokens", "images", "seconds"])

    def curves(self, study: Study) -> pandas.DataFrame:
        """Training of all trials of a study: arm, seed, fingerprint and the columns of `curve`."""
        import pandas

        parts = []
        for trial in study.trials:
            curve = self.curve(trial)
            if len(curve):
                parts += [curve.assign(arm=arm, seed=trial.seed, fingerprint=trial.fingerprint) for arm in trial.arms]
        columns = ["arm", "seed", "fingerprint", "step", "loss", "learning_rate", "tokens", "images", "seconds"]
        return pandas.concat(parts, ignore_index=True).reindex(columns=columns) if parts else pandas.DataFrame(columns=columns)

    def error(self, folder: Path) -> str | None:
        """The traceback of a failure."""
        path = folder / "error.txt"
        return path.read_text() if path.exists() else None


def _code(folder: Path, previous: dict[str, Any]) -> str | None:
    """The code that what a folder holds was, and is now to be, trained by."""
    before = previous.get("code")
    if (folder / "model.pt").exists():
        return before
    if (folder / "last.ckpt").exists():
        return ", ".join(sorted({*before.split(", "), code_version()})) if before else None
    return code_version()


def is_held(folder: Path) -> bool:
    """Whether a process works on a folder."""
    if folder in _held:
        return True
    try:
        with open(folder / "lock", "rb") as lock:
            fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        # A file system without locks: take recent progress for a sign of life.
        progress = folder / "progress.json"
        return progress.exists() and time.time() - progress.stat().st_mtime < 60
    return False


def _check_fingerprint(path: Path, fingerprint: str) -> dict[str, Any]:
    """The record of a fingerprint; empty if it is not there."""
    record = read_json_or_nothing(path)
    if record.get("fingerprint") not in (None, fingerprint):
        raise FingerprintCollision(f"{path.parent} belongs to {record['fingerprint']}, not to {fingerprint}")
    return record


def _write_record(path: Path, record: dict[str, Any]) -> None:
    """Written again where it differs: settings of how a trial is run, which no fingerprint holds, may have been edited."""
    if _check_fingerprint(path, record["fingerprint"]) != record:
        write_json(path, record)
