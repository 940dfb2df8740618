"""Chained stages: an experiment starts from another's weights, a sweep alters any stage, and identity holds all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import EXPERIMENT, load_experiment, problems_of, study_of, the_problem
from jsonschema import Draft202012Validator

from mm1_ablate.commands.init import experiment_schema
from mm1_ablate.config.identity.data_digests import sources_of
from mm1_ablate.config.study import Change
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors

REPOSITORY = Path(__file__).resolve().parents[2]


def stage(name: str, starts_from: Any = None, **changes: Any) -> dict[str, Any]:
    """The small experiment as a stage; of one that starts from another nothing is prepared. `__` stands for dots."""
    tree = yaml.safe_load(EXPERIMENT)
    tree["experiment"] = name
    if starts_from is not None:
        tree["starts_from"] = starts_from
        del tree["model"]["image_encoder"]["preparation"]
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = tree
        for parent in parents:
            section = section[parent]
        section[last] = value
    return tree


def write(path: Path, tree: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A chain of three files: first at 24 px, then at 48 px, then a fine-tuning, which sweeps compare."""
    write(tmp_path / "stages" / "first.yaml", stage("first", model__image_encoder__image_size=24))
    write(tmp_path / "stages" / "second.yaml", stage("second", "first.yaml", training__steps=200))
    write(tmp_path / "experiment.yaml", stage("third", "stages/second.yaml", training__steps=100))
    return tmp_path


def test_stages_are_read_from_files_of_their_own(folder: Path) -> None:
    third = load_experiment(folder / "experiment.yaml")
    assert [one.experiment for one in third.earlier] == ["first", "second"]
    assert [one.model.image_encoder.image_size for one in (*third.earlier, third)] == [24, 48, 48]
    (trial,) = load_study(folder / "experiment.yaml").trials
    assert [one.name for one in trial.earlier] == ["baseline/seed-0 stage 1: first", "baseline/seed-0 stage 2: second"]


def test_a_stage_is_the_trial_that_it_would_be_alone(folder: Path) -> None:
    (trial,) = load_study(folder / "experiment.yaml").trials
    alone = [load_study(folder / "stages" / f"{name}.yaml").trials[0] for name in ("first", "second")]
    assert [one.fingerprint for one in trial.earlier] == [one.fingerprint for one in alone]
    assert trial.fingerprint not in {one.fingerprint for one in alone}


def test_inline_and_in_files_is_the_same_trial(folder: Path) -> None:
    (trial,) = load_study(folder / "experiment.yaml").trials
    inline = stage("third", stage("second", "stages/first.yaml", training__steps=200), training__steps=100)
    (same,) = load_study(write(folder / "inline.yaml", inline)).trials
    assert same.fingerprint == trial.fingerprint


def test_how_an_earlier_stage_would_be_judged_makes_no_difference(folder: Path) -> None:
    before = load_study(folder / "experiment.yaml").trials[0]
    write(folder / "stages" / "first.yaml", stage("first", model__image_encoder__image_size=24, evaluation__items=7))
    after = load_study(folder / "experiment.yaml").trials[0]
    assert (after.fingerprint, after.evaluation_fingerprint) == (before.fingerprint, before.evaluation_fingerprint)
    write(folder / "stages" / "first.yaml", stage("first", model__image_encoder__image_size=24, training__steps=70))
    assert load_study(folder / "experiment.yaml").trials[0].fingerprint != before.fingerprint


def test_contents_of_an_earlier_stages_files_are_identity(folder: Path) -> None:
    (folder / "stages" / "words.jsonl").write_text('{"text": "one two three"}\n')
    tree = stage("first", model__image_encoder__image_size=24)
    tree["data"]["sources"]["text"] = {"type": "text", "data_type": "text", "files": "words.jsonl"}
    write(folder / "stages" / "first.yaml", tree)
    before = load_study(folder / "experiment.yaml").trials[0].fingerprint
    assert load_study(folder / "experiment.yaml").trials[0].fingerprint == before
    (folder / "stages" / "words.jsonl").write_text('{"text": "one two four"}\n')
    assert load_study(folder / "experiment.yaml").trials[0].fingerprint != before


def test_a_sweep_alters_a_stage_by_its_path(folder: Path) -> None:
    study = study_of(
        folder,
        """
        captions-only: {replace: {starts_from.starts_from.data.mixture: {captioned: 100}}}
        without: {remove_each: [starts_from.data.mixture.text, data.mixture.text]}
        from-scratch: {remove: starts_from}
        """,
    )
    first, second = study.arm("captions-only").experiment.earlier
    assert first.data.mixture == {"captioned": 100} and second.data.mixture == {"captioned": 45, "interleaved": 45, "text": 10}
    removed = study.arm("without/starts_from.data.mixture.text")
    assert removed.changes == (Change("starts_from.data.mixture.text", 10, None, removed=True),)
    assert "text" not in removed.experiment.earlier[1].data.mixture and "text" in removed.experiment.data.mixture
    assert study.arm("from-scratch").experiment.starts_from is None
    baseline, altered, later, last, scratch = study.trials
    assert [one.fingerprint for one in last.earlier] == [one.fingerprint for one in baseline.earlier], "both earlier stages are shared"
    assert later.earlier[0].fingerprint == baseline.earlier[0].fingerprint != altered.earlier[0].fingerprint
    assert later.earlier[1].fingerprint != baseline.earlier[1].fingerprint
    assert not scratch.earlier
    assert all(change.declared for arm in study.arms for change in arm.changes)


