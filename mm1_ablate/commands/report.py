"""Comparisons on the terminal, as JSON, and in files of the reader's choice. In: what the command line says. Out: lines and files."""

from __future__ import annotations

from pathlib import Path

from mm1_ablate.commands.common import FILE_IS_WRONG, SOME_FAILED, console, print_json, read_finished, require_store, stop, tell
from mm1_ablate.store.store import Store


def report_study(sweep: Path, store: Store, to: Path | None, as_json: bool) -> None:
    """Compare the arms of a study, write its report in the store, and show it.

    Args:
        to: a file or folder that the comparison is written to besides.
    """
    from mm1_ablate.commands.run import compare_and_write, text_that_ran
    from mm1_ablate.report.text import print_comparison

    require_writable(to)
    study = read_finished(sweep, store)
    require_store(store)
    comparison, folder = compare_and_write(study, store)
    written: list[Path] = []
    if to is not None:
        from mm1_ablate.report.exports import write_export
        from mm1_ablate.report.pdf import CannotPrint

        try:
            written = write_export(to, comparison, store.curves(study), text_that_ran(study, store))
        except OSError as error:
            stop(FILE_IS_WRONG, f"{to}: {error.strerror}; name a file or a folder that can be written")
        except CannotPrint as error:
            stop(SOME_FAILED, f"{to}: {error}")
    if as_json:
        print_json(comparison.to_json())
        return
    print_comparison(comparison, console())
    if written:
        tell(f"written: {written[0]}" + (f" with {len(written) - 1} pictures" if len(written) > 1 else ""))
    if folder is not None:
        tell(f"report: {folder / 'report.html'}")


def require_writable(to: Path | None) -> None:
    """End the command with 2, before anything is compared, where nothing can be written by the name of a path."""
    from mm1_ablate.report.exports import unwritable

    if to is not None and (problem := unwritable(to)):
        stop(FILE_IS_WRONG, problem)
