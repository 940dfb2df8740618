"""What every command shares: how a command ends, where the store is, and how a file's errors are shown.

Exit codes are part of the interface: 0 done, 1 some trials failed (or a check found a problem), 2 the file is wrong,
3 the budget forbids it, 130 interrupted. With `--json` standard output holds one JSON document and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from mm1_ablate.config.passwords import WithoutPasswords, hidden, without_passwords
from mm1_ablate.store.files import StorageError, is_address

if TYPE_CHECKING:
    from rich.console import Console

    from mm1_ablate.config.identity.data_digests import Look
    from mm1_ablate.config.study import Study
    from mm1_ablate.store.store import Store

SOME_FAILED = 1
FILE_IS_WRONG = 2
BUDGET_FORBIDS = 3
INTERRUPTED = 130


def say(message: str) -> None:
    """A line about what is wrong: on standard error, so that standard output stays what was asked for."""
    typer.echo(without_passwords(message), err=True)


def tell(message: str) -> None:
    """A line about what is done, for commands that print text, not JSON."""
    typer.echo(without_passwords(message))


def stop(code: int, *messages: str) -> NoReturn:
    """End the command with a code and a word on why."""
    for message in messages:
        say(message)
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(hidden(value), indent=2, allow_nan=False))


def console(stderr: bool = False) -> Console:
    """A terminal of rich's; wide enough for a table where the output goes to a file or a pipe."""
    from rich.console import Console

    stream: Any = WithoutPasswords(sys.stderr if stderr else sys.stdout)
    terminal = Console(file=stream, stderr=stderr, highlight=False)
    if not terminal.is_terminal and "COLUMNS" not in os.environ:
        terminal = Console(file=stream, stderr=stderr, highlight=False, width=160)
    return terminal


def store_place(text: str | Path) -> str:
    """What `--store` names: a folder, or an address of object storage. Ends the command with 2 where it is neither."""
    if is_address(text):
        scheme, _, rest = str(text).partition("://")
        if scheme in ("file", "local"):
            return store_place(rest)
        if scheme.startswith("http") or not rest.strip("/"):
            stop(FILE_IS_WRONG, f"--store {text}: is not a store; {NAME_A_STORE}, or object storage such as s3://BUCKET/PREFIX")
        return str(text)
    folder = Path(text)
    if os.path.exists(folder) and not os.path.isdir(folder):  # which have an answer for names of any length
        stop(FILE_IS_WRONG, f"--store {text}: is a file; {NAME_A_STORE}")
    return str(folder)


NAME_A_STORE = "name a folder that can be written with --store DIR or MM1_ABLATE_STORE"


@contextlib.contextmanager
def using_store(place: str) -> Iterator[Store]:
    """A store, as others have left it. Ends the command with 2 and a sentence where it cannot be read or written, or where a model that is
    to be planned is not here; other errors pass."""
    from mm1_ablate.store.store import Store

    try:
        store = Store(place)
    except OSError as error:  # of a replica's folder, which nothing else makes
        stop(FILE_IS_WRONG, f"the store {place} cannot be used: {error.filename}: {error.strerror}; set MM1_ABLATE_CACHE to another folder")
    try:
        store.refresh()
        yield store
    except Exception as error:
        from mm1_ablate.plan.model_statistics import ModelUnavailable
        from mm1_ablate.store.disk_full import DiskFull, full_disk_message, is_disk_full

        if isinstance(error, StorageError | ModelUnavailable):
            stop(FILE_IS_WRONG, str(error))
        if is_disk_full(error):
            stop(FILE_IS_WRONG, str(error) if isinstance(error, DiskFull) else full_disk_message(store.root))
        if not isinstance(error, OSError):
            raise
        root, file = store.root, Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
        if error.errno == errno.EROFS or (file is not None and (file.is_relative_to(root) or root.is_relative_to(file))):
            stop(FILE_IS_WRONG, f"the store {place} cannot be used: {file or root}: {error.strerror}; {NAME_A_STORE}")
        raise


def read_studies(paths: Sequence[Path], look: Look = "contents", begins: bool = False, store: Store | None = None) -> list[Study]:
    """Studies of the sweep files. Every problem of every file is printed before the command ends with 2.

    Args:
        look: how far to look at the data; commands that begin something check that all is there.
        begins: whether it must be possible to begin with them: see `plan.preflight`.
        store: where an earlier run may have recorded what data holds that is not here. Nothing: all data must be here.
    """
    from mm1_ablate.config.sweep.expand import load_study
    from mm1_ablate.config.yaml_file import FileErrors

    studies, problems = [], 0
    for path in paths:
        missing = missing_file(path)
        if missing:
            say(missing)
            problems += 1
            continue
        try:
            recorded = store.recorded_contents if store else None
            if begins:
                from mm1_ablate.plan.preflight import preflight

                studies.append(preflight(path, look, recorded))
            else:
                studies.append(load_study(path, look, recorded=recorded))
        except FileErrors as errors:
            say(str(errors))
            problems += len(errors.problems)
    if problems:
        stop(FILE_IS_WRONG, f"{problems} problem{'s' if problems > 1 else ''} found; nothing was started")
    return studies


def read_study(path: Path, look: Look = "contents", begins: bool = False) -> Study:
    return read_studies([path], look, begins)[0]


def read_finished(path: Path, store: Store) -> Study:
    """The study of a sweep file, for commands that look at what the store has: the data may be on another machine."""
    (study,) = read_studies([path], store=store)
    if study.from_record:
        say(f"missing on this machine, so digests of the last run are used: {'; '.join(study.from_record)}")
    return study


def write_page(target: Path, page: str) -> None:
    """Write a page; ends the command with 2 where it cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        stop(FILE_IS_WRONG, f"{target}: {error.strerror}; name an .html file that can be written with --to")


def missing_file(path: Path) -> str | None:
    """What is wrong with a path that cannot be a sweep file, with the nearest file that exists; nothing if it can be read."""
    if os.path.isfile(path):
        return None
    if os.path.isdir(path):
        inside = sorted(str(file) for file in path.glob("*.yaml"))
        return f"{path}: is a directory; name a sweep file" + (f", such as {inside[0]}" if inside else "")
    folder = path.parent
    if not os.path.isdir(folder):
        return f"{path}: no such file, nor a directory {folder} (the current directory is {Path.cwd()})"
    others = sorted(file.name for file in folder.glob("*.yaml"))
    near = get_close_matches(path.name, others, n=1)
    if near:
        return f"{path}: no such file; did you mean {folder / near[0]}?"
    if others:
        return f"{path}: no such file; {folder}/ holds {', '.join(others)}"
    return f"{path}: no such file; `mm1-ablate init` writes a sweep to start from"
