"""Expectations declared before the run, and their verdicts.

In: the declared expectations and the estimate of each one's difference. Out: confirmed or refuted; or why neither: leaning, too close to
call, too few seeds, no verdict, with the interval and, where it is undecided, what would decide it.

"below by 5" is confirmed where the difference is clearly at or below -5, and refuted where it is clearly above -5: a fall of 3 with a
narrow interval refutes it, though the direction was right, and the reason says that. Of the two claims one is false, so each has a
one-sided test at the whole level. "within 2" is confirmed by an equivalence test, and refuted on either side at half of the level.
The expectations of a sweep file are two families of their own, checks and lessons, each corrected; so they come out alike whether the file
is run by itself or included in another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from mm1_ablate.config.metric_name import metric_title
from mm1_ablate.config.sweep.declaration import Expectation
from mm1_ablate.report.cells import UNDECIDED
from mm1_ablate.report.price import Decides, Price, SeedCost, Spread, differs, lies_outside, lies_within, seeds_to_decide
from mm1_ablate.report.rules import FixedSeeds, Rule, proven
from mm1_ablate.report.statistics import LEAST_SEEDS, Estimate, equivalence

Outcome = Literal["confirmed", "refuted", "leaning", "too close to call", "too few seeds", "no verdict"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class Evidence(NamedTuple):
    """p for confirming and p for refuting, so that each is compared with the whole level. NaN: there is none."""

    confirm: float = float("nan")
    refute: float = float("nan")

    @property
    def nearest(self) -> float:
        """The smaller one, of what is nearest to a verdict."""
        return min(self)


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
    """The sweep that declares it, and with whose other expectations of its kind it is corrected."""
    price: Price | None = None
    """What would decide it, where it is undecided and there is a forecast."""

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
        shown = estimate.shown if estimate else None
        return {
            "because": expected.because,
            "kind": expected.kind,
            "family": self.family,
            "paper": expected.paper,
            "verdict": self.verdict,
            "arm": expected.arm,
            "than": expected.than,
            "metric": expected.metric,
            "is": expected.is_,
            "by": expected.by,
            "difference": estimate.difference if estimate else None,
            "low": shown.low if shown else None,
            "high": shown.high if shown else None,
            "differences_by_seed": list(estimate.by_seed) if estimate else [],
            "p_adjusted": self.p_adjusted if self.p_adjusted == self.p_adjusted else None,
            "reason": self.reason,
            "price": self.price.to_json() if self.price else None,
        }


def judge(
    found: Sequence[tuple[Expectation, Estimate | None, str]], level: float, families: Sequence[str] = (), rule: Rule | None = None
) -> tuple[Judgement, ...]:
    """Judge every declared expectation.

    Args:
        found: each expectation, the estimate of its difference and, where that allows no verdict, why not (empty otherwise).
        level: chance of a false verdict in a family, such as 0.05.
        families: the sweep that declares each; without them all are of one.
        rule: when p values are verdicts; by default Holm's correction at the level.
    """
    rule, families = rule or FixedSeeds(level), families or [""] * len(found)
    evidence = [evidence_on(expected, estimate) if not obstacle else Evidence() for expected, estimate, obstacle in found]
    adjusted = [float("nan")] * len(found)
    kinds = [(family, expected.kind) for family, (expected, _, _) in zip(families, found, strict=True)]
    for corrected_together in dict.fromkeys(kinds):
        members = [place for place, own in enumerate(kinds) if own == corrected_together]
        corrected = rule.adjusted([evidence[place].nearest for place in members], "expected", "/".join(corrected_together))
        for place, p in zip(members, corrected, strict=True):
            adjusted[place] = float(p)
    judged = []
    for (expected, estimate, obstacle), own, p, family in zip(found, evidence, adjusted, families, strict=True):
        verdict = _verdict(expected, estimate, obstacle, own, p, rule)
        judged.append(Judgement(expected, verdict, _reason(expected, estimate, obstacle, verdict, own, rule.level), estimate, p, family))
    return tuple(judged)


def priced(judged: Iterable[Judgement], rule: Rule, common: Mapping[str, Spread], cost: SeedCost) -> tuple[Judgement, ...]:
    """The judgements with what would decide the undecided ones.

    Args:
        common: by metric, the spread that all arms have over seeds.
        cost: of another seed.
    """
    judged = tuple(judged)
    left = [
        sum(
            not proven(rule, other.p_adjusted)
            for other in judged
            if (other.family, other.expectation.kind) == (one.family, one.expectation.kind)
        )
        for one in judged
    ]
    return tuple(
        replace(
            one, price=cost.price(seeds_to_decide(one.estimate, common.get(one.expectation.metric, Spread()), _ways(one, rule, undecided)))
        )
        if one.verdict in UNDECIDED and one.estimate and one.estimate.deviation > 0
        else one
        for one, undecided in zip(judged, left, strict=True)
    )


def _ways(judgement: Judgement, rule: Rule, left: int) -> list[Decides]:
    expected, level = judgement.expectation, rule.level_of(left, "expected")
    if expected.is_ == "within":
        return [lies_within(expected.by, level), lies_outside(expected.by, level / 2)]
    return [differs(_bound(expected), level)]


def evidence_on(expected: Expectation, estimate: Estimate | None) -> Evidence:
    """The p values that an estimate gives an expectation."""
    if estimate is None or estimate.seeds < LEAST_SEEDS:
        return Evidence()
    if expected.is_ == "within":
        outside = min(estimate.p_above(expected.by), estimate.p_below(-expected.by))
        return Evidence(equivalence(estimate, expected.by), min(1.0, 2 * outside))
    bound = _bound(expected)
    above, below = estimate.p_above(bound), estimate.p_below(bound)
    return Evidence(above, below) if expected.is_ == "above" else Evidence(below, above)


def _bound(expected: Expectation) -> float:
    return expected.by if expected.is_ == "above" else -expected.by


def _verdict(expected: Expectation, estimate: Estimate | None, obstacle: str, evidence: Evidence, p: float, rule: Rule) -> Outcome:
    if estimate is None or obstacle:
        return "no verdict"
    if estimate.seeds < LEAST_SEEDS:
        return "too few seeds"
    if proven(rule, p):
        return "confirmed" if evidence.confirm <= evidence.refute else "refuted"
    return "leaning" if evidence.nearest <= rule.level or _seeds_agree(expected, estimate) else "too close to call"


def _seeds_agree(expected: Expectation, estimate: Estimate) -> bool:
    """Whether all seeds lie on the same side of the bound; of 'within' all inside, or all beyond the same end."""
    if expected.is_ != "within":
        return estimate.agrees_about(_bound(expected))
    return estimate.agrees_about(expected.by) and estimate.agrees_about(-expected.by)


def _reason(expected: Expectation, estimate: Estimate | None, obstacle: str, verdict: Outcome, evidence: Evidence, level: float) -> str:
    if estimate is None or verdict == "no verdict":
        return obstacle or "no scores"
    if verdict == "too few seeds":
        return f"{'one seed' if estimate.seeds < 2 else 'two seeds'}; three at least for a verdict"
    if not estimate.known:
        return "no variation between seeds"
    if verdict == "too close to call":
        return "the interval allows both"
    if verdict == "leaning":
        alone = evidence.nearest <= level
        return "significant by itself, not after correction" if alone else f"all {estimate.seeds} seeds agree, the interval allows both"
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