def test_a_share_that_is_removed_shrinks_its_own_stage(folder: Path) -> None:
    ablations = "less: {alter: {starts_from.data.when_removed: shrink}, remove: starts_from.data.mixture.text}"
    study = study_of(folder, ablations)
    experiment = study.arm("less").experiment
    assert experiment.earlier[1].training.steps == 180 and experiment.training.steps == 100
    assert "starts_from.training.steps" in {change.path for change in study.arm("less").changes}


def test_a_path_that_names_nothing_in_a_stage_is_an_error_with_the_whole_path_suggested(folder: Path) -> None:
    pointed, message, hint = the_problem(folder, "wrong: {alter: {starts_from.data.mixtur.text: 1}}")
    assert pointed.startswith("starts_from.data.mixtur.text") and "no such path" in message
    assert hint == "did you mean 'starts_from.data.mixture.text'?"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("model.language_model.tokenizer", "gpt2", "'miniature'"),
        ("model.connector.type", "attention_pool", "'average_pool'"),
        ("model.image_encoder.width", 48, "'96'"),
        ("model.language_model.configuration.hidden_size", 48, "another value"),
    ],
)
def test_parts_that_do_not_fit_are_reported_at_the_edit(folder: Path, path: str, value: Any, told: str) -> None:
    pointed, message, _ = the_problem(folder, f"other: {{alter: {{{path}: {value}}}}}")
    assert str(value) in pointed and "earlier stage" in message and told in message and "do not fit" in message


def test_what_does_not_fit_is_reported_at_its_line_of_the_file(folder: Path) -> None:
    write(folder / "experiment.yaml", stage("third", "stages/second.yaml", model__image_encoder__depth=5))
    with pytest.raises(FileErrors) as caught:
        load_experiment(folder / "experiment.yaml")
    (problem,) = caught.value.problems
    assert problem.path == "model.image_encoder.depth"
    assert (folder / "experiment.yaml").read_text().splitlines()[problem.line - 1].strip() == "depth: 5"


def test_a_later_stage_prepares_nothing(folder: Path) -> None:
    tree = stage("third", "stages/second.yaml")
    tree["model"] = yaml.safe_load(EXPERIMENT)["model"]
    write(folder / "experiment.yaml", tree)
    with pytest.raises(FileErrors, match="nothing is prepared"):
        load_experiment(folder / "experiment.yaml")


def test_problems_of_an_earlier_stages_file_are_reported_there(folder: Path) -> None:
    write(folder / "stages" / "first.yaml", stage("first", training__stepz=3))
    (problem,) = problems_of(folder)
    assert problem.file.endswith("first.yaml") and problem.path == "training.stepz"


@pytest.mark.parametrize(("name", "told"), [("second.yml", "did you mean 'second.yaml'"), ("second.yaml", "starts from itself")])
def test_a_stage_that_is_not_there_or_is_the_stage_itself(folder: Path, name: str, told: str) -> None:
    write(folder / "stages" / "second.yaml", stage("second", name))
    with pytest.raises(FileErrors, match=told) as caught:
        load_experiment(folder / "experiment.yaml")
    assert caught.value.problems[0].path == "starts_from"


