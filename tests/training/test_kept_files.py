"""What a training keeps in its folder and what it drops from there: shards, curves, features; and models that are loaded when asked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_experiment
from torch import nn

from mm1_ablate.config.image_encoder import EncoderPreparation
from mm1_ablate.config.training import Progress
from mm1_ablate.data.documents import LeftOut, Unreadable
from mm1_ablate.data.images import FeatureCache
from mm1_ablate.training import fit, preparation
from mm1_ablate.training.checkpoint import remove_checkpoint, remove_shards, shards_of, step_of
from mm1_ablate.training.fit import StoppedEarly, TrainedModel, _cut_curve, prepared_weights, require_all_steps
from mm1_ablate.training.preflight import longest_document
from mm1_ablate.training.weight_distribution import check_weights, parameters_and_buffers


# ---------------------------------------------------------------- checkpoints
def test_all_shards_beside_a_checkpoint_go_but_those_that_it_names(tmp_path: Path) -> None:
    for name in ("last.ckpt.2-a", "last.ckpt.4-b", "other.ckpt.2-a"):
        (tmp_path / name / "inside").mkdir(parents=True)
    checkpoint = tmp_path / "last.ckpt"
    torch.save({"shards": "last.ckpt.4-b"}, checkpoint)
    assert shards_of(checkpoint) == "last.ckpt.4-b" and step_of("last.ckpt.4-b") == 4 and step_of("a.b.120-0f-1") == 120
    with checkpoint.open("rb") as file:
        assert shards_of(file) == "last.ckpt.4-b"
    remove_shards(checkpoint, but="last.ckpt.4-b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.4-b", "other.ckpt.2-a"]
    for _ in range(2):  # where there is none, none is missed
        remove_checkpoint(checkpoint)
        assert [path.name for path in tmp_path.iterdir()] == ["other.ckpt.2-a"]
    torch.save({}, checkpoint)
    assert shards_of(checkpoint) is None


def test_a_curve_is_cut_behind_the_step_that_is_gone_on_from(tmp_path: Path) -> None:
    curve = tmp_path / "curve.jsonl"
    _cut_curve(curve, 3)
    assert not curve.exists()
    points = [{"step": step, "loss": 0.5} for step in (1, 3, 4, 6)]
    curve.write_text("".join(f"{json.dumps(point)}\n" for point in points) + '{"step": 7, "lo')
    _cut_curve(curve, 3)
    assert curve.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 3, "loss": 0.5}\n'
    _cut_curve(curve, 0)
    assert curve.read_text() == ""


def test_a_training_of_fewer_steps_than_declared_is_none() -> None:
    require_all_steps(5, 5)
    words = r"^the training ended after 4 of the 5 declared steps, so it is not what the sweep asks for$"
    with pytest.raises(StoppedEarly, match=words):
        require_all_steps(4, 5)
    assert prepared_weights(None) is None and prepared_weights(Path("a")) == Path("a/weights.pt")


# ---------------------------------------------------------------- weights
def test_weights_of_another_model_are_refused_by_the_first_that_does_not_fit() -> None:
    model = nn.Linear(2, 3)
    check_weights(model.state_dict(), model, "they")
    with pytest.raises(ValueError) as caught:
        check_weights({"weight": torch.zeros(2, 3)}, model, "the weights in folder")
    assert str(caught.value) == "the weights in folder do not fit: bias is not there, and 1 more"
    norm = nn.BatchNorm1d(2)
    norm.register_buffer("beside", torch.ones(1), persistent=False)
    values = parameters_and_buffers(norm)
    assert values.keys() == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked", "beside"}


def test_a_trained_model_is_loaded_again_only_where_it_cannot_be_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    cast: list[tuple[Any, str]] = []

    def load(precision: str) -> Any:
        loaded.append(precision)
        return SimpleNamespace(language_model=f"number {len(loaded)}")

    sharded = False
    monkeypatch.setattr(fit, "cast_weights", lambda model, precision: cast.append((model, precision)))
    monkeypatch.setattr(fit, "is_sharded", lambda language_model: sharded)
    model = TrainedModel(load)
    first = model("32-true")
    assert model("32-true") is first and loaded == ["32-true"] and not cast
    assert model("bf16-mixed") is first and loaded == ["32-true"] and cast == [(first, "bf16-mixed")]
    assert model("bf16-mixed") is first and len(cast) == 1
    again = model("32-true")
    assert again is not first and loaded == ["32-true"] * 2, "what was cast is not cast back"
    sharded = True
    assert model("bf16-mixed") is not again and loaded[2:] == ["bf16-mixed"] and len(cast) == 1
    at_hand = SimpleNamespace(language_model=None)
    assert TrainedModel(load, at_hand)("32-true") is at_hand and len(loaded) == 3


# ---------------------------------------------------------------- preparations
class Doubled(nn.Module):
    """An encoder of two numbers for each image: its index, and twice that; it notes how many images come at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(pixels))
        index = pixels[:, 0, 0, 0].float()
        return torch.stack([index, 2 * index], 1)[:, None]


