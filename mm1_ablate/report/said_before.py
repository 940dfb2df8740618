"""What was declared before its scores were there, what after, and what was withdrawn or changed since.

In: the record of what a study declared (`config/declarations.py`). Out: of each expectation when it was declared, measured in scores that
were there; what is no longer declared; remarks on what verdicts hang on.

A difference can be known as soon as both of its arms have a score. What was declared by then is said before; what came after is
exploratory. It is the present trials that count: an arm that is trained otherwise, or with other seeds, has no scores yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mm1_ablate.config.declarations import Declaration, History, claim, expectation_of
from mm1_ablate.config.errors import listed
from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.passwords import hidden
from mm1_ablate.config.sweep.declaration import Expectation

When = Literal["before", "after", "unknown"]
"""Against the scores of what was declared: before them, after them, or not recorded."""
BEFORE_ANY = "declared before any score"
MOST_NAMES = 6


@dataclass(frozen=True)
class Said:
    """When something was declared."""

    when: When
    words: str
    time: float
    """Seconds since the epoch; of what is not recorded, when it was first seen."""

    @property
    def is_exploratory(self) -> bool:
        """Whether scores were there first, so that it can be neither confirmed nor refuted."""
        return self.when == "after"


@dataclass(frozen=True)
class Withdrawn:
    """An expectation that was declared once, and is not any more."""

    expectation: Expectation
    family: str
    said: Said
    words: str
    """When it was declared and when it was withdrawn."""
    counts: bool
    """Whether it was withdrawn after scores, so that its family is corrected as it was declared."""
    obstacle: str = ""
    """Why nothing came out for it; empty where that can be computed."""


class _Comparison(NamedTuple):
    arm: str
    baseline: str
    family: str


def utc(seconds: float) -> str:
    """A time as reports show it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def after_scores(declaration: Declaration) -> str:
    """'after 12 of 16 trials had scores'."""
    trials = declaration.trials
    return f"after {len(declaration.scored & trials)} of {len(trials)} trials had scores"


