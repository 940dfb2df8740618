"""Comparisons on the terminal, as JSON, and in files of the reader's choice. In: what the command line says. Out: lines and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_ablate.commands.common import FILE_IS_WRONG, SOME_FAILED, console, print_json, read_finished, require_store, stop, tell
from mm1_ablate.config.sweep.expand import DECLARED
from mm1_ablate.config.sweep.tried import Try
from mm1_ablate.store.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

    from mm1_ablate.report.comparison import StudyComparison


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
