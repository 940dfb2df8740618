"""A study tried with other settings, fewer arms or seeds, or a few steps: what of it is another study, and what is the same trial."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import write_sweep

from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.sweep.tried import SMOKE_ITEMS, SMOKE_STEPS, Try
from mm1_ablate.config.yaml_file import FileErrors

ABLATIONS = """
    without: {remove_each: [data.mixture.captioned, data.mixture.text]}
    longer: {alter: {training.steps: 3000}}
"""
REST = """
    seeds: [3, 4, 5]
    everywhere: {training.steps: 400}
    expect: [{arm: longer, metric: shot_8/average, is: above, because: more is more}]
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path, ABLATIONS, REST)


def tried(sweep: Path, *settings: str, only: tuple[str, ...] = (), seeds: int | None = None, smoke: bool = False) -> Study:
    return load_study(sweep, tried=Try(settings, only, seeds, smoke))


def told(sweep: Path, *settings: str, only: tuple[str, ...] = (), seeds: int | None = None) -> list[str]:
    with pytest.raises(FileErrors) as caught:
        tried(sweep, *settings, only=only, seeds=seeds)
    return [problem.in_one_line() for problem in caught.value.problems]


def fingerprints(study: Study) -> dict[str, str]:
    return {trial.name: trial.evaluation_fingerprint for trial in study.trials}


def test_without_options_it_is_the_declared_study(sweep: Path) -> None:
    study = load_study(sweep)
    assert load_study(sweep, tried=Try()) == study and study.name == "small" and study.tried == ""


def test_a_setting_is_set_for_the_baseline_and_arms_keep_their_own(sweep: Path) -> None:
    study = tried(sweep, "training.steps=100", "training.optimizer={learning_rate: 0.01}")
    steps = {arm.name: arm.experiment.training.steps for arm in study.arms}
    assert steps == {"baseline": 100, "without/captioned": 100, "without/text": 100, "longer": 3000}
    assert all(arm.experiment.training.optimizer.learning_rate == 0.01 for arm in study.arms)
    assert [(change.path, change.new) for change in study.arms[0].everywhere] == [
        ("training.steps", 100),
        ("training.optimizer.learning_rate", 0.01),
    ]
    assert not fingerprints(study).items() & fingerprints(load_study(sweep)).items()


def test_a_try_is_another_study_that_says_what_it_is_and_judges_nothing(sweep: Path) -> None:
    names = {
        tried(sweep, "training.steps=100").name,
        tried(sweep, only=("longer",)).name,
        tried(sweep, seeds=2).name,
        tried(sweep, smoke=True).name,
        load_study(sweep).name,
    }
    assert len(names) == 5 and "small-smoke" in names
    study = tried(sweep, seeds=2, only=("longer",))
    assert study.name == tried(sweep, seeds=2, only=("longer",)).name
    assert "with --only longer --seeds 2: not the study" in study.tried and not study.sweep.expect


@pytest.mark.parametrize(
    ("only", "arms"),
    [
        (("longer",), ["baseline", "longer"]),
        (("without",), ["baseline", "without/captioned", "without/text"]),
        (("without/text", "longer"), ["baseline", "without/text", "longer"]),
        (("baseline",), ["baseline"]),
    ],
)
def test_only_keeps_arms_with_what_they_are_compared_with(sweep: Path, only: tuple[str, ...], arms: list[str]) -> None:
    study = tried(sweep, only=only, seeds=2)
    assert [arm.name for arm in study.arms] == arms
    assert [trial.name for trial in study.trials] == [f"{arm}/seed-{seed}" for arm in arms for seed in (3, 4)]
    assert fingerprints(study).items() <= fingerprints(load_study(sweep)).items()


def test_fewer_seeds_of_a_design_that_adds_them_are_a_fixed_number(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, ABLATIONS, "seeds: {at_least: 3, at_most: 6, until: decided, first: 7}")
    assert tried(sweep, seeds=2).sweep.seeds == [7, 8] and tried(sweep, only=("longer",)).sweep.until_decided is not None


def test_a_smoke_run_has_every_arm_with_few_steps_and_items(tmp_path: Path, sweep: Path) -> None:
    text = (tmp_path / "experiment.yaml").read_text()
    (tmp_path / "experiment.yaml").write_text(text.replace("evaluation:", "evaluation:\n  items: 240"))
    declared, study = load_study(sweep), tried(sweep, smoke=True)
    assert [arm.name for arm in study.arms] == [arm.name for arm in declared.arms]
    assert {trial.seed for trial in study.trials} == {3}
    for arm in study.arms:
        assert arm.experiment.training.steps == SMOKE_STEPS and arm.experiment.evaluation.items == SMOKE_ITEMS
        assert arm.experiment.training.batch_rows == declared.arm(arm.name).experiment.training.batch_rows
        for part in (arm.experiment.model.image_encoder, arm.experiment.model.language_model):
            assert part.preparation is None or part.preparation.steps == SMOKE_STEPS
    joined = next(trial for trial in study.trials if "longer" in trial.arms)
    assert joined.arms == ("baseline", "longer")  # they differ in their steps alone


def test_what_is_wrong_with_an_option_is_told_with_the_option(sweep: Path) -> None:
    assert told(sweep, "training.stepss=3", "training.batch_rows=many", only=("longr",), seeds=4) == [
        "--only longr: there is no arm, and no group of arms, of this name (did you mean 'longer'?)",
        "--seeds 4: the sweep declares 3 seeds: 3, 4, 5 (to have more, add them to `seeds` in the file)",
        "--set training.batch_rows=many: training.batch_rows: expected a whole number above 0, not 'many'",
        next(line for line in told(sweep, "training.stepss=3") if "did you mean 'training.steps'?" in line),
    ]
    assert told(sweep, "training.steps") == ["--set training.steps: expected a path and a value, such as training.steps=100"]
    assert "the value is not YAML" in told(sweep, "training.steps=[1")[0]


def test_what_a_setting_brings_about_in_an_arm_is_told_where_the_arm_is(sweep: Path) -> None:
    (line,) = told(sweep, "training.steps=3000")
    assert line.startswith(f"{sweep}:") and "identical to baseline" in line
