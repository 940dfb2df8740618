"""Texts that the miniature tokenizer does not know are found before anything is trained."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from config_files import EXPERIMENT, write_experiment
from pyarrow import parquet

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors, FileProblem
from mm1_ablate.plan.preflight import CHECKS
from mm1_ablate.training import preflight
from mm1_ablate.training.preflight import unknown_words

IMAGE = (255, 216, 255, 224)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))


def write_tar(path: Path, captions: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, caption in enumerate(captions):
            for ending, content in (("jpg", bytes(IMAGE)), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:05}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def told(folder: Path, changes: dict[str, Any]) -> list[FileProblem]:
    tree = yaml.safe_load(EXPERIMENT)
    for path, value in changes.items():
        node = tree
        *parents, last = path.split(".")
        for name in parents:
            node = node[name]
        node[last] = value
    path = write_experiment(folder, yaml.safe_dump(tree))
    try:
        return list(load_study(path, "check", [unknown_words]).warnings)
    except FileErrors as errors:
        return list(errors.problems)


def images(folder: Path, captions: list[str]) -> dict[str, Any]:
    write_tar(folder / "0.tar", captions)
    return {"type": "webdataset", "data_type": "captioned", "files": str(folder / "*.tar")}


PREPARATION = "model.image_encoder.preparation"


def test_an_encoders_preparation_without_a_tokenizer_for_its_captions_is_refused(tmp_path: Path) -> None:
    source = images(tmp_path, ["A photo of a zebra", "a small blue circle"])
    (problem,) = told(tmp_path, {f"{PREPARATION}.source": source})
    assert (problem.path, problem.warning) == (f"{PREPARATION}.tokenizer", False) and problem.line and problem.column
    assert "texts of model.image_encoder.preparation.source contain others: zebra;" in problem.message
    assert "declare the tokenizer" in problem.message and unknown_words in CHECKS


def test_captions_in_the_words_of_the_miniature_and_objectives_that_read_none_are_right(tmp_path: Path) -> None:
    assert told(tmp_path, {f"{PREPARATION}.source": images(tmp_path, ["a small blue circle"])}) == []
    source = images(tmp_path, ["A photo of a zebra"])
    assert told(tmp_path, {f"{PREPARATION}.source": source, f"{PREPARATION}.objective": "reconstructive"}) == []


def test_data_of_the_mixture_that_the_language_models_tokenizer_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "Once upon a time"}) + "\n")
    text = {"type": "text", "data_type": "text", "files": str(tmp_path / "*.jsonl")}
    name = next(name for name, source in yaml.safe_load(EXPERIMENT)["data"]["sources"].items() if source["data_type"] == "text")
    (problem,) = told(tmp_path, {f"data.sources.{name}": text})
    assert problem.path == "model.language_model.tokenizer" and f"texts of data.sources.{name} contain others: Once" in problem.message


def test_recaptions_are_read_from_their_table(tmp_path: Path) -> None:
    inner = images(tmp_path, ["a small blue circle"])
    parquet.write_table(pyarrow.table({"key": ["00000"], "caption": ["a striped zebra"]}), tmp_path / "captions.parquet")
    source = {"type": "recaptioned", "images": inner, "captions": str(tmp_path / "captions.parquet")}
    (problem,) = told(tmp_path, {f"{PREPARATION}.source": source})
    assert "contain others: zebra" in problem.message


def test_files_that_are_too_large_for_a_look_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "FILE_BYTES", 1)
    (problem,) = told(tmp_path, {f"{PREPARATION}.source": images(tmp_path, ["A photo of a zebra"])})
    assert problem.warning and "too large to check" in problem.message
