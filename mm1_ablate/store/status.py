"""Where trials and preparations stand: what their folders say, and whether somebody works on them.

In: a store. Out: a `TrialState`; and what whoever works on a folder says of it: that it starts, is done, has failed and why.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mm1_ablate.config.preparation import Preparation
from mm1_ablate.data.atomic_files import read_json_or_nothing
from mm1_ablate.store.code_version import code_version
from mm1_ablate.store.manifests import Records, check_fingerprint

if TYPE_CHECKING:
    from mm1_ablate.config.sweep.expand import Trial

Status = Literal["missing", "running", "interrupted", "done", "failed"]

RUN = "MM1_ABLATE_RUN"
"""Environment variable of children: which run they work for."""


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


class States(Records):
    """The states of a store's trials and preparations."""

    def status(self, trial: Trial) -> TrialState:
        """Where a trial stands, for its own evaluation; an earlier stage, which has none, is done when it is trained.

        Raises:
            FingerprintCollision: its folder is another trial's.
        """
        folder = self.trial_folder(trial.fingerprint)
        self.look(folder)
        check_fingerprint(folder / "trial.json", trial.fingerprint)
        trained = self.has(folder / "model.pt")
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
        folder = self.evaluation_folder(trial)
        return self.has(folder / "scores.json") and self.has(folder / "items.parquet")

    def preparation_status(self, preparation: Preparation) -> TrialState:
        """Where a preparation stands."""
        folder = self.prepared_folder(preparation)
        self.look(folder)
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
        live = self.is_held(folder)
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

    # ------------------------------------------------------------ said by whoever does the work
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
        self.write_json(folder / "status.json", record | code | process | {"run": os.environ.get(RUN)})

    def finish(self, folder: Path) -> None:
        """Say that a folder's work is done."""
        record = read_json_or_nothing(folder / "status.json")
        self.write_json(folder / "status.json", record | {"status": "done", "finished": time.time()})

    def fail(self, folder: Path, reason: str) -> None:
        """Say in a line why a folder's work failed."""
        record = read_json_or_nothing(folder / "status.json")
        self.write_json(folder / "status.json", record | {"status": "failed", "reason": reason, "finished": time.time()})

    def recorded(self, folder: Path) -> str:
        """The status that a folder's record has, whether or not it still holds."""
        return read_json_or_nothing(folder / "status.json").get("status", "missing")

    def has_failed(self, folder: Path) -> bool:
        """Whether one of the workers of a trial, on whatever machine, has recorded that it failed."""
        if self.mirror is None or self.recorded(folder) == "failed":
            return self.recorded(folder) == "failed"
        try:
            self.refresh(folder)
            # Of a folder that is held here nothing is fetched, and a worker on another machine has told the bucket only.
            return self.mirror.read_json(folder / "status.json").get("status") == "failed"
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
            self.write_json(folder / "status.json", {"status": "missing", "code": record.get("code")})

    def code(self, trial: Trial) -> str | None:
        """The version of the code that trained a trial, several joined if it was gone on with; nothing if that is not known."""
        return read_json_or_nothing(self.trial_folder(trial) / "status.json").get("code")

    def _code_of(self, folder: Path, previous: dict[str, Any]) -> str | None:
        """The code that what a folder holds was, and is now to be, trained by."""
        before = previous.get("code")
        if self.has(folder / "model.pt"):
            return before
        if self.has(folder / "last.ckpt"):
            return ", ".join(sorted({*before.split(", "), code_version()})) if before else None
        return code_version()
