"""Made-up studies whose truth is known: arms with true differences, seeds and items with true noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tiny import tiny_experiment

from mm1_ablate.config.study import Arm, Change, Study, Trial
from mm1_ablate.config.sweep.declaration import Sweep

METRICS = ("text_core/average", "shot_0/average", "shot_4/average", "shot_8/average")


def made_up_study(
    arms: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    baselines: Mapping[str, str] | None = None,
    same: Mapping[str, str] | None = None,
    experiment: Mapping[str, Any] | None = None,
    until_decided: tuple[int, int] | None = None,
    **sweep: Any,
) -> Study:
    """A study of a baseline and arms.

    Args:
        baselines: arms that are compared with another baseline than "baseline".
        same: arms that are the same trials as another arm.
        experiment: dotted paths and values for all arms.
        until_decided: least and most seeds; `seeds` are then the trials that there may be.
        sweep: further fields of the sweep, such as compare and expect.
    """
    experiment_of_all = tiny_experiment(dict(experiment or {}))
    change = Change("data.mixture.interleaved", 45, None, removed=True)
    names = list(dict.fromkeys(["baseline", *(baselines or {}).values(), *arms]))
    rows = []
    for name in names:
        own = name == "baseline" or name in (baselines or {}).values()
        baseline = name if own else (baselines or {}).get(name, "baseline")
        group = name.rpartition("/")[0] or name
        rows.append(Arm(name, group, experiment_of_all, baseline, () if own else (change,)))
    origin = {name: (same or {}).get(name, name) for name in names}
    fed = {name: tuple(other for other in names if origin[other] == name) for name in names}
    trials = [
        Trial(f"{name}/seed-{seed}", fed[name], seed, experiment_of_all, f"{name}-{seed}", f"{name}-{seed}-evaluated")
        for name in names
        if origin[name] == name
        for seed in seeds
    ]
    design = {"at_least": until_decided[0], "at_most": until_decided[1], "until": "decided"} if until_decided else list(seeds)
    declared = Sweep.model_validate({"sweep": "made-up", "experiment": "tiny.yaml", "seeds": design, **sweep})
    return Study("made-up", declared, Path("made-up.yaml"), tuple(rows), tuple(trials))


def scores(study: Study, truth: Mapping[str, Sequence[float]], metric: str = "shot_8/average") -> pd.DataFrame:
    """Results from scores by arm, one for each seed of the sweep, in their order (NaN: none)."""
    seeds = study.sweep.possible_seeds
    lines = [(arm, seed, metric, value) for arm, values in truth.items() for seed, value in zip(seeds, values, strict=False)]
    return pd.DataFrame(lines, columns=["arm", "seed", "metric", "value"]).dropna()


def noisy_results(
    study: Study,
    truth: Mapping[str, float],
    seed_noise: float = 1.0,
    items: int = 100,
    seed: int = 0,
    tasks: Sequence[str] = ("attributes", "vqa"),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results on all metrics, and the item scores that they are means of.

    Args:
        truth: by arm its true score on the image metrics, in points; text_core is 60 for all.
        seed_noise: standard deviation over seeds of an arm's score, in points; half of its variance is common to all arms.
    """
    random = np.random.default_rng(seed)
    frames = []
    common = {one: random.normal() for one in study.sweep.seeds}
    hardness = {(task, shots): random.normal(scale=0.2, size=items) for task in (*tasks, "facts") for shots in (0, 4, 8)}
    for arm, score in truth.items():
        for one in study.sweep.seeds:
            luck = seed_noise * (common[one] + random.normal()) / 2**0.5
            for task, family, counts in [*((task, "image", (0, 4, 8)) for task in tasks), ("facts", "text", (0,))]:
                for shots in counts:
                    mean = 60.0 if family == "text" else score * (0.6 + 0.05 * shots)
                    noise = hardness[task, shots] + random.normal(scale=0.2, size=items)
                    frames.append(
                        pd.DataFrame(
                            {
                                "arm": arm,
                                "seed": one,
                                "task": task,
                                "family": family,
                                "shots": shots,
                                "item": [f"{task}-{index}" for index in range(items)],
                                "metric": "exact_match",
                                "primary": True,
                                "score": (mean + luck) / 100 + noise,
                            }
                        )
                    )
    table = pd.concat(frames, ignore_index=True)
    return results_of(table), table


def results_of(items: pd.DataFrame) -> pd.DataFrame:
    """What evaluation makes of item scores: means over items, and unweighted means over tasks."""
    suite = np.where(items["family"] == "text", "text_core/", "shot_" + items["shots"].astype(str) + "/")
    tasks = items.assign(suite=suite).groupby(["arm", "seed", "suite", "task"], sort=False, as_index=False)["score"].mean()
    averages = tasks.groupby(["arm", "seed", "suite"], sort=False, as_index=False)["score"].mean().assign(task="average")
    both = pd.concat([averages, tasks], ignore_index=True)
    return pd.DataFrame({"arm": both["arm"], "seed": both["seed"], "metric": both["suite"] + both["task"], "value": 100 * both["score"]})
