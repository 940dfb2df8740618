"""Stages in a chain, trained by one process and by several: weights handed on whole, resampled, to parts that are frozen or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.model.multimodal import MultimodalModel, build
from mm1_ablate.run import child_process
from mm1_ablate.run.worker_group import Share, WorkerFailure, free_port, jobs_of, run_together
from mm1_ablate.training.fit import fit, load_earlier_stage, load_trained
from mm1_ablate.training.workers import Workers

HERE = str(Path(__file__).parent)
PERCEIVER = {"type": "perceiver_resampler", "image_tokens": 4, "depth": 1, "heads": 2}
# Five rows in micro-batches of two: uneven for two processes, some of them without an image.
COMMON = {
    "training.batch_rows": 5,
    "training.micro_batch_rows": 2,
    "training.steps": 4,
    "training.checkpoint_every_steps": 2,
    "model.connector": PERCEIVER,
    "model.image_encoder.depth": 2,
}
FIRST = COMMON | {"experiment": "first", "model.image_encoder.feature_layer": -2}
# More patches of another size, the encoder held still that was trained before.
SECOND = COMMON | {
    "experiment": "second",
    "model.image_encoder.image_size": 48,
    "model.image_encoder.patches_per_side": 3,
    "model.image_encoder.frozen": True,
}
# Images in pieces; the language model held still, and the encoder trained again.
THIRD = SECOND | {
    "experiment": "third",
    "model.image_encoder.frozen": False,
    "model.language_model.frozen": True,
    "model.sub_images": {"at_most": 2},
    "data.mixture": {"captioned": 60, "interleaved": 30, "text": 10},
    "data.packing.nominal_image_tokens": 12,
}


def chain() -> list[Experiment]:
    stages: list[Experiment] = []
    for changes in (FIRST, SECOND, THIRD):
        tree = tiny_experiment(changes).model_dump(mode="json")
        stages.append(Experiment.model_validate(tree | ({"starts_from": stages[-1].model_dump(mode="json")} if stages else {})))
    return stages


def train(folder: str, strategy: Any, first: int = 0, stop: int = 0, rank: int = 0, ranks: int = 1) -> None:
    """What each process does: all stages of the chain from a number on, each from the folder of the one before.

    Args:
        stop: the step at which the first process stops, as if it had failed.
    """

    def report(progress: Any) -> None:
        if stop and progress.step >= stop:
            raise RuntimeError("stopped")

    torch.set_num_threads(1)
    workers = Workers(rank, ranks, strategy)
    folders = [Path(folder) / str(number) for number in range(3)]
    with workers.joined():
        for number, experiment in list(enumerate(chain()))[first:]:
            fit(experiment, 0, None, None, folders[number], report, workers, folders[number - 1] if number else None)
            workers.barrier()  # as one trial ends before the next one starts


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    with child_process.server() as folder:
        yield folder


def train_with(server: Path, folder: Path, ranks: int, strategy: str, **options: int) -> WorkerFailure | None:
    folder.mkdir(exist_ok=True)
    threads, environment = child_process.share_of_machine(1, 0)
    arguments = {"folder": str(folder), "strategy": strategy, **options}
    job = child_process.Job(
        "test_training_stages:train", arguments, str(folder / "log.txt"), threads, environment, import_paths=(*sys.path, HERE)
    )
    return run_together(server, jobs_of(job, Share(0, ranks, ranks, "127.0.0.1", free_port())))


def said(folder: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("log*.txt")))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain by a single process."""
    folder = tmp_path_factory.mktemp("alone")
    train(str(folder), "ddp")
    return folder


def weights(folder: Path, number: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / str(number) / "model.pt", weights_only=True)


