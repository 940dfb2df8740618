"""The comparison of a study by what its store has: the report's, a notebook's, MLflow's are all made here.

In: a study and its store. Out: a `StudyComparison`. What is damaged in the store counts as missing.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.config.study import Study, Trial
from mm1_ablate.data.atomic_files import DamagedFile, write_json
from mm1_ablate.plan.plan import Plan, plan
from mm1_ablate.store.records import FloorRecord
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    import pandas

    from mm1_ablate.report.cells import Measure
    from mm1_ablate.report.comparison import StudyComparison


def compare_study(study: Study, store: Store) -> StudyComparison:
    """The arms of a study, by what its store has.

    It is what `mm1-ablate report` shows, to the last digit: intervals over seeds and items, verdicts, floors, costs, holes. Frames of it:
    `report.text.wide_table` (rounded), `StudyComparison.long`.
    """
    from mm1_ablate.report.aa_check import with_false_verdicts
    from mm1_ablate.report.comparison import compare
    from mm1_ablate.report.task_scores import task_scores

    # Items first: what of them turns out to be damaged is a hole.
    items = item_scores(study, store)
    results = store.results(study)
    accounts = [store.data_account(trial) for trial in study.trials]
    with _remembering(store.study_folder(study) / "floors.json", store) as floors:
        tasks = task_scores(study, items, floors)
    costs = _measures_by_arm(plan(study, store), store, items)
    comparison = compare(
        study, results, store.holes(study), items, costs, accounts, tasks, store.warnings(study), _seconds_per_trial(study, store)
    )
    return with_false_verdicts(comparison, study, results, items)


def _seconds_per_trial(study: Study, store: Store) -> float | None:
    """How much time passed for each finished trial of a study while any of them ran: trials at one another's side share it."""
    states = [store.status(trial) for trial in study.trials]
    spans = sorted((one.started, one.finished) for one in states if one.status == "done" and one.started and one.finished)
    passed, until = 0.0, 0.0
    for started, finished in spans:
        passed += max(finished - max(started, until), 0.0)
        until = max(until, finished)
    return passed / len(spans) if passed else None


@contextlib.contextmanager
def _remembering(path: Path, store: Store) -> Iterator[dict[str, Any]]:
    """What takes seconds to compute and follows from its key, kept beside the report; written again where something was added."""
    remembered = store.files.read_record(path, dict[str, FloorRecord])
    known = len(remembered)
    yield remembered
    if len(remembered) > known and store.root.is_dir():
        with unwritable_is_told(lambda error: None):
            write_json(path, remembered)


def item_scores(study: Study, store: Store) -> pandas.DataFrame | None:
    """Per-item scores of all arms and seeds that have been evaluated; a trial of several arms is in each of them."""
    import pandas

    parts = []
    for trial in study.trials:
        if store.has_scores(trial):
            with contextlib.suppress(DamagedFile):
                items = store.items(trial)
                parts += [items.assign(arm=arm, seed=trial.seed) for arm in trial.arms]
    return pandas.concat(parts, ignore_index=True) if parts else None


def _measures_by_arm(planned: Plan, store: Store, items: pandas.DataFrame | None) -> dict[str, tuple[Measure, ...]]:
    """What each arm took, saw and answered, so that the report can name in what arms differ more than was declared."""
    from mm1_ablate.report.confounds import answered_items, measures

    (study,) = planned.studies
    answered = answered_items(items)
    found: dict[str, tuple[Measure, ...]] = {}
    for row in planned.rows:
        for arm in row.arms:
            if arm in found:
                continue
            trials, experiment = study.trials_of(arm), study.arm(arm).experiment
            found[arm] = measures(
                experiment,
                parameters=row.parameters["total"],
                flops_per_token=row.flops / max(row.tokens.total, 1),
                curves=[store.curve(trial) for trial in trials],
                accounts=[account for trial in trials if store.status(trial).trained and (account := store.data_account(trial))],
                answered=answered.get(arm),
                evaluation=study.evaluation_digest(arm),
                codes=_codes(trials, store),
            )
    return found


def _codes(trials: Sequence[Trial], store: Store) -> dict[str, dict[int, str]]:
    """What code did for an arm's scored trials, by seed which code it was, as far as that is known."""
    found: dict[str, dict[int, str]] = {}
    for trial in (one for one in trials if store.has_scores(one)):
        evaluated = store.evaluation_code(trial)
        roles = {
            "code": store.code(trial),
            "code of what it starts from": store.code_it_starts_from(trial),
            "code that predicted": evaluated.get("predicted"),
            "code that scored": evaluated.get("scored"),
        }
        for role, code in roles.items():
            if code:
                found.setdefault(role, {})[trial.seed] = code
    return found


@contextlib.contextmanager
def unwritable_is_told(tell: Callable[[OSError], None]) -> Iterator[None]:
    """Write to a store that may be for reading only, which stops nobody from reading it.

    Args:
        tell: called with what was refused.
    """
    try:
        yield
    except OSError as error:
        refused = isinstance(error, PermissionError) or isinstance(error.__cause__, PermissionError) or error.errno == errno.EROFS
        if not refused:
            raise
        tell(error)
