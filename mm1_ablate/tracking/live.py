"""A study shown in MLflow while it runs: from the driver, every so many seconds, what the store has that MLflow has not.

In: a study and its store. Out: runs that are RUNNING from their start, whose curves grow. A round writes a request or two for each trial
that has something new, and ends when its time is up: trials that had no turn are first in the next one. A server that is away costs
nothing but freshness: rounds fail, which is said once, until it is back. The processes that train never wait for MLflow.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from mm1_ablate.config.study import Study, Trial
from mm1_ablate.store.status import TrialState
from mm1_ablate.store.store import Store
from mm1_ablate.tracking.experiment import experiment_of
from mm1_ablate.tracking.mlflow_runs import Tracked, no_files, tracking_failed
from mm1_ablate.tracking.server import connected_client, tracking_uri, writing_alone
from mm1_ablate.tracking.study_runs import StudyRuns, key_of

INTERVAL = 10.0
"""Seconds between two rounds."""
FIRST_AFTER = 3.0
"""Seconds until the first round: a study with nothing to do has ended by then."""
ENDED_WITHIN = 5.0
"""Seconds that trials may still be running after the run that did them has ended: their processes live on for a moment."""
Seen = tuple[object, ...]


class LiveStudy:
    """A study in MLflow, kept up to its store by rounds."""

    def __init__(self, study: Study, store: Store, longest_round: float) -> None:
        """
        Args:
            longest_round: seconds.
        """
        self.study, self.store, self.longest_round = study, store, longest_round
        self._runs: StudyRuns | None = None
        self._seen: dict[str, Seen] = {}
        self._waiting: list[Trial] = [*study.stages, *study.trials]
        """All trials, those first that had no turn in the last round."""

    def round(self) -> str | None:
        """Write what is new; returns why files could not be written, where they could not.

        Raises:
            Exception: whatever MLflow's client raises. The next round begins with what it finds there.
        """
        try:
            with writing_alone(self.store):
                return self._round()
        except Exception:
            self._runs = None
            raise

    def _round(self) -> str | None:
        until = time.monotonic() + self.longest_round
        if self._runs is None:
            client, self._seen = connected_client(self.store), {}
            experiment = experiment_of(client, self.study, self.store).experiment_id
            self._runs = StudyRuns(client, experiment, self.study, self.store, tracking_uri(self.store))
            self._runs.retire()
        changed = False
        for _ in range(len(self._waiting)):
            if time.monotonic() >= until:
                break
            # At once among the last: a trial that cannot be written is tried again, and holds up no other.
            self._waiting.append(trial := self._waiting.pop(0))
            state = self.store.status(trial)
            seen = self._what_is_seen(trial, state)
            if seen != self._seen.get(key_of(trial)):
                self._runs.write_trial(trial, state)
                changed = changed or self._seen.get(key_of(trial), (None,))[0] != seen[0]
                self._seen[key_of(trial)] = seen
        if changed:
            self._runs.write_arms(None, int(time.time() * 1000))
            self._runs.write_comparison(None, "")
        return self._runs.files.problem

    def _what_is_seen(self, trial: Trial, state: TrialState) -> Seen:
        """The same as long as there is nothing new to show of a trial."""
        if state.status not in ("running", "interrupted"):
            return state.status, state.reason, state.finished
        curve = self.store.trial_folder(trial) / "curve.jsonl"
        self.store.download(curve)
        return state.status, state.stage, curve.stat().st_size if curve.exists() else 0

    @property
    def some_run(self) -> bool:
        """Whether a trial is being worked on."""
        return any(self.store.status(trial).status == "running" for trial in self._waiting)


@contextlib.contextmanager
def keep_tracking(study: Study, store: Store, say: Callable[[str], None], interval: float = INTERVAL) -> Iterator[None]:
    """Show a study in MLflow while a block runs, every so many seconds, and once more when the block ends, whatever ends it. If MLflow
    fails, that is reported once; it may recover."""
    ended = threading.Event()
    failing = False

    def loop() -> None:
        nonlocal failing
        live, without_files = LiveStudy(study, store, longest_round=max(interval, 1.0)), False
        wait = min(interval, FIRST_AFTER)
        last = False
        while not last:
            last = ended.wait(wait)
            if last and failing:
                return
            wait = interval
            try:
                if last:
                    _wait_for_ending_trials(live, store)
                else:
                    store.refresh(at_most_every=interval)
                problem = live.round()
                failing = False
                if problem and not without_files:
                    say(no_files(Tracked(tracking_uri(store), "", "", without_files=problem)))
                    without_files = True
            except Exception as error:
                if not failing:
                    say(f"{tracking_failed(store, error)}; the study continues without MLflow")
                failing = True

    thread = threading.Thread(target=loop, name="mlflow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _wait_for_ending_trials(live: LiveStudy, store: Store) -> None:
    """Wait a moment for the processes of a run that was stopped, so that the last round does not show their trials as running."""
    until = time.monotonic() + ENDED_WITHIN
    store.refresh()
    while live.some_run and time.monotonic() < until:
        time.sleep(0.2)
        store.refresh(at_most_every=1)
