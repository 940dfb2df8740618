"""Seeds until decided: what each comparison and expectation of a study came to, look by look, and which seeds it needs next.

In: a study whose sweep declares `seeds: {at_least, at_most, until: decided}`, and its scores. Out: `Looks`: by question the look at which
it was decided, with the estimate of that look, and by arm the number of seeds that it needs. A pure function of the scores by seed: each
look takes the first n seeds of both arms, whatever others there are, so that the report, the plan and a run that goes on agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.declaration import Expectation, UntilDecided
from mm1_ablate.report.expectations import evidence_on
from mm1_ablate.report.rules import Claims
from mm1_ablate.report.scores import Scores
from mm1_ablate.report.sequential import corrected_for_looks, nominal_level
from mm1_ablate.report.sequential_holm import Decision, decide
from mm1_ablate.report.statistics import PASSED_ON, Estimate, equivalence, holm_of_directions
from mm1_ablate.report.variance_components import Matrix
from mm1_ablate.report.verdicts import ComparisonKey, distinct_comparisons

Family = tuple[Literal["comparison", "expectation"], str]
SIDES: Mapping[Claims, int] = {"different": 2, "equivalent": 1, "expected": 1}


@dataclass(frozen=True)
class Question:
    """A comparison or an expectation: two arms on a metric."""

    family: Family
    """Corrected by itself."""
    arm: str
    reference: str
    metric: str
    expectation: Expectation | None = None
    """None: a comparison of an arm with its baseline on the primary metric."""


@dataclass(frozen=True, eq=False)
class Answered:
    """Where a question stands."""

    question: Question
    decision: Decision
    seeds: int
    """Of its last look; 0: it was not looked at."""
    estimate: Estimate | None
    """At its last look, with the interval of the rule, which holds at whichever look one stops (Jennison and Turnbull 1989)."""
    needed: int
    """How many seeds its arms need for it."""

    @property
    def decided(self) -> bool:
        return self.decision.look is not None

    def in_words(self, design: UntilDecided) -> str:
        """'decided at 4 seeds', 'open after the look at 5 seeds'; empty text before the first look."""
        if self.decided:
            return f"decided at {self.seeds} seeds"
        last = ", the last" if self.seeds == design.at_most else ""
        return f"open after the look at {self.seeds} seeds{last}" if self.seeds else ""


@dataclass(frozen=True)
class Looks:
    """Where a study stands whose seeds are added until it is decided; the rule by which it is judged (`rules.Rule`)."""

    comparisons: Mapping[str, Answered]
    """By arm; those that are fed by the same trials share one."""
    expectations: tuple[Answered, ...]
    """In the order of the study's."""
    needed: Mapping[str, int]
    """By arm, the number of its seeds that are needed by what is known."""

    design: UntilDecided
    level: float
    """Chance of any false verdict in a family."""

    @property
    def nominal(self) -> float:
        """The two-sided level of each look for a single comparison: that of the intervals."""
        return nominal_level(self.level, self.design.looks, 2)

    def adjusted(self, p_values: Sequence[float], claims: Claims, family: str) -> Matrix:
        """Adjusted p values of a family at the looks that decided them, or the last ones: the rule of `rules.Rule` for this design."""
        every = self.expectations if claims == "expected" else dict.fromkeys(self.comparisons.values())
        members = [one for one in every if one.question.family[1] == family]
        if claims == "expected" and not _same_claims(members, p_values):
            # Late ones are a family of their own, and withdrawn ones still count: these came at no look, so theirs is taken at once.
            return holm_of_directions(corrected_for_looks(p_values, self.design.looks, SIDES[claims]), self.level)
        return np.array([one.decision.adjusted[claims] for one in members])

    def level_of(self, left: int, claims: Claims) -> float:
        """The level of a look at which the next claim of a family is tested that has so many undecided ones."""
        return nominal_level(self.level / max(left, 1), self.design.looks, SIDES[claims])

    def with_its_interval(self, estimate: Estimate) -> Estimate:
        """An estimate with the interval of the rule."""
        return replace(estimate, confidence=1 - self.nominal)

    def of(self, arm: str) -> list[Answered]:
        """All that an arm takes part in."""
        own = [one for name, one in self.comparisons.items() if arm in (name, one.question.reference)]
        return own + [one for one in self.expectations if arm in (one.question.arm, one.question.reference)]


def _same_claims(members: Sequence[Answered], p_values: Sequence[float]) -> bool:
    """Whether p values are those of some expectations at their looks. NaN: trials are missing."""
    if len(members) != len(p_values):
        return False
    own = [evidence_on(one.question.expectation, one.estimate).nearest if one.question.expectation else 1.0 for one in members]
    return all(np.isnan(p) or np.isclose(p, known) for p, known in zip(p_values, own, strict=True))


