"""Documents that may be longer than the language model's context are an error when the file is read, and never trained on in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import EXPERIMENT, pointed_at, write_experiment, write_sweep
from step_helpers import batch_of, experiment_with

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.model.multimodal import build
from mm1_ablate.plan.preflight import CHECKS
from mm1_ablate.training.preflight import longest_document, too_long_documents


def experiment(row: int = 128, context: int | None = 128, tokens: int = 4, **others: Any) -> str:
    settings = yaml.safe_load(EXPERIMENT)
    settings["data"]["packing"] |= {"row_tokens": row}
    settings["model"]["connector"]["image_tokens"] = tokens
    if context is not None:
        settings["model"]["language_model"]["configuration"]["max_position_embeddings"] = context
    for section, value in others.items():
        settings[section] = {**settings[section], **value}
    return yaml.safe_dump(settings)


def problem_of(folder: Path, text: str) -> tuple[str, str]:
    with pytest.raises(FileErrors) as caught:
        load_study(write_experiment(folder, text), checks=[too_long_documents])
    (problem,) = caught.value.problems
    return pointed_at(problem), problem.message


def test_rows_as_long_as_the_context_are_fine_and_longer_ones_are_reported(tmp_path: Path) -> None:
    assert load_study(write_experiment(tmp_path, experiment(128)), checks=[too_long_documents]).trials
    at, message = problem_of(tmp_path, experiment(129))
    assert at == "129" and "129 tokens long" in message and "context of 128" in message and "at most 128 tokens in a row" in message


def test_images_that_take_more_than_packing_counts_make_documents_longer(tmp_path: Path) -> None:
    # 16 images of 4 nominal tokens may take 16 each.
    assert problem_of(tmp_path, experiment(128, 128 + 16 * 12 - 1, 16))[0] == "128"
    assert load_study(write_experiment(tmp_path, experiment(128, 128 + 16 * 12, 16)), checks=[too_long_documents]).trials
    # Where documents have one image each, only that one grows.
    captions = {"data": {"mixture": {"captioned": 1}}}
    assert load_study(write_experiment(tmp_path, experiment(128, 128 + 12, 16, **captions)), checks=[too_long_documents]).trials
    # Sub-images are so many images more.
    crops = {"model": yaml.safe_load(experiment(128, 255))["model"] | {"sub_images": {"at_most": 2}}}
    assert "a document may be 256 tokens long" in problem_of(tmp_path, experiment(128, **crops))[1]


def test_the_context_that_a_type_has_by_itself_counts(tmp_path: Path) -> None:
    # phi's is 2048.
    assert load_study(write_experiment(tmp_path, experiment(2048, None)), checks=[too_long_documents]).trials
    assert "context of 2,048" in problem_of(tmp_path, experiment(2049, None))[1]


def test_an_arm_is_reported_at_what_it_alters(tmp_path: Path) -> None:
    write_experiment(tmp_path, experiment(128, 200))
    with pytest.raises(FileErrors) as caught:
        load_study(write_sweep(tmp_path, "a: {alter: {model.connector.image_tokens: 16}}"), checks=[too_long_documents])
    (problem,) = caught.value.problems
    assert pointed_at(problem).startswith("model.connector.image_tokens: 16") or pointed_at(problem).startswith("16")
    assert "data.packing.row_tokens: a document may be 320 tokens long" in problem.message
    assert too_long_documents in CHECKS


def test_the_bound_holds_for_every_document_of_real_rows() -> None:
    from itertools import islice

    from mm1_ablate.data.packing import open_packed_rows
    from mm1_ablate.data.tokenizer import load_tokenizer

    settings = experiment_with({"data.packing.nominal_image_tokens": 1, "data.packing.row_tokens": 40})
    rows = islice(open_packed_rows(settings.data, load_tokenizer("miniature"), 0), 60)
    lengths = [
        sum(len(part) if isinstance(part, tuple) else settings.model.connector.image_tokens for part in document.segments)
        for row in rows
        for document in row
    ]
    assert max(lengths) <= longest_document(settings)


def test_a_document_beyond_the_context_is_never_trained_on_in_silence() -> None:
    settings = experiment_with(
        {
            "model.language_model.configuration": {
                "hidden_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 96,
                "max_position_embeddings": 64,
            }
        }
    )
    batch = batch_of(settings, [(100, 0)])
    with pytest.raises(ValueError, match="longer than the language model's context of 64"):
        build(settings, 0)(batch)
