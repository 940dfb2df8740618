"""Studies whose trials start from earlier stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from study_helpers import study, trial
from tiny import TINY, tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.study import Arm, Study


def staged(steps: int, earlier: Experiment, **changes: Any) -> Experiment:
    tree = tiny_experiment({"training.steps": steps, "experiment": f"of {steps} steps", **TINY, **changes}).model_dump(mode="json")
    return Experiment.model_validate({**tree, "starts_from": earlier.model_dump(mode="json")})


def chains() -> Study:
    """Two arms that share a first stage of 20 steps, one of which has a second stage of 21, and the first stage as an arm of its own."""
    first = tiny_experiment({"training.steps": 20, "experiment": "first", **TINY}, prepared=True)
    second = staged(21, first)
    experiments = {"baseline": staged(30, first), "longer chain": staged(31, second), "first alone": first}
    return replace(
        study(),
        arms=tuple(Arm(name, "group", experiment, "baseline") for name, experiment in experiments.items()),
        trials=tuple(trial(name, 0, experiment) for name, experiment in experiments.items()),
    )


def write_chain(folder: Path, first_steps: int) -> None:
    """Two stages, 'first' at 24 pixels and 'last' at 48, and a sweep, chain.yaml, with an arm for each of them without text."""
    files = {
        "first": tiny_experiment({"training.steps": first_steps, "experiment": "first", "training.checkpoint_every_steps": 10, **TINY}),
        "last": tiny_experiment({"training.steps": 3, "experiment": "last", "model.image_encoder.image_size": 48, **TINY}),
    }
    for name, experiment in files.items():
        tree = experiment.model_dump(mode="json") | ({"starts_from": "first.yaml"} if name == "last" else {})
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    sweep = {
        "sweep": "chain",
        "experiment": "last.yaml",
        "seeds": [0],
        "ablations": {
            "without text at last": {"remove": "data.mixture.text"},
            "without text at first": {"remove": "starts_from.data.mixture.text"},
        },
        "compare": {"primary": "shot_0/average"},
    }
    (folder / "chain.yaml").write_text(yaml.safe_dump(sweep))
