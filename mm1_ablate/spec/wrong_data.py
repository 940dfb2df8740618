"""Experiments in, what is wrong with the data that they name out, at the place that wrote it: an arm of the sweep or an experiment file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from mm1_ablate.spec.alteration import EARLIER, Edit, Keys
from mm1_ablate.spec.changes import blamed, touching
from mm1_ablate.spec.contents import Place, findings_about, identity_of, sources_of
from mm1_ablate.spec.experiment import Experiment
from mm1_ablate.spec.messages import Finding
from mm1_ablate.spec.tasks import wrong_files
from mm1_ablate.spec.yaml_file import FileProblem, Marks, dotted

Check = Callable[[Experiment], list[Finding]]
"""A further check of experiments, by a room above: what is wrong, by place in the experiment. Asked only of those whose data is there."""

LOOKED_AT = ("evaluation", "model", "starts_from", "data")
"""What edits change, of whatever stage, that further checks may find wrong at another place."""


def wrong_data(experiment: Experiment) -> list[Finding]:
    """What is wrong with the data of an experiment's sources and tasks, by place in it."""
    found = [_at(place, finding) for place, source in sources_of(experiment) for finding in findings_about(source)]
    return found + [finding for _, finding in wrong_files(experiment)]


def unread_sources(experiment: Experiment, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Sources of an experiment and of its earlier stages whose data type has no share in the mixture: their places and data types.

    Args:
        place: of the experiment.
    """
    read = experiment.data.shares()
    for name, source in experiment.data.sources.items():
        if name not in read:
            yield (*place, "data", "sources", name), source.data_type
    if experiment.starts_from is not None:
        yield from unread_sources(experiment.starts_from, (*place, "starts_from"))


def never_read(place: Place, data_type: str) -> Finding:
    """The warning about a source that no arm reads."""
    *_, name = place
    message = f"source '{name}' is never read: its data type, {data_type}, has no share in data.mixture, in no arm"
    return Finding(place, message, f"give data.mixture.{data_type} a weight, or leave the source out", at_key=True, warning=True)


class WrongData:
    """Tells of each wrong source, task and check once, however many arms have it.

    Args:
        checks: further checks of experiments; asked only of those whose data is there.
    """

    def __init__(self, checks: Sequence[Check] = ()) -> None:
        self.checks = checks
        self.problems: list[FileProblem] = []
        """What experiment files say wrongly themselves."""
        self._told: set[str] = set()

    def of(self, experiment: Experiment, edits: Sequence[Edit], where: Keys, marks: Marks) -> list[Finding]:
        """What is wrong with data that no experiment before had: by place in the sweep where an edit made the source what it is; what
        the experiment file says itself goes to the problems of that file."""
        found = []
        for place, source in sources_of(experiment):
            if identity_of(source) in self._told:
                continue
            for finding in findings_about(source):
                self._told.add(identity_of(source))
                found += self._told_at(_at(place, finding), touching(edits, place), where, marks)
        tasks = list(wrong_files(experiment))
        for identity, finding in tasks:
            if f"{identity} {finding.message}" not in self._told:
                self._told.add(f"{identity} {finding.message}")
                own = touching(edits, finding.path) or touching(edits, ("evaluation", "split"))
                found += self._told_at(finding, own, where, marks)
        if all(finding.warning for finding in (*(finding for _, finding in tasks), *found)):
            found += self._checked(experiment, edits, where, marks)
        return found

    def _checked(self, experiment: Experiment, edits: Sequence[Edit], where: Keys, marks: Marks) -> list[Finding]:
        """What the further checks find. An arm whose baseline is right is wrong by what it changes."""
        found = []
        for finding in [finding for check in self.checks for finding in check(experiment)]:
            if finding.message not in self._told:
                self._told.add(finding.message)
                own = touching(edits, finding.path) or [edit for edit in edits if edit.path.rpartition(EARLIER)[2].startswith(LOOKED_AT)]
                found += self._told_at(finding, own, where, marks)
        return found

    def _told_at(self, finding: Finding, own: Sequence[Edit], where: Keys, marks: Marks) -> list[Finding]:
        """A finding, at the first of the edits that brought it about; without any, it goes to the problems of the experiment file."""
        if not own:
            self.problems += marks.problems([finding])
            return []
        if touching(own, finding.path):
            return [blamed(finding, own, where)]
        return [replace(finding, path=own[0].where, message=f"{dotted(finding.path)}: {finding.message}", at_key=False)]


def _at(place: Place, finding: Finding) -> Finding:
    """A finding about a part, as one about the whole."""
    return replace(finding, path=(*place, *finding.path))
