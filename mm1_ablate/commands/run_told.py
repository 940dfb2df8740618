"""What `mm1-ablate run` tells before, between and after its trials. In: a study and its store. Out: lines on the terminal."""

from __future__ import annotations

from collections.abc import Collection

from mm1_ablate.commands.common import say, tell
from mm1_ablate.config.errors import listed
from mm1_ablate.config.identity.data_digests import DataSnapshot
from mm1_ablate.config.identity.reads import NAMED, difference, reads_of_training
from mm1_ablate.config.study import Study
from mm1_ablate.plan.plan import Plan
from mm1_ablate.store.store import Store

MOST_TRIALS = 12
"""Names that one line has."""


def tell_rewritten(study: Study, store: Store, told: Collection[str] = ()) -> list[str]:
    """Tell of files that were written again since trials were trained with them and that count as the same data; returns the lines.

    Args:
        told: lines that were told before.
    """
    rewritten: dict[str, dict[str, None]] = {}
    with DataSnapshot("contents", study.path.parent).active():
        for trial in (*study.stages, *study.trials):
            folder = store.trial_folder(trial)
            if not store.has(folder / "model.pt") or not (planned := store.planned_reads(folder)):
                continue
            try:
                now = reads_of_training(trial.experiment)
            except Exception:  # what is not there any more is not written again
                continue
            for place in planned.keys() & now.keys():
                rewritten.setdefault(place, {}).update(dict.fromkeys(difference(planned[place], now[place]).touched))
    lines = [
        f"{place}: {listed(files, NAMED)}: written again since trials were trained with it, with the same size, beginning and end:"
        " it counts as the same data, and what is in its middle was not compared"
        for place, files in sorted(rewritten.items())
        if files
    ]
    for line in lines:
        if line not in told:
            say(line)
    return lines


def tell_nothing_to_do(planned: Plan, store: Store, evaluate_only: bool) -> None:
    """Tell why a run begins nothing."""
    what = "no evaluation is missing" if evaluate_only else "all trials have been run"
    if elsewhere := [row.name for row in planned.rows if row.status == "running"]:
        after = f"; if its machine was lost, its lease runs out within {store.lease_seconds:g} seconds: then run this again"
        ends = after if store.lease_seconds else ""
        what = f"another run works on {', '.join(elsewhere)}{ends}"
    tell(f"nothing to do: {what}" + (", except for failed ones" if planned.failed else ""))


def tell_look(study: Study) -> None:
    """Tell which arms a look gives another seed; nothing where the seeds are fixed."""
    design = study.sweep.until_decided
    if design is None:
        return
    seeds = max(study.needed_seeds.values())
    growing = [arm.name for arm in study.arms if arm.name != arm.baseline and study.needed_seeds[arm.name] == seeds]
    if seeds == design.at_least:
        tell(f"first look: at {seeds} seeds of every arm")
    else:
        open_arms = "1 arm is not decided and gets" if len(growing) == 1 else f"{len(growing)} arms are not decided and get"
        tell(f"after the look at {seeds - 1} seeds {open_arms} one more: {listed(growing, MOST_TRIALS)}")


def say_failures(study: Study, store: Store) -> int:
    """Name the trials that failed, why, and where to read more, and count those that are missing besides; returns how many failed."""
    failed = missing = 0
    for trial in study.trials:
        state = store.status(trial)
        missing += state.status in ("missing", "interrupted")
        if state.status == "failed":
            failed += 1
            traceback = store.traceback_file(trial)
            say(f"failed: {trial.name}: {state.reason}" + (f" ({store.where(traceback)})" if traceback else ""))
    are = "is" if missing == 1 else "are"
    if failed:
        besides = f"; {missing} more {are} missing" if missing else ""
        say(f"{failed} of {len(study.trials)} trials failed; --retry tries them again{besides}")
    elif missing:
        say(f"{missing} of {len(study.trials)} trials {are} missing")
    return failed
