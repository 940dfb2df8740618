"""Weights and tokenizers on this machine: found beside the file that names them, and part of a trial's identity by what is in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from config_files import EXPERIMENT, load_experiment, pointed_at, write_experiment
from local_models import tokenizer_folder
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from mm1_ablate.config.identity.model_digests import READ_WHOLE, weights_digest
from mm1_ablate.config.local_path import weight_files
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.plan.preflight import preflight

LANGUAGE_MODEL = EXPERIMENT[EXPERIMENT.index("    model_type: phi") : EXPERIMENT.index("training:")]


def fingerprint(path: Path) -> str:
    (trial,) = load_study(path).trials
    return trial.fingerprint


# ---------------------------------------------------------------- where they are
@pytest.mark.parametrize("written", ["ours", "./ours", "../{folder}/ours", "{absolute}"])
def test_a_tokenizer_lies_beside_the_file_that_names_it_wherever_the_command_is_given(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    ours = tokenizer_folder(tmp_path / "files" / "ours")
    name = written.format(folder="files", absolute=ours)
    path = write_experiment(tmp_path / "files", EXPERIMENT.replace(LANGUAGE_MODEL, f"    model_type: phi\n    tokenizer: {name}\n"))
    monkeypatch.chdir(tmp_path)
    assert load_experiment(path).model.language_model.tokenizer == str(ours)


def test_names_stay_names(tmp_path: Path) -> None:
    (tmp_path / "miniature").mkdir()  # no tokenizer's folder
    (tmp_path / "EleutherAI" / "gpt-neox-20b").mkdir(parents=True)
    for name in ("miniature", "EleutherAI/gpt-neox-20b"):
        path = write_experiment(tmp_path, EXPERIMENT.replace(LANGUAGE_MODEL, f"    model_type: phi\n    tokenizer: {name}\n"))
        assert load_experiment(path).model.language_model.tokenizer == name


def test_a_path_in_a_sweep_is_relative_to_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    ours = tokenizer_folder(tmp_path / "sweeps" / "ours")
    write_experiment(tmp_path)
    sweep = tmp_path / "sweeps" / "sweep.yaml"
    sweep.write_text(
        "sweep: s\nexperiment: ../experiment.yaml\nseeds: [0]\nablations:\n  words:\n    alter: {model.language_model.tokenizer: ours}\n"
    )
    study = load_study(sweep)
    assert study.arm("words").experiment.model.language_model.tokenizer == str(ours)
    assert len({trial.fingerprint for trial in study.trials}) == 2


@pytest.mark.parametrize(
    ("language_model", "at"),
    [
        ("{model_type: phi, tokenizer: ./none/here}", "./none/here"),
        ("{name: ./none/here, tokenizer: miniature}", "./none/here"),
    ],
)
def test_what_is_not_there_is_reported_at_its_line(language_model: str, at: str, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, EXPERIMENT.replace(f"\n{LANGUAGE_MODEL}", f" {language_model}\n"))
    with pytest.raises(FileErrors) as caught:
        preflight(path)
    (problem,) = caught.value.problems
    assert pointed_at(problem).startswith(at) and f"there is no file or folder {tmp_path}/none/here" in problem.message
    assert f"nearest folder that exists is {tmp_path}" in problem.message
    assert preflight(path, look="nowhere").trials


def test_the_tokenizer_of_a_preparation_is_looked_for_too(tmp_path: Path) -> None:
    text = EXPERIMENT.replace("    preparation:\n", "    preparation:\n      tokenizer: ./none\n")
    with pytest.raises(FileErrors) as caught:
        preflight(write_experiment(tmp_path, text))
    (problem,) = caught.value.problems
    assert pointed_at(problem).startswith("./none") and problem.path == "model.image_encoder.preparation.tokenizer"


# ---------------------------------------------------------------- what they are
def test_a_tokenizer_is_what_is_in_it(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, EXPERIMENT.replace(LANGUAGE_MODEL, "    model_type: phi\n    tokenizer: ./ours\n"))
    ours = tokenizer_folder(tmp_path / "ours")
    before = fingerprint(path)
    (ours / "README.md").write_text("ours")
    (tmp_path / "moved").mkdir()
    shutil.copytree(ours, tmp_path / "moved" / "ours")
    shutil.copy(path, tmp_path / "moved")
    assert fingerprint(path) == before == fingerprint(tmp_path / "moved" / path.name)
    shutil.rmtree(ours)
    tokenizer_folder(ours, words=("a small red circle", "green and blue squares"))
    assert fingerprint(path) != before


def test_a_language_model_is_its_configuration_and_its_weights(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, EXPERIMENT.replace(LANGUAGE_MODEL, "    name: ./ours\n    tokenizer: miniature\n"))
    config = LlamaConfig(vocab_size=400, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "ours", max_shard_size="20KB")
    shards = weight_files(str(tmp_path / "ours"))
    assert len(shards) > 2 and all(shard.endswith(".safetensors") for shard in shards)
    before = fingerprint(path)
    weights = load_file(shards[1])
    save_file({name: value + 1e-3 for name, value in weights.items()}, shards[1], metadata={"format": "pt"})
    changed = fingerprint(path)
    assert changed != before
    save_file(weights, shards[1], metadata={"format": "pt"})
    assert fingerprint(path) == before
    told = (tmp_path / "ours" / "config.json").read_text()
    (tmp_path / "ours" / "config.json").write_text(told.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert fingerprint(path) != before


def test_a_tensor_in_the_middle_of_large_weights_tells_them_apart(tmp_path: Path) -> None:
    """Weights of which one part alone was trained further, as of a model with a frozen embedding."""
    weights = {f"layers.{number:02}": torch.zeros(1 << 20) for number in range(20)} | {"bias": torch.zeros(3)}
    assert sum(value.nbytes for value in weights.values()) > READ_WHOLE
    digests = set()
    for number, changed in enumerate((None, "layers.10", "bias")):
        if changed:
            weights = {**weights, changed: weights[changed] + 1}
        save_file(weights, tmp_path / f"{number}.safetensors")
        torch.save(weights, tmp_path / f"{number}.pt")
        digests |= {weights_digest(str(tmp_path / f"{number}{suffix}")) for suffix in (".safetensors", ".pt")}
    assert len(digests) == 6


def test_a_preparation_is_what_it_starts_from_and_reads_with(tmp_path: Path) -> None:
    source = "{type: miniature, data_type: text, content: text}"
    language = f"    model_type: phi\n    tokenizer: ./ours\n    preparation: {{source: {source}, optimizer: {{type: adamw}}}}\n"
    text = EXPERIMENT.replace(LANGUAGE_MODEL, language).replace("    preparation:\n", "    preparation:\n      tokenizer: ./ours\n", 1)
    path = write_experiment(tmp_path, text)
    ours = tokenizer_folder(tmp_path / "ours")
    before = preparations_of(load_experiment(path), 0)
    assert len(before) == 2 and all(
        type(part).model_validate_json(part.model_dump_json()).fingerprint == part.fingerprint for part in before
    )
    shutil.rmtree(ours)
    # What was recorded holds on a machine that has no such folder, or another one there.
    recorded = [type(part).model_validate_json(part.model_dump_json()) for part in before]
    assert [part.fingerprint for part in recorded] == [part.fingerprint for part in before]
    tokenizer_folder(ours, words=("green and blue squares",))
    after = preparations_of(load_experiment(path), 0)
    assert not {part.fingerprint for part in before} & {part.fingerprint for part in after}


# ---------------------------------------------------------------- a model by name
def test_a_model_by_name_has_the_tokenizer_of_that_name(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, EXPERIMENT.replace(LANGUAGE_MODEL, "    name: ./ours\n"))
    ours = tokenizer_folder(tmp_path / "ours")
    settings = load_experiment(path).model.language_model
    assert settings.tokenizer == settings.name == str(ours)


@pytest.mark.parametrize("more", ["configuration: {num_hidden_layers: 3}", "initialisation: fan_in", "scale_embeddings: true"])
def test_what_a_model_by_name_would_not_heed_is_refused(more: str, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, EXPERIMENT.replace(LANGUAGE_MODEL, f"    name: x\n    {more}\n"))
    with pytest.raises(FileErrors) as caught:
        load_experiment(path)
    (problem,) = caught.value.problems
    assert pointed_at(problem).startswith(more.partition(" ")[2]) and "needs model_type" in problem.message


def test_all_that_init_writes_of_a_model_type_is_named_at_once_for_a_model_by_name(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "experiments" / "miniature.yaml").read_text()
    path = write_experiment(tmp_path, text.replace("    model_type: phi", "    name: x"))
    with pytest.raises(FileErrors) as caught:
        load_experiment(path)
    (problem,) = caught.value.problems
    assert problem.path == "model.language_model.configuration"
    assert problem.message.endswith("leave configuration and initialisation and scale_embeddings out")
