"""Parts of models that were found right, remembered from one command to the next.

Making a part, even without values, takes torch, timm or transformers: seconds to import. So what was made once without complaint is kept in
`parts.json` of the cache, with what others need to know of it, for the versions that it was made with. Delete the file whenever you like.
"""

from __future__ import annotations

import contextlib
import json
import os
from importlib.metadata import version

from mm1_ablate import __version__
from mm1_ablate.config.identity.data_digests import once
from mm1_ablate.data.cache import cache_folder

CHECKED = 3
"""What a part is tried for: another number where that changes, for what was found right may no longer be."""


def known(key: str) -> dict[str, int] | None:
    """What is known of a part by its fingerprint; nothing of one that was never made."""
    return once("parts found right", _read).get(key)


def remember(key: str, facts: dict[str, int]) -> None:
    """Keep what is known of a part, where there is a place for it."""
    once("parts found right", _read)[key] = facts
    folder = cache_folder()
    beside = folder / f"parts.{os.getpid()}"
    # Another command may have written since.
    content = {"versions": _versions(), "right": {**_read(), key: facts}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content))
        beside.replace(folder / "parts.json")
    except OSError:  # a cache that cannot be written costs only time
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _read() -> dict[str, dict[str, int]]:
    try:
        content = json.loads((cache_folder() / "parts.json").read_text())
    except (OSError, ValueError):
        return {}
    return content["right"] if content.get("versions") == _versions() else {}


def _versions() -> list[str]:
    return [version("timm"), version("transformers"), __version__, str(CHECKED)]
