"""Components: found by type, validated in place, lists of them open to a user's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from config_files import EXPERIMENT, load_experiment, pointed_at, write_experiment
from pydantic import ValidationError

from mm1_ablate.config.connector import Connector
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.image_encoder import VisionTransformer
from mm1_ablate.config.paths import plain
from mm1_ablate.config.settings import ComponentOf, Settings, UnknownType, find_component
from mm1_ablate.config.yaml_file import FileErrors


class Holder(Settings):
    connector: Annotated[Connector, ComponentOf("mm1_ablate.model.connectors")]


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("own_lab", "broken_lab"):  # what other tests have imported under these names
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "own_lab.py").write_text(
        "from mm1_ablate.config.data import Source\n"
        "from mm1_ablate.config.connector import Connector\n"
        "class Mixer(Connector):\n    layers: int = 2\n"
        "class Files(Source):\n    folder: str\n"
        "class Plain:\n    pass\n"
    )
    (tmp_path / "broken_lab.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_lab"


def test_a_component_is_found_by_the_name_of_its_file() -> None:
    holder = Holder.model_validate({"connector": {"type": "attention_pool", "image_tokens": 9}})
    assert type(holder.connector).__name__ == "AttentionPool" and holder.connector.image_tokens == 9
    assert Holder.model_validate({"connector": "attention_pool"}).connector.type == "attention_pool"


def test_an_unknown_type_lists_the_types_and_the_nearest() -> None:
    with pytest.raises(UnknownType) as caught:
        find_component("mm1_ablate.model.connectors", "atention_pool")
    assert "average_pool" in caught.value.message and "attention_pool" in caught.value.hint


def test_a_class_of_the_users_own_is_validated_the_same_way(own_package: str) -> None:
    holder = Holder.model_validate({"connector": {"type": f"{own_package}.Mixer", "layers": 5}})
    assert plain(holder) == {"connector": {"type": "own_lab.Mixer", "layers": 5}}
    with pytest.raises(ValidationError, match="layrs"):
        Holder.model_validate({"connector": {"type": f"{own_package}.Mixer", "layrs": 5}})


@pytest.mark.parametrize(
    ("type_name", "message"),
    [
        ("own_lab.Nothing", "cannot import"),
        ("own_lab.Plain", "not a subclass"),
        ("own_lab.Files", "not a subclass of mm1_ablate.config.connector.Connector"),
        ("broken_lab.Mixer", "no licence"),
        ("no_such_lab.Mixer", "cannot import"),
        ("..", "cannot import"),
    ],
)
def test_a_class_that_cannot_be_used_says_why(own_package: str, type_name: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Holder.model_validate({"connector": {"type": type_name, **({"folder": "x", "data_type": "text"} if "Files" in type_name else {})}})


def test_errors_inside_a_component_stand_at_its_own_keys(tmp_path: Path) -> None:
    text = EXPERIMENT.replace(" image_tokens: 4}", " image_tokens: few, tokens: 3}").replace("content: alt_text", "content: alt_txt")
    with pytest.raises(FileErrors) as caught:
        load_experiment(write_experiment(tmp_path, text))
    assert [(problem.path, pointed_at(problem)) for problem in caught.value.problems] == [
        ("data.sources.alt_text.content", "alt_txt}"),
        ("model.connector.image_tokens", "few, tokens: 3}"),
        ("model.connector.tokens", "tokens: 3}"),
    ]
    assert "did you mean 'alt_text'?" in caught.value.problems[0].hint


def test_an_experiment_survives_dumping_and_validating(tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(tmp_path))
    for tree in (experiment.model_dump(mode="json"), experiment.model_dump(mode="json", exclude_unset=True), plain(experiment)):
        assert Experiment.model_validate(tree) == experiment
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        (("image_size: 48", "image_size: 50"), "model.image_encoder.image_size", "50 is not a multiple of the patches per side, 4"),
        (
            ("patches_per_side: 4", "patches_per_side: 4\n    patch_size: 12"),
            "model.image_encoder",
            "either patch_size or patches_per_side",
        ),
        ((" image_tokens: 4}", " image_tokens: 5}"), "model.connector.image_tokens", "the nearest are 4 and 9"),
        ((" image_tokens: 4}", " image_tokens: 25}"), "model.connector.image_tokens", "grid of 4 x 4 patches; at most 16"),
        (("warmup_steps: 30", "warmup_steps: 500"), "training.warmup_steps", "fewer than the 500 steps"),
        (("captioned: 45, interleaved: 45, text: 10", "captioned: 0"), "data.mixture", "every weight is zero"),
        (("captioned: 45, interleaved: 45, text: 10", "captoned: 1"), "data.mixture.captoned", "unknown key"),
        (("{type: muon}", "{type: mun}"), "training.optimizer.type", "expected 'adamw' or 'muon'"),
        (("{type: muon}", "{learning_rate: 1}"), "training.optimizer", "a mapping with a 'type'"),
        (
            ("{type: muon}", "{type: adamw, learning_rate: fast}"),
            "training.optimizer.learning_rate",
            "expected a number above 0, or 'mm1', not 'fast'",
        ),
        (("{type: muon}", "{type: adamw, betas: [0.9, 1.5]}"), "training.optimizer.betas[1]", "below 1"),
        (("miniature_vqa", "miniature_vqs"), "evaluation.tasks[1]", "there is no task 'miniature_vqs'"),
        (("    text: {type: miniature, data_type: text, content: text}\n", ""), "data.mixture.text", "no source feeds it"),
        (("  packing:", "  when_removed: {fill: text}\n  packing:"), "data.when_removed.fill", "unknown key"),
        (
            ("  packing:", "  when_removed: shrnk\n  packing:"),
            "data.when_removed",
            "'renormalise' or 'shrink', or a mapping with fill_with",
        ),
        (("steps: 500", "steps: -5"), "training.steps", "expected a whole number above 0, not -5"),
        (("model_type: phi", "name: x\n    model_type: phi"), "model.language_model", "either name"),
    ],
)
def test_mistakes_in_an_experiment_are_plain_and_in_their_place(tmp_path: Path, change: tuple[str, str], path: str, message: str) -> None:
    assert change[0] in EXPERIMENT
    with pytest.raises(FileErrors) as caught:
        load_experiment(write_experiment(tmp_path, EXPERIMENT.replace(*change, 1)))
    problem = next(problem for problem in caught.value.problems if problem.path == path)
    assert message in problem.message and problem.line > 1


def test_a_grid_of_patches_has_the_side_that_is_declared() -> None:
    assert VisionTransformer(image_size=224, patch_size=14).grid_side == 16
    assert VisionTransformer(image_size=16, patches_per_side=4).grid_side == 4


def test_reading_a_sweep_imports_nothing_heavy(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    (tmp_path / "sweep.yaml").write_text(
        "sweep: small\nexperiment: experiment.yaml\nablations: {a: {alter: {model.connector.type: c_abstractor}}}\n"
    )
    code = (
        "import sys; from pathlib import Path; from mm1_ablate.config.sweep.expand import load_study; import mm1_ablate.commands.init;"
        f"load_study(Path({str(tmp_path / 'sweep.yaml')!r}));"
        "print([name for name in ('torch', 'pandas', 'ray', 'transformers', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]"
