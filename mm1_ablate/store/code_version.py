"""Which code trains and scores here. In: the sources that shape scores. Out: version and a digest of them, so that two states of one
version differ."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from mm1_ablate import __version__

ROOMS = ("miniature", "data", "model", "training", "evaluation")
"""What shapes a trial's scores. How trials are declared, placed and reported does not."""


@functools.cache
def code_version() -> str:
    """Such as '0.1.0+1f00ba47': the version, and the first 8 hex digits of a hash over the names and contents of these rooms' .py files."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    sources = [path for room in ROOMS for path in (package / room).rglob("*.py")]
    for name, path in sorted((path.relative_to(package).as_posix(), path) for path in sources):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return f"{__version__}+{digest.hexdigest()[:8]}"