def replay(study: Study, scores: Scores) -> Looks:
    """Go through the looks of a study again.

    Args:
        study: with `until_decided` seeds.
        scores: of all its arms; those at seeds that no look came to are passed over.
    """
    design = study.sweep.until_decided
    assert design is not None
    compare, keys = study.sweep.compare, distinct_comparisons(study)
    questions: dict[ComparisonKey | int, Question] = {}
    for arm, key in keys.items():
        questions.setdefault(key, Question(("comparison", key.family), arm, study.arm(arm).baseline, compare.primary))
    baselines = {arm.name: arm.baseline for arm in study.arms}
    for place, expected in enumerate(study.sweep.expect):
        family = "/".join((study.families[place] if study.families else "", expected.kind))
        reference = expected.than or baselines.get(expected.arm, "")
        questions[place] = Question(("expectation", family), expected.arm, reference, expected.metric, expected)

    estimates = {place: _estimates(study, scores, question, design.looks) for place, question in questions.items()}
    level = 1 - compare.confidence
    nominal = nominal_level(level, design.looks, 2)
    answered: dict[ComparisonKey | int, Answered] = {}
    for together in dict.fromkeys(question.family for question in questions.values()):
        members = [place for place, question in questions.items() if question.family == together]
        margin = compare.smallest_difference_of_interest
        tests = [_corrected(questions[member], estimates[member], design.looks, margin) for member in members]
        decisions = decide(
            {name: np.stack([test[name] for test in tests]) for name in tests[0]},
            level,
            PASSED_ON if together[0] == "expectation" else 1.0,
        )
        for member, decision in zip(members, decisions, strict=True):
            known = [one for one in estimates[member] if one is not None]
            last = known[decision.looks - 1] if decision.looks else None
            following = min(decision.looks, len(design.looks) - 1)
            answered[member] = Answered(
                questions[member],
                decision,
                design.looks[decision.looks - 1] if decision.looks else 0,
                replace(last, confidence=1 - nominal) if last else None,
                design.looks[decision.look if decision.look is not None else following],
            )
    return Looks(
        {arm: answered[key] for arm, key in keys.items()},
        tuple(answered[place] for place in range(len(study.sweep.expect))),
        _needed(study, keys, answered, design.at_least),
        design,
        level,
    )


def _estimates(study: Study, scores: Scores, question: Question, looks: Sequence[int]) -> list[Estimate | None]:
    """The difference at each look; None from the first on for which a score is missing."""
    found: list[Estimate | None] = []
    if not {question.arm, question.reference} <= {arm.name for arm in study.arms}:
        return [None] * len(looks)
    ours, theirs = study.possible_seeds_of(question.arm), study.possible_seeds_of(question.reference)
    scored = [scores.of(name, question.metric) for name in (question.arm, question.reference)]
    for n in looks:
        complete = set(ours[:n]) <= scored[0].keys() and set(theirs[:n]) <= scored[1].keys()
        if not complete:
            break
        found.append(scores.difference(question.arm, question.reference, question.metric, (ours[:n], theirs[:n])))
    return found + [None] * (len(looks) - len(found))


def _corrected(question: Question, estimates: Sequence[Estimate | None], looks: Sequence[int], margin: float) -> dict[str, Matrix]:
    """By test, the p value of each look, corrected for all looks; NaN: there is none. What does not vary at all proves nothing."""

    def of(values: list[float], sides: int) -> Matrix:
        return corrected_for_looks(values, looks, sides)

    if question.expectation is None:
        different = [_or_one(one.p) if one else float("nan") for one in estimates]
        equivalent = [_or_one(equivalence(one, margin)) if one else float("nan") for one in estimates]
        return {"different": of(different, 2), "equivalent": of(equivalent, 1)}
    evidence = [evidence_on(question.expectation, one) for one in estimates]
    confirm = [_or_one(one.confirm) if estimate else float("nan") for one, estimate in zip(evidence, estimates, strict=True)]
    refute = [_or_one(one.refute) if estimate else float("nan") for one, estimate in zip(evidence, estimates, strict=True)]
    return {"expected": np.fmin(of(confirm, 1), of(refute, 2 if question.expectation.is_ == "within" else 1))}


def _or_one(p: float) -> float:
    return p if p == p else 1.0


def _needed(
    study: Study, keys: Mapping[str, ComparisonKey], answered: Mapping[ComparisonKey | int, Answered], at_least: int
) -> dict[str, int]:
    needed = {arm.name: at_least for arm in study.arms}
    for arm, key in keys.items():
        for name in (arm, study.arm(arm).baseline):
            needed[name] = max(needed[name], answered[key].needed)
    for one in answered.values():
        for name in (one.question.arm, one.question.reference):
            needed[name] = max(needed.get(name, 0), one.needed)
    return needed