def assert_same_chain(one: Path, other: Path) -> None:
    """The same losses and weights of all stages, but for rounding."""
    for number in range(3):
        losses = [
            [json.loads(line)["loss"] for line in (folder / str(number) / "curve.jsonl").read_text().splitlines()]
            for folder in (one, other)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 4, number
        first, second = weights(one, number), weights(other, number)
        assert first.keys() == second.keys()
        worst = max(first, key=lambda name: float((first[name] - second[name]).abs().max()))
        assert (first[worst] - second[worst]).abs().max() < 6e-4, (number, worst)


def test_what_is_frozen_stays_as_the_earlier_stage_left_it_and_the_rest_moves(alone: Path) -> None:
    first, second, third = (weights(alone, number) for number in range(3))
    encoder = [name for name in first if name.startswith("encoder.") and first[name].shape == second[name].shape]
    assert encoder and all(torch.equal(first[name], second[name]) for name in encoder), "frozen in the second stage"
    assert any(not torch.equal(second[name], third[name]) for name in encoder), "trained again in the third"
    language = [name for name in first if name.startswith("language_model.")]
    assert any(not torch.equal(first[name], second[name]) for name in language)
    assert all(torch.equal(second[name], third[name]) for name in language), "frozen in the third"
    sizes = [state["encoder.vision.patch_embed.proj.weight"].shape[-1] for state in (first, second, third)]
    assert sizes == [12, 16, 16] and first["connector.positions"].shape[0] == 4 and second["connector.positions"].shape[0] == 9


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_the_chain_that_one_trains(server: Path, alone: Path, tmp_path: Path, strategy: str) -> None:
    assert train_with(server, tmp_path, 2, strategy) is None, said(tmp_path)
    assert_same_chain(alone, tmp_path)
    assert not list(tmp_path.glob("*/last.ckpt*"))


def test_a_stage_that_two_began_sharded_is_resumed_by_one_and_a_stage_of_one_is_started_from_by_two(
    server: Path, alone: Path, tmp_path: Path
) -> None:
    assert train_with(server, tmp_path, 2, "fsdp", stop=3) is not None and "stopped" in said(tmp_path)
    assert (tmp_path / "0" / "last.ckpt").exists() and not (tmp_path / "1").exists()
    with pytest.raises(FileNotFoundError):
        train(str(tmp_path), "ddp", first=1)
    one = tmp_path / "0"
    fit(chain()[0], 0, None, None, one, lambda progress: None)
    assert train_with(server, tmp_path, 2, "fsdp", first=1) is None, said(tmp_path)
    assert_same_chain(alone, tmp_path)


def test_what_a_stage_ends_with_is_what_the_next_one_starts_from(alone: Path) -> None:
    _, second, _ = chain()
    model = build(second, 0)
    load_earlier_stage(model, alone / "0")
    before, after = load_trained(chain()[0], 0, alone / "0").state_dict(), model.state_dict()
    same = [name for name in after if after[name].shape == before[name].shape]
    assert all(torch.equal(after[name], before[name]) for name in same)
    assert {name for name in after if name not in same} == {
        "encoder.vision.pos_embed", "encoder.vision.patch_embed.proj.weight", "connector.positions",
    }  # fmt: skip


def test_blocks_behind_the_features_of_a_later_stage_are_left_behind(tmp_path: Path) -> None:
    def timm_model(layer: int) -> MultimodalModel:
        encoder = {"type": "timm", "name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 16, "weights": None}
        connector = {"type": "average_pool", "image_tokens": 1}
        changes = {"model.image_encoder": encoder | {"feature_layer": layer}, "model.connector": connector}
        return build(tiny_experiment(changes | {"data.packing.nominal_image_tokens": 1}), 0)

    before, later = timm_model(-2), timm_model(-4)
    torch.save({name: torch.full_like(value, 0.5) for name, value in before.state_dict().items()}, tmp_path / "model.pt")
    load_earlier_stage(later, tmp_path)
    assert all(bool((value == 0.5).all()) for value in later.state_dict().values())
    with pytest.raises(ValueError, match=r"blocks\.11.* is not there"):
        load_earlier_stage(timm_model(-1), tmp_path)
