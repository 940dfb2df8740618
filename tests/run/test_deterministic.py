"""The same trial gives the same scores bit for bit, whenever and after whatever it runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from tiny import tiny_experiment

from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.run.trial import run_preparation, run_trial
from mm1_ablate.store.store import Store


@pytest.fixture
def study(tmp_path: Path) -> Study:
    evaluation = {"evaluation.shots": [0, 4, 8], "evaluation.items": 6}
    experiment = tiny_experiment(evaluation, prepared=True).model_dump(mode="json")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(experiment))
    sweep = {"sweep": "tiny", "experiment": "tiny.yaml", "seeds": [0, 1], "ablations": {"without": {"remove": "data.mixture.text"}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return load_study(tmp_path / "sweep.yaml")


def run(study: Study, store: Store, backwards: bool = False) -> pd.DataFrame:
    """All of a study here, without Ray; every item's score in the order of the study."""
    from mm1_ablate.config.preparation import preparations_of

    torch.set_num_threads(1)
    for trial in reversed(study.trials) if backwards else study.trials:
        for preparation in preparations_of(trial.experiment, trial.seed):
            store.write_preparation(preparation)
            assert run_preparation(str(store.root), preparation.fingerprint) == 0
        store.write_trial(trial)
        assert run_trial(str(store.root), trial.fingerprint, [trial.evaluation_fingerprint]) == 0
    return pd.concat([store.items(trial).assign(trial=trial.name) for trial in study.trials], ignore_index=True)


def test_scores_are_the_same_bit_for_bit_in_whatever_order_trials_run(study: Study, tmp_path: Path) -> None:
    first = run(study, Store(tmp_path / "first"))
    pd.testing.assert_frame_equal(first, run(study, Store(tmp_path / "second"), backwards=True), check_exact=True)
    assert first["prediction"].nunique() > 1
