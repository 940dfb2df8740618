"""From a sweep file to its comparison: plan, budget, trials, report, MLflow. Each of them is the work of a room below.

In: what the command line says. Out: exit codes, and on the terminal what happened; the record is in the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_ablate.commands.common import (
    BUDGET_FORBIDS,
    FILE_IS_WRONG,
    INTERRUPTED,
    SOME_FAILED,
    console,
    read_finished,
    read_study,
    say,
    stop,
    tell,
)
from mm1_ablate.commands.plan import summary
from mm1_ablate.commands.prepare_data import make_ready
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.study import Study
from mm1_ablate.data.atomic_files import read_json_or_nothing, write_json
from mm1_ablate.plan.plan import Plan, plan
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    import pandas

    from mm1_ablate.report.cells import Measure
    from mm1_ablate.report.comparison import StudyComparison
    from mm1_ablate.run.scheduler import Outcome


def run_sweep(
    path: Path, store: Store, *, address: str | None = None, cpus: int | None = None, retry: bool = False, evaluate_only: bool = False
) -> int:
    """Do what a sweep lacks and show the comparison; returns the exit code."""
    study = read_study(path, "contents" if evaluate_only else "check", begins=True)
    planned = plan(study, store, retry)
    tell_plan(planned, store)
    if planned.over_budget and not evaluate_only:
        stop(BUDGET_FORBIDS, *planned.over_budget, "nothing was started: raise the budget in the sweep, or reduce the work")
    if not evaluate_only:
        store.write_warnings(study)
    to_do = [row for row in planned.to_do if not (row.to_train and evaluate_only)]
    if to_do:
        make_ready(study, planned, console())
        outcome = carry_out(study, store, address, cpus, retry, evaluate_only)
        if outcome.interrupted:
            stop(INTERRUPTED, f"interrupted; to continue: mm1-ablate run {shlex.quote(str(path))}{_store_option(store)}")
        if outcome.elsewhere:
            tell(f"another run works on {', '.join(outcome.elsewhere)}")
    else:
        store.write_study(study)
        what = "no evaluation is missing" if evaluate_only else "all trials have been run"
        if elsewhere := [row.name for row in planned.rows if row.status == "running"]:
            after = f"; if its machine was lost, its lease runs out within {store.lease_seconds:g} seconds: then run this again"
            ends = after if store.lease_seconds else ""
            what = f"another run works on {', '.join(elsewhere)}{ends}"
        tell(f"nothing to do: {what}" + (", except for failed ones" if planned.failed else ""))
    if not any(store.has_scores(trial) for trial in study.trials):
        tell("no trial has scores yet: there is nothing to compare")
        track_what_ended(study, store)
    else:
        show_comparison(study, store, path)
    failed = say_failures(study, store)
    return SOME_FAILED if failed else 0


def tell_plan(planned: Plan, store: Store) -> None:
    """The plan in a few lines, and what lies in the store that the file no longer names."""
    for line in summary(planned):
        tell(line)
    (study,) = planned.studies
    for folder, name in store.unlisted_trials(study).items():
        tell(f"no longer in the file, not touched: {name} ({store.where(folder)})")


def carry_out(study: Study, store: Store, address: str | None, cpus: int | None, retry: bool, evaluate_only: bool) -> Outcome:
    """Run what is missing, with a live table, shown in MLflow as it ends."""
    from mm1_ablate.run.cluster import ClusterUnusable
    from mm1_ablate.run.progress_view import show_progress
    from mm1_ablate.run.scheduler import RunOptions, run_study
    from mm1_ablate.run.worker_group import ResourcesMissing
    from mm1_ablate.store.disk_full import DiskFull
    from mm1_ablate.tracking.mlflow_runs import TrackingFailed, keep_tracking, track

    store.register_trials(study)
    try:
        with show_progress(study, store, console()) as view, keep_tracking(study, store, say):
            return run_study(study, store, RunOptions(address, cpus, retry, evaluate_only), on_event=view.event)
    except DiskFull as error:
        # MLflow may be on another disk, and is where people look who are not at the terminal.
        with contextlib.suppress(TrackingFailed):
            track(study, store, verdict=f"Stopped: {error}")
        raise
    except ResourcesMissing as error:
        stop(FILE_IS_WRONG, f"{study.path}: {error}")
    except (ConnectionError, ClusterUnusable) as error:
        stop(SOME_FAILED, str(error), "`mm1-ablate doctor` checks the connection, and what every node can do with the store")


def say_failures(study: Study, store: Store) -> int:
    """Name the trials that failed, why, and where to read more; returns how many."""
    failed = 0
    for trial in study.trials:
        state = store.status(trial)
        if state.status == "failed":
            failed += 1
            traceback = store.traceback_file(trial)
            say(f"failed: {trial.name}: {state.reason}" + (f" ({store.where(traceback)})" if traceback else ""))
    if failed:
        say(f"{failed} of {len(study.trials)} trials failed; --retry tries them again")
    return failed


# ---------------------------------------------------------------- comparison
def compare_study(study: Study, store: Store) -> StudyComparison:
    """The arms of a study, by what its store has."""
    from mm1_ablate.report.aa_check import with_false_verdicts
    from mm1_ablate.report.comparison import compare
    from mm1_ablate.report.task_scores import task_scores

    results, items = store.results(study), item_scores(study, store)
    accounts = [store.data_account(trial) for trial in study.trials]
    with remembering(store.study_folder(study) / "floors.json") as floors:
        tasks = task_scores(study, items, floors)
    costs = measures_by_arm(plan(study, store), store, items)
    comparison = compare(study, results, store.holes(study), items, costs, accounts, tasks, store.warnings(study))
    return with_false_verdicts(comparison, study, results, items)


@contextlib.contextmanager
def remembering(path: Path) -> Iterator[dict[str, Any]]:
    """What takes seconds to compute and follows from its key, kept beside the report; written again where something was added."""
    remembered = read_json_or_nothing(path)
    known = len(remembered)
    yield remembered
    if len(remembered) > known:
        write_json(path, remembered)


def item_scores(study: Study, store: Store) -> pandas.DataFrame | None:
    """Per-item scores of all arms and seeds that have been evaluated; a trial of several arms is in each of them."""
    import pandas

    parts = [store.items(trial).assign(arm=arm, seed=trial.seed) for trial in study.trials if store.has_scores(trial) for arm in trial.arms]
    return pandas.concat(parts, ignore_index=True) if parts else None


def measures_by_arm(planned: Plan, store: Store, items: pandas.DataFrame | None) -> dict[str, tuple[Measure, ...]]:
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
                codes={code for trial in trials if store.has_scores(trial) and (code := store.code(trial))},
            )
    return found


def compare_and_write(study: Study, store: Store) -> tuple[StudyComparison, Path]:
    """The comparison, and the folder of its report, written again where the comparison or what makes reports has changed."""
    from mm1_ablate.report.html import report_version, write_report

    store.refuse_links(store.study_folder(study))
    comparison = compare_study(study, store)
    folder = store.study_folder(study) / "report"
    stamp = folder.parent / "report.json"
    sweep_text = text_of_sweep(study)
    content = {
        "comparison": _digest(comparison.to_json()),
        "sweep": _digest(sweep_text),
        "trials": _states(study, store),
        "code": report_version(),
    }
    if not (folder / "report.html").exists() or not _says(stamp, content):
        write_report(folder, comparison, store.curves(study), sweep_text)
        write_json(stamp, content)
        store.upload(*sorted(path for path in folder.rglob("*") if path.is_file()))
    return comparison, folder


def text_of_sweep(study: Study) -> str:
    """The sweep file, and those that it includes."""
    parts = [f"# {path.name}\n{path.read_text()}" for path in study.included]
    return without_passwords("\n".join([study.path.read_text(), *parts]))


def write_document(comparison: StudyComparison, curves: pandas.DataFrame, target: Path) -> list[Path]:
    """The report as Markdown with its pictures, where people want to keep it."""
    from mm1_ablate.report.markdown import write_markdown

    return write_markdown(target, comparison, curves)


def show_comparison(study: Study, store: Store, path: Path) -> None:
    """Write the report, bring MLflow up to it, print the table and where to see more."""
    from mm1_ablate.report.text import print_comparison

    comparison, folder = compare_and_write(study, store)
    track_study(study, store, comparison, folder)
    print_comparison(comparison, console())
    page = folder / "report.html"
    tell(f"report: {page}" + (f" ({where})" if (where := store.where(page)) != str(page) else ""))
    tell(f"in MLflow: mm1-ablate ui {shlex.quote(str(path))}{_store_option(store)}")


def track_study(study: Study, store: Store, comparison: StudyComparison, folder: Path) -> None:
    """Show the study and its report in MLflow, unless just this is there already. If MLflow fails nothing is lost: it is written again."""
    from mm1_ablate.report.markdown import markdown
    from mm1_ablate.report.text import wide_table
    from mm1_ablate.tracking.mlflow_runs import TrackingFailed, track, tracking_uri

    stamp = store.study_folder(study) / "mirrored.json"
    content = {
        "address": without_passwords(tracking_uri(store)),
        "report": _digest((folder / "report.html").read_text()),
        "trials": _states(study, store),
    }
    if _says(stamp, content) and (not content["address"].startswith("sqlite") or (store.root / "mlflow.db").exists()):
        return
    try:
        track(study, store, report=folder, table=wide_table(comparison), verdict=markdown(comparison))
    except TrackingFailed as error:
        say(f"{error} (everything is in the store; the next run writes it again)")
    else:
        write_json(stamp, content)


def track_what_ended(study: Study, store: Store) -> None:
    """Show the failures and the earlier stages of a study that has no scores in MLflow, if it has any."""
    from mm1_ablate.tracking.mlflow_runs import TrackingFailed, track

    if any(store.status(one).status in ("done", "failed") for one in (*study.stages, *study.trials)):
        try:
            track(study, store)
        except TrackingFailed as error:
            say(f"{error} (everything is in the store; the next run writes it again)")


def _states(study: Study, store: Store) -> str:
    """A digest of how the trials and their earlier stages stand."""
    states = [
        (trial.evaluation_fingerprint or trial.fingerprint, state.status, state.reason, state.finished)
        for trial in (*study.trials, *study.stages)
        for state in (store.status(trial),)
    ]
    return _digest(states)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _says(stamp: Path, content: object) -> bool:
    try:
        return bool(json.loads(stamp.read_text()) == content)
    except (OSError, ValueError):
        return False


def _store_option(store: Store) -> str:
    """The option that a printed command needs to find the same store."""
    folder = Path(store.address)
    place = str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else store.address
    return "" if place == "ablations" else f" --store {shlex.quote(place)}"


def open_ui(path: Path | None, store: Store, port: int, browser: bool) -> int:
    """Serve MLflow until interrupted; returns the exit code."""
    from mm1_ablate.tracking.mlflow_runs import TrackingFailed
    from mm1_ablate.tracking.ui import serve

    study = read_finished(path, store) if path is not None else None
    if str(store.root) != store.address:
        tell(f"MLflow reads {store.root}, a copy of {store.address}")
    if not store.root.is_dir():
        stop(SOME_FAILED, f"there is no store at {store.root}: run a sweep first, or name another with --store DIR")
    if study is not None and any(store.has_scores(trial) for trial in study.trials):
        comparison, folder = compare_and_write(study, store)
        track_study(study, store, comparison, folder)
    try:
        return serve(store, study, port, browser)
    except (TrackingFailed, RuntimeError) as error:
        stop(SOME_FAILED, str(error))
