"""Comparisons on the terminal, as JSON, and in files of the reader's choice. In: what the command line says. Out: lines and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_ablate.commands.common import (
    FILE_IS_WRONG,
    SOME_FAILED,
    console,
    print_json,
    read_finished,
    read_studies,
    require_store,
    stop,
    store_place,
    tell,
    using_store,
)
from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import DECLARED
from mm1_ablate.config.sweep.tried import Try
from mm1_ablate.plan.until_decided import as_needed
from mm1_ablate.store.files import is_address
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

    from mm1_ablate.report.comparison import StudyComparison
    from mm1_ablate.report.since import State


def report_study(sweep: Path, store: Store, to: Path | None, as_json: bool, tried: Try = DECLARED) -> None:
    """Compare the arms of a study, write its report in the store, and show it.

    Args:
        to: a file or folder that the comparison is written to besides.
        tried: what of the study is compared, where it is not the whole.
    """
    from mm1_ablate.commands.run import compare_and_write, text_that_ran
    from mm1_ablate.report.text import print_comparison

    require_writable(to)
    study = read_finished(sweep, store, tried)
    require_store(store)
    comparison, folder = compare_and_write(study, store)
    written = _written(to, comparison, lambda: (store.curves(study), text_that_ran(study, store)))
    if as_json:
        print_json(comparison.to_json())
        return
    print_comparison(comparison, console())
    _tell_written(written)
    if folder is not None:
        tell(f"report: {folder / 'report.html'}")


def report_side_by_side(sweeps: Sequence[Path], store: Store, to: Path | None, as_json: bool, tried: Try = DECLARED) -> None:
    """Compare the arms of several studies in one table; ends with 2 where they cannot be compared, which is said by name."""
    import pandas

    from mm1_ablate.commands.comparison import compare_study, unwritable_is_told
    from mm1_ablate.report.side_by_side import Side, joined, refusals
    from mm1_ablate.report.text import print_comparison

    require_writable(to)
    studies = [read_finished(sweep, store, tried) for sweep in sweeps]
    require_store(store)
    for study in studies:
        with unwritable_is_told(lambda error: None):  # which the comparison says
            store.declare(study)
    sides = [Side(study, compare_study(study, store)) for study in studies]
    if problems := refusals(sides):
        stop(FILE_IS_WRONG, *problems)
    comparison = joined(sides)
    names = {row.name for row in comparison.rows}

    def curves() -> pandas.DataFrame:
        tables = []
        for study in studies:
            own = store.curves(study)
            tables.append(own.assign(arm=[arm if arm in names else f"{study.name}/{arm}" for arm in own["arm"]]))
        return pandas.concat(tables).drop_duplicates(["arm", "seed", "step"])

    written = _written(to, comparison, lambda: (curves(), None))
    if as_json:
        print_json(comparison.to_json())
        return
    print_comparison(comparison, console())
    _tell_written(written)


def report_since(sweep: Path, store: Store, since: str, to: Path | None, as_json: bool, tried: Try = DECLARED) -> None:
    """Show what has changed for the arms of a study since a commit or a date, or what is otherwise in another store.

    Args:
        since: a commit, a date, or the place of a store.
        to: a .csv or .md file that the table is written to besides.
        tried: what of the study is compared, where it is not the whole.
    """
    from mm1_ablate.commands.earlier import at_commit
    from mm1_ablate.report.since import since as changes_since

    if to is not None and to.suffix.lower() not in (".csv", ".md"):
        stop(FILE_IS_WRONG, f"{to}: what has changed is written as .csv or .md; name such a file")
    study = read_finished(sweep, store, tried)
    require_store(store)
    now = _state(study, store)
    if is_address(since) or Path(since).is_dir():
        with using_store(store_place(since)) as other:
            require_store(other)
            changed = changes_since(_state(read_finished(sweep, other, tried), other), now, f"the store {other.address}")
    else:
        with at_commit(sweep, since) as (earlier, words):
            (before,) = read_studies([earlier], store=store, tried=tried)
            changed = changes_since(_state(as_needed(before, store), store), now, words)
    if to is not None:
        text = changed.frame().to_csv(index=False) if to.suffix.lower() == ".csv" else changed.markdown()
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(without_passwords(text), encoding="utf-8")
        except OSError as error:
            stop(FILE_IS_WRONG, f"{to}: {error.strerror}; name a file that can be written")
    if as_json:
        print_json(changed.to_json())
        return
    changed.show(console())
    _tell_written([to] if to else [])


def _state(study: Study, store: Store) -> State:
    from mm1_ablate.commands.comparison import compare_study
    from mm1_ablate.report.since import State

    return State(study, compare_study(study, store), store.results(study), store.item_scores(study))


def _written(to: Path | None, comparison: StudyComparison, besides: Callable[[], tuple[DataFrame, str | None]]) -> list[Path]:
    """Write a comparison where it is wanted; ends the command where it cannot be written.

    Args:
        besides: learning curves and the text of the sweep, read only where something is written.
    """
    if to is None:
        return []
    from mm1_ablate.report.exports import write_export
    from mm1_ablate.report.pdf import CannotPrint

    try:
        return write_export(to, comparison, *besides())
    except OSError as error:
        stop(FILE_IS_WRONG, f"{to}: {error.strerror}; name a file or a folder that can be written")
    except CannotPrint as error:
        stop(SOME_FAILED, f"{to}: {error}")


def _tell_written(written: Sequence[Path]) -> None:
    if written:
        tell(f"written: {written[0]}" + (f" with {len(written) - 1} pictures" if len(written) > 1 else ""))


def require_writable(to: Path | None) -> None:
    """End the command with 2, before anything is compared, where nothing can be written by the name of a path."""
    from mm1_ablate.report.exports import unwritable

    if to is not None and (problem := unwritable(to)):
        stop(FILE_IS_WRONG, problem)
