"""What was held constant: for each arm, in what it differs from its baseline though its ablation does not name it.

In: the experiments of an arm and its baseline, and the records of their trials. Out: what each arm took, saw and answered, and the
differences in words, for the table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.study import Arm
from mm1_ablate.config.sweep.differences import undeclared_in_words
from mm1_ablate.report.cells import ArmRow, Confound, Measure, amount

Codes = Mapping[str, Mapping[int, str]]
"""What code did ("code": trained), by seed which code it was (`store.status.training_code`)."""
SETTINGS = {"image tokens": "model.connector.image_tokens", "rows of a batch": "training.batch_rows"}
"""Measures that are settings themselves: where an ablation declares the setting, nothing else has changed."""
TOLERANCE = 0.02
"""The part by which counts of training may differ without being named."""


# ---------------------------------------------------------------- what an arm took, saw and answered
def measures(
    experiment: Experiment,
    *,
    parameters: int,
    flops_per_token: float,
    curves: Sequence[pd.DataFrame],
    accounts: Sequence[Mapping[str, Mapping[str, Any]]],
    answered: str | None,
    evaluation: str,
    codes: Codes,
) -> tuple[Measure, ...]:
    """What an arm took, saw and answered, in the order of the table.

    Args:
        curves: of each trial (see `Store.curve`); those that do not reach the last step are skipped.
        accounts: of each trained trial, what became of its data, by source.
        answered: an identity of the items that it answered (`answered_items`).
        evaluation: a digest of how it was evaluated.
        codes: by which code its scored trials were trained, predicted and scored, by seed: see `code_measures`.
    """
    training, packing = experiment.training, experiment.data.packing
    return (
        Measure("parameters", parameters),
        Measure("image tokens", experiment.model.connector.image_tokens),
        # Two digits: the share of images in the mixture moves it a little in every arm.
        Measure("FLOPs per token", float(f"{flops_per_token:.2g}")),
        Measure("nominal tokens", training.steps * training.batch_rows * packing.row_tokens),
        Measure("rows of a batch", training.batch_rows),
        *_seen(experiment, curves),
        *_epochs(accounts),
        Measure("evaluation", evaluation),
        *([Measure("evaluation items", answered)] if answered else []),
        *code_measures(codes),
    )


def code_measures(codes: Codes) -> Iterator[Measure]:
    """A measure of each thing that code did and of each file of the user's own that did it: 'code', 'code of mean.py', 'code that scored'.
    Of several states of the code the value says at which seeds: '0.1.0+1f00ba47 (seed 0), 0.1.0+c0ffee00 (seeds 1, 2)'."""
    for role, by_seed in codes.items():
        states: dict[str, dict[str, list[int]]] = {}
        for seed, code in sorted(by_seed.items()):
            for part in code.split(", "):
                file, _, digest = part.rpartition("@")
                title = role if not file else f"{role} of {file}" if role == "code" else f"{role}: {file}"
                states.setdefault(title, {}).setdefault(digest, []).append(seed)
        for title, seeds in states.items():
            alone = len(seeds) == 1
            yield Measure(title, ", ".join(state if alone else f"{state} {_seeds(at)}" for state, at in seeds.items()), "code")


def _seeds(seeds: Sequence[int]) -> str:
    return f"({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))})"


def _seen(experiment: Experiment, curves: Sequence[pd.DataFrame]) -> list[Measure]:
    """What an arm was trained on, by the ends of its curves; means over the trials that were trained to the end."""
    counted = ("tokens", "images", "documents")
    ends = [dict(curve.iloc[-1]) for curve in curves if len(curve)]
    ends = [end for end in ends if end.get("step") == experiment.training.steps and end.keys() >= {*counted}]
    if not ends:
        return []
    means = {name: sum(float(end[name]) for end in ends) / len(ends) for name in counted}
    text = means["tokens"] - means["images"] * experiment.model.connector.image_tokens
    counts = {"tokens": means["tokens"], "text tokens": text, "images": means["images"], "documents": means["documents"]}
    return [Measure(name, float(round(count)), "seen") for name, count in counts.items()]


def _epochs(accounts: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[Measure]:
    """How often an arm read each source; means over its trained trials."""
    names = dict.fromkeys(name for account in accounts for name in account)
    sums = {name: sum(account.get(name, {}).get("epochs", 0.0) for account in accounts) for name in names}
    return [Measure(name, round(total / len(accounts), 3), "epochs") for name, total in sums.items()]


def answered_items(items: pd.DataFrame | None) -> dict[str, str]:
    """By arm, an identity of the items that it answered, at all seeds and shots: '1,920 (3f0a91c2)'."""
    if items is None or not {"task", "shots", "item"} <= set(items.columns):
        return {}
    found = {}
    for arm, rows in items.groupby("arm", sort=False):
        distinct = rows[["task", "shots", "item"]].drop_duplicates()
        answered = sorted((str(task), int(shots), str(item)) for task, shots, item in distinct.itertuples(index=False))
        found[str(arm)] = f"{len(answered):,} ({hashlib.sha256(json.dumps(answered).encode()).hexdigest()[:8]})"
    return found


# ---------------------------------------------------------------- differences
Costs = Mapping[str, Measure]
"""By title."""


def confounds(arm: Arm, ours: Costs, theirs: Costs, others: Mapping[str, Costs] | None = None) -> tuple[Confound, ...]:
    """All in which an arm differs from its baseline and which it does not declare: settings first, then what it took and saw.

    Args:
        ours: of the arm; theirs: of the baseline.
        others: of all arms, by name: code that the baseline does not take is compared with theirs.
    """
    settings = [Confound(text) for text in undeclared_in_words(arm)]
    if arm.name == arm.baseline:
        mixed = (measure for measure in ours.values() if measure.kind == "code" and not _is_one(measure))
        return (*settings, *(Confound(f"{measure.title} {measure.value}") for measure in mixed))
    # Another mixture reads every source another number of times, which goes without saying; repeated data does not.
    declared = {change.path for change in arm.changes if change.declared}
    both = [
        (ours[title], theirs[title])
        for title in ours
        if title in theirs and ours[title].kind != "epochs" and SETTINGS.get(title) not in declared
    ]
    measured = [_difference(own, other) for own, other in both if not _alike(own, other)]
    return (*settings, *measured, *_code_without_baseline(arm, ours, theirs, others or {}), *_repeated(ours, theirs))


def _code_without_baseline(arm: Arm, ours: Costs, theirs: Costs, others: Mapping[str, Costs]) -> Iterator[Confound]:
    """Code that the baseline does not take, and that is another at other seeds or in other arms."""
    for title, own in ours.items():
        if own.kind != "code" or title in theirs:
            continue
        other = next((name for name, costs in others.items() if title in costs and not _alike(own, costs[title])), None)
        if not _is_one(own):
            yield Confound(f"{title} {own.value}")
        elif other is not None:
            yield Confound(f"{title} {own.value}, in {other} {others[other][title].value}")


def _is_one(code: Measure) -> bool:
    """Whether one state of the code did all."""
    return ", " not in str(code.value)


def _repeated(ours: Costs, theirs: Costs) -> Iterator[Confound]:
    """Sources that an arm reads more than once, and its baseline once at most."""
    once = {measure.name: float(measure.value) for measure in theirs.values() if measure.kind == "epochs"}
    if not once:
        return
    for measure in ours.values():
        if measure.kind == "epochs" and float(measure.value) > 1 >= (before := once.get(measure.name, 0.0)):
            yield Confound(f"repeats data: {measure.name} is read {measure.value:.2f} times, in the baseline {before:.2f}")


def held_constant(rows: Sequence[ArmRow]) -> tuple[str, ...]:
    """What was measured of all arms and is everywhere as in the baseline."""
    by_name = {row.name: row for row in rows}
    arms = [(row, by_name[row.baseline]) for row in rows if not row.is_baseline]
    measured = {title: measure for row, _ in arms for title, measure in row.costs.items()}
    return tuple(
        title if measure.kind in ("exact", "code") else f"{title} (within {TOLERANCE:.0%})"
        for title, measure in measured.items()
        if all(title in row.costs and title in base.costs and _alike(row.costs[title], base.costs[title]) for row, base in arms)
    )


def _alike(ours: Measure, theirs: Measure) -> bool:
    if ours.kind == "code":
        return ours.value == theirs.value and _is_one(ours)
    if isinstance(ours.value, str) or isinstance(theirs.value, str):
        return ours.value == theirs.value
    return math.isclose(ours.value, theirs.value, rel_tol=1e-9 if ours.kind == "exact" else TOLERANCE)


def _difference(ours: Measure, theirs: Measure) -> Confound:
    if ours.kind == "code" and ours.value == theirs.value:
        return Confound(f"{ours.title} {ours.value}, as in the baseline")
    before, after = amount(theirs.value), amount(ours.value)
    if isinstance(ours.value, str) or isinstance(theirs.value, str):
        return Confound(f"{ours.title} {before} → {after}")
    if before == after:
        before, after = f"{theirs.value:,}", f"{ours.value:,}"
    text = f"{ours.title} {before} → {after}"
    if ours.kind == "seen" and theirs.value:
        text += f" ({100 * (ours.value / theirs.value - 1):+.0f} %)".replace("-", "−")
    return Confound(text, is_minor=ours.kind == "seen" and ours.name != "tokens")
