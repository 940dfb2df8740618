"""Settings of a model that do not go together are told when the file is read, at line and column; what is accepted can be made and run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from config_files import EXPERIMENT, pointed_at, write_experiment, write_sweep

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.model.context_length import context_length, known_context_length
from mm1_ablate.model.multimodal import build
from mm1_ablate.model.packed_attention import DocumentLayout, packed
from mm1_ablate.plan.preflight import preflight
from mm1_ablate.training.fit import load_earlier_stage

TEXT = EXPERIMENT.replace(
    "configuration: {hidden_size: 96, num_hidden_layers: 3}",
    "configuration: {hidden_size: 96, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64, max_position_embeddings: 2048}",
)
ENCODER, CONNECTOR, LANGUAGE = "model.image_encoder", "model.connector", "model.language_model"
CONNECTORS = ("attention_pool", "average_pool", "c_abstractor", "linear", "mlp", "perceiver_resampler", "pixel_shuffle")
LLAMA = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "max_position_embeddings": 2048}
TIMM = {"type": "timm", "name": "test_vit", "image_size": 32, "patch_size": 16, "weights": None}
"""64 channels, two heads, six blocks."""


def encoders() -> list[dict[str, Any]]:
    """A grid of 4 x 4 patches, 96 channels, 3 blocks, 4 heads: one setting after the other to what may not do."""
    wrong: dict[str, list[Any]] = {
        "image_size": [0, -1, 1, 4, 50, 52, "large"],
        "patches_per_side": [0, 1, 2, 3, 5, 7, 48, 96],
        "patch_size": [12, 0],
        "width": [0, 1, 4, 95, 97, 100],
        "heads": [0, 1, 3, 5, 7, 96, 97],
        "depth": [0, 1],
        "feature_layer": [-3, -4, 0, 1],
    }
    found = [{f"{ENCODER}.{name}": value} for name, values in wrong.items() for value in values]
    timm: dict[str, list[Any]] = {
        "name": ["test_vit2", "test_vitt", "resnet18", "vit_nothing"],
        "image_size": [16, 48, 40, 160],
        "patch_size": [8, 14],
        "feature_layer": [-2, -6, -7],
    }
    one_token = {f"{CONNECTOR}.image_tokens": 1}
    found += [{ENCODER: {**TIMM, name: value}, **one_token} for name, values in timm.items() for value in values]
    return found


def connectors() -> list[dict[str, Any]]:
    own: dict[str, dict[str, list[Any]]] = {
        "attention_pool": {"heads": [0, 1, 2, 5, 7, 96, 97]},
        "perceiver_resampler": {"heads": [0, 5, 96], "depth": [0, 1]},
        "c_abstractor": {"hidden": [0, 1, 2, 3, 7, 16], "depth": [0, 1], "mlp_depth": [0, 1]},
        "mlp": {"layers": [0, 1]},
    }
    found: list[dict[str, Any]] = []
    for name in CONNECTORS:
        small = {"hidden": 16, "depth": 1} if name == "c_abstractor" else {}
        for tokens in (0, 1, 4, 5, 9, 16, 17, 25):
            found.append({CONNECTOR: {"type": name, "image_tokens": tokens, **small}})
        tokens = 16 if name in ("linear", "mlp") else 4
        for setting, values in own.get(name, {}).items():
            found += [{CONNECTOR: {"type": name, "image_tokens": tokens, **small, setting: value}} for value in values]
    # What a connector asks of the width is asked of timm's encoders too: 64 channels.
    found += [{ENCODER: TIMM, CONNECTOR: {"type": "attention_pool", "image_tokens": 3, "heads": heads}} for heads in (2, 3, 64)]
    found += [{ENCODER: TIMM, CONNECTOR: {"type": name, "image_tokens": 9}} for name in CONNECTORS]
    return found


def language_models() -> list[dict[str, Any]]:
    wrong: dict[str, list[Any]] = {
        "hidden_size": [0, -64, 63, 66, "64", 64.5, True],
        "num_hidden_layers": [0, -1, 1],
        "num_attention_heads": [0, 1, 3, 5, 16, 64],
        "num_key_value_heads": [0, 1, 2, 3, 4, 5, 8],
        "intermediate_size": [0, 1],
        "max_position_embeddings": [0, -5],
        "vocab_size": [0, 1, 10, 1_000_000],
        "hidden_act": ["gelu", "gelo", 3],
        "head_dim": [0, 16, 7],
        "hiden_size": [64],
        "num_layers": [3],
        "rope_theta": [5000.0],
        "tie_word_embeddings": [True, "yes"],
    }
    kinds = ("llama", "phi", "gpt_neox", "qwen2")
    found = [
        {LANGUAGE: {"model_type": kind, "configuration": {**LLAMA, name: value}}}
        for kind in kinds
        for name, values in wrong.items()
        for value in (values if kind == "llama" else values[::3])
    ]
    others: list[dict[str, Any]] = [{"model_type": kind} for kind in ("lama", "bert2", "vit", "t5", "clip", "mamba", "bloom")]
    others += [{"model_type": "gpt2", "configuration": {"n_embd": 64, "n_layer": 2, "n_head": heads}} for heads in (4, 5)]
    others += [{"model_type": "opt", "configuration": {**LLAMA, "num_attention_heads": heads}} for heads in (4, 5)]
    return found + [{LANGUAGE: settings} for settings in others]


def wholes() -> list[dict[str, Any]]:
    wrong: list[Any] = [
        {"at_least": 1, "at_most": 1},
        {"at_least": 5, "at_most": 4},
        {"at_least": 0},
        {"at_most": 0},
        {"at_least": 4, "at_most": 4, "overview": "none"},
        {"overview": "above"},
        {"at_most": 2000},
    ]
    frozen = [{f"{part}.frozen": True for part in (ENCODER, CONNECTOR, LANGUAGE)}]
    return [{"model.sub_images": settings} for settings in wrong] + frozen


def run(experiment: Experiment) -> None:
    """Make the model and run each of its parts once."""
    model = build(experiment, 0)
    size, tokens = experiment.model.image_encoder.image_size, experiment.model.connector.image_tokens
    with torch.no_grad(), packed(model.language_model, DocumentLayout([5, 3], model.device)) as arguments:
        images = model.encode_images(torch.zeros(2, 3, size, size, dtype=torch.uint8))
        assert images.shape == (2, tokens, model.width)
        positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
        model.language_model(inputs_embeds=torch.zeros(1, 8, model.width), position_ids=positions, **arguments)


def verdict(folder: Path, changes: dict[str, Any]) -> str:
    """Where a file with these changes is wrong; nothing where it is accepted, after the model was made and run."""
    write_experiment(folder, TEXT)
    altered = {**changes, "training.steps": 501}
    sweep = write_sweep(folder, f"arm: {{alter: {json.dumps(altered)}}}")
    try:
        study = preflight(sweep)
    except FileErrors as errors:
        for problem in errors.problems:
            # At the line of the change, and at something that the change says.
            line = pointed_at(problem)
            assert Path(problem.file) == sweep and "alter" in sweep.read_text().splitlines()[problem.line - 1], problem
            assert line and problem.message and "Traceback" not in problem.message and len(problem.message) < 400, problem
        return str(errors.problems[0])
    run(study.arm("arm").experiment)
    return ""


@pytest.mark.parametrize("part", ["encoders", "connectors", "language_models", "wholes"])
def test_what_is_wrong_is_reported_at_its_line_and_what_is_accepted_runs(part: str, tmp_path: Path) -> None:
    unforeseen, accepted, refused = [], 0, 0
    for changes in globals()[part]():
        try:
            told = verdict(tmp_path, changes)
        except Exception as error:  # the point is that there is none, of whatever type
            unforeseen.append(f"{changes}: {type(error).__name__}: {error}")
        else:
            accepted, refused = accepted + (not told), refused + bool(told)
    assert not unforeseen, "\n".join(unforeseen)
    assert accepted and refused


def set_in(path: str, value: Any) -> Any:
    """The experiment with something else at a place."""
    experiment = yaml.safe_load(TEXT)
    *above, last = path.split(".")
    place = experiment
    for key in above:
        place = place[key]
    place[last] = value
    return experiment


def told(folder: Path, settings: dict[str, Any]) -> tuple[str, str]:
    """What the only problem of an experiment file points at, and its message."""
    experiment = yaml.safe_load(TEXT)
    for path, value in settings.items():
        place, keys = experiment, path.split(".")
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
    with pytest.raises(FileErrors) as caught:
        preflight(write_experiment(folder, yaml.safe_dump(experiment)))
    (problem,) = caught.value.problems
    return pointed_at(problem), problem.message


@pytest.mark.parametrize(
    ("settings", "at", "words"),
    [
        ({f"{LANGUAGE}.configuration.hiden_size": 64}, "64", "did you mean 'hidden_size'?"),
        ({f"{LANGUAGE}.configuration.num_key_value_heads": 3}, "3", "expected a divisor of 4"),
        ({f"{LANGUAGE}.configuration.hidden_act": "gelo"}, "gelo", "there is no 'gelo'"),
        ({f"{LANGUAGE}.configuration.vocab_size": 10}, "10", "too few"),
        ({f"{LANGUAGE}.model_type": "lama"}, "lama", "did you mean 'llama'?"),
        ({ENCODER: TIMM, CONNECTOR: {"type": "attention_pool", "image_tokens": 3, "heads": 7}}, "7", "64, is not a multiple of 7 heads"),
        ({CONNECTOR: {"type": "halved.Halved", "image_tokens": 4}}, "", "not image tokens of shape [2, 4, 96]"),
    ],
)
def test_the_message_says_what_to_change(
    settings: dict[str, Any], at: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halved.py").write_text(HALVED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "halved", raising=False)
    line, message = told(tmp_path, settings)
    assert line.startswith(at) and words in message


# ---------------------------------------------------------------- stages
def write_chain(folder: Path, connector: dict[str, Any], *sides: int, **later: Any) -> Path:
    """Stages of one connector with these many patches per side, the last of them the experiment file."""
    tree = yaml.safe_load(TEXT)
    del tree["model"]["image_encoder"]["preparation"]
    tree["model"]["connector"] = connector
    for number, side in enumerate(sides):
        tree["model"]["image_encoder"] |= {"patches_per_side": side, "image_size": side * 12}
        last = number == len(sides) - 1
        tree["model"]["connector"] |= later if last else {}
        write_experiment(folder, yaml.safe_dump(tree, sort_keys=False), "experiment.yaml" if last else f"stage{number}.yaml")
        tree["starts_from"] = f"stage{number}.yaml"
    return folder / "experiment.yaml"


STRIDED = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "model.md").read_text(), re.DOTALL)
"""What the documentation shows of connectors of one's own among other things."""


