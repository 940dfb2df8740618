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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mm1_ablate import __version__
from mm1_ablate.config.passwords import hidden
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.study import Trial
from mm1_ablate.data.atomic_files import read_json_or_nothing
from mm1_ablate.store.files import Files
from mm1_ablate.store.layout import Layout
from mm1_ablate.store.manifests import check_fingerprint

Status = Literal["missing", "running", "interrupted", "done", "failed"]

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
        check_fingerprint(folder / "trial.json", trial.fingerprint)
        trained = self._files.has(folder / "model.pt")
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
            return TrialState("missing", "trained, not evaluated", trained)
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
        return TrialState("missing", "never run")

    def has_scores(self, trial: Trial) -> bool:
        """Whether a trial has been evaluated as it is declared."""
        if not trial.evaluation_fingerprint:
            return False
        folder = self._layout.evaluation_folder(trial)
        return self._files.has(folder / "scores.json") and self._files.has(folder / "items.parquet")

    def preparation_status(self, preparation: Preparation) -> TrialState:
        """Where a preparation stands."""
        folder = self._layout.prepared_folder(preparation)
        self._files.look(folder)
        check_fingerprint(folder / "preparation.json", preparation.fingerprint)
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
        """The folder of what a failed trial failed of: its own, a preparation's, or its earlier stage's, which may have failed likewise."""
        own = self._layout.trial_folder(trial)
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
        return path.read_text() if path.exists() else None

    # ------------------------------------------------------------ written by the process that does the work
    def start(self, folder: Path, stage: str, evaluation: str | None = None) -> None:
        """Say that a held folder is being worked on."""
        previous = read_json_or_nothing(folder / "status.json")
        process = {"host": socket.gethostname(), "pid": os.getpid()}
        goes_on = all(previous.get(name) == value for name, value in process.items())
        started = previous["started"] if previous.get("status") == "running" and goes_on else time.time()
        (folder / "error.txt").unlink(missing_ok=True)
        if not goes_on:
            (folder / "progress.json").unlink(missing_ok=True)
        record = {"status": "running", "stage": stage, "evaluation": evaluation, "started": started}
        code = {"code": self._code_of(folder, previous)}
        self._write(folder, record | code | process | {"run": os.environ.get(RUN)})

    def finish(self, folder: Path) -> None:
        """Say that a folder's work is done."""
        record = read_json_or_nothing(folder / "status.json")
        self._write(folder, record | {"status": "done", "finished": time.time()})

    def fail(self, folder: Path, reason: str) -> None:
        """Say in a line why a folder's work failed."""
        record = read_json_or_nothing(folder / "status.json")
        self._write(folder, record | {"status": "failed", "reason": reason, "finished": time.time()})

    def recorded(self, folder: Path) -> str:
        """The status that a folder's record has, whether or not it still holds."""
        return str(read_json_or_nothing(folder / "status.json").get("status", "missing"))

    def has_failed(self, folder: Path) -> bool:
        """Whether one of the workers of a trial, on whatever machine, has recorded that it failed."""
        if self.recorded(folder) == "failed":
            return True
        try:
            return self._files.read_latest(folder / "status.json").get("status") == "failed"
        except OSError:
            return False

    def holder(self, folder: Path) -> tuple[str, str | None]:
        """Who began the work that a folder's record speaks of: the host, and the run if it was one."""
        record = read_json_or_nothing(folder / "status.json")
        return record.get("host", "an unknown host"), record.get("run")

    def retry(self, folder: Path) -> None:
        """Let a failure be tried again. What code trained it so far stays known."""
        record = read_json_or_nothing(folder / "status.json")
        if record.get("status") == "failed":
            self._write(folder, {"status": "missing", "code": record.get("code")})

    def code(self, trial: Trial) -> str | None:
        """The version of the code that trained a trial, several joined if it was resumed by another; None if unknown."""
        return read_json_or_nothing(self._layout.trial_folder(trial) / "status.json").get("code")

    def _code_of(self, folder: Path, previous: dict[str, Any]) -> str | None:
        """The code that what a folder holds was, and is now to be, trained by."""
        before = previous.get("code")
        if self._files.has(folder / "model.pt"):
            return before
        if self._files.has(folder / "last.ckpt"):
            return ", ".join(sorted({*before.split(", "), code_version()})) if before else None
        return code_version()

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
