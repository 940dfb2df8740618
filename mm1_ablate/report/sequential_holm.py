"""Which questions of a family are decided at which look, where all of it was fixed before the first.

In: p values of every question at every look. Out: for each question the look at which it was decided, and its corrected p values. A pure
function: the scores that there are say the same to the report, to the plan and to a run that goes on after it was killed.

At each look every p value is corrected for all looks (`sequential.py`), and Holm goes over what is left of the family: what a rejected
question leaves of its share passes on to the others (Maurer and Bretz 2013 show that this holds its level together with such looks). A
question that is decided stays decided, and is not asked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mm1_ablate.report.variance_components import Matrix

TOLERANCE = 1e-12


@dataclass(frozen=True)
class Decision:
    """What became of a question."""

    look: int | None
    """Place of the look at which it was decided; None: it is open."""
    answer: str
    """The test that decided it; empty: none."""
    looks: int
    """How often it was looked at."""
    adjusted: Mapping[str, float]
    """By test, the p value at its last look, corrected for looks and family. NaN: it was not looked at."""


def decide(corrected: Mapping[str, Matrix], level: float, passed_on: float = 1.0) -> list[Decision]:
    """Decide the questions of a family look by look.

    Args:
        corrected: by test, [questions, looks]: p values, each corrected for all looks. NaN: not looked at, and nor at the later looks then.
            Of the tests of a question at most one can be wrong, so each has the whole level, and is a Holm family of its own.
        level: chance of any false answer in the family.
        passed_on: a rejected question passes its share on where its p value is that many times smaller than it had to be
            (see `statistics.holm_of_directions`).
    """
    questions, looks = next(iter(corrected.values())).shape
    answers, seen = [""] * questions, [0] * questions
    place: list[int | None] = [None] * questions
    adjusted = [dict.fromkeys(corrected, float("nan")) for _ in range(questions)]
    passed = dict.fromkeys(corrected, 0)
    waits = np.zeros(questions, dtype=bool)
    for look in range(looks):
        waits |= np.isnan(np.stack([p[:, look] for p in corrected.values()])).any(axis=0)
        asked = [one for one in range(questions) if not answers[one] and not waits[one]]
        if not asked:
            break
        for one in asked:
            seen[one] = look + 1
        for test, p in corrected.items():
            running, left = 0.0, questions - passed[test]
            for one in sorted(asked, key=lambda one: p[one, look]):
                own = float(p[one, look]) * left
                running = max(running, min(1.0, own))
                adjusted[one][test] = running
                proven = running <= level + TOLERANCE
                if proven:
                    # Two tests that reject at one look: the later one of the mapping is the answer, as it says more.
                    answers[one], place[one] = test, look
                passes = passed_on == 1 or passed_on * own <= level
                left -= left > 1 and passes
                passed[test] += proven and passes
    return [Decision(place[one], answers[one], seen[one], adjusted[one]) for one in range(questions)]
