"""From a sweep file to its comparison: plan, budget, trials, report, MLflow. Each of them is the work of a room below.

In: what the command line says. Out: exit codes, and on the terminal what happened; the record is in the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_ablate.commands.common import (
    BUDGET_FORBIDS,
    FILE_IS_WRONG,
    INTERRUPTED,
    SOME_FAILED,
    console,
    read_finished,
    read_study,
    require_own_place,
    say,
    stop,
    tell,
)
from mm1_ablate.commands.comparison import compare_study, unwritable_is_told
from mm1_ablate.commands.plan import summary
from mm1_ablate.commands.prepare_data import make_ready
from mm1_ablate.commands.run_told import MOST_TRIALS, say_failures, tell_look, tell_nothing_to_do, tell_rewritten
from mm1_ablate.config.errors import listed
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import DECLARED
from mm1_ablate.config.sweep.tried import Try
from mm1_ablate.data.atomic_files import write_json
from mm1_ablate.plan.plan import plan
from mm1_ablate.plan.until_decided import as_needed
from mm1_ablate.store.repair import repair
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    from mm1_ablate.report.comparison import StudyComparison
    from mm1_ablate.run.scheduler import Outcome
    from mm1_ablate.store.study_files import TextThatRan


def run_sweep(
    path: Path,
    store: Store,
    *,
    address: str | None = None,
    cpus: int | None = None,
    retry: bool = False,
    evaluate_only: bool = False,
    tried: Try = DECLARED,
    facts: dict[str, str] | None = None,
) -> int:
    """Do what a sweep lacks and show the comparison; returns the exit code.

    Args:
        facts: gets what hooks are told, as soon as it is known: see `hooks.py`.
    """
    facts = {} if facts is None else facts
    study = read_study(path, "contents" if evaluate_only else "check", begins=True, tried=tried)
    require_own_place(study, store)
    facts["STUDY"] = study.name
    study = as_needed(study, store)
    if tried:
        tell(f"{study.tried} Kept as '{study.name}' in {store.address}")
    for line in repair(study, store):
        say(line)
    planned = plan(study, store, retry)
    for line in summary(planned):
        tell(line)
    told = tell_rewritten(study, store)
    if planned.over_budget and not evaluate_only:
        stop(BUDGET_FORBIDS, *planned.over_budget, "nothing was started: raise the budget in the sweep, or reduce the work")
    _declare_whole(path, store, tried)
    store.declare(study)
    if not evaluate_only:
        store.write_warnings(study)
    to_do = [row for row in planned.to_do if not (row.to_train and evaluate_only)]
    with store.running(study, "preparing data") as doing:
        if to_do:
            make_ready(study, planned, console())
            outcome = carry_out(study, store, address, cpus, retry, evaluate_only, doing)
            if outcome.interrupted:
                stop(INTERRUPTED, f"interrupted; to continue: {_command('run', path, store, tried)}")
            study = as_needed(study, store)
            tell_rewritten(study, store, told)
            if outcome.elsewhere:
                tell(f"another run works on {', '.join(outcome.elsewhere)}")
        else:
            store.write_study(study)
            store.register_trials(study)
            tell_nothing_to_do(planned, store, evaluate_only)
        if not any(store.has_scores(trial) for trial in study.trials):
            tell("no trial has scores yet: there is nothing to compare")
            track_what_ended(study, store)
        else:

            def begins(line: str) -> None:
                doing(line)
                tell(line)

            facts |= show_comparison(study, store, path, tried, begins)
    failed = say_failures(study, store)
    return SOME_FAILED if failed else 0


def _declare_whole(path: Path, store: Store, tried: Try) -> None:
    """Record what a file declares before trials of it are run by a try, so that its expectations stand before their scores."""
    if tried.has_declared_trials:
        whole = read_study(path)
        require_own_place(whole, store)
        store.declare(whole)


def carry_out(
    study: Study, store: Store, address: str | None, cpus: int | None, retry: bool, evaluate_only: bool, doing: Callable[[str], None]
) -> Outcome:
    """Run what is missing, with a live table, shown in MLflow as it ends.

    Args:
        doing: gets a line when something begins, as the table does.
    """
    from mm1_ablate.run.cluster import ClusterUnusable
    from mm1_ablate.run.progress_view import show_progress
    from mm1_ablate.run.scheduler import RunOptions, run_study
    from mm1_ablate.run.until_decided import run_until_decided
    from mm1_ablate.run.worker_group import ResourcesMissing
    from mm1_ablate.store.disk_full import DiskFull
    from mm1_ablate.tracking.live import keep_tracking
    from mm1_ablate.tracking.mlflow_runs import track
    from mm1_ablate.tracking.server import TrackingFailed

    @contextlib.contextmanager
    def shown(look: Study) -> Iterator[Callable[[str], None]]:
        tell_look(look)
        store.register_trials(look)
        with show_progress(look, store, console()) as view, keep_tracking(look, store, say):

            def event(line: str) -> None:
                view.event(line)
                doing(line)

            yield event

    options = RunOptions(address, cpus, retry, evaluate_only)
    try:
        if study.sweep.until_decided is not None:
            return run_until_decided(study, store, options, shown)
        with shown(study) as on_event:
            return run_study(study, store, options, on_event)
    except DiskFull as error:
        # MLflow may be on another disk, and is where people look who are not at the terminal.
        with contextlib.suppress(TrackingFailed):
            track(study, store, remark=f"Stopped: {error}")
        raise
    except ResourcesMissing as error:
        stop(FILE_IS_WRONG, f"{study.path}: {error}")
    except (ConnectionError, ClusterUnusable) as error:
        stop(SOME_FAILED, str(error), "`mm1-ablate doctor` checks the connection, and what every node can do with the store")


# ---------------------------------------------------------------- comparison
def compare_and_write(study: Study, store: Store, doing: Callable[[str], object] = str) -> tuple[StudyComparison, Path | None]:
    """The comparison, and the folder of its report, written again where the comparison or what makes reports has changed. No folder where
    the store is for reading only, which is said.

    Args:
        doing: gets a line when something begins.
    """
    from mm1_ablate.report.html import report_version, write_report

    store.refuse_links(store.study_folder(study))
    refused: list[OSError] = []
    with unwritable_is_told(refused.append):
        store.declare(study)
    if refused:
        say(f"what the sweep declares now could not be recorded: {refused.pop().strerror or 'the store may only be read'}")
    doing(f"comparing {sum(store.has_scores(trial) for trial in study.trials)} trials")
    comparison = compare_study(study, store)
    folder = store.study_folder(study) / "report"
    stamp = folder.parent / "report.json"
    sweep_text = text_that_ran(study, store)
    content = {
        "comparison": _digest(comparison.to_json()),
        "sweep": _digest(sweep_text),
        "trials": _states(study, store),
        "code": report_version(),
    }
    if (folder / "report.html").exists() and _says(stamp, content):
        return comparison, folder
    with unwritable_is_told(refused.append):
        doing("writing the report")
        write_report(folder, comparison, store.curves(study), sweep_text)
        write_json(stamp, content)
        store.upload(*sorted(path for path in folder.rglob("*") if path.is_file()))
        return comparison, folder
    say(f"the report is not written: {refused[0].strerror or refused[0]} ({store.where(folder)})")
    return comparison, None


def text_that_ran(study: Study, store: Store) -> str:
    """The sweep and the files that it names as they were when the trials ran whose scores are shown; in what they differ now."""
    from mm1_ablate.store.study_files import differences

    def whole(files: Mapping[str, str]) -> str:
        return "\n".join(f"# ---- {name}\n{text.rstrip()}\n" for name, text in files.items())

    scored = [trial for trial in study.trials if store.has_scores(trial)]
    ran = store.texts_that_ran(study, scored)
    if not ran:
        kept = "# As the files are now: what they were when the trials ran was not kept.\n\n" if scored else ""
        return without_passwords(kept + whole(study.texts))

    def of(text: TextThatRan) -> str:
        return f"from {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(text.first))} on: {listed(text.trials, MOST_TRIALS)}"

    latest = ran[0]
    parts = [f"# As the files were when these trials ran, {of(latest)}\n\n{whole(latest.files)}"]
    for earlier in ran[1:]:
        changed = differences(earlier.files, latest.files)
        parts.append(f"# Others ran before by other texts, {of(earlier)}. What was changed after that:\n\n{changed}\n")
    if changed := differences(latest.files, study.texts):
        parts.append(f"# Changed since, and not run; the comparison above is by the files as they are now:\n\n{changed}\n")
    return without_passwords("\n".join(parts))


def show_comparison(study: Study, store: Store, path: Path, tried: Try, doing: Callable[[str], object]) -> dict[str, str]:
    """Write the report, bring MLflow up to it, print the table and where to see more; returns what hooks are told of it.

    Args:
        doing: gets a line when something begins.
    """
    from mm1_ablate.report.text import headline, print_comparison

    comparison, folder = compare_and_write(study, store, doing)
    facts = {"HEADLINE": headline(comparison)}
    if folder is None:
        print_comparison(comparison, console())
        return facts
    doing("showing it in MLflow")
    track_study(study, store, comparison, folder)
    print_comparison(comparison, console())
    page = folder / "report.html"
    tell(f"report: {page}" + (f" ({where})" if (where := store.where(page)) != str(page) else ""))
    tell(f"in MLflow: {_command('ui', path, store, tried)}")
    return facts | {"REPORT": str(page)}


def track_study(study: Study, store: Store, comparison: StudyComparison, folder: Path | None) -> None:
    """Show the study and its report in MLflow."""
    from mm1_ablate.commands.shown_in_mlflow import bring_to_mlflow, compared_study

    bring_to_mlflow(study, store, compared_study(comparison, folder))


def track_what_ended(study: Study, store: Store) -> None:
    """Show the failures and the earlier stages of a study that has no scores in MLflow, if it has any."""
    from mm1_ablate.commands.shown_in_mlflow import bring_to_mlflow

    if any(store.status(one).status in ("done", "failed") for one in (*study.stages, *study.trials)):
        bring_to_mlflow(study, store)


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
        return bool(json.loads(stamp.read_text(encoding="utf-8")) == content)
    except (OSError, ValueError):
        return False


def _command(name: str, path: Path, store: Store, tried: Try) -> str:
    """A command to be copied, about the same study of the same store."""
    options = "".join(f" {shlex.quote(part)}" for part in tried.options)
    return f"mm1-ablate {name} {shlex.quote(str(path))}{_store_option(store, tried)}{options}"


def _store_option(store: Store, tried: Try) -> str:
    """The option that a printed command needs to find the same store."""
    folder = Path(store.address.removesuffix("-smoke") if tried.smoke else store.address)
    place = str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else store.address.removesuffix("-smoke" * tried.smoke)
    return "" if place == "ablations" else f" --store {shlex.quote(place)}"


def open_ui(path: Path | None, store: Store, port: int, browser: bool, tried: Try = DECLARED) -> int:
    """Serve MLflow until interrupted; returns the exit code."""
    from mm1_ablate.tracking.server import TrackingFailed
    from mm1_ablate.tracking.ui import serve

    study = read_finished(path, store, tried) if path is not None else None
    if str(store.root) != store.address:
        tell(f"MLflow reads {store.root}, a copy of {store.address}")
    if not store.root.is_dir():
        stop(SOME_FAILED, f"there is no store at {store.root}: run a sweep first, or name another with --store DIR")
    if study is not None and any(store.has_scores(trial) for trial in study.trials):
        comparison, folder = compare_and_write(study, store)
        if folder is not None:
            track_study(study, store, comparison, folder)
    try:
        return serve(store, study, port, browser)
    except (TrackingFailed, RuntimeError) as error:
        stop(SOME_FAILED, str(error))
