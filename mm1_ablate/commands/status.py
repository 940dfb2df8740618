"""What `mm1-ablate status` shows. In: a study and its store. Out: where each trial stands, as JSON or as a table."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mm1_ablate.commands.plan import coloured, not_run_in_words
from mm1_ablate.config.errors import listed
from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.report.terminal import fit, print_sentence
from mm1_ablate.run.progress_view import ProgressRow, StudyProgress, duration, time_left
from mm1_ablate.store.status import TrialState
from mm1_ablate.store.store import Store

NAMED = 3
"""Trials of one process that a line names."""
NUMBERS = {"score": 1, "loss": 3}
"""Numbers of a trial that the table shows, with their decimals."""


def unreadable(store: Store, trial: Trial) -> dict[str, int]:
    """By source, how much unreadable data a trial has skipped; only sources that have any."""
    counts = {source: sum(account.get("bad", {}).values()) for source, account in store.data_account(trial).items()}
    return {source: count for source, count in counts.items() if count}


def lost_with_files(store: Store, trial: Trial) -> dict[str, dict[str, int]]:
    """By source, about how many documents (or pictures beside them) a trial's data lacks because files cannot be read; only where any."""
    accounts = store.data_account(trial).items()
    return {source: {lost["of"]: lost[lost["of"]] for lost in account["lost"]} for source, account in accounts if account.get("lost")}


def status_json(study: Study, store: Store) -> dict[str, Any]:
    """What the store says of each trial of a study, of the earlier stages that they start from, and of what its file no longer names."""
    trials, stages = ([(one, store.status(one)) for one in ones] for ones in (study.trials, study.stages))
    rows = StudyProgress(study, store).rows()
    working = sum(row.state.status == "running" for row in rows)
    started = {stage.fingerprint: [trial.name for trial in study.starting_from(stage)] for stage, _ in stages}
    return {
        "study": study.name,
        "store": store.address,
        "counts": dict(Counter(state.status for _, state in trials)),
        "stage_counts": dict(Counter(state.status for _, state in stages)),
        "seconds_left": time_left(rows, working) if working else None,
        "at_a_time": working,
        "runs": [vars(run) | {"alive": run.is_alive} for run in store.runs(study)],
        "preparations": [_preparation_json(row, store) for row in rows if row.kind not in ("trial", "stage")],
        "stages": [_state_json(study, stage, state, store) | {"trials": started[stage.fingerprint]} for stage, state in stages],
        "trials": [_state_json(study, trial, state, store) for trial, state in trials],
        "not_run": [
            {"name": one.trial.name, "arms": list(one.trial.arms), "seed": one.trial.seed, "reason": one.reason, "may_come": one.possible}
            for one in study.not_run
        ],
        "no_longer_named": [{"name": name, "folder": store.where(folder)} for folder, name in store.unlisted_trials(study).items()],
    }


def _preparation_json(row: ProgressRow, store: Store) -> dict[str, Any]:
    """Where an encoder or language model that trials wait for, or waited for when this began, stands."""
    return _common_json(row.name, row.key, row.state, store.prepared_folder(row.key), store)


def _common_json(name: str, fingerprint: str, state: TrialState, folder: Path, store: Store) -> dict[str, Any]:
    """What all that takes time has: how far it is, and who works on it."""
    host, pid = store.worker(folder) if state.status == "running" else (None, None)
    return {
        "name": name,
        "fingerprint": fingerprint,
        "status": state.status,
        "reason": state.reason,
        "stage": state.stage,
        "step": state.step,
        "steps": state.steps,
        "seconds": state.seconds,
        "loss": state.loss,
        "host": host,
        "pid": pid,
        "folder": store.where(folder),
    }


