"""Checks of the experiments of a study, each once.

In: experiments. Out: what is wrong with the data that they name, and what further checks find (`plan/preflight.py` lists them), at the
place that wrote it: an arm of the sweep or an experiment file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import Place, diagnostics_about, identity_of, sources_of
from mm1_ablate.config.no_effect import without_effect
from mm1_ablate.config.sweep.overrides import Edit, Keys, ends_with
from mm1_ablate.config.tasks import wrong_files
from mm1_ablate.config.yaml_file import FileProblem, Marks, dotted

Check = Callable[[Experiment], list[Diagnostic]]
"""A further check of experiments, by a room above: diagnostics by place in it. Only experiments whose data is there are checked."""

Remade = Callable[[Sequence[Edit]], Experiment | None]
_Look = Callable[[Experiment], dict[str, Diagnostic]]
"""Diagnostics, each under a key of its own."""


def at_every_stage(experiment: Experiment, check: Check) -> list[Diagnostic]:
    """What a check finds wrong with an experiment and with the earlier stages that it starts from, by place in the experiment."""
    stages = enumerate([experiment, *reversed(experiment.earlier)])
    return [_at(("starts_from",) * number, diagnostic) for number, stage in stages for diagnostic in check(stage)]


def wrong_data(experiment: Experiment) -> list[Diagnostic]:
    """What is wrong with the data of an experiment's sources and tasks, by place in it."""
    found = [_at(place, diagnostic) for place, source in sources_of(experiment) for diagnostic in diagnostics_about(source)]
    return found + [diagnostic for _, diagnostic in wrong_files(experiment)]


def never_read(experiment: Experiment, arms: Sequence[Experiment]) -> list[Diagnostic]:
    """Warnings about sources of an experiment and of its earlier stages that it does not read, nor any arm."""
    unread = [dict(_unread_sources(arm)) for arm in arms]
    return [
        Diagnostic(
            place,
            f"source '{place[-1]}' is never read: its data type, {data_type}, has no share in data.mixture in any arm",
            f"give data.mixture.{data_type} a weight, or leave the source out",
            at_key=True,
            warning=True,
        )
        for place, data_type in _unread_sources(experiment)
        if all(place in of_arm for of_arm in unread)
    ]


def _unread_sources(experiment: Experiment, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Sources whose data type has no share in the mixture: their places, which begin with that of the experiment, and data types."""
    read = experiment.data.shares()
    for name, source in experiment.data.sources.items():
        if name not in read:
            yield (*place, "data", "sources", name), source.data_type
    if experiment.starts_from is not None:
        yield from _unread_sources(experiment.starts_from, (*place, "starts_from"))


class Preflight:
    """Reports what is wrong with a source or a task, and what a check finds, once, however many arms have it.

    Args:
        checks: further checks; run only on experiments whose data is there.
    """

    def __init__(self, checks: Sequence[Check] = ()) -> None:
        self.checks = checks
        self.problems: list[FileProblem] = []
        """What experiment files say wrongly themselves."""
        self._reported: set[str] = set()

    def of(
        self, experiment: Experiment, edits: Sequence[Edit], where: Keys, marks: Marks, remade: Remade, arm: bool = False
    ) -> list[Diagnostic]:
        """What is wrong with data that no experiment before had: by place in the sweep where an edit made it so; what is wrong without
        any edit goes to the problems of the experiment file.

        Args:
            remade: the experiment with some of its edits only; None where these make none.
            arm: whether it is an arm. Of its settings that have no effect only those are reported that it sets itself: those of its
                baseline are right there.
        """

        def new(look: _Look) -> list[Diagnostic]:
            found = []
            for key, diagnostic in look(experiment).items():
                if key not in self._reported:
                    self._reported.add(key)
                    found += self._at_its_place(*_to_blame(look, key, diagnostic, edits, remade), where, marks)
            return found

        found = []
        for diagnostic in without_effect(experiment):
            own = edits_at(edits, diagnostic.path)
            if own or not arm:
                found += self._at_its_place(diagnostic, own, where, marks)
        found += new(_of_sources) + new(_of_tasks)
        if all(diagnostic.warning for diagnostic in (*_of_tasks(experiment).values(), *found)):
            found += new(self._of_checks)
        return found

    def _of_checks(self, experiment: Experiment) -> dict[str, Diagnostic]:
        return {diagnostic.message: diagnostic for check in self.checks for diagnostic in check(experiment)}

    def _at_its_place(self, diagnostic: Diagnostic, own: Sequence[Edit], where: Keys, marks: Marks) -> list[Diagnostic]:
        """A diagnostic, at the first of the edits that brought it about; without any, it goes to the problems of the experiment file."""
        if not own:
            self.problems += marks.problems([diagnostic])
            return []
        if edits_at(own, diagnostic.path):
            return [moved_to_edit(diagnostic, own, where)]
        return [replace(diagnostic, path=own[0].where, message=f"{dotted(diagnostic.path)}: {diagnostic.message}", at_key=False)]


def _of_sources(experiment: Experiment) -> dict[str, Diagnostic]:
    return {
        f"{identity_of(source)} {diagnostic.message}": _at(place, diagnostic)
        for place, source in reversed(list(sources_of(experiment)))
        for diagnostic in diagnostics_about(source)
    }


def _of_tasks(experiment: Experiment) -> dict[str, Diagnostic]:
    return {f"{identity} {diagnostic.message}": diagnostic for identity, diagnostic in wrong_files(experiment)}


def _to_blame(look: _Look, key: str, diagnostic: Diagnostic, edits: Sequence[Edit], remade: Remade) -> tuple[Diagnostic, Sequence[Edit]]:
    """A diagnostic with the edits that brought it about; without any where it is there all the same, perhaps in words of its own."""
    own = edits_at(edits, diagnostic.path)
    before = remade(()) if edits else None
    if before is not None:
        found = look(before)
        same = [other for other in found.values() if other.path == diagnostic.path] if not own else []
        if key in found or same:
            return found.get(key) or same[0], ()
    needed = edits
    if len(edits) > 1:
        fewer = {edit.path: remade([other for other in edits if other is not edit]) for edit in edits}
        needed = [edit for edit in edits if (left := fewer[edit.path]) is not None and key not in look(left)]
    return diagnostic, edits_at(needed, diagnostic.path) or needed or own or edits


def _at(place: Place, diagnostic: Diagnostic) -> Diagnostic:
    """A diagnostic about a part, as one about the whole."""
    return replace(diagnostic, path=(*place, *diagnostic.path))


# ---------------------------------------------------------------- which edit a diagnostic comes from
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
