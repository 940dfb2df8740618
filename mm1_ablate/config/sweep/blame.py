"""Which of an arm's edits a diagnostic about the arm's experiment comes from.

In: diagnostics, and edits with their places in the sweep file. Out: diagnostics at the edits that are to blame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.sweep.arms import DeclaredArm
from mm1_ablate.config.sweep.overrides import Edit, Keys, ends_with


def edits_at(edits: Sequence[Edit], place: Keys) -> list[Edit]:
    """The edits that say something about a place."""
    parts = [str(part) for part in place]
    return [edit for edit in edits if not edit.removed and _overlap(edit.path.split("."), parts)]


def _overlap(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether one path leads to the other."""
    return all(one == other for one, other in zip(left, right, strict=False))


def moved_to_edit(diagnostic: Diagnostic, edits: Sequence[Edit], where: Keys) -> Diagnostic:
    """A diagnostic about an arm's experiment, moved to the edit in the sweep file that it comes from."""
    path = [str(part) for part in diagnostic.path]

    def closeness(edit: Edit) -> tuple[bool, int]:
        parts = edit.path.split(".")
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, parts, strict=False)))
        return common in (len(path), len(parts)), common

    edit = max(edits, key=closeness, default=None)
    place = ".".join(path)
    if edit is None or closeness(edit)[1] == 0:
        return replace(diagnostic, path=where, message=f"{place}: {diagnostic.message}", at_key=False)
    parts = edit.path.split(".")
    inside = diagnostic.path[len(parts) :] if path[: len(parts)] == parts else ()
    # Messages name the path, unless the place in the sweep file ends with it anyway.
    told = inside or (place == edit.path and ends_with(edit.where, edit.path))
    return replace(diagnostic, path=(*edit.where, *inside), message=diagnostic.message if told else f"{place}: {diagnostic.message}")


def equals_baseline(declared_arm: DeclaredArm, baseline: str) -> Diagnostic:
    """That an arm is its baseline."""
    if declared_arm.point:
        point = ", ".join(f"{path}: {value}" for path, value in declared_arm.point.items())
        message = f"arm '{declared_arm.name}' changes nothing: it is identical to {baseline}, which already has a row"
        return Diagnostic(declared_arm.where, message, f"add {{{point}}} to the group's `except`", at_key=True)
    paths = ", ".join(edit.path for edit in declared_arm.edits)
    message = (
        f"arm '{declared_arm.name}' is identical to {baseline}: {paths} {'changes' if len(declared_arm.edits) == 1 else 'change'} nothing"
    )
    return Diagnostic(declared_arm.where, message, at_key=declared_arm.where[-1] == declared_arm.group)