def _state_json(study: Study, trial: Trial, state: TrialState, store: Store) -> dict[str, Any]:
    """Where a trial or an earlier stage stands."""
    scores = store.scores(trial) if store.has_scores(trial) else {}
    error = store.traceback_file(trial) if state.status == "failed" else None
    return _common_json(trial.name, trial.fingerprint, state, store.trial_folder(trial), store) | {
        "arms": list(trial.arms),
        "seed": trial.seed,
        "score": scores.get(study.sweep.compare.primary),
        "unreadable": unreadable(store, trial),
        "lost_with_files": lost_with_files(store, trial),
        "error": store.where(error) if error else None,
    }


def show_status(study: Study, store: Store, console: Console) -> None:
    """What the store says of each trial, as a table."""
    known = status_json(study, store)
    primary = metric_title(study.sweep.compare.primary)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", "fingerprint", "", "time", primary, "loss", "reason"):
        right = name in ("time", primary, "loss")
        table.add_column(name, overflow="fold", style="dim" if name == "fingerprint" else None, justify="right" if right else "left")
    for one in [*known["preparations"], *known["stages"], *known["trials"]]:
        values = (one.get(key) for key in NUMBERS)
        numbers = ["" if value is None else f"{value:.{places}f}" for value, places in zip(values, NUMBERS.values(), strict=True)]
        time_spent = duration(one["seconds"])
        table.add_row(Text(one["name"]), short(one["fingerprint"]), coloured(one["status"]), time_spent, *numbers, Text(_reason(one)))
    for gone in known["no_longer_named"]:
        table.add_row(Text(gone["name"]), Path(gone["folder"]).name, "", "", "", "", "no longer in the file, not touched", style="dim")
    fit(table, console)
    console.print(table)
    console.print()
    for one in [*known["stages"], *known["trials"]]:
        if one["error"]:
            print_sentence(console, f"failed: {one['name']}: {one['error']}", style="red")
    for line in not_run_in_words(study):
        print_sentence(console, line)
    trials, stages = (", ".join(f"{number} {status}" for status, number in known[key].items()) for key in ("counts", "stage_counts"))
    left = f"; about {duration(known['seconds_left'])} left for these, {known['at_a_time']} at a time" if known["seconds_left"] else ""
    print_sentence(console, f"{trials}{f'; of their earlier stages {stages}' if stages else ''}{left}, in {store.address}")
    for line in _working_in_words(known):
        print_sentence(console, line)
    print_sentence(console, f"folders: {store.where(store.root / 'trials')}/FINGERPRINT", style="dim")


def _working_in_words(known: dict[str, Any]) -> list[str]:
    """Who works on the study, and what its runs do."""
    lines = []
    for run in known["runs"]:
        since, who = duration(max(0.0, time.time() - run["since"])), f"process {run['pid']} on {run['host']}"
        if run["alive"]:
            lines.append(f"run by {who} for {duration(time.time() - run['began'])}: {run['what']} (for {since})")
        else:
            how = f"{run['what']} {since} ago" if run["ended"] else f"was lost {since} after it began: {run['what']}"
            lines.append(f"last run, by {who}: {how}")
    workers: dict[tuple[str, int | None], list[str]] = {}
    for one in (one for key in ("preparations", "stages", "trials") for one in known[key] if one["host"]):
        workers.setdefault((one["host"], one["pid"]), []).append(one["name"])
    lines += [f"process {pid} on {host} works on {listed(names, NAMED)}" for (host, pid), names in workers.items()]
    return lines


def _reason(one: dict[str, Any]) -> str:
    """The reason of a trial's state, with what its data lacks and what starts from it."""
    told = [f"{count:,} unreadable in {source}" for source, count in one.get("unreadable", {}).items()]
    for source, lost in one.get("lost_with_files", {}).items():
        told += [f"about {count:,} {of} lost with files of {source}" for of, count in lost.items()]
    reason = f"{one['reason']}; data: {', '.join(told)}" if told else one["reason"]
    if started := len(one.get("trials", [])):
        reason += f"; {'one trial starts' if started == 1 else f'{started} trials start'} from it"
    return str(reason)
