"""What every command shares: how a command ends, where the store is, and how a file's errors are shown.

Exit codes are part of the interface: 0 done, 1 some trials failed (or a check found a problem), 2 the file is wrong,
3 the budget forbids it, 130 interrupted. With `--json` standard output holds one JSON document and nothing else.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
import shutil
import sys
import unicodedata
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
    from mm1_ablate.config.sweep.tried import Try
    from mm1_ablate.store.store import Store

SOME_FAILED = 1
FILE_IS_WRONG = 2
BUDGET_FORBIDS = 3
INTERRUPTED = 130


IN_ASCII = {"±": "+-", "×": "x", "−": "-", "–": "-", "—": "-", "→": "->", "←": "<-", "…": "...", "·": "-", "’": "'", "“": '"', "”": '"'}
"""How what the output's encoding lacks is written."""


def any_text_can_be_said() -> None:
    """Standard output and error take every text: a terminal or file in ASCII or Latin-1 is no reason to lose a report."""
    codecs.register_error("mm1_ablate", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mm1_ablate")


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of Python's codecs: something near in ASCII; bytes of file names that are no text as they are."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start]
    after = error.start + 1
    if "\udc80" <= lacking <= "\udcff":
        return bytes([ord(lacking) - 0xDC00]), after
    nearest = IN_ASCII.get(lacking) or unicodedata.normalize("NFKD", lacking).encode("ascii", "ignore").decode()
    return nearest or "?", after


def require_current_directory() -> None:
    """End the command with 2 where the directory that it was started in has been deleted: every path is relative to it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        stop(FILE_IS_WRONG, "the current directory has been deleted; change to one that exists, then run the command again")


def say(message: str) -> None:
    """A line about what is wrong: on standard error, so that standard output stays what was asked for."""
    print(_fitting(without_passwords(message), sys.stderr), file=sys.stderr, flush=True)  # `echo` would write UTF-8 where ASCII is wanted


def tell(message: str) -> None:
    """A line about what is done, for commands that print text, not JSON."""
    print(_fitting(without_passwords(message), sys.stdout), flush=True)


def _fitting(message: str, stream: Any) -> str:
    """A message as a terminal shows it without breaking words; in a file or a pipe a sentence stays on its line."""
    width = shutil.get_terminal_size().columns
    if not stream.isatty() or len(message) <= width or "\n" in message:
        return message
    from mm1_ablate.report.terminal import paragraph

    return "\n".join(paragraph(message, width))


class Stopped(typer.Exit):
    """The end of a command, and the words on why, which have been said."""

    def __init__(self, code: int, messages: Sequence[str]) -> None:
        super().__init__(code)
        self.message = without_passwords("\n".join(messages))


def stop(code: int, *messages: str) -> NoReturn:
    """End the command with a code and a word on why."""
    for message in messages:
        say(message)
    raise Stopped(code, messages)


def print_json(value: Any) -> None:
    print(json.dumps(hidden(value), indent=2, allow_nan=False), flush=True)


def console(stderr: bool = False) -> Console:
    """A terminal of rich's; wide enough for a table where the output goes to a file or a pipe."""
    from rich.console import Console

    stream: Any = WithoutPasswords(sys.stderr if stderr else sys.stdout)
    terminal = Console(file=stream, stderr=stderr, highlight=False, force_jupyter=False)
    if not terminal.is_terminal and "COLUMNS" not in os.environ:
        terminal = Console(file=stream, stderr=stderr, highlight=False, force_jupyter=False, width=160)
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


def store_of(place: str, tried: Try) -> str:
    """Where trials are kept: what only shows whether a study runs has a store of its own beside the others'."""
    return f"{place.rstrip('/')}-smoke" if tried.smoke else place


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
        store.check_layout()
        yield store
    except Exception as error:
        from mm1_ablate.data.atomic_files import DamagedFile
        from mm1_ablate.plan.model_statistics import ModelUnavailable
        from mm1_ablate.store.disk_full import DiskFull, full_disk_message, is_disk_full

        if isinstance(error, DamagedFile) and error.path.is_relative_to(store.root):
            store.files.note_damage(error.path, error.why)
            raise typer.Exit(FILE_IS_WRONG) from error
        if isinstance(error, StorageError | ModelUnavailable):
            stop(FILE_IS_WRONG, str(error))
        if is_disk_full(error):
            stop(FILE_IS_WRONG, str(error) if isinstance(error, DiskFull) else full_disk_message(store.root))
        if isinstance(error, OSError) and (sentence := unusable_place(error, place, store.root)):
            stop(FILE_IS_WRONG, sentence)
        raise
    finally:
        for damaged, why in store.damaged.items():
            say(f"damaged: {store.where(damaged)}: {why}; taken for not there, and `mm1-ablate run` repairs what it can")


def unusable_place(error: OSError, place: str = "", root: Path | None = None) -> str | None:
    """Which of the folders that a command writes to cannot be used, and what to do; None where an error is not of that kind.

    Args:
        place, root: of the store, as it was named, and on this machine; none where the command uses no store.
    """
    from mm1_ablate.data.cache import cache_folder

    if not isinstance(error.filename, str | bytes):
        if "temporary directory" in str(error.strerror):
            return f"{error.strerror}; set TMPDIR to a folder that can be written"
        if root is not None and error.errno == errno.EROFS:
            return f"the store {place} cannot be used: {root}: {error.strerror}; {NAME_A_STORE}"
        return None
    file, cache = Path(os.fsdecode(error.filename)), cache_folder()
    if root is not None and (file.is_relative_to(root) or root.is_relative_to(file)):
        return f"the store {place} cannot be used: {file}: {error.strerror}; {NAME_A_STORE}"
    refused = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
    if cache.is_relative_to(file) or (refused and file.is_relative_to(cache)):
        return f"the cache {cache} cannot be used: {file}: {error.strerror}; set MM1_ABLATE_CACHE to a folder that can be written"
    if not refused:
        return None
    named = next((name for name in NAME_FOLDERS if os.environ.get(name) and file.is_relative_to(os.environ[name])), None)
    return f"{file}: {error.strerror}" + (f"; set {named} to a folder that can be written" if named else "")


NAME_FOLDERS = ("RAY_TMPDIR", "TMPDIR", "TEMP", "TMP", "HOME")
"""Environment variables that name folders which libraries write to."""


def read_studies(
    paths: Sequence[Path], look: Look = "contents", begins: bool = False, store: Store | None = None, tried: Try | None = None
) -> list[Study]:
    """Studies of the sweep files. Every problem of every file is printed before the command ends with 2.

    Args:
        look: how far to look at the data; commands that begin something check that all is there.
        begins: whether it must be possible to begin with them: see `plan.preflight`.
        store: where an earlier run may have recorded what data holds that is not here. Nothing: all data must be here.
        tried: how they are tried otherwise than their files declare them. None: not at all.
    """
    from mm1_ablate.config.sweep.expand import DECLARED, load_study
    from mm1_ablate.config.yaml_file import FileErrors

    studies, problems, tried, told = [], 0, tried or DECLARED, []
    for path in paths:
        missing = missing_file(path)
        if missing:
            told.append(missing)
            problems += 1
            continue
        try:
            recorded = store.recorded_contents if store else None
            if begins:
                from mm1_ablate.plan.preflight import preflight

                studies.append(preflight(path, look, recorded, tried))
            else:
                studies.append(load_study(path, look, recorded=recorded, tried=tried))
        except FileErrors as errors:
            told.append(str(errors))
            problems += len(errors.problems)
    if problems:
        stop(FILE_IS_WRONG, *told, f"{problems} problem{'s' if problems > 1 else ''} found; nothing was started")
    return studies


def read_study(path: Path, look: Look = "contents", begins: bool = False, tried: Try | None = None) -> Study:
    return read_studies([path], look, begins, tried=tried)[0]


def read_finished(path: Path, store: Store, tried: Try | None = None) -> Study:
    """The study of a sweep file, for commands that look at what the store has: the data may be on another machine."""
    from mm1_ablate.plan.until_decided import as_needed

    (study,) = read_studies([path], store=store, tried=tried)
    require_own_place(study, store)
    study = as_needed(study, store)
    if study.from_record:
        say(f"missing on this machine, so digests of the last run are used: {'; '.join(study.from_record)}")
    return study


def require_own_place(study: Study, store: Store) -> None:
    """End the command with 2 where another sweep file's study is kept under the same name."""
    if other := store.other_study(study):
        stop(FILE_IS_WRONG, other)


def require_store(store: Store) -> None:
    """End the command with 2 where there is no store: what is to be read has to be there."""
    if not store.root.is_dir():
        stop(
            FILE_IS_WRONG,
            f"there is no store at {store.address}: run the sweep first, or name another with --store DIR or MM1_ABLATE_STORE",
        )


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