def test_a_circle_of_stages_is_reported_with_its_files(folder: Path) -> None:
    write(folder / "stages" / "first.yaml", stage("first", "second.yaml", model__image_encoder__image_size=24))
    with pytest.raises(FileErrors) as caught:
        load_experiment(folder / "stages" / "second.yaml")
    (problem,) = caught.value.problems
    assert problem.file.endswith("first.yaml") and "second.yaml starts from itself, through first.yaml" in str(problem)
    (problem,) = problems_of(folder, "x: {remove: data.mixture.text}")
    assert problem.path == "starts_from" and (problem.line or 0) > 0 and "starts from itself" in problem.message


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (["stages/first.yaml"], "not a list"),
        (3, "not 3"),
        ("", "not ''"),
        ("stages", "stages is a directory"),
        ("stages/frist.yaml", "did you mean 'first.yaml'"),
        ("stages/nope.yaml", "nope.yaml$"),
        ("stages/broken.yaml", "broken.yaml:2:1: this is not YAML"),
        ("stages/nothing.yaml", "nothing.yaml:1:1: the file is empty"),
        ("stages/sweep.yaml", "experiment.yaml:.*sweep.yaml is a sweep; expected an experiment file .*'first.yaml'"),
    ],
)
def test_what_is_no_path_of_a_stage_is_reported_where_it_is_written(folder: Path, written: Any, told: str) -> None:
    (folder / "stages" / "broken.yaml").write_text("a: [1\n")
    (folder / "stages" / "nothing.yaml").write_text("")
    (folder / "stages" / "sweep.yaml").write_text("sweep: many\nexperiment: first.yaml\nseeds: [0]\n")
    write(folder / "experiment.yaml", stage("third", written or None) | {"starts_from": written})
    with pytest.raises(FileErrors) as caught:
        load_experiment(folder / "experiment.yaml")
    (problem,) = caught.value.problems
    line = str(problem).splitlines()[0]
    assert re.search(told, line), line
    if problem.file.endswith("experiment.yaml"):
        text = (folder / "experiment.yaml").read_text().splitlines()
        (at,) = (number for number, line in enumerate(text, 1) if line.startswith("starts_from:"))
        assert problem.path == "starts_from" and problem.line in (at, at + 1), "a list begins on the next line"


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ("{alter: {starts_from.starts_from.starts_from.training.steps: 3}}", "'first' has no earlier stage (starts_from)"),
        ("{remove: starts_from, alter: {starts_from.training.steps: 3}}", "the same arm removes starts_from"),
        (
            "{alter: {starts_from.starts_from: stages/second.yaml, starts_from.starts_from.training.steps: 3}}",
            "the same arm replaces starts_from.starts_from",
        ),
    ],
)
def test_an_alteration_of_a_stage_that_is_not_there_is_reported_at_its_path(folder: Path, arm: str, told: str) -> None:
    pointed, message, _ = the_problem(folder, f"wrong: {arm}")
    assert pointed.startswith("starts_from.") and told in message


def test_a_stage_with_another_tokenizer_in_a_file_of_its_own_is_reported_in_that_file(folder: Path) -> None:
    write(folder / "stages" / "second.yaml", stage("second", "first.yaml", model__language_model__tokenizer="gpt2"))
    (problem,) = problems_of(folder)
    assert problem.file.endswith("second.yaml") and problem.path == "model.language_model.tokenizer" and "earlier stage" in problem.message


def timm_stage(name: str, layer: int, starts_from: Any = None) -> dict[str, Any]:
    encoder = {"type": "timm", "name": "vit_tiny_patch16_224", "image_size": 48, "patch_size": 16, "weights": None, "feature_layer": layer}
    tree = stage(name, starts_from)
    tree["model"]["image_encoder"] = encoder
    tree["model"]["connector"] = {"type": "average_pool", "image_tokens": 1}
    return tree


def test_features_of_a_later_block_than_the_earlier_stage_kept_are_an_error_and_those_of_an_earlier_one_are_not(folder: Path) -> None:
    # What comes behind the features of an encoder of timm's is not part of the model.
    write(folder / "first.yaml", timm_stage("first", -2))
    write(folder / "experiment.yaml", timm_stage("last", -1, "first.yaml"))
    with pytest.raises(FileErrors) as caught:
        load_experiment(folder / "experiment.yaml")
    (problem,) = caught.value.problems
    assert problem.path == "model.image_encoder.feature_layer" and "no weights for block -1" in problem.message
    write(folder / "experiment.yaml", timm_stage("last", -4, "first.yaml"))
    assert load_experiment(folder / "experiment.yaml").earlier


def test_a_sweep_may_name_another_file_to_start_from(folder: Path) -> None:
    write(folder / "stages" / "other.yaml", stage("other", training__steps=300))
    study = study_of(folder, "other: {alter: {starts_from: stages/other.yaml}}")
    assert [one.experiment for one in study.arm("other").experiment.earlier] == ["other"]
    problem = the_problem(folder, "other: {alter: {starts_from: stages/othr.yaml}}")
    assert "there is no experiment file" in problem[1] and "other.yaml" in problem[2]


def test_data_of_all_stages_is_looked_at_but_no_earlier_evaluation(folder: Path) -> None:
    places = {".".join(map(str, place)) for place, _ in sources_of(load_experiment(folder / "experiment.yaml"))}
    assert {"data.sources.text", "starts_from.data.sources.text", "starts_from.starts_from.data.sources.text"} <= places
    assert "starts_from.starts_from.model.image_encoder.preparation.source" in places
    assert not any("evaluation" in place for place in places)


def test_the_shipped_chain_is_valid_and_known_to_editors() -> None:
    third = load_experiment(REPOSITORY / "experiments" / "miniature_stages.yaml")
    assert [one.model.image_encoder.image_size for one in (*third.earlier, third)] == [24, 48, 48]
    for name in ("miniature_stages.yaml", "miniature_stages/continual.yaml", "miniature_stages/pre_training.yaml"):
        tree = yaml.safe_load((REPOSITORY / "experiments" / name).read_text())
        assert list(Draft202012Validator(experiment_schema()).iter_errors(tree)) == []
