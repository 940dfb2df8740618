"""What checks before a run found out, kept from one command to the next.

In: a fingerprint of all that an answer depends on. Out: the answer, plain values of JSON. Making a part of a model without values takes
torch, timm or transformers (seconds to import), and large tasks take a while to be read and tokenised. So answers are kept in `checks.json`
of the cache, for the versions that they were found with. Delete the file whenever you like.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mm1_ablate import __version__
from mm1_ablate.data.cache import cache_folder

RULES = 4
"""Number of the rules that checks go by: another one where a check looks at more, as what was found right may no longer be."""


def known(key: str) -> Any:
    """The answer under a fingerprint; None where there is none."""
    return _answers().get(key)


def remember(key: str, answer: Any) -> None:
    """Keep an answer. A cache that cannot be written costs time, no more."""
    answers = _answers()
    answers[key] = answer
    folder = cache_folder()
    beside = folder / f"checks.{os.getpid()}"
    content = {"versions": _versions(), "answers": answers}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content))
        beside.replace(folder / "checks.json")
        _read.cache_clear()
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def remembered(key: str, find: Callable[[], Any]) -> Any:
    """The answer under a fingerprint, found now where there is none; tuples are lists in it, as in JSON. What `find` raises is not kept."""
    answers = _answers()
    if key in answers:
        return answers[key]
    answer = json.loads(json.dumps(find()))
    remember(key, answer)
    return answer


def _answers() -> dict[str, Any]:
    path = cache_folder() / "checks.json"
    try:
        found = path.stat()
        state = (found.st_ino, found.st_mtime_ns, found.st_size)
    except OSError:
        state = None
    return _read(path, state, RULES)


@lru_cache(maxsize=4)
def _read(path: Path, state: tuple[int, int, int] | None, rules: int) -> dict[str, Any]:
    """Answers in a file that is in that state. Where it cannot be written, this process keeps its answers here."""
    try:
        content = json.loads(path.read_text())
        answers: dict[str, Any] = dict(content["answers"]) if content["versions"] == _versions() else {}
    except (OSError, ValueError, LookupError, TypeError):  # there is none, or it is damaged
        return {}
    return answers


@cache
def _package_versions() -> tuple[str, ...]:
    return version("timm"), version("transformers"), __version__


def _versions() -> list[str]:
    return [*_package_versions(), str(RULES)]
