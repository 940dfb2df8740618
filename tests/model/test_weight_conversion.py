"""State dicts of other models and other resolutions: names by a table, places by interpolation, and what does not fit in words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mm1_ablate.model.weight_conversion import resample_positions, state_dict_mismatch, to_timm_names


class Tower(nn.Module):
    """An encoder with so many prefix tokens of a place in its table, and patches of a size."""

    def __init__(self, height: int, width: int, prefix: int, patch: int = 2) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(1, 2, patch)
        self.patch_embed.grid_size = (height, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, prefix + height * width, 3))


class Connector(nn.Module):
    def __init__(self, places: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(places, 3))


def model(tower: Tower, places: int = 4) -> nn.Module:
    return nn.ModuleDict({"vision": tower, "connector": Connector(places)})


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def interpolated(places: Tensor, old: int, new: int) -> Tensor:
    """[old * old, width] to [new * new, width]: bicubic and antialiased."""
    grid = places.T.reshape(1, -1, old, old)
    return interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False).flatten(2)[0].T


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize(("old", "new"), [(2, 3), (4, 3)])
def test_places_go_to_another_grid_and_prefix_tokens_stay_as_they_are(prefix: int, old: int, new: int) -> None:
    kept = drawn(1, prefix + old * old, 3)
    found = resample_positions({"vision.pos_embed": kept}, model(Tower(new, new, prefix)))["vision.pos_embed"]
    assert found.shape == (1, prefix + new * new, 3) and torch.equal(found[:, :prefix], kept[:, :prefix])
    torch.testing.assert_close(found[0, prefix:], interpolated(kept[0, prefix:], old, new))


def test_positions_of_a_connector_are_all_of_places() -> None:
    kept = drawn(4, 3)
    found = resample_positions({"connector.positions": kept}, model(Tower(2, 2, 1), 9))
    torch.testing.assert_close(found["connector.positions"], interpolated(kept, 2, 3))


@pytest.mark.parametrize(
    ("old", "height", "width", "prefix", "message"),
    [
        (7, 3, 3, 1, "7 positions, 1 of them of prefix tokens, are not a square grid"),
        (9, 2, 2, 1, "9 positions, 1 of them of prefix tokens, are not a square grid"),
        # Nine places, but the grid that they are to go to is no square.
        (11, 2, 3, 2, "8 positions, 2 of them of prefix tokens, are not a square grid"),
        (4, 2, 3, 0, "6 positions, 0 of them of prefix tokens, are not a square grid"),
    ],
)
def test_places_that_are_no_square_are_refused_by_their_name(old: int, height: int, width: int, prefix: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        resample_positions({"vision.pos_embed": torch.zeros(1, old, 3)}, model(Tower(height, width, prefix)))
    assert str(caught.value) == f"vision.pos_embed: {message}"
    with pytest.raises(ValueError, match=r"^connector\.positions: 5 positions, 0 of them of prefix tokens, are not a square grid$"):
        resample_positions({"connector.positions": torch.zeros(5, 3)}, model(Tower(2, 2, 0), 9))


def test_a_resampled_kernel_sees_in_an_enlarged_patch_what_it_saw_in_the_patch() -> None:
    """What the pseudo-inverse is for (Beyer et al. 2023, section 3.4)."""
    kept, patch = drawn(2, 1, 2, 2), drawn(1, 1, 2, 2)
    found = resample_positions({"vision.patch_embed.proj.weight": kept}, model(Tower(2, 2, 0, patch=4)))["vision.patch_embed.proj.weight"]
    assert found.shape == (2, 1, 4, 4)
    enlarged = interpolate(patch, (4, 4), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close((found * enlarged).sum((1, 2, 3)), (kept * patch).sum((1, 2, 3)), atol=1e-4, rtol=1e-4)


def test_what_is_of_no_place_or_of_no_part_of_the_model_is_handed_on_as_it_is() -> None:
    state = {
        "vision.patch_embed.proj.bias": torch.zeros(5),
        "vision.pos_embed": torch.zeros(16, 3),
        "connector.positions": torch.zeros(1, 16, 3),
        "vision.patch_embed.proj.weight": torch.zeros(2, 9),
        "elsewhere.pos_embed": torch.zeros(1, 7, 3),
    }
    found = resample_positions(state, model(Tower(2, 2, 0)))
    assert found.keys() == state.keys() and all(found[name] is value for name, value in state.items())


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({"a": (2, 3), "b": (4,)}, ""),
        ({"a": (2, 3)}, "b is not there"),
        ({"a": (2, 3), "b": (4,), "c": (1,)}, "c is there only"),
        ({"a": (3, 2), "b": (4,)}, "a has the shape [3, 2] there and [2, 3] here"),
        ({"a": (3, 2), "c": (1,)}, "c is there only, and 2 more"),
        ({"a": (3, 2)}, "b is not there, and 1 more"),
    ],
)
def test_what_of_a_state_dict_does_not_fit_is_told_by_its_first_and_how_many_more(there: dict[str, tuple[int, ...]], words: str) -> None:
    assert state_dict_mismatch(there, {"a": (2, 3), "b": (4,)}) == words


@pytest.mark.parametrize("prefix", ["", "vision_model.", "model.vision_tower."])
def test_a_vision_tower_of_transformers_gets_timms_names(prefix: str) -> None:
    theirs = {
        "embeddings.class_embedding": drawn(4),
        "embeddings.position_embedding.weight": drawn(5, 4),
        "embeddings.patch_embedding.weight": drawn(4, 3, 2, 2),
        "embeddings.position_ids": torch.arange(5),
        "pre_layrnorm.weight": drawn(4),
        "encoder.layers.11.self_attn.v_proj.weight": drawn(4, 4) + 2,
        "encoder.layers.11.self_attn.k_proj.weight": drawn(4, 4) + 1,
        "encoder.layers.11.self_attn.q_proj.weight": drawn(4, 4),
        "encoder.layers.11.self_attn.out_proj.bias": drawn(4),
        "encoder.layers.11.layer_norm2.bias": drawn(4),
        "encoder.layers.11.mlp.fc1.weight": drawn(8, 4),
        "post_layernorm.weight": drawn(4),
    }
    others = {f"{prefix}head.probe": drawn(1, 1, 4), "text_model.encoder.layers.0.mlp.fc1.weight": drawn(8, 4)}
    found = to_timm_names({f"{prefix}{name}": value for name, value in theirs.items()} | others)
    qkv = torch.cat([theirs[f"encoder.layers.11.self_attn.{part}_proj.weight"] for part in "qkv"])
    expected = {
        "cls_token": theirs["embeddings.class_embedding"][None, None],
        "pos_embed": theirs["embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": theirs["embeddings.patch_embedding.weight"],
        "norm_pre.weight": theirs["pre_layrnorm.weight"],
        "blocks.11.attn.qkv.weight": qkv,
        "blocks.11.attn.proj.bias": theirs["encoder.layers.11.self_attn.out_proj.bias"],
        "blocks.11.norm2.bias": theirs["encoder.layers.11.layer_norm2.bias"],
        "blocks.11.mlp.fc1.weight": theirs["encoder.layers.11.mlp.fc1.weight"],
        "norm.weight": theirs["post_layernorm.weight"],
    }
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    own = {"patch_embed.proj.weight": drawn(1)}
    assert to_timm_names(own) is own
