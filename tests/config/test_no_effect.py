"""Settings that do nothing beside others are told at their line: an arm that sets one, or a baseline that has one, but no arm that is left
with one because it alters another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import EXPERIMENT, pointed_at, study_of, the_problem, write_experiment

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors

SOURCE = {"type": "miniature", "data_type": "text", "content": "text"}
PREPARED = {"source": SOURCE, "optimizer": {"type": "adamw"}}
ZERO_SHOT = {"evaluation.tasks": ["miniature_vqa"], "evaluation.shots": [0]}
ENCODER, LANGUAGE = "model.image_encoder", "model.language_model"


def changed(**changes: Any) -> str:
    """The small experiment with values at paths, `__` for dots."""
    tree = yaml.safe_load(EXPERIMENT)
    for path, value in changes.items():
        *parents, last = path.replace("__", ".").split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return yaml.safe_dump(tree, sort_keys=False)


def warned(folder: Path, text: str) -> list[tuple[str, str]]:
    """Where the file's warnings are, and what they say."""
    study = load_study(write_experiment(folder, text))
    for warning in study.warnings:
        assert warning.path.rpartition(".")[2] in Path(warning.file).read_text().splitlines()[warning.line - 1]
    return [(warning.path, warning.message) for warning in study.warnings]


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        (
            {f"{ENCODER}.frozen": True, f"{ENCODER}.learning_rate_scale": 0.1},
            f"{ENCODER}.learning_rate_scale",
            "the image encoder is frozen",
        ),
        (
            {f"{ENCODER}.preparation.objective": "reconstructive", f"{ENCODER}.preparation.tokenizer": "EleutherAI/pythia-14m"},
            f"{ENCODER}.preparation.tokenizer",
            "reads no captions",
        ),
        (
            {f"{LANGUAGE}.initialisation": "fan_in", f"{LANGUAGE}.configuration": {"hidden_size": 96, "initializer_range": 0.02}},
            f"{LANGUAGE}.configuration.initializer_range",
            "fan_in",
        ),
        ({f"{ENCODER}.preparation": None, "model.preparation_seed": 0}, "model.preparation_seed", "is prepared"),
        ({f"{LANGUAGE}.frozen": True}, "training.optimizer.type", "Declare type: adamw"),
        ({"training.micro_batch_rows": 16}, "training.micro_batch_rows", "only 8 rows"),
        ({f"{LANGUAGE}.preparation": {**PREPARED, "source": {**SOURCE, "weight": 2}}}, f"{LANGUAGE}.preparation.source.weight", "only one"),
        ({"evaluation.losses": {"text": {"source": {**SOURCE, "max_epochs": 2}}}}, "evaluation.losses.text.source.max_epochs", "as often"),
        ({"evaluation.shots": [4], "evaluation.zero_shot": {"text_only": 2}}, "evaluation.zero_shot", "add 0 to shots"),
        ({**ZERO_SHOT, "evaluation.seeds": [0, 1]}, "evaluation.seeds", "only the first seed is used"),
        ({**ZERO_SHOT, "evaluation.demonstrations": "per_query"}, "evaluation.demonstrations", "leave it out"),
        ({"evaluation.tasks": ["miniature_facts"], "evaluation.shots": [0, 4]}, "evaluation.shots", "text tasks"),
    ],
)
def test_a_setting_that_does_nothing_is_warned_of_at_its_line(changes: dict[str, Any], place: str, words: str, tmp_path: Path) -> None:
    ((path, message),) = warned(tmp_path, changed(**changes))
    assert path == place and message.startswith("has no effect: ") and words in message


@pytest.mark.parametrize(
    "changes",
    [
        {f"{ENCODER}.learning_rate_scale": 0.1},
        {f"{ENCODER}.frozen": True, f"{ENCODER}.learning_rate_scale": 1.0},
        {"model.preparation_seed": 0},
        {f"{LANGUAGE}.frozen": True, "training.optimizer": {"type": "adamw"}},
        {"evaluation.shots": [0, 4], "evaluation.zero_shot": {"text_only": 2}, "evaluation.seeds": [0, 1]},
        {**ZERO_SHOT, "evaluation.protocol": "openflamingo"},
    ],
)
def test_a_setting_that_does_something_is_not_warned_of(changes: dict[str, Any], tmp_path: Path) -> None:
    assert warned(tmp_path, changed(**changes)) == []


