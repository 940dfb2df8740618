"""Status of trials and preparations: from the files in their folders, and whether a process works on them.

In: a store. Out: a `TrialState`; and the status that a process writes to the folder it works on: started, done, or failed and why.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.own_code import own_code, own_modules
from mm1_ablate.config.passwords import hidden
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.study import Trial
from mm1_ablate.config.task_record import Task
from mm1_ablate.store.files import Files
from mm1_ablate.store.layout import Layout
from mm1_ablate.store.manifests import check_fingerprint
from mm1_ablate.store.records import PreparationRecord, ProgressRecord, ScoresRecord, Status, StatusRecord, TrialRecord
from mm1_ablate.version import __version__

CODE_ROOMS = ("miniature", "data", "model", "training", "evaluation")
"""What shapes a trial's scores. How trials are declared, placed and reported does not."""
RUN = "MM1_ABLATE_RUN"
"""Environment variable of children: which run they work for."""


@dataclass(frozen=True)
class TrialState:
    """Where a trial or a preparation stands."""

    status: Status
    reason: str
    """Reason, in a few words: remaining work, or the failure."""
    trained: bool = False
    """Whether the trained model is kept (a preparation: whether it is done)."""
    stage: str | None = None
    step: int = 0
    steps: int = 0
    loss: float | None = None
    started: float | None = None
    """Seconds since the epoch; None if it never ran."""
    finished: float | None = None
    stage_started: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long its last run has taken, or takes so far."""
        if self.started is None:
            return None
        return (self.finished or time.time()) - self.started


class Statuses:
    """The states of a store's trials and preparations."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._layout, self._files = layout, files

    def status(self, trial: Trial) -> TrialState:
        """Where a trial stands, for its own evaluation; an earlier stage, which has none, is done when it is trained.

        Raises:
            FingerprintCollision: its folder is another trial's.
        """
        folder = self._layout.trial_folder(trial.fingerprint)
        self._files.look(folder)
        check_fingerprint(self._files, folder / "trial.json", trial.fingerprint, TrialRecord)
        trained = self._files.has(folder / "model.pt")
        record = self._record(folder)
        times: dict[str, Any] = {"started": record.get("started"), "finished": record.get("finished")}
        if self.has_scores(trial):
            return TrialState("done", "finished", trained, **times)
        if trained and not trial.evaluation_fingerprint:
            return TrialState("done", "trained", trained, **times)
        own = self._record(self._layout.evaluation_folder(trial)) if trial.evaluation_fingerprint else {}
        if own.get("status") == "failed":
            times = {"started": own.get("started"), "finished": own.get("finished")}
            return TrialState("failed", own["reason"], trained, "evaluate", **times)
        if record.get("status") == "running":
            return self._working(folder, record, trained)
        failed_here = record.get("stage") != "evaluate" or record.get("evaluation") == trial.evaluation_fingerprint
        if record.get("status") == "failed" and failed_here:
            return TrialState("failed", record["reason"], trained, record.get("stage"), **times)
        damaged = self.damaged_scores(trial)
        if trained:
            return TrialState("missing", f"trained; {damaged}" if damaged else "trained, not evaluated", trained)
        for preparation in trial.preparations:
            state = self.preparation_status(preparation)
            if state.status == "failed":
                return TrialState("failed", f"its preparation '{preparation.name}' failed: {state.reason}", stage="prepare")
        for stage in trial.earlier[-1:]:
            state, which = self.status(stage), f"its earlier stage '{stage.experiment.experiment}'"
            if state.status == "failed":
                return TrialState("failed", f"{which} failed: {state.reason}", stage="train")
            if state.status in ("running", "interrupted"):
                return TrialState("missing", f"never run; {which} is {state.status}: {state.reason}")
        return TrialState("missing", damaged or "never run")

    def has_scores(self, trial: Trial) -> bool:
        """Whether a trial has been evaluated as it is declared."""
        if not trial.evaluation_fingerprint:
            return False
        folder = self._layout.evaluation_folder(trial)
        scores = folder / "scores.json"
        if not self._files.has(scores) or not self._files.has_table(folder / "items.parquet"):
            return False
        if not scores.exists():
            self._files.download(scores)
        return bool(self._files.read_record(scores, ScoresRecord))

    def damaged_scores(self, trial: Trial) -> str:
        """Which file of a trial's own scores is damaged, in words; empty where none is."""
        if not trial.evaluation_fingerprint:
            return ""
        folder, damaged = self._layout.evaluation_folder(trial), self._files.damaged
        names = [name for name in ("scores.json", "items.parquet") if folder / name in damaged]
        return f"scored before, but {' and '.join(names)} {'is' if len(names) == 1 else 'are'} damaged" if names else ""

    def preparation_status(self, preparation: Preparation) -> TrialState:
        """Where a preparation stands."""
        folder = self._layout.prepared_folder(preparation)
        self._files.look(folder)
        check_fingerprint(self._files, folder / "preparation.json", preparation.fingerprint, PreparationRecord)
        record = self._record(folder)
        status = record.get("status", "missing")
        if folder / "status.json" in self._files.damaged and self._files.has(folder / "weights.pt"):
            status = "done"  # they are written at the very end
        if status == "running":
            return self._working(folder, record, trained=False)
        reason = {"missing": "never run", "done": "finished"}.get(status) or record["reason"]
        return TrialState(status, reason, status == "done", "prepare", started=record.get("started"), finished=record.get("finished"))

    def _working(self, folder: Path, record: dict[str, Any], trained: bool) -> TrialState:
        progress = self._files.read_record(folder / "progress.json", ProgressRecord)
        if record.get("stage") == "evaluate" and progress.get("stage") == "train":
            progress = {"stage": "evaluate", "time": progress.get("time")}  # which has not answered an item yet
        step, steps = progress.get("step", 0), progress.get("steps", 0)
        reached = f"{progress['stage']} {step} of {steps}" if steps else "evaluation begins" if progress else "started"
        live = self._files.is_held(folder)
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

    # ------------------------------------------------------------ why something failed
    def failed_folder(self, trial: Trial) -> Path:
        """The folder of what a failed trial failed of: its evaluation's, its own, a preparation's, or its earlier stage's, which may have
        failed likewise."""
        own = self._layout.trial_folder(trial)
        if trial.evaluation_fingerprint and self.recorded(evaluation := self._layout.evaluation_folder(trial)) == "failed":
            return evaluation
        if self.recorded(own) == "failed":
            return own
        for preparation in trial.preparations:
            if self.preparation_status(preparation).status == "failed":
                return self._layout.prepared_folder(preparation)
        for stage in trial.earlier[-1:]:
            if self.status(stage).status == "failed":
                return self.failed_folder(stage)
        return own

    def traceback_file(self, trial: Trial) -> Path | None:
        """The file with the traceback of a failed trial's cause; None if that left none."""
        path = self.failed_folder(trial) / "error.txt"
        return path if self._files.has(path) else None

    def error(self, folder: Path) -> str | None:
        """The traceback of a failure in a folder."""
        path = folder / "error.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None

    # ------------------------------------------------------------ written by the process that does the work
    def start(self, folder: Path, stage: str, evaluation: str | None = None, code: str | None = None) -> None:
        """Say that a held folder is being worked on.

        Args:
            code: by which it is trained: see `training_code`; None: that of this package.
        """
        previous = self._record(folder)
        self._keep_failure(folder, previous, evaluation)
        process = {"host": socket.gethostname(), "pid": os.getpid()}
        goes_on = all(previous.get(name) == value for name, value in process.items())
        started = previous["started"] if previous.get("status") == "running" and goes_on else time.time()
        (folder / "error.txt").unlink(missing_ok=True)
        if not goes_on:
            (folder / "progress.json").unlink(missing_ok=True)
        record = {"status": "running", "stage": stage, "evaluation": evaluation, "started": started}
        trained_by = {"code": self._code_of(folder, previous, code or code_version())}
        self._write(folder, record | trained_by | process | {"run": os.environ.get(RUN)})

    def start_evaluation(self, fingerprint: str, evaluation: str) -> None:
        """Say that a held trial is being evaluated."""
        own = self._layout.evaluation_folder_of(fingerprint, evaluation)
        for name in ("status.json", "error.txt"):
            (own / name).unlink(missing_ok=True)
        self.start(self._layout.trial_folder(fingerprint), "evaluate", evaluation)

    def _keep_failure(self, folder: Path, previous: dict[str, Any], evaluation: str | None) -> None:
        """Of an evaluation whose process was lost the trial's record says that it failed: keep that beside it before the record is
        used for another."""
        failed = previous.get("evaluation") if previous.get("status") == "failed" and previous.get("stage") == "evaluate" else None
        if failed and failed != evaluation:
            own = self._layout.evaluation_folder_of(folder.name, failed)
            self._write(own, {name: previous[name] for name in ("status", "reason", "finished") if name in previous})

    def finish(self, folder: Path) -> None:
        """Say that a folder's work is done."""
        record = self._record(folder)
        self._write(folder, record | {"status": "done", "finished": time.time()})

    def fail(self, folder: Path, reason: str) -> None:
        """Say in a line why a folder's work failed."""
        record = self._record(folder)
        self._write(folder, record | {"status": "failed", "reason": reason, "finished": time.time()})

    def recorded(self, folder: Path) -> str:
        """The status that a folder's record has, whether or not it still holds."""
        return str(self._record(folder).get("status", "missing"))

    def has_failed(self, folder: Path) -> bool:
        """Whether one of the workers of a trial, on whatever machine, has recorded that it failed."""
        if self.recorded(folder) == "failed":
            return True
        try:
            return self._files.read_latest(folder / "status.json").get("status") == "failed"
        except (OSError, ValueError):
            return False

    def holder(self, folder: Path) -> tuple[str, str | None]:
        """Who began the work that a folder's record speaks of: the host, and the run if it was one."""
        record = self._record(folder)
        return record.get("host", "an unknown host"), record.get("run")

    def worker(self, folder: Path) -> tuple[str, int | None]:
        """The host and the number of the process that works on a folder, or did last."""
        record = self._record(folder)
        return record.get("host", "an unknown host"), record.get("pid")

    def retry(self, folder: Path) -> None:
        """Let a failure be tried again. What code trained it so far stays known."""
        record = self._record(folder)
        if record.get("status") == "failed":
            self._write(folder, {"status": "missing", "code": record.get("code")})

    def code(self, trial: Trial) -> str | None:
        """The code that trained a trial, several joined if it was resumed by another; None if unknown. See `training_code`."""
        return self._code(self._layout.trial_folder(trial))

    def code_it_starts_from(self, trial: Trial) -> str | None:
        """The code that made its preparations and trained its earlier stages, joined; None if unknown, or there are none."""
        folders = [self._layout.trial_folder(one) for one in trial.earlier]
        folders += [self._layout.prepared_folder(one) for stage in (*trial.earlier, trial) for one in stage.preparations]
        parts = {part for folder in folders if (code := self._code(folder)) for part in code.split(", ")}
        return ", ".join(sorted(parts)) or None

    def _code(self, folder: Path) -> str | None:
        return self._record(folder).get("code")

    def _code_of(self, folder: Path, previous: dict[str, Any], now: str) -> str | None:
        """The code that what a folder holds was, and is now to be, trained by."""
        before = previous.get("code")
        if self._files.has(folder / "model.pt"):
            return before
        if self._files.has(folder / "last.ckpt"):
            return ", ".join(sorted({*before.split(", "), *now.split(", ")})) if before else None
        return now

    def _record(self, folder: Path) -> dict[str, Any]:
        """What a folder's status says; nothing where it is damaged."""
        record: dict[str, Any] = self._files.read_record(folder / "status.json", StatusRecord)
        return record

    def _write(self, folder: Path, record: dict[str, Any]) -> None:
        self._files.write(folder / "status.json", json.dumps(hidden(record), indent=1).encode())


