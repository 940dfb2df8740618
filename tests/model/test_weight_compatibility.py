"""What the files beside weights say of their encoder, in the order in which they are believed; and contradictions word for word."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from timm.layers import QuickGELU
from torch import nn

from mm1_ablate.config.local_path import WEIGHTS
from mm1_ablate.config.settings import SettingError
from mm1_ablate.model.weight_compatibility import _recorded_in, check_weight_compatibility

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def said(folder: Path, **files: Any) -> dict[str, Any]:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return _recorded_in(str(folder))


def test_a_folder_that_says_nothing_is_asked_for_nothing(tmp_path: Path) -> None:
    assert said(tmp_path) == dict.fromkeys(("normalisation", "heads", "epsilon", "quick_gelu"))


def test_transformers_files_come_first_then_openclips_then_timms(tmp_path: Path) -> None:
    one, two, three = ((number,) * 3 for number in (0.1, 0.2, 0.3))
    timm = {"architecture": "x", "model_args": {"num_heads": 3}, "pretrained_cfg": {"mean": one, "std": two}}
    assert said(tmp_path, config=timm) == {"normalisation": (one, two), "heads": 3, "epsilon": None, "quick_gelu": None}
    tower = {"width": 256, "head_width": 32}
    open_clip = {"model_cfg": {"quick_gelu": True, "vision_cfg": tower}, "preprocess_cfg": {"mean": 0.2, "std": three}}
    found = said(tmp_path, open_clip_config=open_clip)
    assert found == {"normalisation": (two, three), "heads": 8, "epsilon": None, "quick_gelu": True}
    found = said(tmp_path, processor_config={"image_processor": {"image_mean": three, "image_std": 0.1}})
    assert found["normalisation"] == (three, one)
    found = said(tmp_path, preprocessor_config={"image_mean": one, "image_std": one})
    assert found["normalisation"] == (one, one)
    found = said(tmp_path, preprocessor_config={"do_normalize": False, "image_mean": one, "image_std": one})
    assert found["normalisation"] == ((0, 0, 0), (1, 1, 1))
    clip = {"model_type": "clip_vision_model", "num_attention_heads": 6, "layer_norm_eps": 1e-3, "hidden_act": "gelu"}
    found = said(tmp_path, config=clip)
    assert found == {"normalisation": ((0, 0, 0), (1, 1, 1)), "heads": 6, "epsilon": 1e-3, "quick_gelu": False}


def test_what_openclip_leaves_out_is_its_default_and_towers_of_timm_are_timms(tmp_path: Path) -> None:
    assert said(tmp_path, open_clip_config={"model_cfg": {"vision_cfg": {"width": 768}}})["heads"] == 12
    tower = {"width": 768, "timm_model_name": "vit"}
    found = said(tmp_path, open_clip_config={"model_cfg": {"quick_gelu": True, "vision_cfg": tower}, "preprocess_cfg": {"mean": 0.5}})
    assert found == dict.fromkeys(found)
    assert said(tmp_path, config={"mean": 0.5, "std": 0.5})["normalisation"] == HALF, "flat, as timm wrote it once"
    assert said(tmp_path, config={"model_type": "that-nobody-knows"})["heads"] is None


@pytest.mark.parametrize(("field", "value"), [("num_attention_heads", 5), ("hidden_size", "wide")])
def test_a_configuration_that_transformers_refuses_is_told_at_the_weights(field: str, value: Any, tmp_path: Path) -> None:
    """Class and field checks of transformers raise types of their own."""
    with pytest.raises(SettingError) as caught:
        said(tmp_path, config={"model_type": "clip_vision_model", field: value})
    assert caught.value.at == "weights" and "\n" not in caught.value.message
    assert caught.value.message.startswith(f"{tmp_path}/config.json cannot be read: ")
    assert str(value) in caught.value.message


def encoder(heads: int = 2, epsilon: float = 1e-6, quick: bool = False) -> Any:
    act = QuickGELU() if quick else nn.GELU()
    block = SimpleNamespace(mlp=SimpleNamespace(act=act), attn=SimpleNamespace(num_heads=heads), norm1=SimpleNamespace(eps=epsilon))
    return SimpleNamespace(blocks=[block], pretrained_cfg={"architecture": "vit_base_patch16_clip_224"})


CLIP = {"model_type": "clip_vision_model", "num_attention_heads": 2, "layer_norm_eps": 1e-6, "hidden_act": "gelu"}


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ({}, None),
        ({"epsilon": 1.0005e-6}, None),
        ({"heads": 3}, "is an encoder with 3 heads, and the weights in {} were trained with 2 heads; "),
        (
            {"epsilon": 1.01e-6},
            "is an encoder with norms of epsilon 1.01e-06, and the weights in {} were trained with norms of epsilon 1e-06; ",
        ),
        ({"quick": True}, "is an encoder with QuickGELU, and the weights in {} were trained with GELU; "),
    ],
)
def test_an_encoder_that_differs_from_its_weights_is_refused_by_name(ours: dict[str, Any], words: str | None, tmp_path: Path) -> None:
    said(tmp_path, config=CLIP)
    lone, listed = tmp_path / "lone.pth", tmp_path / WEIGHTS[0]
    for path in (lone, listed):
        path.write_bytes(b"")
    for path in (tmp_path, listed):
        if words is None:
            check_weight_compatibility(encoder(**ours), HALF, str(path))
            continue
        with pytest.raises(SettingError) as caught:
            check_weight_compatibility(encoder(**ours), HALF, str(path))
        assert caught.value.at == "name"
        assert caught.value.message == f"{words.format(tmp_path)}name the encoder that they belong to"
    check_weight_compatibility(encoder(**ours), HALF, str(lone))  # what is beside a file of another name need not be of it


def test_weights_of_another_normalisation_name_an_encoder_that_has_theirs(tmp_path: Path) -> None:
    said(tmp_path, preprocessor_config={"image_mean": [0.5, 0.5, 0.5009], "image_std": 0.5})
    check_weight_compatibility(encoder(), HALF, str(tmp_path))
    said(
        tmp_path, preprocessor_config={"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    )
    theirs = "the mean 0.481455, 0.457827, 0.408211 and the deviation 0.26863, 0.261303, 0.275777"
    begins = (
        f"normalises images with the mean 0.5, 0.5, 0.5 and the deviation 0.5, 0.5, 0.5, and the weights in {tmp_path} were trained with "
    )
    with pytest.raises(SettingError) as caught:
        check_weight_compatibility(encoder(), HALF, str(tmp_path))
    message = caught.value.message
    assert message.startswith(f"{begins}{theirs}; name an encoder with those, such as vit_base_patch16_clip_224."), message
    said(tmp_path, preprocessor_config={"image_mean": 0.5, "image_std": 0.25})
    for architecture, what in (("vit_base_patch16_clip_224", "vit_base_patch16_clip_224"), (None, "such encoder")):
        ours = encoder()
        ours.pretrained_cfg = {"architecture": architecture} if architecture else None
        with pytest.raises(SettingError) as caught:
            check_weight_compatibility(ours, HALF, str(tmp_path))
        ends = f"the mean 0.5, 0.5, 0.5 and the deviation 0.25, 0.25, 0.25; timm has no {what} with those"
        assert (caught.value.at, caught.value.message) == ("name", begins + ends)
