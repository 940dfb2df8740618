"""Items that two arms answered differently. In: a sweep, its store, two arms. Out: a page, a table of counts, JSON."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mm1_ablate.commands.common import FILE_IS_WRONG, SOME_FAILED, stop
from mm1_ablate.config.errors import did_you_mean
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.data.documents import Item, Unreadable
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.report.examples import Count, Example, counts, differing, side_by_side
from mm1_ablate.report.formats import number
from mm1_ablate.report.pages import Shown, examples_page, picture
from mm1_ablate.report.terminal import fit, print_sentence
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Differences:
    """What was found: a trial of each arm, counts by task and shots, examples."""

    arms: tuple[str, str]
    trials: tuple[Trial, Trial]
    counts: list[Count]
    examples: list[Example]

    def facts(self) -> list[str]:
        """Sentences above the table."""
        seeds = [trial.seed for trial in self.trials]
        of = f"seed {seeds[0]}" if seeds[0] == seeds[1] else f"seeds {seeds[0]} and {seeds[1]}"
        told = [f"Trials of {of}. Tasks take turns; of each the items that differ most are shown, with their own scores."]
        if self.trials[0].evaluation_fingerprint == self.trials[1].evaluation_fingerprint:
            told.append("Both arms are the same trial: there are no differences.")
        elif not self.examples:
            told.append("No item has a different score in the two arms.")
        return told

    def to_json(self) -> dict[str, Any]:
        return {
            "arms": list(self.arms),
            "seeds": [trial.seed for trial in self.trials],
            "counts": [count.to_json() for count in self.counts],
            "examples": [example.to_json() for example in self.examples],
        }


def look_for_differences(
    study: Study, store: Store, arms: tuple[str, str], task: str | None, shots: int | None, seed: int | None, number_shown: int
) -> Differences:
    """Compare the items of a trial of each arm; ends the command where something that was asked for is not there."""
    for arm in arms:
        names = [one.name for one in study.arms]
        if arm not in names:
            stop(FILE_IS_WRONG, f"{study.path}: there is no arm '{arm}'; {did_you_mean(arm, names) or 'the arms are ' + ', '.join(names)}")
    trials = _trials(study, store, arms, seed)
    both = side_by_side(*(store.items(trial) for trial in trials))
    both = _only(both, "task", task, "task", did_you_mean)
    both = _only(both, "shots", shots, "number of shots", lambda *_: "")
    found = differing(both, number_shown, trials[0].seed)
    return Differences(arms, trials, counts(both), found)


def _only(both: pandas.DataFrame, column: str, wanted: Any, what: str, suggest: Callable[[Any, Any], str]) -> pandas.DataFrame:
    if wanted is None:
        return both
    there = list(dict.fromkeys(both[column]))
    if wanted not in there:
        hint = suggest(wanted, there) or f"there are: {', '.join(map(str, there)) or 'none'}"
        stop(FILE_IS_WRONG, f"no {what} '{wanted}' that both arms were evaluated on; {hint}")
    kept: pandas.DataFrame = both[both[column] == wanted]
    return kept


def _trials(study: Study, store: Store, arms: tuple[str, str], seed: int | None) -> tuple[Trial, Trial]:
    """A scored trial of each arm: of the seed, or of the first that both have; of arms without a common seed the first of each."""
    if seed is not None:
        for arm in arms:
            if seed not in study.seeds_of(arm):
                stop(FILE_IS_WRONG, f"{study.path}: {arm} has no seed {seed}; its seeds are {', '.join(map(str, study.seeds_of(arm)))}")
    scored = [{one.seed: one for one in study.trials_of(arm) if store.has_scores(one) and seed in (None, one.seed)} for arm in arms]
    for arm, own in zip(arms, scored, strict=True):
        if not own:
            _say_what_to_run(study, store, arm, seed)
    common = [one for one in scored[0] if one in scored[1]]
    return (scored[0][common[0]], scored[1][common[0]]) if common else (next(iter(scored[0].values())), next(iter(scored[1].values())))


def _say_what_to_run(study: Study, store: Store, arm: str, seed: int | None) -> None:
    trials = [one for one in study.trials_of(arm) if seed in (None, one.seed)]
    states = {one.name: store.status(one) for one in trials}
    command = "evaluate" if all(state.trained for state in states.values()) else "run"
    told = "; ".join(f"{name}: {state.status}, {state.reason}" for name, state in states.items())
    place = f"mm1-ablate {command} {shlex.quote(str(study.path))} --store {shlex.quote(store.address)}"
    stop(SOME_FAILED, f"{arm} has no scores yet ({told}); run first: {place}")


# ---------------------------------------------------------------- what the items show
def shown_items(differences: Differences) -> dict[tuple[str, str], Shown]:
    """The images and choices of the examples' items, opened again through their source; for unavailable ones, the reason."""
    evaluation = differences.trials[0].experiment.evaluation
    try:
        tasks = {task.task: task for task in load_tasks(evaluation)}
    except (LookupError, ValueError, FileErrors):
        tasks = {}
    found: dict[tuple[str, str], Shown] = {}
    for name in dict.fromkeys(example.task for example in differences.examples):
        wanted = {example.item for example in differences.examples if example.task == name}
        try:
            if name not in tasks:
                raise LookupError("its task record cannot be read")
            opened = tasks[name].items.open(split=evaluation.split, count=evaluation.items_of(name), seed=evaluation.seed)
            items: Iterable[Item] = [item for item in opened.queries if item.id in wanted]
        except (OSError, ValueError, LookupError, FileErrors) as error:
            found.update({(name, item): Shown(problem=f"the item cannot be opened again: {_line(error)}") for item in wanted})
            continue
        found.update({(name, item.id): _shown(item) for item in items})
        missing = wanted - {item.id for item in items}
        found.update({(name, item): Shown(problem="the item is no longer in its source") for item in missing})
    return found


def _shown(item: Item) -> Shown:
    pixels, small, problem = None, False, ""
    if item.image is not None:
        try:
            pixels, small = picture(item.image.load())
        except (Unreadable, OSError) as error:
            problem = f"its image cannot be shown: {_line(error)}"
    return Shown(pixels, small, item.choices, item.correct, problem)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------- output
def page_of(differences: Differences) -> str:
    """The page."""
    return examples_page(differences.arms, differences.facts(), differences.counts, differences.examples, shown_items(differences))


def show_counts(differences: Differences, console: Console) -> None:
    """The counts as a table. Where names of arms have no room beside one another they are called A and B."""
    table = _table(differences, differences.arms)
    if not fit(table, console):
        table = _table(differences, ("A", "B"))
        fit(table, console)
        for letter, arm in zip("AB", differences.arms, strict=True):
            print_sentence(console, f"{letter}: {arm}")
        console.print()
    console.print(table)
    console.print()
    for fact in differences.facts():
        print_sentence(console, fact, style="dim")


def _table(differences: Differences, arms: tuple[str, str]) -> Table:
    """The counts, the arms under these names."""
    first, second = arms
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    titles: Sequence[str] = ("task", "shots", "items", f"{first} better", "equal", f"{second} better", "not judged", first, second)
    for title in titles:
        table.add_column(title, justify="left" if title == "task" else "right")
    for one in differences.counts:
        scores = [number(score, one.scale) for score in (one.first_score, one.second_score)]
        cells = [one.shots, one.items, one.first_better, one.equal, one.second_better, one.not_judged]
        table.add_row(one.task, *map(str, cells), *scores)
    return table
