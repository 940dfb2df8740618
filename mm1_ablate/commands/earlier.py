"""A sweep as it was at a commit. In: its file, and what the command line says of a time. Out: a folder with the files of then."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from mm1_ablate.commands.common import FILE_IS_WRONG, stop

NEEDED = (".yaml", ".yml", ".json", ".py")
"""Endings of the files that a sweep may name and that a repository keeps; data is not among them."""


@contextlib.contextmanager
def at_commit(sweep: Path, since: str) -> Iterator[tuple[Path, str]]:
    """The sweep as it was, and the commit in words. Ends the command with 2 where git knows no such state.

    Args:
        since: a commit, a tag or a branch; or a date such as 2026-11-01, which means the last commit before it.
    """
    folder = sweep.resolve().parent
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        stop(FILE_IS_WRONG, f"--since {since}: {sweep} is in no git repository; name a store with the earlier results: --since STORE")
    commit = _git(folder, "rev-parse", "--verify", "--quiet", f"{since}^{{commit}}")
    if commit is None and _is_date(since):
        commit = _git(folder, "log", "-1", "--format=%H", f"--before={since}") or None
        if commit is None:
            stop(FILE_IS_WRONG, f"--since {since}: there is no commit before this date")
    if commit is None:
        stop(FILE_IS_WRONG, f"--since {since}: is no commit of this repository, no date such as 2026-11-01, and no store")
    inside = sweep.resolve().relative_to(Path(top.strip()).resolve())
    names = (_git(Path(top.strip()), "ls-tree", "-r", "--name-only", commit.strip()) or "").splitlines()
    if inside.as_posix() not in names:
        stop(FILE_IS_WRONG, f"--since {since}: {inside} is not in commit {commit[:8]}; name a later one")
    wanted = [f":(glob)**/*{ending}" for ending in NEEDED if any(name.endswith(ending) for name in names)]
    command = ["git", "-C", top.strip(), "archive", "--format=tar", commit.strip(), *wanted]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="mm1-ablate-since-") as place:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(place, filter="data")
        yield Path(place) / inside, f"commit {commit[:8]}"


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 and done.stdout.strip() else None
