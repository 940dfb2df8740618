"""What a study is doing, while it does it: a table that a thread keeps fresh from the store.

In: a study and its store; nothing from Ray. Out: on a terminal a live table (preparations and trials, progress, time left); elsewhere
a line for each change and a line of progress every quarter of a minute.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.report.terminal import folded
from mm1_ablate.store.status import TrialState
from mm1_ablate.store.store import Store

COLOURS = {"done": "green", "running": "blue", "interrupted": "yellow", "failed": "red", "missing": "dim"}
WORDS = {"missing": "waiting"}
TRAINING_SHARE = 0.85
"""Assumed share of training in a trial's time."""
QUIET_SECONDS = 15.0
"""Between two lines of progress where there is no terminal."""
FIXED_WIDTH = 31
"""Of the live table: bar, loss and time, with the spaces beside them."""
NAME_SHARE, STATE_SHARE = 8, 7
"""How names and states share what is left."""
AT_MOST_EVERY = 3.0
"""Seconds between two looks at a store on object storage."""


@dataclass(frozen=True)
class ProgressRow:
    """How far a preparation, an earlier stage or a trial is."""

    name: str
    kind: str
    """trial, stage, image_encoder or language_model: rows of one kind take about the same time."""
    state: TrialState
    key: str = ""
    """What identifies it where a name does not: two encoders of different sizes, say."""
    size: float = 1.0
    """How much work it is, relative to others of its kind: of an earlier stage, the rows that it is trained on."""

    @property
    def identity(self) -> str:
        return self.key or self.name

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        state = self.state
        if state.status in ("done", "failed"):
            return 1.0
        share = state.step / state.steps if state.steps else 0.0
        if self.kind == "trial":
            share = TRAINING_SHARE + (1 - TRAINING_SHARE) * share if state.stage == "evaluate" else TRAINING_SHARE * share
        return share


class StudyProgress:
    """Reads how far a study is from its store. What is done stays done: it is read once."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study, self.store, self.trials = study, store, study.trials
        self.began = time.time()
        self._final: dict[str, ProgressRow] = {}
        self._preparations: list[Preparation] | None = None
        self._stages: tuple[Trial, ...] = ()

    def rows(self) -> list[ProgressRow]:
        """Preparations and earlier stages that trials of the study still need or that were made meanwhile, then all trials."""
        self.store.refresh(at_most_every=AT_MOST_EVERY)
        trials = [self._trial(trial) for trial in self.trials]
        if self._preparations is None:
            self._preparations = self._needed(trials)
        parts = [self._preparation(part) for part in self._preparations]
        return parts + [self._stage(stage) for stage in self._stages] + trials

    def _needed(self, rows: Sequence[ProgressRow]) -> list[Preparation]:
        needed = {}
        stages: set[str] = set()
        for trial, row in zip(self.trials, rows, strict=True):
            if row.state.status != "done" and not row.state.trained:
                stages.update(stage.fingerprint for stage in trial.earlier)
                for one in (*trial.earlier, trial):
                    for part in one.preparations:
                        needed[part.fingerprint] = part
        self._stages = tuple(stage for stage in self.study.stages if stage.fingerprint in stages)
        return list(needed.values())

    def _trial(self, trial: Trial) -> ProgressRow:
        key = trial.evaluation_fingerprint
        return self._final.get(key) or self._remember(key, ProgressRow(trial.name, "trial", self.store.status(trial), key))

    def _stage(self, stage: Trial) -> ProgressRow:
        key = stage.fingerprint
        training = stage.experiment.training
        rows = training.steps * training.batch_rows
        return self._final.get(key) or self._remember(key, ProgressRow(stage.name, "stage", self.store.status(stage), key, rows))

    def _preparation(self, part: Preparation) -> ProgressRow:
        key = part.fingerprint
        return self._final.get(key) or self._remember(key, ProgressRow(part.name, part.kind, self.store.preparation_status(part), key))

    def _remember(self, key: str, row: ProgressRow) -> ProgressRow:
        if row.state.status == "done":
            self._final[key] = row
        return row


def time_left(rows: Sequence[ProgressRow], slots: int) -> float | None:
    """Seconds until all rows are done, by how long rows of the same kind took or take; None before any of them tells.

    Args:
        slots: how many run at a time.
    """
    known: dict[str, list[float]] = {}
    for row in rows:
        seconds = row.state.seconds
        if seconds is not None and (row.state.status == "done" or (row.state.status == "running" and row.share > 0.05)):
            known.setdefault(row.kind, []).append(seconds / row.share / row.size)
    waiting = 0.0
    longest = 0.0
    for row in rows:
        if row.state.status in ("done", "failed"):
            continue
        if row.kind not in known:
            return None
        left = statistics.median(known[row.kind]) * row.size * (1 - row.share)
        waiting += left
        if row.state.status == "running":
            longest = max(longest, left)
    return max(longest, waiting / max(1, slots))


def duration(seconds: float | None) -> str:
    """4:07, or 1:02:33."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def headline(name: str, rows: Sequence[ProgressRow], elapsed: float, left: float | None) -> str:
    """A study in a line: 'quickstart: 3 of 8 trials done, 2 running, 1 failed · 1:20 · about 2:10 left'."""
    parts = []
    for kind, what in (("trial", "trials"), ("stage", "earlier stages")):
        states = [row.state.status for row in rows if row.kind == kind]
        if states or kind == "trial":
            counts = Counter(states)
            parts.append(f"{counts['done']} of {len(states)} {what} done")
            parts += [f"{counts[status]} {status}" for status in ("running", "failed") if counts[status]]
    preparing = sum(row.state.status == "running" for row in rows if row.kind not in ("trial", "stage"))
    if preparing:
        parts.append(f"{preparing} being prepared")
    line = f"{name}: {', '.join(parts)} · {duration(elapsed)}"
    return f"{line} · about {duration(left)} left" if left is not None and left >= 1 else line


