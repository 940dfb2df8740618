"""Encoders of timm's by name: any resolution, features without class tokens and registers, weights from a file, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from config_files import load_experiment, pointed_at
from local_models import CLIP_MEAN, TINY, declared, encoder, pixels
from tiny import CAPTIONED, tiny_experiment
from torch.utils._python_dispatch import TorchDispatchMode

from mm1_ablate.config.image_encoder import TimmEncoder, VisionTransformer
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.preparation import preparations_of
from mm1_ablate.config.settings import SettingError
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.yaml_file import FileErrors
from mm1_ablate.model.connectors.c_abstractor import CAbstractor
from mm1_ablate.model.image_encoder import build_image_encoder, check_named
from mm1_ablate.model.language_model import build_language_model
from mm1_ablate.model.meta_initialisation import meta_initialisation
from mm1_ablate.model.multimodal import build
from mm1_ablate.model.preflight import wrong_encoders
from mm1_ablate.model.profiler import count_parameters
from mm1_ablate.model.weight_conversion import resample_positions
from mm1_ablate.training.fit import fit
from mm1_ablate.training.preparation import prepare


# ---------------------------------------------------------------- names of the paper and of today
@pytest.mark.parametrize(
    ("name", "width", "mean"),
    [
        ("vit_huge_patch14_clip_quickgelu_378.dfn5b", 1280, CLIP_MEAN),
        ("vit_huge_patch14_clip_quickgelu_224.dfn5b", 1280, CLIP_MEAN),
        ("vit_large_patch14_clip_quickgelu_336.openai", 1024, CLIP_MEAN),
        ("vit_large_patch14_clip_quickgelu_224.openai", 1024, CLIP_MEAN),
        ("aimv2_large_patch14_336.apple_pt", 1024, CLIP_MEAN),
        ("aimv2_huge_patch14_448.apple_pt", 1536, CLIP_MEAN),
        ("aimv2_1b_patch14_224.apple_pt", 2048, CLIP_MEAN),
        ("vit_huge_patch14_224.mae", 1280, (0.485, 0.456, 0.406)),
        ("vit_so400m_patch14_siglip_384.webli", 1152, (0.5, 0.5, 0.5)),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 384, (0.485, 0.456, 0.406)),
    ],
)
def test_a_named_encoder_gives_a_grid_of_patches_at_378_pixels(name: str, width: int, mean: tuple[float, ...]) -> None:
    settings = TimmEncoder(name=name, image_size=378, patch_size=14, feature_layer=-2)
    with torch.device("meta"):
        built = build_image_encoder(settings, weights=False)
        features = built(torch.zeros(1, 3, 378, 378, dtype=torch.uint8))
        connected = CAbstractor(image_tokens=144, hidden=8, depth=1).build(width, settings.grid_side, 32)(features)
    assert settings.grid_side == 27 and features.shape == (1, 729, width) and connected.shape == (1, 144, 32)
    assert built.vision.pretrained_cfg["mean"] == mean


def test_pixels_are_normalised_as_the_weights_were_trained() -> None:
    built = build_image_encoder(encoder(name="vit_tiny_patch16_224.augreg_in21k"))
    assert built.mean.flatten().tolist() == built.std.flatten().tolist() == [127.5] * 3


def test_original_clip_weights_keep_their_quick_gelu() -> None:
    with torch.device("meta"):
        vision = timm.create_model("vit_large_patch14_clip_quickgelu_336.openai", num_classes=0)
    assert "QuickGELU" in type(vision.blocks[0].mlp.act).__name__


# ---------------------------------------------------------------- features
@pytest.mark.parametrize("name", [TINY, "vit_small_patch14_reg4_dinov2.lvd142m"])
@pytest.mark.parametrize("layer", [-1, -2])
def test_features_are_the_layers_without_class_token_and_registers(name: str, layer: int) -> None:
    patch = 14 if "14" in name else 16
    settings = TimmEncoder(name=name, image_size=3 * patch, patch_size=patch, weights=None, feature_layer=layer)
    torch.manual_seed(0)
    whole = timm.create_model(name, img_size=3 * patch, num_classes=0).eval()
    torch.manual_seed(0)
    built = build_image_encoder(settings).eval()
    images = pixels(3 * patch)
    with torch.no_grad():
        hidden = whole.norm_pre(whole._pos_embed(whole.patch_embed((images - built.mean) / built.std)))
        for block in whole.blocks[: len(whole.blocks) + 1 + layer]:
            hidden = block(hidden)
        hidden = whole.norm(hidden) if layer == -1 else hidden
        torch.testing.assert_close(built(images), hidden[:, whole.num_prefix_tokens :])
    assert whole.num_prefix_tokens == (5 if "reg4" in name else 1)


def test_what_comes_after_the_features_is_no_part_of_the_model() -> None:
    last, before = (tiny_experiment({"model.image_encoder": encoder(feature_layer=layer).model_dump()}) for layer in (-1, -2))
    model = build(before, 0)
    trained = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    model.encode_images(pixels(48)).sum().backward()
    assert all(parameter.grad is not None for parameter in trained)
    one_block = sum(parameter.numel() for parameter in build(last, 0).encoder.vision.blocks[-1].parameters())
    assert count_parameters(last)["image_encoder"] - count_parameters(before)["image_encoder"] == one_block + 2 * 64


def test_blocks_after_the_features_of_an_encoder_from_scratch_are_not_trained() -> None:
    experiment = tiny_experiment({"model.image_encoder.depth": 3, "model.image_encoder.feature_layer": -2})
    model = build(experiment, 0)
    model.encode_images(pixels(24)).sum().backward()
    without = [name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not without and not any(parameter.requires_grad for parameter in model.encoder.vision.blocks[2].parameters())


# ---------------------------------------------------------------- weights
def test_a_file_of_weights_is_read_at_any_resolution(tmp_path: Path) -> None:
    torch.manual_seed(1)
    kept = timm.create_model(TINY, img_size=64, num_classes=10)
    torch.save(kept.state_dict(), tmp_path / "kept.pth")
    for size in (64, 48, 80):
        read = build_image_encoder(encoder(size, weights=str(tmp_path / "kept.pth"))).vision
        assert torch.equal(read.blocks[3].attn.qkv.weight, kept.blocks[3].attn.qkv.weight)
        assert read.pos_embed.shape == (1, 1 + (size // 16) ** 2, 64)
        # The class token has no place: it is as it was.
        assert torch.equal(read.pos_embed[:, :1], kept.pos_embed[:, :1]) and read.pos_embed.std() > 0
    assert torch.equal(build_image_encoder(encoder(64, weights=str(tmp_path / "kept.pth"))).vision.pos_embed, kept.pos_embed)


def test_positions_are_interpolated_smoothly() -> None:
    """A gradient across the grid is the same gradient on a finer grid."""
    coarse, fine = (build_image_encoder(encoder(size)) for size in (64, 128))
    with torch.no_grad():
        across = torch.linspace(0, 1, 4).repeat(4)[:, None].expand(-1, 64)
        coarse.vision.pos_embed[0, 1:] = across
    fine.load_state_dict(resample_positions(coarse.state_dict(), fine))
    rows = fine.vision.pos_embed[0, 1:, 0].view(8, 8)
    assert torch.allclose(rows, rows[0].expand(8, 8), atol=1e-6) and (rows[0].diff() > 0).all()
    assert rows.mean().item() == pytest.approx(0.5, abs=1e-4)
    back = resample_positions(fine.state_dict(), coarse)["vision.pos_embed"][0, 1:]
    assert (back - across).abs().max() < 0.05


@pytest.mark.parametrize("connector", ["average_pool", "attention_pool", "c_abstractor", "perceiver_resampler"])
def test_a_trained_model_goes_on_at_another_resolution(connector: str) -> None:
    more = {"hidden": 8, "depth": 1} if connector == "c_abstractor" else {"depth": 1} if connector == "perceiver_resampler" else {}
    encoder = {"type": "vision_transformer", "patch_size": 12, "width": 16, "depth": 1, "heads": 2}
    small, large = (
        tiny_experiment(
            {"model.image_encoder": {**encoder, "image_size": size}, "model.connector": {"type": connector, "image_tokens": 4, **more}}
        )
        for size in (24, 48)
    )
    trained, continued = build(small, 0), build(large, 1)
    continued.load_state_dict(resample_positions(trained.state_dict(), continued))
    assert continued.encode_images(pixels(48)).shape == (2, 4, 32)
    for name, value in trained.state_dict().items():
        if value.shape == continued.state_dict()[name].shape:
            assert torch.equal(continued.state_dict()[name], value)
    if connector != "average_pool":
        assert any(name.endswith("positions") for name, value in trained.state_dict().items() if len(value) == 4)


def test_patch_kernels_are_resampled_where_the_grid_stays() -> None:
    coarse, fine = (tiny_experiment({"model.image_encoder.image_size": size}) for size in (24, 48))
    model = build(fine, 1)
    model.load_state_dict(resample_positions(build(coarse, 0).state_dict(), model))
    assert model.encode_images(pixels(48)).shape == (2, 4, 32)


def test_a_state_that_fits_is_left_alone_and_what_cannot_be_resampled_is_refused() -> None:
    model = build(tiny_experiment(), 0)
    state = model.state_dict()
    assert all(resample_positions(state, model)[name] is value for name, value in state.items())
    other = {**state, "connector.project.weight": torch.zeros(3, 3)}
    with pytest.raises(RuntimeError, match=r"connector\.project\.weight"):
        model.load_state_dict(resample_positions(other, model))
    odd = {**state, "encoder.vision.pos_embed": torch.zeros(1, 7, 16)}
    with pytest.raises(ValueError, match=r"7 positions.*not a square grid"):
        resample_positions(odd, model)


# ---------------------------------------------------------------- what is refused, and where
@pytest.mark.parametrize(
    ("encoder", "at", "message"),
    [
        ("{type: timm, name: test_vit, image_size: 50, patch_size: 16}", "50", "of the patch size, 16; the nearest are 48 and 64"),
        ("{type: timm, name: test_vitt, image_size: 48, patch_size: 16, weights: null}", "test_vitt", "did you mean 'test_vit'?"),
        ("{type: timm, name: test_vit.none, image_size: 48, patch_size: 16}", "test_vit.none", "timm cannot make 'test_vit.none'"),
        ("{type: timm, name: test_vit, image_size: 48, patch_size: 24}", "24}", "'test_vit' has patches of 16 pixels, not 24"),
        ("{type: timm, name: resnet18, image_size: 48, patch_size: 16}", "resnet18", "timm cannot make 'resnet18' for images of 48"),
        ("{type: timm, name: swin_tiny_patch4_window7_224, image_size: 56}", "swin_tiny", "not a stack of blocks over one grid"),
        ("{type: timm, name: test_vit, image_size: 48, patch_size: 16, feature_layer: -9}", "-9}", "'test_vit' has only 6 blocks"),
        ("{type: timm, name: test_vit, image_size: 48, patch_size: 16, weights: none/of.pth}", "none/of.pth", "there is no file or folder"),
    ],
)
def test_an_encoder_that_is_not_there_is_refused_at_its_line_when_the_plan_is_made(
    tmp_path: Path, encoder: str, at: str, message: str
) -> None:
    with pytest.raises(FileErrors) as caught:
        load_study(declared(tmp_path, encoder), checks=[wrong_encoders])
    (problem,) = caught.value.problems
    assert message in str(problem) and pointed_at(problem).startswith(at) and problem.path.startswith("model.image_encoder.")


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "samvit_base_patch16"])
def test_an_architecture_that_gives_no_features_in_a_row_is_refused_in_words(name: str) -> None:
    try:
        check_named(encoder(144, name=name))
    except SettingError as error:
        assert error.at == "name" and name in error.message
    else:
        with torch.device("meta"):
            built = build_image_encoder(encoder(144, name=name), weights=False)
            assert built(torch.zeros(1, 3, 144, 144, dtype=torch.uint8)).shape == (1, 81, built.width)


def test_where_data_may_not_be_looked_at_weights_are_elsewhere_too(tmp_path: Path) -> None:
    there = "{type: timm, name: test_vit, image_size: 48, patch_size: 16, weights: there.pth}"
    assert load_study(declared(tmp_path, there), look="nowhere", checks=[wrong_encoders]).trials
    with pytest.raises(FileErrors, match="16 pixels, not 24"):
        load_study(declared(tmp_path, there.replace("patch_size: 16", "patch_size: 24")), look="nowhere", checks=[wrong_encoders])


@pytest.mark.parametrize(
    ("connector", "encoder", "message"),
    [
        ("{type: mlp, image_tokens: 144}", "{type: timm, name: x, image_size: 378}", "a grid of 27 x 27 gives 729 image tokens, not 144"),
        ("{type: pixel_shuffle, image_tokens: 144}", "{type: timm, name: x, image_size: 378}", "it can for 1, 9, 81, 729"),
        ("{type: average_pool, image_tokens: 900}", "{type: timm, name: x, image_size: 378}", "at most 729"),
        ("{type: c_abstractor, image_tokens: 140}", "{type: timm, name: x, image_size: 378}", "the nearest are 121 and 144"),
    ],
)
def test_tokens_that_a_grid_cannot_give_are_refused_when_the_file_is_read(
    tmp_path: Path, connector: str, encoder: str, message: str
) -> None:
    path = declared(tmp_path, encoder)
    path.write_text(path.read_text().replace("{type: average_pool, image_tokens: 4}", connector))
    with pytest.raises(FileErrors) as caught:
        load_experiment(path)
    (problem,) = caught.value.problems
    assert message in problem.message and pointed_at(problem).startswith(connector.rpartition(" ")[2])
    assert problem.line == path.read_text().splitlines().index(f"  connector: {connector}") + 1


def test_weights_lie_beside_the_file_that_names_them_and_are_what_is_in_them(tmp_path: Path) -> None:
    def identity(folder: Path) -> str:
        path = declared(folder, "{type: timm, name: test_vit, image_size: 48, patch_size: 16, weights: own.pth}")
        (trial,) = load_study(path, checks=[wrong_encoders]).trials
        return trial.fingerprint

    for name, seed in (("one", 0), ("moved", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        torch.manual_seed(seed)
        torch.save(timm.create_model(TINY, img_size=48).state_dict(), tmp_path / name / "own.pth")
    assert identity(tmp_path / "one") == identity(tmp_path / "moved") != identity(tmp_path / "other")


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit2", img_size=48).state_dict(), tmp_path / "other.pth")
    with pytest.raises(SettingError, match=r"weights: .*other\.pth belongs to another encoder"):
        build_image_encoder(encoder(weights=str(tmp_path / "other.pth")))
    state = timm.create_model(TINY, img_size=48).state_dict()
    del state["blocks.2.attn.qkv.weight"]
    torch.save(state, tmp_path / "damaged.pth")
    with pytest.raises(SettingError, match=r"lacks 1 parameters such as blocks\.2\.attn\.qkv\.weight"):
        build_image_encoder(encoder(weights=str(tmp_path / "damaged.pth")))


@pytest.mark.parametrize("objective", ["contrastive", "reconstructive"])
@pytest.mark.parametrize("layer", [-1, -2])
def test_a_named_encoder_is_prepared_by_either_objective(objective: str, layer: int, tmp_path: Path) -> None:
    preparation = {"objective": objective, "steps": 2, "batch_images": 8, "source": CAPTIONED}
    section = {**encoder(feature_layer=layer).model_dump(), "frozen": True, "preparation": preparation}
    experiment = tiny_experiment({"model.image_encoder": section, "training.steps": 2})
    (needed,) = preparations_of(experiment, 0)
    prepare(needed, tmp_path / "prepared", lambda progress: None)
    prepared = torch.load(tmp_path / "prepared" / "weights.pt", weights_only=True)
    trained = fit(experiment, 0, tmp_path / "prepared", None, tmp_path / "trial", lambda progress: None)
    assert all(torch.equal(value, prepared[name]) for name, value in trained.encoder.state_dict().items())
    assert not torch.equal(prepared["vision.blocks.0.attn.qkv.weight"], build(experiment, 1).encoder.vision.blocks[0].attn.qkv.weight)


def test_without_values_a_model_has_the_same_parameters_and_nothing_is_drawn() -> None:
    scratch = VisionTransformer(image_size=24, patches_per_side=2, width=16, depth=1, heads=2)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    language = LanguageModel(model_type="phi", configuration=small, initialisation="fan_in")
    for make in (
        lambda: build_image_encoder(encoder()),
        lambda: build_image_encoder(scratch),
        lambda: build_language_model(language, 512, 0, 0),
    ):
        with meta_initialisation(), _Executed() as executed:
            empty = make()
        assert all(parameter.is_meta for parameter in empty.parameters())
        assert [(name, kept.shape, kept.requires_grad) for name, kept in empty.named_parameters()] == [
            (name, kept.shape, kept.requires_grad) for name, kept in make().named_parameters()
        ]
        assert not {"uniform_", "normal_", "erfinv_", "clamp_", "fill_"} & executed.names


class _Executed(TorchDispatchMode):
    """Names of all operations that torch was asked to carry out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))
