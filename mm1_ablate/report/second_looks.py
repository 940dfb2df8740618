"""Seeds that were added to a fixed design after scores were there: a second look, and its price.

In: the record of what a study declared (`config/declarations.py`). Out: remarks for the report.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from mm1_ablate.config.declarations import History, designs
from mm1_ablate.report.sequential import error_over_looks
from mm1_ablate.report.statistics import LEAST_SEEDS


def second_looks(history: History, confidence: float) -> list[str]:
    """What a reader should know of how the seeds came about, a sentence each; none where the design is the first one.

    Args:
        confidence: that verdicts were taken at.
    """
    found = designs(history)
    if len(found) < 2 or not any(one.scored for one in found[1:]):
        return []
    now, level = found[-1].seeds, 1 - confidence
    if not isinstance(now, list):
        before = next(one for one in reversed(found[:-1]) if one.seeds != now)
        at = f"{found[-1].scored} of {found[-1].trials} trials"
        return [f"The seeds were changed from {_in_words(before.seeds)} after {at} had scores: looks before that are not counted."]
    # A number of seeds was looked at if there were scores when it was left; with fewer than three there are no verdicts.
    left = [one.seeds for one, following in itertools.pairwise(found) if following.scored and isinstance(one.seeds, list)]
    looked = sorted({len(seeds) for seeds in left if set(seeds) < set(now) and len(seeds) >= LEAST_SEEDS})
    if not looked or len(now) < LEAST_SEEDS:
        return []
    looks = (*looked, len(now))
    error = error_over_looks(level, looks, 2)
    times = f"{', '.join(map(str, looks[:-1]))} and {looks[-1]}"
    return [
        f"Seeds were added after scores were there, which makes looks at {times} seeds: without any difference, a verdict at "
        f"{100 * level:.3g} % comes out false at one of them in {100 * error:.1f} % of studies. Looks that are declared before the first "
        "(`seeds: {at_least, at_most, until: decided}`) have no such price."
    ]


def _in_words(seeds: list[int] | Mapping[str, Any]) -> str:
    return f"{len(seeds)} fixed ones" if isinstance(seeds, list) else "another design"