@pytest.fixture
def strided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (source,) = (block for block in STRIDED if "class Strided" in block)
    (tmp_path / "our_connectors.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "our_connectors", raising=False)
    return {"type": "our_connectors.Strided", "image_tokens": 4}


def test_a_connector_that_weights_of_the_earlier_stage_do_not_fit_is_reported_at_its_line(strided: dict[str, Any], tmp_path: Path) -> None:
    shuffled = "connector.project.0.weight has the shape [384] there and [1536] here, and 2 more"
    convolved = "connector.convolution.weight has the shape [256, 96, 2, 2] there and [256, 96, 4, 4] here"
    for connector, words in (({"type": "pixel_shuffle", "image_tokens": 4}, shuffled), (strided, convolved)):
        # The second of three is in another file than the one that is read: it is told where that file is named, by its path.
        for sides, at, line in (((4, 8), "model.connector", "type: "), ((4, 8, 8), "starts_from.model.connector", "stage1.yaml")):
            path = write_chain(tmp_path, connector, *sides)
            for _ in range(2):  # what was found wrong is not remembered as right
                with pytest.raises(FileErrors) as caught:
                    preflight(path)
                (problem,) = caught.value.problems
                assert problem.path == at and pointed_at(problem).startswith(line), problem
                assert words in problem.message and "change image_tokens" in problem.message and len(problem.message) < 400, problem


def test_an_arm_that_alters_a_stage_so_that_a_connector_does_not_fit_is_reported_at_the_edit(tmp_path: Path) -> None:
    write_chain(tmp_path, {"type": "pixel_shuffle", "image_tokens": 4}, 4, 4)
    for path in (ENCODER, f"starts_from.{ENCODER}"):
        edits = {"starts_from.training.steps": 501, f"{path}.image_size": 96, f"{path}.patches_per_side": 8}
        sweep = write_sweep(tmp_path, f"finer: {{alter: {json.dumps(edits)}}}")
        with pytest.raises(FileErrors, match=r"model\.connector: .*connector\.project\.0\.weight") as caught:
            preflight(sweep)
        (problem,) = caught.value.problems
        # The connector goes by the grid of patches; with the other size alone it would fit.
        assert Path(problem.file) == sweep and problem.path.endswith(f"{path}.patches_per_side"), problem


@pytest.mark.parametrize("name", CONNECTORS)
def test_stages_that_fit_or_are_resampled_are_accepted(name: str, tmp_path: Path) -> None:
    """By the same rule by which their weights are handed on."""
    small = {"hidden": 16, "depth": 1} if name == "c_abstractor" else {}
    tokens = 16 if name in ("linear", "mlp") else 4
    later = {"image_tokens": tokens if name in ("attention_pool", "perceiver_resampler") else tokens * 4}
    (last,) = preflight(write_chain(tmp_path, {"type": name, "image_tokens": tokens, **small}, 4, 8, **later)).trials
    torch.save(build(last.experiment.earlier[0], 0).state_dict(), tmp_path / "model.pt")
    load_earlier_stage(build(last.experiment, 0), tmp_path)


def test_a_connector_of_ones_own_that_fits_is_accepted(strided: dict[str, Any], tmp_path: Path) -> None:
    assert preflight(write_chain(tmp_path, strided, 4, 8, image_tokens=16)).trials


HALVED = """
from typing import Literal
from torch import nn
from mm1_ablate.config.connector import Connector

class Halved(Connector):
    def build(self, encoder_width, grid_side, language_width):
        return nn.Linear(encoder_width, language_width // 2)
"""


PHI3 = {
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32},
    **{"max_position_embeddings": 4096, "original_max_position_embeddings": 64},
    "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "rope_theta": 10000.0},
}
MIXTRAL = {**LLAMA, "num_key_value_heads": 2, "num_local_experts": 4}


