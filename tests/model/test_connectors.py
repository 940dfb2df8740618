"""Every connector gives the declared image tokens, from any grid that can."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from config_files import EXPERIMENT, load_experiment, pointed_at, write_experiment
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from tiny import tiny_experiment
from torch import nn
from torch.nn.functional import gelu
from transformers import InternVLConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector

from mm1_ablate.config.connector import Connector
from mm1_ablate.config.settings import component_types
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.model.grid import to_grid, to_tokens
from mm1_ablate.model.multimodal import build

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


# ---------------------------------------------------------------- as they were published
def test_the_c_abstractor_is_honeybees_for_the_same_weights() -> None:
    """In Honeybee: a position embedding, `net` of two stages with a pooling between them, `readout`."""
    stage = partial(RegStage, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
    net = nn.Sequential(stage(2, 24, 16), nn.AdaptiveAvgPool2d((4, 4)), stage(2, 16, 16))
    readout = nn.Sequential(nn.Linear(16, 20), nn.SiLU(), nn.Linear(20, 20))
    places = torch.randn(1, 81, 24)
    ours = TYPES["c_abstractor"].model_validate({"type": "c_abstractor", "image_tokens": 16, "hidden": 16, "depth": 2}).build(24, 9, 20)
    state = {"positions": places[0]}
    for theirs, mine in ((net[0], "before"), (net[2], "after"), (readout, "project")):
        state |= {f"{mine}.{name}": value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(state)
    patches = torch.randn(3, 81, 24)
    expected = readout(net((patches + places).transpose(1, 2).reshape(3, 24, 9, 9)).flatten(2).transpose(1, 2))
    torch.testing.assert_close(ours(patches), expected)


def test_the_c_abstractor_of_mm1s_base_has_honeybees_size() -> None:
    """Three blocks before and after, of 1024 channels, for a ViT-L and a language model of width 4096."""
    with torch.device("meta"):
        module = TYPES["c_abstractor"].model_validate({"type": "c_abstractor"}).build(1024, 24, 4096)
        stage = partial(RegStage, 3, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
        parts = [stage(1024, 1024), stage(1024, 1024), nn.Linear(1024, 4096), nn.Linear(4096, 4096)]
    numbers = [sum(parameter.numel() for parameter in part.parameters()) for part in (module, *parts)]
    assert numbers[0] == sum(numbers[1:]) + 24 * 24 * 1024


def test_pixel_shuffle_is_internvls_for_the_same_weights_but_for_the_order_of_channels() -> None:
    config = InternVLConfig(
        vision_config={"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
        text_config={"model_type": "qwen2", "hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9},
        projector_hidden_act="gelu",
        downsample_ratio=0.5,
    )
    theirs, ours = InternVLMultiModalProjector(config), make("pixel_shuffle", 4).build(6, 4, 20)
    patches = torch.randn(3, 16, 6)
    gathered = InternVLModel.pixel_shuffle(None, patches.reshape(3, 4, 4, 6), 0.5).reshape(3, 4, 24)
    assert torch.equal(gathered, Idefics3Connector.pixel_shuffle(None, patches, 2))  # which nanoVLM has too
    mine = to_tokens(ours.gather(to_grid(patches)))
    order = [int((gathered == mine[..., channel, None]).all((0, 1)).nonzero()) for channel in range(24)]
    assert sorted(order) == list(range(24)) and torch.equal(mine, gathered[..., order])
    norm, first, _, second = ours.project
    for target, source in ((norm, theirs.layer_norm), (first, theirs.linear_1), (second, theirs.linear_2)):
        target.load_state_dict(source.state_dict())
    with torch.no_grad():
        norm.weight.copy_(theirs.layer_norm.weight[order])
        norm.bias.copy_(theirs.layer_norm.bias[order])
        first.weight.copy_(theirs.linear_1.weight[:, order])
    torch.testing.assert_close(ours(patches), theirs(gathered))


def test_the_perceiver_resampler_is_flamingos_for_the_same_weights() -> None:
    """Flamingo's, as OpenFlamingo has it: no biases, no places, no projection."""
    width, heads, tokens = 24, 3, 5
    settings = {"type": "perceiver_resampler", "image_tokens": tokens, "heads": heads, "depth": 2}
    ours = TYPES["perceiver_resampler"].model_validate(settings).build(width, 3, width)
    with torch.no_grad():
        ours.positions.zero_()
        ours.project.weight.copy_(torch.eye(width))
        ours.project.bias.zero_()
        for layer in ours.layers:
            for part in (layer.attention.out_proj, layer.feed_forward[1], layer.feed_forward[3]):
                part.bias.zero_()
            layer.attention.in_proj_bias.zero_()
    patches = torch.randn(2, 9, width)

    def split(values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(-1, (heads, -1)).transpose(1, 2)

    latents = ours.latents.expand(2, -1, -1)
    for layer in ours.layers:
        queries = layer.norm_latents(latents)
        both = torch.cat([layer.norm_patches(patches), queries], 1)
        to_queries, to_keys, to_values = layer.attention.in_proj_weight.chunk(3)
        shares = split(queries @ to_queries.T) @ split(both @ to_keys.T).mT * (width // heads) ** -0.5
        read = (shares.softmax(-1) @ split(both @ to_values.T)).transpose(1, 2).flatten(2)
        latents = latents + read @ layer.attention.out_proj.weight.T
        norm, first, _, second = layer.feed_forward
        latents = latents + gelu(norm(latents) @ first.weight.T) @ second.weight.T
    torch.testing.assert_close(ours(patches), ours.norm(latents), atol=1e-5, rtol=1e-5)


def test_the_attention_pool_reads_every_patch_and_tells_places_apart() -> None:
    module = make("attention_pool", 3).build(24, 4, 20)
    patches = torch.randn(1, 16, 24)
    assert not torch.allclose(module(patches), module(patches.flip(1)))
    with torch.no_grad():
        module.positions.zero_()
    torch.testing.assert_close(module(patches), module(patches.flip(1)))


@pytest.mark.parametrize("name", sorted(set(TYPES) - {"linear", "mlp", "pixel_shuffle"}))
def test_at_378_pixels_a_grid_of_27_by_27_becomes_144_tokens(name: str) -> None:
    settings = TYPES[name].model_validate({"type": name})
    settings.check_grid(27)
    with torch.device("meta"):
        module, patches = settings.build(1280, 27, 2048), torch.zeros(2, 729, 1280)
        assert module(patches).shape == (2, 144, 2048)


# ---------------------------------------------------------------- where the modules are
@pytest.mark.parametrize("name", TYPES)
def test_a_connector_can_be_pickled_and_its_module_stands_at_the_top_of_a_file(name: str) -> None:
    module = make(name, 16).build(24, 4, 20).eval()
    again = pickle.loads(pickle.dumps(module))
    patches = torch.randn(2, 16, 24)
    assert torch.equal(module(patches), again(patches))
    for part in module.modules():
        assert "<locals>" not in type(part).__qualname__


def test_connectors_are_declared_without_torch() -> None:
    code = (
        "import sys\n"
        "from mm1_ablate.config.settings import component_types\n"
        "found = component_types('mm1_ablate.model.connectors')\n"
        "assert 'c_abstractor' in found and not any(name.startswith('_') for name in found), found\n"
        "sys.exit(', '.join({'torch', 'timm', 'transformers'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- a user's own
def shown_in_contributing() -> list[str]:
    """The blocks of Python under CONTRIBUTING.md's heading about connectors: settings, then the torch module where it has its own file."""
    text = Path(__file__).parents[2].joinpath("CONTRIBUTING.md").read_text()
    sections = re.split(r"^#{2,3} ", text, flags=re.MULTILINE)
    (section,) = [part for part in sections if "connector" in part.partition("\n")[0]]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def own_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The connector that CONTRIBUTING.md shows, in a package of the user's own, with a setting and a check."""
    settings, *modules = (text.replace("mm1_ablate.model.connectors.", "our_lab.") for text in shown_in_contributing())
    settings = settings.replace(
        '    type: Literal["mean"] = "mean"\n',
        "    scale: float = 1.0\n\n    def check_grid(self, side: int) -> None:\n"
        "        if self.image_tokens >= side * side:\n            raise ValueError(f'fewer than {side * side} tokens, please')\n",
    )
    (tmp_path / "our_lab").mkdir()
    (tmp_path / "our_lab" / "connectors.py").write_text(settings)
    for text in modules:
        (tmp_path / "our_lab" / "_mean.py").write_text(text)
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
