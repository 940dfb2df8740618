"""The table of `mm1-ablate plan`: a row for each arm, whatever number of seeds it has. In: a plan. Out: lines on a rich console."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mm1_ablate.commands.plan import coloured, count, number_of, summary
from mm1_ablate.config.sweep.differences import arms_in_words
from mm1_ablate.plan.memory import in_gib
from mm1_ablate.plan.plan import Plan, PreparationRow
from mm1_ablate.plan.trials import PlanRow
from mm1_ablate.report.terminal import fit, print_sentence

COSTS_FIT, PARAMETERS_FIT, TOKENS_FIT = 140, 130, 100
"""Widths of a terminal from which on a plan has room for memory and hours, the sizes of the model's parts, and tokens."""


def show_plan(plan: Plan, console: Console) -> None:
    """Every arm with the status of its trials and the reason; then what the arms change, and the sums. On a narrow terminal sizes are left
    out before names and reasons."""
    numbers = _numbers(plan, console.width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arm", "seeds", "trials"):
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for arm, rows in _by_arm([*plan.stages, *plan.rows]).items():
        sizes = [" to ".join(dict.fromkeys(map(show, rows))) for show in numbers.values()]
        reasons = reasons_by_seed([(row.seed, row.reason.replace(f"/seed-{row.seed}", "")) for row in rows])
        table.add_row(Text(arm), ranges(row.seed for row in rows), statuses(row.status for row in rows), *sizes, Text(reasons))
    for part, parts in _by_part(plan.preparations).items():
        seeds = ranges(int(one.name.rpartition(" seed ")[2]) for one in parts)
        reason = f"prepared for {number_of(sum(one.trials for one in parts), 'trial')}"
        table.add_row(Text(part), seeds, statuses(one.status for one in parts), *[""] * len(numbers), reason, style="dim")
    fit(table, console)
    console.print(table)
    if left_out := [name for name in _numbers(plan, COSTS_FIT) if name not in numbers]:
        print_sentence(console, f"{', '.join(left_out)}: on a wider terminal, or with --json", style="dim")
    console.print()
    for arm_name, words in arms_in_words(plan.studies):
        print_sentence(console, words, *(("", "") if arm_name is None else ("  ", "      ")))
    console.print()
    for line in summary(plan):
        print_sentence(console, line)


def _numbers(plan: Plan, width: int) -> dict[str, Callable[[PlanRow], str]]:
    """The columns of sizes that a terminal of a width has room for."""
    numbers: dict[str, Callable[[PlanRow], str]] = {}
    if width >= PARAMETERS_FIT:
        numbers["encoder"] = lambda row: count(row.parameters["image_encoder"])
        numbers["connector"] = lambda row: count(row.parameters["connector"])
        numbers["LM"] = lambda row: count(row.parameters["language_model"])
    if width >= TOKENS_FIT:
        numbers["text tokens"] = lambda row: count(row.tokens.text)
        numbers["image tokens"] = lambda row: count(row.tokens.image_tokens)
    numbers["FLOPs"] = lambda row: f"{row.flops:.1e}"
    if width >= COSTS_FIT:
        numbers["memory"] = lambda row: in_gib(row.cost.memory.total)
        if gpu := next(iter(plan.cost.gpu_hours), None):
            # Of several studies each may have GPUs of its own: then of the fastest of them.
            numbers[f"{gpu} hours"] = lambda row: (
                f"{row.cost.gpu_hours.get(gpu, min(row.cost.gpu_hours.values())):,.3g}" if row.cost.gpu_hours else ""
            )
    return numbers


def _by_arm(rows: Iterable[PlanRow]) -> dict[str, list[PlanRow]]:
    """Rows by what they are of, without their seeds: 'without/text', 'baseline stage 1: pre-training'."""
    found: dict[str, list[PlanRow]] = {}
    for row in rows:
        found.setdefault("".join(row.name.rsplit(f"/seed-{row.seed}", 1)), []).append(row)
    return found


def _by_part(rows: Sequence[PreparationRow]) -> dict[str, list[PreparationRow]]:
    """Preparations by their names without their seeds."""
    found: dict[str, list[PreparationRow]] = {}
    for row in rows:
        found.setdefault(row.name.rpartition(" seed ")[0], []).append(row)
    return found


def ranges(numbers: Iterable[int]) -> str:
    """'0 and 1' as '0, 1'; '30, 31, 32, 35' as '30–32, 35'."""
    ordered = sorted(set(numbers))
    starts = [ordered[0], *(after for before, after in pairwise(ordered) if after > before + 1)]
    ends = [*(before for before, after in pairwise(ordered) if after > before + 1), ordered[-1]]
    told = []
    for start, end in zip(starts, ends, strict=True):
        told.append(f"{start}–{end}" if end > start + 1 else f"{start}, {end}" if end > start else f"{start}")
    return ", ".join(told)


def statuses(states: Iterable[str]) -> Text:
    """'4 done', and below it '2 run'."""
    return Text("\n").join(Text.assemble(f"{number} ", coloured(status)) for status, number in Counter(states).items())


def reasons_by_seed(reasons: Sequence[tuple[int, str]]) -> str:
    """The reason of all, or a line for each with its seeds: '33, 34: never run'."""
    found: dict[str, list[int]] = {}
    for seed, reason in reasons:
        found.setdefault(reason, []).append(seed)
    return next(iter(found)) if len(found) == 1 else "\n".join(f"{ranges(seeds)}: {reason}" for reason, seeds in found.items())