class SaidBefore:
    """What a study said, and when."""

    def __init__(self, history: History) -> None:
        self._history, self._all = history, history.declarations
        self._now = history.now.declared
        self._trials = _trials_by_arm(self._now)

    # ---------------------------------------------------------------- expectations
    def of(self, expected: Expectation, family: str) -> Said:
        """When an expectation of the study was declared."""
        plain = hidden(claim(expected)) | {"family": family}
        own = next(one for one in self._now["expectations"] if _claimed(one) == plain)
        reference, level = expected.than or self._baseline(expected.arm), self._now["confidence"]
        metric = metric_title(expected.metric)
        # The claim itself, then what else it hangs on: each as it is now, and since when.
        since = (
            ("", self._first(lambda one: plain in map(_claimed, one["expectations"]))),
            (f"what {metric} is made of", self._first(lambda one: own in one["expectations"])),
            ("the confidence level", self._first(lambda one: own in one["expectations"] and one["confidence"] == level)),
        )
        said = self._said(since[0][1], expected.arm, reference, self._trials)
        for what, place in since[1:]:
            if not said.is_exploratory and self._said(place, expected.arm, reference, self._trials).is_exploratory:
                words = f"{what} was changed {after_scores(self._all[place])}: exploratory"
                said = Said("after", words, self._all[place].time)
        return said

    def _baseline(self, arm: str) -> str:
        return str(self._now["arms"].get(arm, {}).get("baseline", ""))

    def _first(self, holds: Callable[[Mapping[str, Any]], bool]) -> int:
        """The place of the first declaration of which something holds; it holds of the last."""
        return next(place for place, one in enumerate(self._all) if holds(one.declared))

    def _said(self, place: int, arm: str, reference: str, trials: Mapping[str, frozenset[str]]) -> Said:
        """What a declaration says of a difference that it was the first to name."""
        declaration = self._all[place]
        scored = [name for name in (arm, reference) if declaration.scored & trials.get(name, frozenset())]
        if len(scored) < 2:
            of = f" of {reference if scored == [arm] else arm}" if scored else ""
            return Said("before", f"{BEFORE_ANY}{of}", declaration.time)
        if self._is_unknown(place):
            return Said("unknown", "when it was declared is not recorded", declaration.time)
        return Said("after", f"declared {after_scores(declaration)}: exploratory", declaration.time)

    def _is_unknown(self, place: int) -> bool:
        return place == 0 and self._all[0].known_before

    # ---------------------------------------------------------------- withdrawn
    def withdrawn(self) -> list[Withdrawn]:
        """Expectations that were declared once and are not any more, in the order in which they were."""
        present = [_claimed(one) for one in self._now["expectations"]]
        gone: dict[str, tuple[int, Mapping[str, Any]]] = {}
        for place, declaration in enumerate(self._all):
            for one in declaration.declared["expectations"]:
                if _claimed(one) not in present:
                    gone[str(sorted(_claimed(one).items()))] = place, one
        return [found for place, one in gone.values() if (found := self._withdrawn(place, one))]

    def _withdrawn(self, last: int, recorded: Mapping[str, Any]) -> Withdrawn | None:
        """An expectation whose last declaration is this one."""
        try:
            expected = expectation_of(recorded)
        except ValueError:  # a later version of the package knows what it claims
            return None
        then = self._all[last].declared
        trials, arm = _trials_by_arm(then), expected.arm
        reference = expected.than or str(then["arms"].get(arm, {}).get("baseline", ""))
        said = self._said(self._first(lambda one: recorded in one["expectations"]), arm, reference, trials)
        end = self._all[last + 1]
        known = all(end.scored & trials.get(name, frozenset()) for name in (arm, reference))
        same = all(trials.get(name, frozenset()) <= self._trials.get(name, frozenset()) for name in (arm, reference))
        changed = any(
            (one["arm"], one.get("than"), one["metric"]) == (arm, expected.than, expected.metric) for one in self._now["expectations"]
        )
        how = f"{'changed' if changed else 'withdrawn'} on {utc(end.time)} {after_scores(end) if known else 'before any score of it'}"
        obstacle = "" if same else "its trials are no longer those of the sweep"
        words = f"{said.words.removesuffix(': exploratory')} ({utc(said.time)}); {how}"
        return Withdrawn(expected, str(recorded.get("family", "")), said, words, known and not said.is_exploratory, obstacle)

    # ---------------------------------------------------------------- what verdicts hang on
    def remarks(self) -> list[str]:
        """What a reader of the verdicts should know of when the comparison was declared, a sentence each."""
        return [*self._of_the_first(), *self._of_settings(), *self._of_comparisons(), *self._of_the_record()]

    def _is_known(self, place: int) -> bool:
        """Whether some difference of the present comparisons could be known when a declaration was first seen."""
        scored = self._all[place].scored
        return any(
            scored & self._trials[one.arm] and scored & self._trials.get(one.baseline, frozenset()) for one in _comparisons(self._now)
        )

    def _of_the_first(self) -> Iterator[str]:
        if self._is_known(0):
            if self._is_unknown(0):
                yield "When the comparison was declared is not recorded: the study was run by an earlier version."
            else:
                yield f"The sweep was first seen {after_scores(self._all[0])}: its verdicts are exploratory."

    def _of_settings(self) -> Iterator[str]:
        settings: dict[str, tuple[str, Callable[[Any], str], str]] = {
            "primary": ("The primary metric", metric_title, "verdicts on it are"),
            "smallest_difference_of_interest": ("The smallest difference of interest", "{:g}".format, "verdicts of no difference are"),
            "confidence": ("The confidence level", "{:g}".format, "verdicts and what was expected are"),
        }
        for key, (name, shown, what) in settings.items():
            value = self._now[key]
            place = self._first(lambda one, key=key, value=value: bool(one[key] == value))  # type: ignore[misc]
            if place and self._is_known(place):
                yield (
                    f"{name} was changed from {shown(self._all[place - 1].declared[key])} to {shown(value)} "
                    f"{after_scores(self._all[place])} ({utc(self._all[place].time)}): {what} exploratory."
                )
        primary, made = (self._now[key] for key in ("primary", "measured"))
        place = self._first(lambda one: bool(one["primary"] == primary and one["measured"] == made))
        if place and self._all[place - 1].declared["primary"] == primary and self._is_known(place):
            yield (
                f"What {metric_title(primary)} is made of (tasks, items, demonstrations) was changed {after_scores(self._all[place])} "
                f"({utc(self._all[place].time)}): verdicts on it are exploratory."
            )

    def _of_comparisons(self) -> Iterator[str]:
        present = set(_comparisons(self._now))
        for place in range(1, len(self._all)):
            declaration, at = self._all[place], f"{after_scores(self._all[place])} ({utc(self._all[place].time)})"
            before = set().union(*(_comparisons(one.declared) for one in self._all[:place]))
            added = [one for one in _comparisons(declaration.declared) if one in present - before]
            seen = [one for one in added if all(declaration.scored & self._trials.get(name, frozenset()) for name in one[:2])]
            if seen:
                yield f"Added to the comparisons {at}, their own among them: {_names(seen)}; their verdicts are exploratory."
            if self._is_known(place) and (fresh := [one for one in added if one not in seen]):
                yield f"Added to the comparisons {at}, before any score of their own: {_names(fresh)}; Holm's correction counts them."
            lost = [one for one in _comparisons(self._all[place - 1].declared) if self._is_lost(one, place)]
            if lost:
                yield (
                    f"Taken out of the comparisons {at}: {_names(lost)}; verdicts are corrected for fewer comparisons than were declared, "
                    "and are exploratory."
                )

    def _is_lost(self, one: _Comparison, place: int) -> bool:
        """Whether a declaration took a comparison out for good when its difference could be known, and its baseline stayed."""
        if any(one in _comparisons(later.declared) for later in self._all[place:]):
            return False
        trials, scored = _trials_by_arm(self._all[place - 1].declared), self._all[place].scored
        baseline = trials[one.baseline]
        return bool(baseline & self._trials.get(one.baseline, frozenset()) and scored & baseline and scored & trials[one.arm])

    def _of_the_record(self) -> Iterator[str]:
        for problem in self._history.problems:
            yield f"The record of what was declared is not whole: {problem}. What only that entry said counts as not recorded."
        if not self._history.recorded:
            yield "What the sweep declares now could not be recorded."


def _claimed(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What a recorded expectation claims, whatever its metric was made of."""
    return {key: value for key, value in recorded.items() if key != "measured"}


def _trials_by_arm(declared: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    return {name: frozenset(arm["trials"]) for name, arm in declared["arms"].items()}


def _comparisons(declared: Mapping[str, Any]) -> list[_Comparison]:
    return [_Comparison(name, arm["baseline"], arm["family"]) for name, arm in declared["arms"].items() if name != arm["baseline"]]


def _names(comparisons: list[_Comparison]) -> str:
    return listed([one.arm for one in comparisons], MOST_NAMES)