@pytest.mark.parametrize(
    ("settings", "at", "words"),
    [
        ({"model_type": "mixtral", "configuration": {**MIXTRAL, "router_aux_loss_coef": 0.1}}, "0.1", "has no effect"),
        ({"model_type": "mixtral", "configuration": {**MIXTRAL, "output_router_logits": True}}, "true", "has no effect"),
        ({"model_type": "mixtral", "configuration": MIXTRAL, "initialisation": "fan_in"}, "fan_in", "which fan_in does not cover"),
        ({"model_type": "roberta", "configuration": {"is_decoder": True}}, "roberta", "from their padding token's"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(settings: dict[str, Any], at: str, words: str, tmp_path: Path) -> None:
    declared = {**yaml.safe_load(TEXT)["model"]["language_model"], "initialisation": "transformers", **settings}
    line, message = told(tmp_path, {LANGUAGE: declared})
    assert line.startswith(at) and words in message


def test_a_document_may_be_as_long_as_positions_are_turned_one_way(tmp_path: Path) -> None:
    """Phi-3 with 128k tokens turns all positions of a row otherwise if one of its documents is longer than the context it began with."""
    language_model = {**yaml.safe_load(TEXT)["model"]["language_model"], "model_type": "phi3", "configuration": PHI3}
    experiment = load_study(write_experiment(tmp_path, TEXT)).trials[0].experiment
    settings = experiment.model.language_model.model_copy(update={"model_type": "phi3", "configuration": PHI3})
    assert context_length(settings) == known_context_length(settings) == 64
    with pytest.raises(FileErrors, match="has a context of 64"):
        preflight(write_experiment(tmp_path, yaml.safe_dump(set_in(LANGUAGE, language_model))))


SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("model_type", "configuration", "words"),
    [
        ("falcon_h1", {}, "layers of the kind hybrid"),
        ("jamba", {"num_hidden_layers": 9}, "layers of the kind linear_attention"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "layers of the kind conv"),
        ("llama4_text", {}, "layers of the kind chunked_attention"),
        ("bert", None, "attention to later tokens"),
        ("mbart", None, "take no position_ids"),
        ("nemotron", {}, "does not pass on which documents are packed"),
        ("doge", {}, "an attention mask of its own"),
    ],
)
def test_models_that_packed_documents_would_be_mixed_by_are_refused(
    model_type: str, configuration: dict[str, Any] | None, words: str, tmp_path: Path
) -> None:
    settings = {"model_type": model_type, "configuration": {} if configuration is None else {**SMALL, **configuration}}
    line, message = told(tmp_path, {LANGUAGE: {**yaml.safe_load(TEXT)["model"]["language_model"], **settings}})
    assert line.startswith(model_type) and words in message and message.endswith("choose another kind of model")


def test_a_local_model_whose_configuration_changed_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mm1_ablate.model.profiler import count_parameters

    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "ours" / "config.json"
    config.parent.mkdir()
    path = write_experiment(
        tmp_path,
        TEXT.replace(TEXT[TEXT.index("    model_type: phi") : TEXT.index("training:")], "    name: ./ours\n    tokenizer: miniature\n"),
    )

    def of(**changed: Any) -> int:
        config.write_text(
            json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1024, **LLAMA, **changed})
        )
        (arm,) = preflight(path).arms
        return count_parameters(arm.experiment)["language_model"]

    narrow = of()
    assert of(num_hidden_layers=3) > narrow and of() == narrow
    with pytest.raises(FileErrors, match="heads"):
        of(num_attention_heads=5)


def test_a_passed_check_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path / "cache"))
    path = write_experiment(tmp_path, TEXT)
    program = (
        "import sys\nfrom mm1_ablate.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    run = [subprocess.run([sys.executable, "-c", program, "validate", str(path)], capture_output=True, text=True) for _ in range(2)]
    assert [done.stdout.splitlines()[-1:] for done in run] == [["['torch', 'transformers']"], ["[]"]], run[0].stderr
