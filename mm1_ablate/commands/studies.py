"""What `mm1-ablate studies` shows. In: a store. Out: its studies, as JSON or as a table."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mm1_ablate.report.terminal import fit, print_sentence
from mm1_ablate.store.store import Store


def studies_json(store: Store) -> dict[str, Any]:
    """The studies of a store, the one that was last worked on first."""
    return {"store": store.address, "studies": [vars(one) for one in store.studies()]}


def show_studies(store: Store, console: Console) -> None:
    """The same as a table."""
    studies = store.studies()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, right in (("study", False), ("trials", True), ("done", True), ("size", True), ("last work", False), ("sweep", False)):
        table.add_column(name, overflow="fold", justify="right" if right else "left")
    for one in studies:
        last = Text("running", style="blue") if one.is_running else Text(f"{age(one.last or one.first)}")
        done = Text(str(one.done), style="green" if one.done == one.trials else "")
        table.add_row(Text(one.name), str(one.trials), done, size(one.size), last, Text(one.sweep or "declared, never run"))
    if studies:
        fit(table, console)
        console.print(table)
        console.print()
    shared = "; a trial that studies share counts in each" if len(studies) > 1 else ""
    print_sentence(console, f"{len(studies)} stud{'y' if len(studies) == 1 else 'ies'} in {store.address}{shared}")


def size(number: int) -> str:
    """'512 B', '1.5 GB'."""
    for unit, least in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= least:
            return f"{number / least:.1f} {unit}"
    return f"{number} B"


def age(moment: float | None) -> str:
    """'just now', '5 minutes ago', '3 days ago'."""
    if moment is None:
        return ""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"
