"""Results of checks before a run, cached between commands.

In: a fingerprint of all that an answer depends on. Out: the answer, plain values of JSON. Making a part of a model without values takes
torch, timm or transformers (seconds to import), and large tasks take a while to be read and tokenised. So answers are kept in `checks.json`
of the cache, for the versions that they were found with. Delete the file whenever you like.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from mm1_ablate import __version__
from mm1_ablate.config.identity.data_digests import once
from mm1_ablate.data.cache import cache_folder

RULES = 4
"""Version of the rules of checks: increased when a check looks at more, as results from before may no longer hold."""


def known(key: str) -> Any:
    """The answer under a fingerprint; None where there is none."""
    return _answers().get(key)


def remember(key: str, answer: Any) -> None:
    """Keep an answer. A cache that cannot be written costs time, no more."""
    _answers()[key] = answer
    folder = cache_folder()
    beside = folder / f"checks.{os.getpid()}"
    # Another command may have written since.
    content = {"versions": _versions(), "answers": {**_read(), key: answer}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content))
        beside.replace(folder / "checks.json")
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
    return once("answers of checks", _read)


def _read() -> dict[str, Any]:
    try:
        content = json.loads((cache_folder() / "checks.json").read_text())
        answers: dict[str, Any] = dict(content["answers"]) if content["versions"] == _versions() else {}
    except (OSError, ValueError, LookupError, TypeError):  # there is none, or it is damaged
        return {}
    return answers


def _versions() -> list[str]:
    return [version("timm"), version("transformers"), __version__, str(RULES)]
