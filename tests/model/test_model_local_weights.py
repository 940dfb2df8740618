"""Weights of an encoder from local files and folders: of timm, OpenCLIP and transformers, at any resolution, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from config_files import pointed_at
from local_models import CLIP_MEAN, TINY, declared, encoder, pixels
from safetensors.torch import save_file

from mm1_ablate.config.image_encoder import TimmEncoder
from mm1_ablate.config.local_path import WEIGHTS
from mm1_ablate.config.settings import SettingError
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.model.image_encoder import PatchEncoder, build_image_encoder, check_named, load_local
from mm1_ablate.model.preflight import wrong_encoders


def vision_tower(kind: str) -> Any:
    """A tiny CLIP (in whole, or its vision tower) or SigLIP tower of transformers, for images of 32 pixels in patches of 8."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    torch.manual_seed(4)
    if kind == "siglip":
        return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision, hidden_act="gelu"))
    if kind == "clip_vision":
        return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision, layer_norm_eps=1e-6))
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    text |= {"bos_token_id": 1, "eos_token_id": 2}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config={**vision, "layer_norm_eps": 1e-6}))


def of_that_architecture(kind: str, layer: int, side: int = 4) -> PatchEncoder:
    """timm's architecture with the tower's sizes, from scratch."""
    torch.manual_seed(5)
    own = (
        {"class_token": False, "global_pool": "avg", "fc_norm": False}
        if kind == "siglip"
        else {"pre_norm": True, "act_layer": "quick_gelu"}
    )
    vision = timm.models.VisionTransformer(
        img_size=8 * side, patch_size=8, embed_dim=32, depth=4, num_heads=2, mlp_ratio=2, num_classes=0, **own
    )
    return PatchEncoder(vision, CLIP_MEAN, (0.3, 0.3, 0.3), layer).eval()


@pytest.mark.parametrize("kind", ["clip", "clip_vision", "siglip"])
def test_features_are_the_hidden_states_of_transformers_for_the_same_weights(kind: str, tmp_path: Path) -> None:
    theirs = vision_tower(kind).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    tower, images = getattr(theirs, "vision_model", theirs), pixels(32)
    for layer in (-1, -2, -3):
        ours = of_that_architecture(kind, layer)
        load_local(ours, str(tmp_path))
        with torch.no_grad():
            hidden = tower((images - ours.mean) / ours.std, output_hidden_states=True).hidden_states[layer][:, -16:]
            expected = tower.post_layernorm(hidden) if layer == -1 else hidden
            torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)


