"""What was held constant: for each arm, in what it differs from its baseline though its ablation did not name it.

In: the experiments of an arm and its baseline, and what each of them took and saw. Out: differences in words, for the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from mm1_ablate.config.sweep.differences import undeclared_in_words
from mm1_ablate.config.sweep.expand import Arm
from mm1_ablate.report.cells import Cost, Row, amount

SEEN = " seen"
"""Ends the names of what was counted in training. It is never quite alike: another mixture fills the rows a little differently."""
EPOCHS = "epochs of "
"""Begins the names of counts of how often a source was read. Another mixture reads every source another number of times, which goes
without saying; that an arm reads again what its baseline reads once at most does not."""
TOLERANCE = 0.02
"""The part by which counts may differ without being named."""


def brought_along(arm: Arm, baseline: Arm, costs: Mapping[str, Mapping[str, Cost]]) -> tuple[str, ...]:
    """All in which an arm differs and which it did not declare: settings first, then what it took and saw.

    Args:
        costs: by arm; see `comparison.compare`.
    """
    if arm.name == baseline.name:
        return undeclared_in_words(arm)
    ours, theirs = costs.get(arm.name, {}), costs.get(baseline.name, {})
    both = [key for key in ours if key in theirs and not key.startswith(EPOCHS)]
    measured = [_difference(key, ours[key], theirs[key]) for key in both if not _alike(key, ours[key], theirs[key])]
    return (*undeclared_in_words(arm), *measured, *_repeated(ours, theirs))


def _repeated(ours: Mapping[str, Cost], theirs: Mapping[str, Cost]) -> Iterator[str]:
    """Sources that an arm reads more than once, and its baseline once at most."""
    if not any(key.startswith(EPOCHS) for key in theirs):
        return
    for key, epochs in ours.items():
        once = theirs.get(key, 0.0)
        if key.startswith(EPOCHS) and not isinstance(epochs, str) and not isinstance(once, str) and epochs > 1 >= once:
            yield f"repeats data: {key.removeprefix(EPOCHS)} is read {epochs:.2f} times, in the baseline {once:.2f}"


def held_constant(rows: Sequence[Row]) -> tuple[str, ...]:
    """What was measured of all arms and is everywhere as in the baseline."""
    by_name = {row.name: row for row in rows}
    arms = [(row, by_name[row.baseline]) for row in rows if not row.is_baseline]
    keys = dict.fromkeys(key for row, _ in arms for key in row.costs)
    return tuple(
        f"{key} (within {TOLERANCE:.0%})" if _is_counted(key) else key
        for key in keys
        if all(key in row.costs and key in base.costs and _alike(key, row.costs[key], base.costs[key]) for row, base in arms)
    )


def _alike(key: str, left: Cost, right: Cost) -> bool:
    if isinstance(left, str) or isinstance(right, str):
        return left == right
    return math.isclose(left, right, rel_tol=TOLERANCE if _is_counted(key) else 1e-9)


def _is_counted(key: str) -> bool:
    return key.endswith(SEEN) or key.startswith(EPOCHS)


def _difference(key: str, ours: Cost, theirs: Cost) -> str:
    words = [amount(value) for value in (theirs, ours)]
    if words[0] == words[1] and not isinstance(ours, str) and not isinstance(theirs, str):
        words = [f"{value:,}" for value in (theirs, ours)]
    text = f"{key} {words[0]} → {words[1]}"
    if key.endswith(SEEN) and not isinstance(ours, str) and not isinstance(theirs, str) and theirs:
        text += f" ({100 * (ours / theirs - 1):+.0f} %)".replace("-", "−")
    return text
