"""A study whose seeds are added until it is decided, run look by look with Ray kept up.

In: a study and its store. Out: an `Outcome`. Which trials the next look takes follows from the scores in the store alone
(`plan/until_decided.py`): so a run that is killed goes on alike, and two runs at once share each look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace

from mm1_ablate.config.study import Study, Trial
from mm1_ablate.plan.until_decided import as_needed
from mm1_ablate.run.scheduler import Outcome, RunOptions, ray_kept_up, run_study
from mm1_ablate.run.signals import interruptible
from mm1_ablate.store.store import Store

POLL_SECONDS = 0.5
"""Between two looks at trials of another run."""
Shown = Callable[[Study], AbstractContextManager[Callable[[str], None]]]
"""Shows a study for the length of a block, which gets what takes a line for display."""


def run_until_decided(study: Study, store: Store, options: RunOptions, shown: Shown) -> Outcome:
    """Run what a study needs, look at it, and go on with what is not decided, until nothing more is needed or can be done.

    Raises: as `run_study`.
    """
    started, outcome = 0, Outcome(interrupted=True)
    try:
        with interruptible(), ray_kept_up() as connection:
            while True:
                study = as_needed(study, store)
                with shown(study) as say:
                    outcome = run_study(study, store, options, say, connection)
                    started += outcome.started
                    if outcome.elsewhere and not outcome.interrupted:
                        _wait([trial for trial in study.trials if trial.name in outcome.elsewhere], store, say)
                options = replace(options, retry=False)  # what failed again is not tried a third time
                if outcome.interrupted or options.evaluate_only or not _added(study, as_needed(study, store)):
                    return replace(outcome, started=started)
    except KeyboardInterrupt:
        return replace(outcome, started=started, interrupted=True)


def _wait(trials: Iterable[Trial], store: Store, say: Callable[[str], None]) -> None:
    """Wait for trials that another run works on: the look is taken when all of it is there."""
    waiting = list(trials)
    say(f"waiting for another run, which works on {len(waiting)} trials of this look")
    while any(store.status(trial).status == "running" for trial in waiting):
        time.sleep(POLL_SECONDS)
        store.refresh(at_most_every=1)


def _added(before: Study, after: Study) -> bool:
    """Whether a look asks for trials that the one before did not."""
    return bool({trial.evaluation_fingerprint for trial in after.trials} - {trial.evaluation_fingerprint for trial in before.trials})