def test_positions_of_transformers_weights_are_interpolated_as_transformers_does_it(tmp_path: Path) -> None:
    theirs = vision_tower("clip_vision").eval()
    theirs.save_pretrained(tmp_path)
    ours, images = of_that_architecture("clip_vision", -2, side=6), pixels(48)
    load_local(ours, str(tmp_path))
    with torch.no_grad():
        hidden = theirs((images - ours.mean) / ours.std, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states[-2][:, 1:]
    # timm interpolates with another cubic (that of PIL); of positions that are drawn at random, the worst that there are, it is close.
    difference = (ours(images) - hidden).abs()
    assert difference.max() < 0.05 and difference.mean() < 0.01 * hidden.abs().mean()


def test_an_activation_that_is_not_the_weights_own_is_refused(tmp_path: Path) -> None:
    vision_tower("clip_vision").save_pretrained(tmp_path)
    with pytest.raises(SettingError, match=r"name: .*with GELU, and the weights in .* were trained with QuickGELU"):
        encoder = of_that_architecture("clip_vision", -1)
        for block in encoder.vision.blocks:
            block.mlp.act = torch.nn.GELU()
        load_local(encoder, str(tmp_path))


SAID_IN = {
    "CLIPProcessor": ("preprocessor_config.json", lambda mean, std: {"image_mean": mean, "image_std": std}),
    "its newer form": ("processor_config.json", lambda mean, std: {"image_processor": {"image_mean": mean, "image_std": std}}),
    "OpenCLIP": ("open_clip_config.json", lambda mean, std: {"preprocess_cfg": {"mean": mean, "std": std}}),
    "timm": ("config.json", lambda mean, std: {"architecture": "any", "pretrained_cfg": {"mean": mean, "std": std}}),
    "earlier timm": ("config.json", lambda mean, std: {"architecture": "any", "mean": mean, "std": std}),
}
"""How folders say what images were normalised with."""


@pytest.mark.parametrize("form", SAID_IN)
def test_images_are_normalised_as_for_the_local_weights_or_the_name_is_refused(form: str, tmp_path: Path) -> None:
    name, (file, said) = "vit_small_patch16_224", SAID_IN[form]
    whole = timm.create_model(name, img_size=48).state_dict()
    save_file(
        {key: value for key, value in whole.items() if not key.startswith(("head", "norm.")) and ".1" not in key}, tmp_path / WEIGHTS[0]
    )

    def one(name: str, weights: Path = tmp_path) -> TimmEncoder:
        return encoder(name=name, weights=str(weights), feature_layer=-12)

    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    (tmp_path / file).write_text(json.dumps(said(mean, std)))
    for weights in (tmp_path, tmp_path / WEIGHTS[0]):
        with pytest.raises(SettingError, match=rf"name: .*0\.5, 0\.5, 0\.5.*0\.485, 0\.456, 0\.406.*such as {name}\.dino") as caught:
            check_named(one(name, weights))
    assert "0.229, 0.224, 0.225" in str(caught.value)
    check_named(one(f"{name}.dino"))
    torch.testing.assert_close(build_image_encoder(one(f"{name}.dino")).mean.flatten(), 255 * torch.tensor(mean))
    (tmp_path / file).write_text(json.dumps(said([0.5] * 3, [0.2] * 3)))
    with pytest.raises(SettingError, match=rf"name: .*timm has no {name} with those"):
        check_named(one(name))
    (tmp_path / file).write_text(json.dumps(said([0.5004] * 3, [0.5] * 3)))
    check_named(one(name))


def test_images_that_were_not_normalised_are_not(tmp_path: Path) -> None:
    save_file(timm.create_model(TINY, img_size=48).state_dict(), tmp_path / WEIGHTS[0])
    said = {"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(SettingError, match=r"name: .*trained with the mean 0, 0, 0 and the deviation 1, 1, 1"):
        check_named(encoder(weights=str(tmp_path)))
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(SettingError, match=r"weights: .*preprocessor_config.json cannot be read"):
        check_named(encoder(weights=str(tmp_path)))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [("num_attention_heads", 4, "2 heads.* 4 heads"), ("layer_norm_eps", 1e-5, "norms of epsilon 1e-06.* norms of epsilon 1e-05")],
)
def test_heads_and_norms_that_are_not_the_weights_own_are_refused(setting: str, value: float, message: str, tmp_path: Path) -> None:
    theirs = vision_tower("clip_vision")
    setattr(theirs.config, setting, value)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(SettingError, match=rf"name: .*{message}"):
        load_local(of_that_architecture("clip_vision", -1), str(tmp_path))


@pytest.mark.parametrize(
    ("file", "said", "message"),
    [
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"width": 64, "head_width": 16}}}, "2 heads.* 4 heads"),
        ("open_clip_config.json", {"model_cfg": {"quick_gelu": True, "vision_cfg": {"width": 64, "head_width": 32}}}, "GELU.*QuickGELU"),
        ("config.json", {"architecture": TINY, "model_args": {"num_heads": 4}, "pretrained_cfg": {}}, "2 heads.* 4 heads"),
    ],
)
def test_what_openclip_and_timm_say_of_the_architecture_is_held_too(file: str, said: Any, message: str, tmp_path: Path) -> None:
    save_file(timm.create_model(TINY, img_size=48).state_dict(), tmp_path / WEIGHTS[0])
    check_named(encoder(weights=str(tmp_path)))
    (tmp_path / file).write_text(json.dumps(said))
    with pytest.raises(SettingError, match=rf"name: .*{message}"):
        check_named(encoder(weights=str(tmp_path)))