def table(rows: Sequence[ProgressRow], height: int, width: int = 80) -> RenderableType:
    """The rows, or where they take more than `height` lines, those that matter now and counts of the rest. Names are folded where their
    parts meet."""
    name_width = max(8, (width - FIXED_WIDTH) * NAME_SHARE // (NAME_SHARE + STATE_SHARE))
    names = {row.identity: folded(row.name, name_width) for row in rows}
    shown = list(rows)
    if _lines(names.values()) > height:
        recent = sorted((row for row in rows if row.state.status == "done"), key=lambda row: row.state.finished or 0)
        chosen = [row for row in rows if row.state.status == "running"]
        chosen += [row for row in rows if row.state.status in ("failed", "interrupted")]
        chosen += recent[::-1] + [row for row in rows if row.state.status == "missing"]
        ends = accumulate(_lines([names[row.identity]]) for row in chosen)
        identities = {row.identity for place, (row, end) in enumerate(zip(chosen, ends, strict=True)) if end < height or not place}
        shown = [row for row in rows if row.identity in identities]
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=True)
    grid.add_column("trial", no_wrap=True, width=name_width)
    grid.add_column("", overflow="ellipsis", no_wrap=True, ratio=1)
    grid.add_column("", no_wrap=True, width=10)
    grid.add_column("loss", no_wrap=True, justify="right", width=6)
    grid.add_column("time", no_wrap=True, justify="right", width=7)
    for row in shown:
        state, colour = row.state, COLOURS[row.state.status]
        running = state.status == "running"
        text = WORDS.get(state.status, state.status)
        if running and state.steps:
            text = f"{state.stage} {state.step}/{state.steps}"
        elif state.status in ("failed", "interrupted"):
            text = f"{text}: {state.reason}"
        bar = ProgressBar(total=1.0, completed=row.share, width=10) if running else ""
        loss = f"{state.loss:.3f}" if running and state.loss is not None else ""
        grid.add_row(Text(names[row.identity]), Text(text, style=colour), bar, loss, duration(state.seconds))
    hidden = Counter(WORDS.get(row.state.status, row.state.status) for row in rows if row not in shown)
    if hidden:
        return Group(grid, Text("and " + ", ".join(f"{number} {status}" for status, number in hidden.items()), style="dim"))
    return grid