class Pipeline:
    """Loads images, which are numbers, but for those that are bad."""

    image_size = 4

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad

    def load_readable(self, images: list[Any]) -> tuple[torch.Tensor, dict[int, Unreadable]]:
        unreadable = {place: Unreadable("bad", image.key) for place, image in enumerate(images) if image.number in self.bad}
        kept = [image.number for place, image in enumerate(images) if place not in unreadable]
        return torch.tensor(kept, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4), unreadable


class Documents(list[Any]):
    """Documents that raise what stands in their place."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(images=[SimpleNamespace(key=f"key {number}", number=number) for number in found])


def features_of(folder: Path, monkeypatch: pytest.MonkeyPatch, documents: list[Any], bad: set[int] = frozenset()) -> Doubled:  # type: ignore[assignment]
    asked: list[Any] = []
    monkeypatch.setattr(preparation, "open_source", lambda *arguments: asked.append(arguments) or Documents(documents))
    encoder, source = Doubled(), object()
    preparation.write_features(encoder, source, 7, Pipeline(bad), folder, batch=3)  # type: ignore[arg-type]
    assert asked == [(source, 7, "preparation")]
    return encoder


def test_features_are_kept_of_each_readable_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [[1, 2], Unreadable("no text", "x"), [2, 3], LeftOut("short"), [4, 5, 6, 7]]
    encoder = features_of(tmp_path, monkeypatch, documents, bad={2, 7})
    assert encoder.sizes == [1, 2, 3], "one to see how large they are, then three at a time; the seventh alone is bad"
    kept = FeatureCache(tmp_path)
    keys = json.loads((tmp_path / "keys.json").read_text())
    assert list(keys) == [f"key {number}" for number in (1, 3, 4, 5, 6)] and len(kept) == 5
    np.testing.assert_array_equal(kept.features[:5], [[[number, 2 * number]] for number in (1, 3, 4, 5, 6)])


@pytest.mark.parametrize(("documents", "bytes_of_all", "kept"), [(4, 32, True), (3, 32, False), (4, 31, False), (4, 0, False)])
def test_features_are_kept_of_few_documents_and_in_few_bytes(
    documents: int, bytes_of_all: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four images of two numbers of four bytes each."""
    monkeypatch.setattr(preparation, "FEATURES_OF_DOCUMENTS", documents)
    monkeypatch.setattr(preparation, "FEATURE_BYTES", bytes_of_all)
    features_of(tmp_path / "kept", monkeypatch, [[1], [2], [3], [4]])
    assert (tmp_path / "kept").exists() is kept
    features_of(tmp_path / "none", monkeypatch, [[]])
    assert not (tmp_path / "none").exists()


def test_an_encoders_preparation_reports_every_twentieth_step_and_the_last() -> None:
    told: list[Progress] = []
    settings = EncoderPreparation.model_construct(steps=45)
    training = preparation.EncoderTraining(Given(), settings, told.append)
    for step in range(45):
        batch = (torch.tensor(float(step)), torch.zeros(()), torch.zeros(()))
        assert float(training.training_step(batch, step)) == step
    assert [(one.stage, one.step, one.steps, one.loss) for one in told] == [
        ("prepare", 20, 45, 19.0), ("prepare", 40, 45, 39.0), ("prepare", 45, 45, 44.0),
    ]  # fmt: skip


class Given(nn.Module):
    """An objective whose loss is the first of what it is given."""

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        return pixels


# ---------------------------------------------------------------- documents
@pytest.mark.parametrize(
    ("mixture", "packing", "longest"),
    [
        ({"text": 1}, {}, 128),
        ({"captioned": 1}, {}, 128 + 5),
        ({"captioned": 1, "text": 1}, {}, 128 + 5),
        ({"interleaved": 1, "text": 1}, {}, 128 + 16 * 5),
        ({"interleaved": 0, "captioned": 1}, {}, 128 + 5),
        ({"interleaved": 1}, {"max_images": 3}, 128 + 3 * 5),
        ({"interleaved": 1}, {"max_images": 50}, 128 + 42 * 5),
        ({"interleaved": 1}, {"nominal_image_tokens": 8}, 128),
        ({"interleaved": 1}, {"nominal_image_tokens": 16}, 128),
    ],
)
def test_a_document_is_as_long_as_a_row_and_what_its_images_take_beyond_what_packing_counts(
    mixture: dict[str, int], packing: dict[str, int], longest: int
) -> None:
    """Rows of 128 tokens, in which an image counts three tokens and takes eight; sixteen images at most where nothing is declared."""
    settings = {"row_tokens": 128, "nominal_image_tokens": 3, "buffer_documents": 16, **packing}
    connector = {"type": "attention_pool", "image_tokens": 8}
    experiment = tiny_experiment({"data.mixture": mixture, "data.packing": settings, "model.connector": connector})
    assert longest_document(experiment) == longest