@pytest.mark.parametrize("form", ["safetensors", "bin", "pt", "ema", "hub folder", "OpenCLIP"])
def test_weights_are_read_from_the_files_that_people_have(form: str, tmp_path: Path) -> None:
    torch.manual_seed(6)
    kept = timm.create_model(TINY, img_size=64, num_classes=10)
    state, path = kept.state_dict(), tmp_path / f"kept.{form}"
    if form == "safetensors":
        save_file(state, path)
    elif form == "hub folder":
        timm.models.save_for_hf(kept, path, model_config={"num_classes": 10})
    elif form == "OpenCLIP":
        whole = {f"visual.trunk.{name}": value for name, value in state.items()} | {"logit_scale": torch.ones(())}
        path.mkdir()
        save_file(whole, path / "open_clip_model.safetensors")
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}} if form == "ema" else state, path)
    settings = encoder(80, weights=str(path))
    check_named(settings)
    read = build_image_encoder(settings).vision
    theirs = timm.create_model(
        TINY, img_size=80, num_classes=10, pretrained=True, pretrained_cfg_overlay={"file": str(kept_file(state, tmp_path))}
    )
    for name, value in read.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def kept_file(state: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(state, folder / "for_timm.safetensors")
    return folder / "for_timm.safetensors"


def test_weights_that_cannot_be_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit2", img_size=48).state_dict(), tmp_path / "other.pth")
    save_file(
        {name: value.contiguous() for name, value in timm.create_model("test_vit2", img_size=48).state_dict().items()},
        tmp_path / "other.safetensors",
    )
    (tmp_path / "damaged.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-100])
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    (tmp_path / "empty").mkdir()
    cases = {
        "other.pth": "belongs to another encoder",
        "other.safetensors": "belongs to another encoder",
        "damaged.safetensors": "cannot be read as weights",
        "damaged.pth": "cannot be read as weights",
        "empty": "no weights in the folder .*empty; expected one of model.safetensors",
    }
    for name, message in cases.items():
        path = declared(tmp_path, f"{{type: timm, name: test_vit, image_size: 48, patch_size: 16, weights: {name}}}")
        with pytest.raises(FileErrors, match=message) as caught:
            load_study(path, checks=[wrong_encoders])
        (problem,) = caught.value.problems
        assert pointed_at(problem).startswith(name)


@pytest.mark.parametrize("name", ["cait_xxs24_224", "deit_tiny_distilled_patch16_224"])
def test_weights_of_another_resolution_with_class_tokens_of_any_kind(name: str, tmp_path: Path) -> None:
    kept = timm.create_model(name)
    torch.save(kept.state_dict(), tmp_path / "kept.pth")
    read = build_image_encoder(encoder(48, name=name, weights=str(tmp_path / "kept.pth"))).vision
    own = read.pos_embed.shape[1] - 9
    assert torch.equal(read.pos_embed[:, :own], kept.pos_embed[:, :own]) and kept.pos_embed.shape[1] == 196 + own


def test_weights_of_an_earlier_stage_are_looked_for_too(tmp_path: Path) -> None:
    torch.save(timm.create_model(TINY, img_size=48).state_dict(), tmp_path / "own.pth")
    (tmp_path / "first").mkdir()
    one = "{type: timm, name: test_vit, image_size: 48, patch_size: 16, weights: own.pth}"
    first, last = declared(tmp_path / "first", one), declared(tmp_path, one.replace(", weights: own.pth", ""))
    last.write_text(last.read_text() + "starts_from: first/experiment.yaml\n")
    with pytest.raises(FileErrors, match=f"no file or folder {tmp_path}/first/own.pth"):
        load_study(last, checks=[wrong_encoders])
    (first.parent / "own.pth").write_bytes((tmp_path / "own.pth").read_bytes())
    assert load_study(last, checks=[wrong_encoders]).trials