def test_an_arm_is_warned_of_what_it_sets_and_not_of_what_it_is_left_with(tmp_path: Path) -> None:
    write_experiment(tmp_path, changed(**{f"{ENCODER}.learning_rate_scale": 0.1}))
    assert study_of(tmp_path, f"frozen: {{alter: {{{ENCODER}.frozen: true}}}}").warnings == ()
    grid = f"both: {{grid: {{{ENCODER}.frozen: [false, true], {ENCODER}.learning_rate_scale: [0.2, 0.5]}}}}"
    warnings = study_of(tmp_path, grid).warnings
    assert [warning.message.partition("'")[2].partition("'")[0] for warning in warnings] == [
        f"both/frozen=true,learning_rate_scale={scale}" for scale in (0.2, 0.5)
    ]
    assert all("has no effect: the image encoder is frozen" in warning.message for warning in warnings)
    assert [pointed_at(warning) for warning in warnings] == ["0.2, 0.5]}}", "0.5]}}"]


@pytest.mark.parametrize(
    ("task", "field", "words"),
    [
        ("miniature_agreement", "stop: [x]", "generates no answers"),
        ("miniature_facts", "separator: x", "has no demonstrations"),
    ],
)
def test_wording_that_a_task_has_no_use_for_is_refused(task: str, field: str, words: str, tmp_path: Path) -> None:
    name, _, value = field.partition(": ")
    text = changed(**{"evaluation.tasks": [task], f"evaluation.overrides.{task}": {name: yaml.safe_load(value)}})
    with pytest.raises(FileErrors) as caught:
        load_study(write_experiment(tmp_path, text))
    (problem,) = caught.value.problems
    assert problem.path == f"evaluation.overrides.{task}.{name}" and words in problem.message


@pytest.mark.parametrize(
    ("rest", "words"),
    [("resources: {strategy: fsdp}", "one worker has the whole model"), ("budget: {gpu_hours: 2}", "have no GPU")],
)
def test_resources_that_do_nothing_are_warned_of(rest: str, words: str, tmp_path: Path) -> None:
    (warning,) = study_of(tmp_path, rest=rest).warnings
    assert words in warning.message and Path(warning.file).name == "sweep.yaml" and warning.line == 4


def test_what_an_earlier_stage_gives_cannot_be_declared_otherwise(tmp_path: Path) -> None:
    earlier = yaml.safe_load(changed(**{f"{ENCODER}.preparation": None}))
    write_experiment(tmp_path, changed(**{f"{ENCODER}.preparation": None, "starts_from": earlier}))
    place, message, _ = the_problem(tmp_path, f"drawn: {{alter: {{{LANGUAGE}.initialisation: fan_in}}}}")
    assert place.startswith("fan_in") and "come from the earlier stage" in message and "change the earlier stage" in message


@pytest.mark.parametrize(
    ("part", "data_type", "words"),
    [("language_model", "captioned", "on text alone"), ("image_encoder", "text", "on images with captions")],
)
def test_a_part_is_not_prepared_on_data_that_it_cannot_read(part: str, data_type: str, words: str, tmp_path: Path) -> None:
    content = {"captioned": "synthetic_captions", "text": "text"}[data_type]
    source = {"type": "miniature", "data_type": data_type, "content": content}
    more = {"optimizer": {"type": "adamw"}} if part == "language_model" else {}
    text = changed(**{f"model.{part}.preparation": {"source": source, **more}})
    with pytest.raises(FileErrors) as caught:
        load_study(write_experiment(tmp_path, text))
    (problem,) = caught.value.problems
    assert problem.path == f"model.{part}.preparation.source.data_type" and words in problem.message