def _lines(texts: Iterable[str]) -> int:
    return sum(text.count("\n") + 1 for text in texts)


class ProgressView:
    """What `show_progress` gives: takes lines about the whole run, and shows them with the rows."""

    def __init__(self, study: Study, store: Store, console: Console) -> None:
        self.name, self.console = study.name, console
        self.progress = StudyProgress(study, store)
        self.slots = 1
        self.message = ""
        self._last: dict[str, str] = {}
        self._printed_at = time.time()

    def event(self, line: str) -> None:
        """A line for display: what begins. Pass it to `run_study(on_event=...)`."""
        self.message = line
        if not self.console.is_terminal:
            self._print(line)

    def _summary(self, rows: Sequence[ProgressRow]) -> str:
        self.slots = max(self.slots, sum(row.state.status == "running" for row in rows))
        return headline(self.name, rows, time.time() - self.progress.began, time_left(rows, self.slots))

    def render(self) -> RenderableType:
        rows = self.progress.rows()
        summary = self._summary(rows)
        if not any(row.state.status == "running" for row in rows) and self.message:
            summary += f" · {self.message}"
        return Group(table(rows, max(6, self.console.size.height - 4), self.console.width), Text(summary, style="bold"))

    def print_changes(self) -> None:
        """Where there is no terminal: changes since the last line, and progress from time to time."""
        rows = self.progress.rows()
        for row in rows:
            status = row.state.status
            if self._last.get(row.identity, "missing") == status:
                continue
            known_before = row.identity not in self._last and (row.state.finished or 0) < self.progress.began
            self._last[row.identity] = status
            if not (known_before and status in ("done", "failed", "interrupted")):
                detail = f" in {duration(row.state.seconds)}" if status == "done" else f": {row.state.reason}" if status == "failed" else ""
                self._print(f"{row.name} {status}{detail}")
        if time.time() - self._printed_at > QUIET_SECONDS:
            running = [f"{row.name} {row.state.stage} {row.state.step}/{row.state.steps}" for row in rows if row.state.status == "running"]
            more = f" and {len(running) - 4} more" if len(running) > 4 else ""
            self._print(self._summary(rows) + (f" · {', '.join(running[:4])}{more}" if running else ""))

    def _print(self, line: str) -> None:
        self._printed_at = time.time()
        self.console.print(f"[{duration(time.time() - self.progress.began):>6}] {line}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def show_progress(study: Study, store: Store, console: Console | None = None, interval: float = 1.0) -> Iterator[ProgressView]:
    """Show a study for the length of a block.

    Args:
        interval: seconds between two looks at the store.
    """
    console = console or Console()
    view = ProgressView(study, store, console)
    ended = threading.Event()
    if console.is_terminal:
        with Live(view.render(), console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
            thread = _repeat(lambda: live.update(view.render(), refresh=True), interval, ended)
            try:
                yield view
            finally:
                ended.set()
                thread.join()
                view.message = ""
                live.update(view.render(), refresh=True)
    else:
        thread = _repeat(view.print_changes, interval, ended)
        try:
            yield view
        finally:
            ended.set()
            thread.join()
            view.print_changes()


def _repeat(look: Callable[[], None], interval: float, ended: threading.Event) -> threading.Thread:
    def loop() -> None:
        while not ended.wait(interval):
            try:
                look()
            except OSError:
                # A file system that stumbles must not end a run for want of a picture.
                continue

    thread = threading.Thread(target=loop, name="live-table", daemon=True)
    thread.start()
    return thread
