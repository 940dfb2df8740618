"""Which trials a study needs whose seeds are added until it is decided.

In: a study and its store. Out: the same study with the trials that it needs by what the store has, and with the others beside them, each
with the reason. A study whose seeds are fixed comes back as it is. Everything that plans, runs, shows or compares a study takes what comes
out of here, so that a seed that nobody asked for is missing nowhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mm1_ablate.config.study import NotRun, Study, Trial
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    from mm1_ablate.report.looks import Looks


def as_needed(study: Study, store: Store) -> Study:
    """A study with the trials that it needs by what its store has now; what was said of them before is said anew."""
    design = study.sweep.until_decided
    if design is None:
        return study
    whole = _whole(study)
    looks = _looks(whole, store)
    needed = dict(looks.needed) if looks else dict.fromkeys((arm.name for arm in study.arms), design.at_least)
    narrowed = replace(whole, needed_seeds=needed)
    wanted = {(arm.name, seed) for arm in study.arms for seed in narrowed.seeds_of(arm.name)}
    run, others = [], []
    for trial in whole.trials:
        if any((arm, trial.seed) in wanted for arm in trial.arms):
            run.append(trial)
        else:
            others.append(_not_run(trial, looks, design.looks[0]))
    return replace(narrowed, trials=tuple(run), not_run=tuple(others))


def may_need(study: Study) -> Study:
    """A study with all trials that it may still come to need, however its looks turn out."""
    more = tuple(one.trial for one in study.not_run if one.possible)
    return replace(study, trials=(*study.trials, *more), not_run=tuple(one for one in study.not_run if not one.possible))


def expected_trials(study: Study, store: Store) -> float | None:
    """How many more trials a study that was narrowed `as_needed` is expected to need for later looks; None: no look has been taken."""
    looks = _looks(_whole(study), store)
    if looks is None or not any(one.seeds for one in looks.comparisons.values()):
        return None
    from mm1_ablate.report.looks_forecast import drawn_needs

    margin = study.sweep.compare.smallest_difference_of_interest
    needs = drawn_needs(looks, {arm.name: arm.baseline for arm in study.arms}, margin)
    expected = 0.0
    for trial in (one.trial for one in study.not_run if one.possible):
        places = {arm: study.possible_seeds_of(arm).index(trial.seed) for arm in trial.arms}
        expected += float(max((needs[arm] > place).mean() for arm, place in places.items()))
    return expected


def _whole(study: Study) -> Study:
    """With all trials that it may come to need, in the order of the arms and seeds."""
    arms = {arm.name: place for place, arm in enumerate(study.arms)}
    seeds = {arm: study.possible_seeds_of(arm) for arm in arms}
    trials = sorted(study.possible_trials, key=lambda trial: (arms[trial.arms[0]], seeds[trial.arms[0]].index(trial.seed)))
    return replace(study, trials=tuple(trials), needed_seeds={}, not_run=())


def _looks(study: Study, store: Store) -> Looks | None:
    """Where its questions stand; None: no trial has scores."""
    if not any(store.has_scores(trial) for trial in study.trials):
        return None
    # Seconds of pandas and scipy, which a study that has not begun does without.
    from mm1_ablate.report.looks import replay
    from mm1_ablate.report.scores import Scores

    # Items first: what of them turns out to be damaged has no scores.
    items = store.item_scores(study)
    results = store.results(study)
    return replay(study, Scores(results, items, study.sweep.compare.confidence, study.arms[0].experiment.evaluation.groups))


def _not_run(trial: Trial, looks: Looks | None, first: int) -> NotRun:
    """Why a trial is not needed so far."""
    questions = [one for arm in trial.arms for one in looks.of(arm)] if looks else []
    if questions and all(one.decided for one in questions):
        return NotRun(trial, f"not needed: decided at {max(one.seeds for one in questions)} seeds", possible=False)
    waits = max((one.needed for one in questions if not one.decided), default=first)
    return NotRun(trial, f"not needed so far: the look at {waits} seeds comes first", possible=True)
