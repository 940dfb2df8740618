"""Notes that people and this program write into one field: ours stands in it once and is kept up to date, theirs is left alone.

In: what the field holds, and a mark of what we wrote there last. Out: what it is to hold, and the mark of that. MLflow shows one
description (`mlflow.note.content`), and people write theirs into the same. The mark is the length and a digest of our text, so that it
is found wherever people have put something before or after it. Who edits our text makes it theirs: then ours is written above it again.
"""

from __future__ import annotations

import hashlib

BETWEEN = "\n\n"


def mark_of(text: str) -> str:
    """The mark of a text of ours."""
    return f"{len(text)} {_digest(text)}"


def merged(there: str, mark: str, ours: str, longest: int) -> str:
    """What a field is to hold.

    Args:
        there: what it holds.
        mark: of what we wrote there last; empty where we have not.
        ours: what we have to say; empty: nothing.
        longest: characters that the field takes. What people wrote is never cut, ours is.
    """
    before, after = split(there, mark)
    theirs = [part for part in (before, after) if part]
    left = longest - sum(len(part) + len(BETWEEN) for part in theirs)
    return BETWEEN.join(part for part in (before, fitting(ours, max(left, 0)), after) if part)


def split(there: str, mark: str) -> tuple[str, str]:
    """What people wrote before and after our text; where ours is not found, all of it counts as written after."""
    length = int(mark.partition(" ")[0]) if mark else 0
    for start in range(len(there) - length + 1) if length else ():
        if mark_of(there[start : start + length]) == mark:
            return there[:start].strip("\n"), there[start + length :].strip("\n")
    return "", there.strip("\n")


def fitting(text: str, longest: int) -> str:
    """A text cut at the end of a line where it is too long."""
    if len(text) <= longest:
        return text
    kept = text[: max(longest - 2, 0)]
    return f"{kept.rpartition(chr(10))[0] or kept}\n…"[:longest]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
