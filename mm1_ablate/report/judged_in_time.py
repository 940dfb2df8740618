"""Expectations judged by when they were declared: only what came before the scores is confirmed or refuted.

In: a study's expectations, the record of what it declared, and the evidence on each claim. Out: judgements, those of withdrawn expectations
apart. What came after the scores is tested alike, in families of its own, and called exploratory. What was withdrawn after scores still
counts in the correction of its family, or dropping what failed would help what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from mm1_ablate.config.declarations import History
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.declaration import Expectation
from mm1_ablate.report.cells import AGAINST, CONFIRMED, IN_LINE, REFUTED
from mm1_ablate.report.expectations import Judgement, Outcome, judge
from mm1_ablate.report.rules import Rule
from mm1_ablate.report.said_before import Said, SaidBefore, Withdrawn
from mm1_ablate.report.statistics import Estimate

EXPLORATORY: dict[str, Outcome] = {CONFIRMED: IN_LINE, REFUTED: AGAINST}
Evidence = Callable[[Expectation], tuple[Estimate | None, str]]
"""The difference that an expectation is about and, where it allows no verdict, why not (empty otherwise)."""


class _Claim(NamedTuple):
    expectation: Expectation
    family: str
    said: Said | None
    withdrawn: Withdrawn | None = None

    @property
    def counts(self) -> bool:
        """Whether it is one of those that were declared before the scores."""
        return self.withdrawn.counts if self.withdrawn else not (self.said and self.said.is_exploratory)


def judge_in_time(
    study: Study, history: History | None, evidence: Evidence, rule: Rule
) -> tuple[tuple[Judgement, ...], tuple[Judgement, ...]]:
    """Judge a study's expectations, and those that it has withdrawn.

    Args:
        history: what the study declared and when; None: that is not known.
        rule: when p values are verdicts.
    """
    said = SaidBefore(history) if history else None
    families = study.families or [""] * len(study.sweep.expect)
    claims = [_Claim(one, family, said.of(one, family) if said else None) for one, family in zip(study.sweep.expect, families, strict=True)]
    claims += [_Claim(one.expectation, one.family, one.said, one) for one in (said.withdrawn() if said else ())]
    judged: dict[int, Judgement] = {}
    for counts in (True, False):
        own = [place for place, claim in enumerate(claims) if claim.counts == counts]
        found = [(claims[place].expectation, *_found(claims[place], evidence)) for place in own]
        judgements = judge(found, rule.level, [claims[place].family for place in own], rule)
        judged |= dict(zip(own, judgements, strict=True))
    all_of_them = [_in_time(judged[place], claim) for place, claim in enumerate(claims)]
    present = len(study.sweep.expect)
    return tuple(all_of_them[:present]), tuple(all_of_them[present:])


def _found(claim: _Claim, evidence: Evidence) -> tuple[Estimate | None, str]:
    if claim.withdrawn and claim.withdrawn.obstacle:
        return None, claim.withdrawn.obstacle
    return evidence(claim.expectation)


def _in_time(judgement: Judgement, claim: _Claim) -> Judgement:
    verdict = EXPLORATORY.get(judgement.verdict, judgement.verdict) if claim.said and claim.said.is_exploratory else judgement.verdict
    return replace(judgement, verdict=verdict, said=claim.said, withdrawn=claim.withdrawn.words if claim.withdrawn else "")
