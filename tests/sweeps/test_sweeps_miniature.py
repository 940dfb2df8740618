"""The shipped sweeps that reproduce MM1's studies in miniature: valid, complete, each distinct trial once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from mm1_ablate.commands.init import sweep_schema
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.declaration import UntilDecided
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.tasks import task_settings

FOLDER = Path(__file__).resolve().parents[2] / "sweeps" / "miniature"
SWEEPS = sorted(FOLDER.glob("*.yaml"))
PARTS = [path for path in SWEEPS if path.stem not in ("all", "a_a", "table_1", "stages", "longer")]


@pytest.fixture(scope="module")
def whole() -> Study:
    return load_study(FOLDER / "all.yaml")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_each_is_valid_and_compares_alike(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=../../schemas/sweep.schema.json\n")
    assert list(Draft202012Validator(sweep_schema()).iter_errors(yaml.safe_load(text))) == []
    sweep = load_study(path).sweep
    assert (sweep.compare.primary, sweep.compare.smallest_difference_of_interest) == ("shot_8/average", 5)
    first = sweep.seeds.seeds[0] if isinstance(sweep.seeds, UntilDecided) else sweep.seeds[0]
    assert first == 20, "studies share trials only where they share seeds"


def test_all_is_all_of_them_with_each_distinct_trial_once(whole: Study) -> None:
    parts = [load_study(path) for path in PARTS]
    assert {path.resolve() for path in whole.included} == {path.resolve() for path in PARTS}
    assert {arm.name for arm in whole.arms} == {arm.name for part in parts for arm in part.arms}
    assert {trial.evaluation_fingerprint for trial in whole.trials} == {
        trial.evaluation_fingerprint for part in parts for trial in part.trials
    }
    assert len(whole.trials) == 26 * 8 == len({trial.fingerprint for trial in whole.trials})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mix/captioned=100,interleaved=0", "text-only/captioned=100,interleaved=0,text=0"),
        ("mix/captioned=0,interleaved=100", "text-only/captioned=0,interleaved=100,text=0"),
        ("mix/captioned=50,interleaved=50", "ratio/captioned=50,interleaved=50,text=0"),
        ("resolution/image_size=24", "connector/average_pool,image_size=24,image_tokens=4"),
    ],
)
def test_a_run_of_several_figures_is_one_trial(whole: Study, one: str, other: str) -> None:
    assert whole.trials_of(one) == whole.trials_of(other)


def test_every_study_of_the_paper_says_what_it_expects_and_what_the_paper_found() -> None:
    for path in PARTS:
        expected = load_study(path).sweep.expect
        assert len(expected) > 1 and all(expectation.paper and expectation.because for expectation in expected), path


def test_the_baseline_fills_its_point_of_the_connector_grid(whole: Study) -> None:
    grid = whole.grids["connector"]
    assert len(grid.cells) == 9 and "baseline" in grid.cells.values()


def test_arms_of_other_seeds_have_twelve_in_all_and_share_the_baseline_with_the_other_studies(whole: Study) -> None:
    study = load_study(FOLDER / "a_a.yaml")
    assert sorted(trial.seed for trial in study.trials) == list(range(20, 32))
    assert {trial.fingerprint for trial in whole.trials_of("baseline")} <= {trial.fingerprint for trial in study.trials}


def test_the_chain_is_altered_in_one_stage_at_a_time_and_shares_the_others() -> None:
    study = load_study(FOLDER / "stages.yaml")
    assert (len(study.trials), len(study.stages)) == (4 * 3, 5 * 3)
    shared = {stage.experiment.experiment: stage.arms for stage in study.stages if len(stage.arms) > 1}
    assert shared == {"pre-training": ("baseline", "continual-at-24")}
    assert all(expectation.because for expectation in study.sweep.expect)


def test_checks_are_those_that_must_come_out_or_the_tool_is_broken() -> None:
    checks = {
        (expectation.arm, expectation.metric)
        for path in SWEEPS
        for expectation in load_study(path).sweep.expect
        if expectation.kind == "check"
    }
    assert checks == {
        ("encoder/unprepared", "shot_8/average"),
        ("no objective 336", "shot_8/average"),
        ("resolution/image_size=24", "shot_8/average"),
        ("resolution/image_size=12", "shot_8/average"),
        ("CLIP-DFN-VeCap ViT-L 224", "shot_8/average"),
        ("CLIP-DFN-VeCap ViT-H 224", "shot_8/average"),
        ("interleaved-without/interleaving", "shot_8/average"),
        ("interleaved-without/images", "shot_8/average"),
        ("ratio/captioned=50,interleaved=50,text=0", "text_core/average"),
        ("text-only/captioned=90,interleaved=0,text=10", "text_core/average"),
        ("text-only/captioned=0,interleaved=90,text=10", "text_core/average"),
        ("last-from-scratch", "shot_8/average"),
    }


def test_zero_shot_is_averaged_over_what_can_be_asked_without_demonstrations(whole: Study) -> None:
    evaluation = whole.trials[0].experiment.evaluation
    images = [task_settings(task) for task in evaluation.tasks if task_settings(task).family == "image"]
    asked = {shots: {task.task for task in images if shots in task.shots_of(evaluation.shots)} for shots in evaluation.shots}
    assert asked[0] == {"miniature_vqa", "miniature_captions"}
    assert asked[4] == asked[8] == asked[0] | {"miniature_attributes", "miniature_fine_detail"}


def test_the_quickstart_has_four_arms_whose_seeds_each_have_their_own_preparation() -> None:
    study = load_study(FOLDER.parent / "quickstart.yaml")
    assert len(study.arms) == 4
    prepared = {part.fingerprint for trial in study.trials for part in preparations_of(trial.experiment, trial.seed)}
    assert len(prepared) == 2 * len({trial.seed for trial in study.trials}), "an encoder and a language model for each seed"