@functools.cache
def code_version() -> str:
    """Which code trains and scores here, such as '0.1.0+1f00ba47': the version, and the first 8 hex digits of a hash over the names and
    contents of these rooms' .py files, so that two states of one version differ."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    sources = [path for room in CODE_ROOMS for path in (package / room).rglob("*.py")]
    for name, path in sorted((path.relative_to(package).as_posix(), path) for path in sources):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return f"{__version__}+{digest.hexdigest()[:8]}"


def training_code(experiment: Experiment) -> str:
    """The code that trains an experiment: `code_version`, and the files of the user's own that it takes, such as
    '0.1.0+1f00ba47, mean.py@8c1d22aa'."""
    return _with_own(own_modules(experiment.data) | own_modules(experiment.model) | own_modules(experiment.training))


def preparation_code(preparation: Preparation) -> str:
    """The code that makes a preparation, likewise."""
    return _with_own(own_modules(preparation.settings))


def evaluation_code(experiment: Experiment, tasks: Iterable[Task]) -> str:
    """The code that evaluates an experiment's model and scores its answers to tasks, likewise."""
    named = [own_modules(experiment.model), own_modules(experiment.evaluation), *(own_modules(task) for task in tasks)]
    return _with_own(set().union(*named))


def _with_own(modules: Iterable[str]) -> str:
    return ", ".join([code_version(), *(f"{file}@{digest}" for file, digest in own_code(modules).items())])
