"""Data prepared for random access, once before trials start: indices, unpacked copies, converted tables.

In: a study and its plan. Out: data that opens at once, in the cache of this machine; on the terminal a bar with bytes and the time left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mm1_ablate.commands.common import FILE_IS_WRONG, INTERRUPTED, say, stop
from mm1_ablate.config.data import Source
from mm1_ablate.config.identity.data_digests import Place, identity_of
from mm1_ablate.config.study import Study
from mm1_ablate.data.lost_documents import limited_sources, losses_in, what_to_say
from mm1_ablate.plan.plan import Plan


def sources_to_be_read(study: Study, planned: Plan) -> dict[str, tuple[Place, Source]]:
    """Distinct sources of what is to be done, each with a place that names it: for training, evaluation and preparations. Of each
    `max_bad_share` is filled in."""
    to_do = {row.fingerprint: row for row in planned.to_do}
    preparing = any(preparation.status == "run" for preparation in planned.preparations)
    found: dict[str, tuple[Place, Source]] = {}
    for trial in study.trials:
        row = to_do.get(trial.fingerprint)
        training = row is not None and row.to_train
        staged = training and any(stage.to_do for stage in planned.stages)
        evaluating = row is not None and row.status != "rescore"
        needed = {"starts_from": staged, "data": training, "model": training and preparing, "evaluation": evaluating}
        for place, source, limit in limited_sources(trial.experiment):
            if needed[str(place[0])]:
                found.setdefault(f"{identity_of(source)} {limit}", (place, source.model_copy(update={"max_bad_share": limit})))
    return found


def make_ready(study: Study, planned: Plan, console: Console) -> None:
    """Prepare all data that the plan reads; ends the command with 2 and a sentence where that is impossible, or where more of a source is
    lost with damaged files than the settings allow."""
    sources = sources_to_be_read(study, planned)
    ready(sources, console)
    told = {warning.message for warning in study.warnings}
    problems = []
    for place, source in sources.values():
        try:
            losses = losses_in(source.open(0, str(place[-1])))
        except Exception as error:  # such as of a user's own source
            _not_ready(place, error)
        for diagnostic in what_to_say(losses, place, source.max_bad_share or 0.0):
            line = f"{'.'.join(map(str, diagnostic.path))}: {diagnostic.message}; {diagnostic.hint}"
            if not diagnostic.warning:
                problems.append(line)
            elif diagnostic.message not in told:
                told.add(diagnostic.message)
                say(f"warning: {line}")
    if problems:
        stop(FILE_IS_WRONG, *problems, "nothing was started")


def ready(sources: Mapping[str, tuple[Place, Source]], console: Console) -> None:
    """Prepare sources, each with a place that names it; ends the command with 2 and a sentence where that is impossible."""
    with bar(console) as report:
        for place, source in sources.values():
            try:
                source.make_ready(report)
            except KeyboardInterrupt:
                stop(INTERRUPTED, "interrupted while data was prepared; run again to continue")
            except Exception as error:  # no room, no permission, no network: all of them before any trial was started
                _not_ready(place, error)


def _not_ready(place: Place, error: Exception) -> NoReturn:
    # An error of the cache says all by itself; one of the system has words only beside its number.
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    stop(FILE_IS_WRONG, f"{'.'.join(map(str, place))} cannot be prepared: {words}{where}", "nothing was started")


class Bar:
    """A progress callback: called with (what is done, bytes done, bytes in total), or with counts of other things."""

    def __init__(self, progress: Progress, bytes_are_counted: bool) -> None:
        self.progress = progress
        self.bytes_are_counted = bytes_are_counted
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(what, total=total)
            if not self.progress.console.is_terminal and self.bytes_are_counted:
                self.progress.console.print(f"{what}: {total / 1e6:,.0f} MB", markup=False, soft_wrap=True)
        self.progress.update(self.tasks[what], completed=done, total=total)


@contextmanager
def bar(console: Console, bytes_are_counted: bool = True) -> Iterator[Bar]:
    """A progress bar for each step, with the time left; without a terminal a line each."""
    done = DownloadColumn() if bytes_are_counted else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), done, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, bytes_are_counted)
