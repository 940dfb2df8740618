"""Sweeps that take over the groups and expectations of other sweeps, arms that differ in their seeds alone, points of grids."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import EXPERIMENT, pointed_at, problems_of, study_of, the_problem, write_experiment

from mm1_ablate.config.study import Study
from mm1_ablate.config.yaml_file import FileErrors, FileProblem

PART = """\
sweep: part
experiment: experiment.yaml
seeds: [5, 6]
ablations:
  short: {alter: {training.steps: 300}}
  no-text: {remove: data.mixture.text}
expect:
  - {arm: short, metric: shot_8/average, is: below, because: it learns less}
"""


def included(folder: Path, part: str = PART, rest: str = "", name: str = "part.yaml") -> Study:
    (folder / name).write_text(part)
    return study_of(folder, rest=f"include: {name}\n{rest}")


def problems_when_included(folder: Path, part: str, rest: str = "") -> list[FileProblem]:
    with pytest.raises(FileErrors) as caught:
        included(folder, part, rest)
    return caught.value.problems


def test_groups_and_expectations_are_taken_over_and_the_rest_is_the_including_files(tmp_path: Path) -> None:
    study = included(tmp_path, rest="seeds: [0, 1, 2]")
    assert [arm.name for arm in study.arms] == ["baseline", "short", "no-text"]
    assert [trial.seed for trial in study.trials_of("short")] == [0, 1, 2]
    assert [expectation.arm for expectation in study.sweep.expect] == ["short"]
    assert study.families == ("part",)
    assert study.name == "small" and [path.name for path in study.included] == ["part.yaml"]


def test_a_trial_of_two_files_is_run_once(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text(PART)
    study = study_of(tmp_path, "steps: {grid: {training.steps: [300, 400]}}", "include: [part.yaml]")
    assert study.row_count == 5 and len(study.trials) == 4
    assert {"steps/steps=300", "short"} in [set(trial.arms) for trial in study.trials]


def test_included_files_may_include_and_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "deep.yaml").write_text(
        "sweep: deep\nexperiment: ../experiment.yaml\nablations: {long: {alter: {training.steps: 600}}}\n"
    )
    study = included(tmp_path, f"include: [below/deep.yaml]\n{PART}")
    assert [arm.name for arm in study.arms] == ["baseline", "short", "no-text", "long"]


@pytest.mark.parametrize(
    ("part", "at", "message"),
    [
        (PART.replace("300", "-1"), "-1}", "above 0"),
        (PART.replace("data.mixture.text", "data.mixture.txt"), "data.mixture.txt", "txt"),
        (PART.replace("arm: short", "arm: shrt"), "shrt", "there is no arm 'shrt'"),
        (PART.replace("is: below", "is: lower"), "lower", "'above', 'below' or 'within'"),
        (PART.replace("seeds: [5, 6]", "everywhere: {training.step: 200}"), "training.step", "no such path"),
        (PART.replace("experiment.yaml", "othr.yaml"), "othr.yaml", "there is no experiment file"),
    ],
)
def test_mistakes_are_reported_in_the_file_that_makes_them(tmp_path: Path, part: str, at: str, message: str) -> None:
    write_experiment(tmp_path, name="other.yaml")
    problems = problems_when_included(tmp_path, part)
    assert len(problems) == 1, [str(problem) for problem in problems]
    assert Path(problems[0].file).name == "part.yaml"
    assert pointed_at(problems[0]).startswith(at) and message in problems[0].message


@pytest.mark.parametrize(
    ("declared", "own"),
    [
        (PART.replace("seeds: [5, 6]", "everywhere: {training.steps: 200}"), 200),
        (PART.replace("experiment.yaml", "other.yaml"), 700),
    ],
)
def test_a_file_with_another_baseline_brings_it_along(tmp_path: Path, declared: str, own: int) -> None:
    write_experiment(tmp_path, EXPERIMENT.replace("steps: 500", "steps: 700"), "other.yaml")
    study = included(tmp_path, declared)
    assert [(arm.name, arm.baseline) for arm in study.arms] == [
        ("baseline", "baseline"),
        ("part/baseline", "part/baseline"),
        ("short", "part/baseline"),
        ("no-text", "part/baseline"),
    ]
    assert study.arm("baseline").experiment.training.steps == 500
    assert study.arm("part/baseline").experiment.training.steps == study.arm("no-text").experiment.training.steps == own
    assert study.sweep.seeds == [0] and study.row_count == len(study.trials) == 4


def test_what_such_a_file_says_of_its_baseline_is_about_its_own(tmp_path: Path) -> None:
    expected = "  - {arm: baseline, than: short, metric: shot_8/average, is: above, because: it learns more}\n"
    part = PART.replace("seeds: [5, 6]", "everywhere: {training.steps: 200}") + expected
    study = included(tmp_path, part + "paper: {table: figure5d_synthetic_captions, rows: {baseline: with VeCap, short: without VeCap}}\n")
    assert [(expectation.arm, expectation.than) for expectation in study.sweep.expect] == [("short", None), ("part/baseline", "short")]
    assert dict(study.published[0].rows) == {"short": "without VeCap", "part/baseline": "with VeCap"}


def test_a_group_name_that_two_files_use_is_reported_with_both_files(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text(PART)
    problems = problems_of(tmp_path, "short: {alter: {training.steps: 400}}", "include: part.yaml")
    assert len(problems) == 1 and Path(problems[0].file).name == "part.yaml" and pointed_at(problems[0]).startswith("short:")
    assert "sweep.yaml" in problems[0].message and "part.yaml" in problems[0].message


def test_all_mistakes_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text(PART.replace("300", "-1"))
    problems = problems_of(tmp_path, "a: {alter: {training.steps: -2}}", "include: [part.yaml, prt.yaml]")
    assert sorted(Path(problem.file).name for problem in problems) == ["part.yaml", "sweep.yaml", "sweep.yaml"]


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ("prt.yaml", "there is no sweep file"),
        ("sweep.yaml", "includes itself"),
        ("experiment.yaml", "is an experiment"),
        ("[part.yaml, part.yaml]", "is part of this study already"),
    ],
)
def test_files_that_cannot_be_included(tmp_path: Path, include: str, message: str) -> None:
    (tmp_path / "part.yaml").write_text(PART)
    _, told, hint = the_problem(tmp_path, rest=f"include: {include}")
    assert message in told
    assert (hint == "did you mean 'part.yaml'?") == (include == "prt.yaml")


# ---------------------------------------------------------------- arms that differ in their seeds
def test_an_arm_of_other_seeds_is_the_baseline_with_those(tmp_path: Path) -> None:
    study = study_of(tmp_path, "a-a: {seeds: [10, 11, 12]}", "seeds: [0, 1]")
    assert [(trial.name, trial.seed) for trial in study.trials_of("a-a")] == [(f"a-a/seed-{seed}", seed) for seed in (10, 11, 12)]
    assert study.arm("a-a").experiment == study.arm("baseline").experiment and study.row_count == len(study.trials) == 5
    assert study.seeds_of("baseline") == (0, 1) and study.seeds_of("a-a") == (10, 11, 12)


@pytest.mark.parametrize(
    ("ablations", "message"),
    [
        ("a: {seeds: [1, 10]}", "seed 1 is one of the sweep's seeds"),
        ("a: {seeds: [10, 10]}", "given more than once"),
        ("a: {seeds: [10], alter: {training.steps: 3}}", "a group has one of"),
        ("a: {seeds: []}", "not empty"),
    ],
)
def test_seeds_of_a_group_that_make_no_sense(tmp_path: Path, ablations: str, message: str) -> None:
    assert message in the_problem(tmp_path, ablations, "seeds: [0, 1]")[1]


# ---------------------------------------------------------------- points of grids
def test_a_grid_knows_where_its_arms_stand_and_that_the_baseline_fills_a_point_that_is_left_out(tmp_path: Path) -> None:
    ablations = """
    connector:
      grid:
        model.connector.type: [average_pool, attention_pool]
        size:
          - {model.image_encoder.image_size: 24, model.connector.image_tokens: 4}
          - {model.image_encoder.image_size: 48, model.connector.image_tokens: 4}
          - {model.image_encoder.image_size: 48, model.connector.image_tokens: 16}
      except:
        - {model.connector.type: average_pool, model.image_encoder.image_size: 48, model.connector.image_tokens: 4}
        - {model.connector.type: attention_pool, model.connector.image_tokens: 16}
    """
    grid = study_of(tmp_path, ablations).grids["connector"]
    sizes = ("image_size=24,image_tokens=4", "image_size=48,image_tokens=4", "image_size=48,image_tokens=16")
    assert dict(grid.axes) == {"model.connector.type": ("average_pool", "attention_pool"), "size": sizes}
    assert grid.cells["average_pool", sizes[1]] == "baseline"
    assert grid.cells["average_pool", sizes[0]] == "connector/average_pool,image_size=24,image_tokens=4"
    assert ("attention_pool", sizes[2]) not in grid.cells and len(grid.cells) == 5


# ---------------------------------------------------------------- expectations against other arms
def test_an_arm_can_be_expected_to_differ_from_another(tmp_path: Path) -> None:
    expected = "expect: [{arm: baseline, than: short, metric: shot_8/average, is: above, because: more, paper: '62 against 58'}]"
    (expectation,) = study_of(tmp_path, "short: {alter: {training.steps: 300}}", expected).sweep.expect
    assert (expectation.than, expectation.paper) == ("short", "62 against 58")


@pytest.mark.parametrize(
    ("than", "message", "hint"), [("shrt", "there is no arm 'shrt'", "did you mean 'short'?"), ("long", "compared with itself", "")]
)
def test_what_an_arm_is_expected_to_differ_from_must_be_another_arm(tmp_path: Path, than: str, message: str, hint: str) -> None:
    ablations = "short: {alter: {training.steps: 300}}\nlong: {alter: {training.steps: 600}}"
    expected = f"expect: [{{arm: long, than: {than}, metric: shot_8/average, is: above, because: more}}]"
    at, told, hinted = the_problem(tmp_path, ablations, expected)
    assert at.startswith(than) and message in told and hinted == hint
