"""Every connector gives the declared image tokens, from any grid that can."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from spec_files import EXPERIMENT, pointed_at, write_experiment
from tiny import tiny_experiment

from mm1_ablate.model.grid import to_grid, to_tokens
from mm1_ablate.model.multimodal import build
from mm1_ablate.spec.expansion import FileErrors, load_experiment
from mm1_ablate.spec.experiment import Connector
from mm1_ablate.spec.settings import component_types

TYPES = component_types("mm1_ablate.model.connectors")


def make(name: str, image_tokens: int) -> Connector:
    small = {"hidden": 16, "depth": 1} if name == "c_abstractor" else {}
    return TYPES[name].model_validate({"type": name, "image_tokens": image_tokens, **small})


def test_the_three_connectors_of_the_paper_are_there():
    assert {"average_pool", "attention_pool", "c_abstractor"} <= set(TYPES)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(("side", "image_tokens"), [(4, 4), (4, 16), (9, 4), (6, 9)])
def test_a_connector_gives_the_declared_tokens_or_says_which_it_could(name, side, image_tokens):
    settings = make(name, image_tokens)
    try:
        settings.check_grid(side)
    except ValueError as error:
        assert str(side * side) in str(error)
        return
    module = settings.build(encoder_width=24, grid_side=side, language_width=20)
    patches = torch.randn(3, side * side, 24, requires_grad=True)
    tokens = module(patches)
    assert tokens.shape == (3, image_tokens, 20)
    tokens.square().sum().backward()
    assert patches.grad is not None and (patches.grad.abs().sum((1, 2)) > 0).all()


@pytest.mark.parametrize("name", ["attention_pool", "perceiver_resampler"])
def test_queries_take_any_number_of_tokens(name):
    assert make(name, 5).build(24, 3, 20)(torch.randn(2, 9, 24)).shape == (2, 5, 20)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_token_for_each_patch_cannot_be_another_number(name):
    make(name, 16).check_grid(4)
    with pytest.raises(ValueError, match="gives 576 image tokens, not 144"):
        make(name, 144).check_grid(24)


def test_pixel_shuffle_refuses_a_grid_that_it_cannot_cut():
    make("pixel_shuffle", 81).check_grid(27)
    with pytest.raises(ValueError, match="it can for 1, 9, 81, 729"):
        make("pixel_shuffle", 144).check_grid(27)


def test_pixel_shuffle_puts_neighbouring_patches_into_one_token():
    module = make("pixel_shuffle", 4).build(1, 4, 4)
    gathered = module.gather(to_grid(torch.arange(16.0).view(1, 16, 1)))
    assert to_tokens(gathered)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("name", ["average_pool", "c_abstractor", "pixel_shuffle"])
def test_pooling_refuses_tokens_that_are_no_square(name):
    with pytest.raises(ValueError, match="nearest are 4 and 9"):
        make(name, 5)


@pytest.mark.parametrize("name", ["average_pool", "c_abstractor", "pixel_shuffle"])
def test_pooling_refuses_more_tokens_than_patches(name):
    with pytest.raises(ValueError, match="at most 16"):
        make(name, 25).check_grid(4)


def test_average_pool_keeps_places_apart():
    module = make("average_pool", 4).build(2, 4, 2)
    with torch.no_grad():
        module.project.weight.copy_(torch.eye(2))
        module.project.bias.zero_()
        grid = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 2, 4, 4)
        pooled = module(to_tokens(grid))[0, :, 0]
    assert pooled.tolist() == [2.5, 4.5, 10.5, 12.5]


def test_grid_and_tokens_are_inverse():
    patches = torch.randn(2, 9, 5)
    assert torch.equal(to_tokens(to_grid(patches)), patches)


@pytest.mark.parametrize("name", ["attention_pool", "perceiver_resampler"])
def test_heads_must_divide_the_encoders_width_when_the_file_is_read(name: str, tmp_path: Path):
    text = EXPERIMENT.replace("{type: average_pool, image_tokens: 4}", f"{{type: {name}, image_tokens: 4, heads: 5}}")
    with pytest.raises(FileErrors) as caught:
        load_experiment(write_experiment(tmp_path, text))
    (problem,) = caught.value.problems
    assert pointed_at(problem).startswith("5}") and "the encoder's width, 96, is not a multiple of 5 heads" in problem.message
    assert make(name, 4).build(40, 2, 8)(torch.randn(1, 4, 40)).shape == (1, 4, 8)


# ---------------------------------------------------------------- a user's own
@pytest.fixture
def own_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The connector that CONTRIBUTING.md shows, in a package of the user's own, with a setting and a check."""
    (shown,) = re.findall(r"```python\n(.*?)```", Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text(), re.DOTALL)
    shown = shown.replace(
        '    type: Literal["mean"] = "mean"\n',
        "    scale: float = 1.0\n\n    def check_grid(self, side: int) -> None:\n"
        "        if self.image_tokens >= side * side:\n            raise ValueError(f'fewer than {side * side} tokens, please')\n",
    )
    (tmp_path / "our_lab").mkdir()
    (tmp_path / "our_lab" / "connectors.py").write_text(shown)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "our_lab.connectors.Mean"


def test_a_connector_of_ones_own_is_declared_checked_and_trained(own_connector: str, tmp_path: Path):
    def declare(settings: str) -> Path:
        text = EXPERIMENT.replace("{type: average_pool, image_tokens: 4}", f"{{type: {own_connector}, {settings}}}")
        return write_experiment(tmp_path, text)

    def problem(settings: str) -> tuple[str, str]:
        with pytest.raises(FileErrors) as caught:
            load_experiment(declare(settings))
        (found,) = caught.value.problems
        return pointed_at(found), found.message

    assert load_experiment(declare("image_tokens: 4, scale: 2")).model.connector.scale == 2
    at, message = problem("image_tokens: 4, scale: large")
    assert at.startswith("large}") and "a number" in message
    at, message = problem("image_tokens: 4, scael: 2")
    assert at.startswith("scael") and "unknown key; expected one of" in message and "scale" in message
    at, message = problem("image_tokens: 16")
    assert at.startswith("16}") and "fewer than 16 tokens, please" in message
    model = build(tiny_experiment({"model.connector": {"type": own_connector, "image_tokens": 3}}), 0)
    tokens = model.encode_images(torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8))
    assert tokens.shape == (2, 3, 32) and torch.equal(tokens[:, 0], tokens[:, 2])
    tokens.sum().backward()
    assert model.connector.project.weight.grad is not None
