"""Expectations declared before the run, and their verdicts.

In: the declared expectations and the estimate of each one's difference. Out: confirmed, refuted or undecided, with the interval that
says so.

"below by 5" is confirmed where the difference is clearly at or below -5, and refuted where it is clearly above -5: a fall of 3 with a
narrow interval refutes it, though the direction was right, and the reason says that. "within 2" is confirmed by an equivalence test.
The expectations of a sweep file are a family of their own, corrected by Holm; so they come out alike whether the file is run by itself or
included in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.sweep.declaration import Expectation
from mm1_ablate.report.statistics import Estimate, equivalence, holm

Outcome = Literal["confirmed", "refuted", "undecided"]


@dataclass(frozen=True)
class Judgement:
    """A declared expectation and its verdict."""

    expectation: Expectation
    verdict: Outcome
    reason: str
    """Why, in a few words."""
    estimate: Estimate | None
    p_adjusted: float
    """Holm's, of the verdict or of what came nearest to one."""
    family: str = ""
    """The sweep that declares it, and with whose other expectations it is corrected."""

    @property
    def claim(self) -> str:
        """The claim in words."""
        expected = self.expectation
        than = expected.than or "its baseline"
        if expected.is_ == "within":
            return f"{expected.arm} within {expected.by:g} of {than} on {metric_title(expected.metric)}"
        by = f" by at least {expected.by:g}" if expected.by else ""
        return f"{expected.arm} {expected.is_} {than}{by} on {metric_title(expected.metric)}"

    def to_json(self) -> dict[str, Any]:
        expected, estimate = self.expectation, self.estimate
        known = estimate is not None and estimate.known
        return {
            "because": expected.because,
            "family": self.family,
            "paper": expected.paper,
            "verdict": self.verdict,
            "arm": expected.arm,
            "than": expected.than,
            "metric": expected.metric,
            "is": expected.is_,
            "by": expected.by,
            "difference": estimate.difference if estimate else None,
            "low": estimate.low if estimate and known else None,
            "high": estimate.high if estimate and known else None,
            "p_adjusted": self.p_adjusted if self.p_adjusted == self.p_adjusted else None,
            "reason": self.reason,
        }


def judge(found: Sequence[tuple[Expectation, Estimate | None, str]], level: float, families: Sequence[str] = ()) -> tuple[Judgement, ...]:
    """Judge every declared expectation.

    Args:
        found: each expectation, the estimate of its difference and, where that allows no verdict, why not (empty otherwise).
        level: chance of a false verdict in a family, such as 0.05.
        families: the family of each; without them all are one.
    """
    families = families or [""] * len(found)
    evidence = [
        _evidence(expected, estimate) if estimate is not None and not obstacle else (float("nan"), float("nan"))
        for expected, estimate, obstacle in found
    ]
    adjusted = [float("nan")] * len(found)
    for family in dict.fromkeys(families):
        members = [place for place, own in enumerate(families) if own == family]
        for place, p in zip(members, holm([min(evidence[place]) for place in members]), strict=True):
            adjusted[place] = float(p)
    judged = []
    for (expected, estimate, obstacle), (confirm, refute), p, family in zip(found, evidence, adjusted, families, strict=True):
        verdict: Outcome = "undecided"
        if estimate is None or obstacle:
            reason = obstacle or "no scores"
        elif not estimate.known:
            reason = "no variation between seeds"
        else:
            if p <= level:
                verdict = "confirmed" if confirm <= refute else "refuted"
            reason = _reason(expected, estimate, verdict, min(confirm, refute) <= level)
        judged.append(Judgement(expected, verdict, reason, estimate, p, family))
    return tuple(judged)


def _evidence(expected: Expectation, estimate: Estimate) -> tuple[float, float]:
    """p for confirming and p for refuting, so that each is compared with the whole level.

    A direction can come out either way, so its one-sided p values count double; within is confirmed by two one-sided tests, each at
    the whole level, and refuted on either side.
    """
    if expected.is_ == "within":
        outside = min(estimate.p_above(expected.by), estimate.p_below(-expected.by))
        return equivalence(estimate, expected.by), min(1.0, 2 * outside)
    bound = expected.by if expected.is_ == "above" else -expected.by
    above, below = min(1.0, 2 * estimate.p_above(bound)), min(1.0, 2 * estimate.p_below(bound))
    return (above, below) if expected.is_ == "above" else (below, above)


def _reason(expected: Expectation, estimate: Estimate, verdict: Outcome, alone: bool) -> str:
    if verdict == "undecided":
        return "significant by itself, not after correction for all expectations" if alone else "the interval allows both"
    if expected.is_ == "within":
        return "significantly within" if verdict == "confirmed" else "significantly outside"
    if verdict == "confirmed":
        return f"significantly {expected.is_}" + (f" by {expected.by:g}" if expected.by else "")
    right_way = estimate.difference > 0 if expected.is_ == "above" else estimate.difference < 0
    return (
        f"{expected.is_}, but by significantly less than {expected.by:g}"
        if right_way
        else f"significantly not {expected.is_}" + (f" by {expected.by:g}" if expected.by else "")
    )
