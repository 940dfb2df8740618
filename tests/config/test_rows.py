"""Rows that are too short for what must stand in them are refused when the file is read, at the line that makes them so."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import EXPERIMENT, load_experiment, pointed_at, study_of, the_problem, write_experiment

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors, FileProblem

PACKING = "packing: {row_tokens: 128, nominal_image_tokens: 4}"
TEXT_ONLY = EXPERIMENT.replace("{captioned: 45, interleaved: 45, text: 10}", "{text: 10}")


def refused(folder: Path, text: str) -> FileProblem:
    with pytest.raises(FileErrors) as caught:
        load_experiment(write_experiment(folder, text), "nowhere")
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("packing", "at"),
    [
        ("{row_tokens: 100}", "100}"),
        ("{row_tokens: 144}", "144}"),
        ("{row_tokens: 4, nominal_image_tokens: 4}", "4, nominal"),
        ("{nominal_image_tokens: 4096}", "4096}"),
        ("{nominal_image_tokens: 5000, max_images: 2}", "5000"),
    ],
)
def test_a_row_that_holds_no_image_and_its_text_is_refused_at_its_line(tmp_path: Path, packing: str, at: str) -> None:
    problem = refused(tmp_path, EXPERIMENT.replace(PACKING, f"packing: {packing}"))
    assert pointed_at(problem).startswith(at) and problem.path.startswith("data.packing.")
    assert (
        "cannot hold an image, which counts nominal_image_tokens" in problem.message
        and "expected row_tokens of at least" in problem.message
    )


def test_a_row_of_text_holds_a_token_and_what_it_predicts(tmp_path: Path) -> None:
    for tokens, right in ((100, True), (2, True), (1, False)):
        text = TEXT_ONLY.replace(PACKING, f"packing: {{row_tokens: {tokens}}}")
        if right:
            load_experiment(write_experiment(tmp_path, text), "nowhere")
        else:
            problem = refused(tmp_path, text)
            assert pointed_at(problem).startswith("1}") and "expected row_tokens of at least 2" in problem.message
    preparation = (
        "    preparation: {row_tokens: 1, optimizer: {type: muon}, source: {type: miniature, data_type: text, content: text}}\ntraining:"
    )
    problem = refused(tmp_path, EXPERIMENT.replace("training:", preparation))
    assert pointed_at(problem).startswith("1,") and problem.message == "expected a whole number of at least 2, not 1"


def test_held_out_images_need_rows_too(tmp_path: Path) -> None:
    losses = "  losses:\n    pages: {source: {type: miniature, data_type: interleaved, content: interleaved%s}}\n"
    text = TEXT_ONLY.replace(PACKING, "packing: {row_tokens: 100}") + losses
    assert "cannot hold an image" in refused(tmp_path, text % "").message
    load_experiment(write_experiment(tmp_path, text % ", images: false"), "nowhere")


def test_an_earlier_stage_is_reported_at_its_own_line(tmp_path: Path) -> None:
    write_experiment(tmp_path, EXPERIMENT.replace(PACKING, "packing: {row_tokens: 100}"), "first.yaml")
    prepared = "    preparation:\n      source: {type: miniature, data_type: captioned, content: synthetic_captions}\n"
    problem = refused(tmp_path, EXPERIMENT.replace(prepared, "") + "starts_from: first.yaml\n")
    assert Path(problem.file).name == "first.yaml" and pointed_at(problem).startswith("100}")


@pytest.mark.parametrize(
    ("arm", "at"),
    [
        ("alter: {data.packing.row_tokens: 4}", "4}"),
        ("alter: {data.packing.nominal_image_tokens: 128}", "128}"),
        ("alter: {model.preparation_seed: 3, data.packing.nominal_image_tokens: 200}", "200}"),
        ("alter: {data.packing: {row_tokens: 4, nominal_image_tokens: 16}}", "4, nominal"),
        ("grid: {data.packing.row_tokens: [64, 3]}", "3]"),
    ],
)
def test_an_arm_that_makes_rows_too_short_is_reported_at_its_value(tmp_path: Path, arm: str, at: str) -> None:
    told, message, _ = the_problem(tmp_path, f"a: {{{arm}}}")
    assert told.startswith(at) and "cannot hold an image" in message


def test_an_arm_that_brings_images_into_short_rows_is_reported_at_what_brings_them(tmp_path: Path) -> None:
    write_experiment(tmp_path, TEXT_ONLY.replace(PACKING, "packing: {row_tokens: 100}"))
    told, message, _ = the_problem(tmp_path, "a: {alter: {model.preparation_seed: 3, data.mixture: {captioned: 1, text: 1}}}")
    assert told.startswith("1, text: 1") and "cannot hold an image" in message


def test_an_arm_without_images_may_have_short_rows(tmp_path: Path) -> None:
    arm = "remove: [data.mixture.captioned, data.mixture.interleaved], alter: {data.packing.row_tokens: 4}"
    assert len(study_of(tmp_path, f"a: {{{arm}}}").arms) == 2


def test_sub_images_and_image_tokens_of_arms_lengthen_rows_within_the_context(tmp_path: Path) -> None:
    from mm1_ablate.training.preflight import too_long_documents

    write_experiment(tmp_path, EXPERIMENT.replace("num_hidden_layers: 3", "num_hidden_layers: 3, max_position_embeddings: 256"))
    for arm, at in (
        ("model.connector.image_tokens: 9", ""),
        ("model.sub_images: {at_most: 4}", "{at_most"),
        ("model.connector.image_tokens: 16", "16"),
    ):
        (tmp_path / "sweep.yaml").write_text(f"sweep: s\nexperiment: experiment.yaml\nseeds: [0]\nablations:\n  a: {{alter: {{{arm}}}}}\n")
        try:
            load_study(tmp_path / "sweep.yaml", "nowhere", [too_long_documents])
            assert not at
        except FileErrors as errors:
            (problem,) = errors.problems
            assert at and pointed_at(problem).startswith(at) and "data.packing.row_tokens" in problem.message
