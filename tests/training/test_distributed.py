"""Training by several processes is the same training: on one, two or three of them, whole or sharded, stopped and gone on with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_experiment

from mm1_ablate.run import child_process
from mm1_ablate.run.worker_group import Share, WorkerFailure, free_port, jobs_of, run_together
from mm1_ablate.training.distributed import DistributedLoader, agree_on_step, trainer_options, without_gradient_sync
from mm1_ablate.training.fit import fit
from mm1_ablate.training.workers import Workers

HERE = str(Path(__file__).parent)
ADAMW, MUON = {"type": "adamw", "learning_rate": 1e-3}, {"type": "muon"}
# Uneven on purpose: five rows in micro-batches of two are 2 + 1 on one of two processes and 2 on the other, and most have no image.
CHANGES = {
    "training.batch_rows": 5,
    "training.micro_batch_rows": 2,
    "training.steps": 6,
    "training.checkpoint_every_steps": 2,
    "training.gradient_clip": 0.5,
    "data.mixture": {"captioned": 15, "interleaved": 5, "text": 80},
}


def train(folder: str, changes: dict[str, Any], strategy: Any, stop: int = 0, rank: int = 0, ranks: int = 1) -> None:
    """What each child does. The first stops at a step, as if it had failed."""

    def report(progress: Any) -> None:
        if stop and progress.step >= stop:
            raise RuntimeError("stopped")

    torch.set_num_threads(1)
    workers = Workers(rank, ranks, strategy)
    with workers.joined():
        fit(tiny_experiment(changes), 0, None, None, Path(folder), report, workers)


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    with child_process.server() as folder:
        yield folder


def train_with(
    server: Path, folder: Path, ranks: int, changes: dict[str, Any], strategy: str = "ddp", stop: int = 0
) -> WorkerFailure | None:
    folder.mkdir(exist_ok=True)
    threads, environment = child_process.share_of_machine(1, 0)
    arguments = {"folder": str(folder), "changes": changes, "strategy": strategy, "stop": stop}
    log = str(folder / "log.txt")
    job = child_process.Job("test_distributed:train", arguments, log, threads, environment, import_paths=(*sys.path, HERE))
    return run_together(server, jobs_of(job, Share(0, ranks, ranks, "127.0.0.1", free_port())))


def said(folder: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("log*.txt")))


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def assert_same_training(one: Path, other: Path, weights: float = 3e-4) -> None:
    """The same losses, counts, account of the data and weights, but for rounding."""
    for first, second in zip(curve(one), curve(other), strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
        assert [first[name] for name in ("step", "tokens", "images", "documents")] == [
            second[name] for name in ("step", "tokens", "images", "documents")
        ]
    assert json.loads((one / "data.json").read_text()) == json.loads((other / "data.json").read_text())
    first_weights, second_weights = (torch.load(folder / "model.pt") for folder in (one, other))
    assert first_weights.keys() == second_weights.keys()
    for name, value in first_weights.items():
        assert (second_weights[name] - value).abs().max() < weights, name


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training by a single process."""
    folder = tmp_path_factory.mktemp("alone")
    train(str(folder), CHANGES, "ddp")
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_what_one_trains(server: Path, alone: Path, tmp_path: Path, strategy: str) -> None:
    assert train_with(server, tmp_path, 2, CHANGES, strategy) is None, said(tmp_path)
    assert_same_training(alone, tmp_path)
    initial = tmp_path / "initial"
    still = {"training.steps": 1, "training.warmup_steps": 0, "training.optimizer": {"type": "adamw", "learning_rate": 1e-9}}
    train(str(initial), CHANGES | still, "ddp")
    after = torch.load(tmp_path / "model.pt")
    moved = [(after[name] - value).abs().max() for name, value in torch.load(initial / "model.pt").items()]
    assert max(moved) > 3e-3, "the tolerance is far below what training changes"
    assert not list(tmp_path.glob("last.ckpt*")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_frozen_encoder_and_one_that_is_trained_below_its_feature_layer(server: Path, tmp_path: Path, strategy: str) -> None:
    """Parameters without gradients, on all processes or on those without images, leave nobody waiting."""
    frozen = CHANGES | {"model.image_encoder.frozen": True, "training.steps": 2}
    below = CHANGES | {"model.image_encoder.depth": 2, "model.image_encoder.feature_layer": -2, "training.steps": 2}
    for name, changes in (("frozen", frozen), ("below", below)):
        train(str(tmp_path / name), changes, strategy)
        assert train_with(server, tmp_path / f"{name}-2", 2, changes, strategy) is None, said(tmp_path / f"{name}-2")
        assert_same_training(tmp_path / name, tmp_path / f"{name}-2")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_frozen_language_model_that_learns_nothing_from_text_alone(server: Path, tmp_path: Path, strategy: str) -> None:
    """Whichever of a step's micro-batches holds text only, or all of them: first, between, last."""
    mixture = {"captioned": 3, "interleaved": 2, "text": 95}
    frozen = {"model.language_model.frozen": True, "training.micro_batch_rows": 1, "training.steps": 12, "data.mixture": mixture}
    train(str(tmp_path / "one"), CHANGES | frozen, strategy)
    images = [point["images"] for point in curve(tmp_path / "one")]
    assert len(set(images)) < len(images), "some steps have no image at all"
    assert train_with(server, tmp_path / "two", 2, CHANGES | frozen, strategy) is None, said(tmp_path / "two")
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_muon_orthogonalises_whole_matrices_also_where_they_are_sharded(server: Path, tmp_path: Path, strategy: str) -> None:
    changes = CHANGES | {"training.optimizer": MUON, "training.steps": 4}
    train(str(tmp_path / "one"), changes, strategy)
    assert train_with(server, tmp_path / "two", 2, changes, strategy) is None, said(tmp_path / "two")
    # Newton-Schulz is in bfloat16; shards that were orthogonalised each on its own would be off by the size of an update, 0.015.
    assert_same_training(tmp_path / "one", tmp_path / "two", weights=2e-3)


@pytest.mark.parametrize(("strategy", "optimizer"), [("ddp", ADAMW), ("fsdp", ADAMW), ("fsdp", MUON)])
def test_what_two_began_one_and_three_go_on_with(
    server: Path, alone: Path, tmp_path: Path, strategy: str, optimizer: dict[str, Any]
) -> None:
    changes = CHANGES | {"training.optimizer": optimizer}
    whole = alone
    if optimizer == MUON:
        whole = tmp_path / "whole"
        train(str(whole), changes, "ddp")
    for ranks in (1, 3):
        folder = tmp_path / str(ranks)
        fault = train_with(server, folder, 2, changes, strategy, stop=5)
        assert fault is not None and "stopped" in said(folder)
        assert torch.load(folder / "last.ckpt", weights_only=True)["mm1_ablate"]["step"] == 4
        assert [path.name.partition("-")[0] for path in folder.glob("last.ckpt.*")] == (["last.ckpt.4"] if strategy == "fsdp" else [])
        assert train_with(server, folder, ranks, changes, strategy) is None, said(folder)
        assert_same_training(whole, folder, weights=4e-4 if optimizer == ADAMW else 4e-3)
        assert not list(folder.glob("last.ckpt*"))


def test_what_one_began_two_go_on_with_sharded(server: Path, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        train(str(tmp_path), CHANGES, "ddp", stop=5)
    assert train_with(server, tmp_path, 2, CHANGES, "fsdp") is None, said(tmp_path)
    assert_same_training(alone, tmp_path, weights=4e-4)


def test_a_step_of_no_documents_and_no_images_is_padded_with_what_nothing_is_predicted_from() -> None:
    from mm1_ablate.data.loader import Batch

    def batch(tokens: int, images: int) -> Batch:
        places = torch.arange(tokens)
        pictures = torch.ones(images, 3, 4, 4)
        return Batch(places, places, [tokens], places[:-1], places[1:], torch.arange(2 * images), pictures, [])

    class Others(Workers):
        """Stands for another process with one more micro-batch, of 7 predictions and an image."""

        def all_reduce(self, values: Any) -> list[float]:
            return [own + other for own, other in zip(values, [8, 1, 1, 0, 0, 7, 1], strict=True)]

    step = agree_on_step([batch(5, 0)], Others(1, 2), 2, image_tokens=2)
    assert (step.supervised, step.tokens, step.images, step.documents) == (11, 13, 1, 2)
    kept, padded = step.micro_batches
    assert kept.tokens.tolist() == [0, 1, 2, 3, 4] and not len(kept.images), "nobody has an image in the first one"
    assert len(padded.tokens) == 2 and padded.document_lengths == [2] and not len(padded.targets)
    assert padded.images.shape == (1, 3, 4, 4) and padded.images.sum() == 0 and padded.image_positions.tolist() == [0, 1]


def saved_bytes(experiment: Any, folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Train; the weights, and how much was kept for the way back."""
    kept = 0

    def pack(value: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += value.numel() * value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        model = fit(experiment, 0, None, None, folder, lambda progress: None)
    return model.state_dict(), kept


DEEP = {"model.language_model.configuration": {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 512,
    "tie_word_embeddings": True, "qk_layernorm": True,
}}  # fmt: skip


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_activations_that_are_computed_again_give_the_same_weights_and_are_not_kept(tmp_path: Path, precision: str) -> None:
    changes = DEEP | {"training.steps": 2, "training.precision": precision}
    torch.set_num_threads(1)
    plain, kept = saved_bytes(tiny_experiment(changes), tmp_path / "plain")
    again, few = saved_bytes(tiny_experiment(changes | {"training.activation_checkpointing": True}), tmp_path / "again")
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-6)
    assert few < 0.6 * kept


def test_a_frozen_language_models_activations_are_computed_again_too(tmp_path: Path) -> None:
    """Gradients pass through it to the connector."""
    changes = DEEP | {"training.steps": 1, "training.warmup_steps": 0, "model.language_model.frozen": True}
    plain, kept = saved_bytes(tiny_experiment(changes), tmp_path / "plain")
    again, few = saved_bytes(tiny_experiment(changes | {"training.activation_checkpointing": True}), tmp_path / "again")
    assert few < 0.7 * kept
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-6)


def test_compiled_blocks_train_to_the_same_weights_and_are_compiled_once(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    graphs: list[int] = []

    def count(progress: Any) -> None:
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    changes = {"training.steps": 6}
    plain = fit(tiny_experiment(changes), 0, None, None, tmp_path / "plain", lambda progress: None).state_dict()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trained = fit(tiny_experiment(changes | {"training.compile": True}), 0, None, None, tmp_path / "compiled", count)
    assert graphs[0] > 0 and graphs == [graphs[0]] * 6, "rows of other lengths need no other graphs"
    compiled = trained.state_dict()
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=3e-4, rtol=1e-3)
    assert not any(part._compiled_call_impl for part in trained.modules())


def test_sharded_and_recomputed_go_together(server: Path, alone: Path, tmp_path: Path) -> None:
    assert train_with(server, tmp_path, 2, CHANGES | {"training.activation_checkpointing": True}, "fsdp") is None, said(tmp_path)
    assert_same_training(alone, tmp_path)


def test_how_a_trial_is_run_is_not_what_it_is() -> None:
    from mm1_ablate.config.identity.fingerprint import fingerprint, training_identity

    plain = fingerprint(training_identity(tiny_experiment(), 0))
    changed = tiny_experiment({"training.activation_checkpointing": True, "training.compile": True})
    assert fingerprint(training_identity(changed, 0)) == plain


# ---------------------------------------------------------------- one process as it sees the others
class Gathered(Workers):
    """A process whose `all_gather` returns what was noted of all, with its own value at its place."""

    others: tuple[Any, ...] = ()

    def all_gather(self, value: Any) -> list[Any]:
        return [value if rank == self.rank else self.others[rank] for rank in range(self.ranks)]


def loader_of(steps: int, rank: int = 0, ranks: int = 1) -> Any:
    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.loader import BatchLoader
    from mm1_ablate.data.tokenizer import load_tokenizer

    experiment = tiny_experiment({"data.mixture": {"captioned": 60, "text": 40}})
    pipeline = ImagePipeline.of(experiment.model)
    return BatchLoader(experiment.data, load_tokenizer("miniature"), 4, pipeline, 0, steps, batch_rows=3, rank=rank, ranks=ranks)


def test_a_loader_of_several_processes_hands_out_the_rows_of_its_own_and_counts_those_of_all() -> None:
    own, plain = loader_of(3, 1, 3), loader_of(3, 1, 3)
    workers = Gathered(1, 3)
    loader = DistributedLoader(own, workers)
    assert len(loader) == 3
    for given, expected in zip(loader, plain, strict=True):
        assert [micro.tokens.tolist() for micro in given] == [micro.tokens.tolist() for micro in expected]
    name = "synthetic_captions"
    loaded = own.state_dict()["loaded"][name]["loaded_images"]
    first = {name: {"loaded_images": 100, "unreadable_images": 3, "bad": {"not an image": 3}, "examples": {"not an image": ["a", "b"]}}}
    last = {name: {"loaded_images": 1000}, "text": {"bad": {"empty text": 2}}}
    object.__setattr__(workers, "others", (first, None, last))
    state = loader.state_dict()
    assert {**state, "loaded": None} == {**own.state_dict(), "loaded": None} and state["step"] == 3
    assert state["loaded"][name] == {**first[name], "loaded_images": loaded + 1100}
    assert state["loaded"]["text"] == last["text"]
    account, alone = loader.account(), own.account()
    assert account[name]["bad"] == {"not an image": 3} and account["text"]["bad"] == {"empty text": 2}
    assert account[name]["drawn"] == alone[name]["drawn"] > 0, "all of them draw the same documents"


@pytest.mark.parametrize("rank", [0, 2])
def test_what_all_have_loaded_before_is_counted_once_when_they_go_on(rank: int) -> None:
    name = "synthetic_captions"
    before = loader_of(3)
    next(iter(before))
    state = {**before.state_dict(), "loaded": {name: {"loaded_images": 70}}}
    workers = Gathered(rank, 3)
    loader = DistributedLoader(loader_of(3, rank, 3), workers)
    loader.load_state_dict(state)
    assert loader.loader.step == 1
    others = [{name: {"loaded_images": 70}} if other == 0 else {} for other in range(3)]
    object.__setattr__(workers, "others", tuple(others))
    assert loader.state_dict()["loaded"] == {**{source: {} for source in loader.loader.accounting.sources}, **state["loaded"]}


class Summed(Workers):
    """A process whose `all_reduce` adds what others have."""

    others: tuple[float, ...] = ()

    def all_reduce(self, values: Any) -> list[float]:
        return [own + other for own, other in zip(values, self.others, strict=True)]


def micro_batch(tokens: int, images: int) -> Any:
    from mm1_ablate.data.loader import Batch

    places, pictures = torch.arange(tokens), torch.ones(images, 3, 4, 4)
    lengths = [tokens] if tokens else []
    return Batch(places + 10, places, lengths, places[:-1], places[1:], torch.arange(2 * images), pictures, lengths)


def test_micro_batches_are_padded_by_as_little_as_keeps_processes_together() -> None:
    """Four micro-batches: one that the others fill with images, one of nothing, one that nobody has, one of this process's own image."""
    workers = Summed(1, 2)
    object.__setattr__(workers, "others", (50, 4, 3, 9, 2, 6, 0, 0, 0, 5, 1))
    own = [micro_batch(5, 0), micro_batch(0, 0), micro_batch(0, 0), micro_batch(6, 2)]
    step = agree_on_step(own, workers, 4, image_tokens=2)
    assert (step.supervised, step.tokens, step.images, step.documents) == (4 + 9 + 6 + 5 + 5, 61, 6, 5)
    with_image, empty, whole = step.micro_batches
    assert with_image.tokens.tolist() == [10, 11, 12, 13, 14, 0, 0] and with_image.positions.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert with_image.document_lengths == [5, 2] and with_image.image_positions.tolist() == [5, 6] and with_image.images.shape[0] == 1
    assert with_image.supervised.tolist() == [0, 1, 2, 3] and with_image.targets.tolist() == [1, 2, 3, 4]
    assert empty.tokens.tolist() == [0] and empty.positions.tolist() == [0] and empty.document_lengths == [1] and not len(empty.images)
    assert whole is own[3]


def test_a_micro_batch_that_only_others_have_is_empty_but_for_its_padding() -> None:
    workers = Summed(1, 2)
    object.__setattr__(workers, "others", (0, 0, 0, 0, 0, 3, 0))
    step = agree_on_step([micro_batch(5, 2)], workers, 2, image_tokens=2)
    assert step.supervised == 4 + 3
    _, lacking = step.micro_batches
    assert lacking.tokens.tolist() == [0] and lacking.document_lengths == [1] and lacking.documents == []
    assert [len(part) for part in (lacking.supervised, lacking.targets, lacking.image_positions, lacking.images)] == [0, 0, 0, 0]


def test_gradients_are_kept_to_a_process_but_in_the_last_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parallel(torch.nn.Module):
        synchronised = True

        @contextmanager
        def no_sync(self) -> Iterator[None]:
            self.synchronised = False
            yield
            self.synchronised = True

    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", Parallel)
    model = Parallel()
    for last in (False, True):
        with without_gradient_sync(model, last):
            assert model.synchronised is last
    with without_gradient_sync(torch.nn.Linear(1, 1), last=False):
        pass


def test_lightning_is_told_which_processes_train_and_looks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.strategies import DDPStrategy
    from lightning.pytorch.utilities import rank_zero_only

    from mm1_ablate.training.checkpoint import AtomicCheckpointIO, ShardedStrategy

    names = ("RANK", "WORLD_SIZE", "GROUP_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    for name in (*names, "MASTER_ADDR"):
        monkeypatch.setenv(name, "9")  # so that it is put back afterwards
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.setenv("MASTER_PORT", "4321")
    alone = trainer_options(Workers())
    assert alone.keys() == {"plugins"} and [os.environ[name] for name in names] == ["9"] * 5
    two = trainer_options(Workers(2, 3))
    assert [os.environ[name] for name in names] == ["2", "3", "2", "0", "1"] and rank_zero_only.rank == 2
    assert two["num_nodes"] == 3 and isinstance(two["strategy"], DDPStrategy)
    assert two["strategy"]._ddp_kwargs == {"find_unused_parameters": True, "broadcast_buffers": False}
    sharded = trainer_options(workers := Workers(2, 3, "fsdp"))["strategy"]
    assert isinstance(sharded, ShardedStrategy) and sharded._workers is workers
    saves, told = two["plugins"]
    assert isinstance(saves, AtomicCheckpointIO)
    assert (told.world_size(), told.global_rank(), told.node_rank(), told.local_rank()) == (3, 2, 2, 0)
    assert told.creates_processes_externally and not told.detect() and (told.main_address, told.main_port) == ("127.0.0.1", 4321)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.7")
    assert told.main_address == "10.0.0.7"


def test_who_leads_and_who_shards() -> None:
    assert Workers().leads and Workers().leads_here and not Workers(0, 1, "fsdp").shard
    assert not Workers(1, 2).leads and not Workers(1, 2).leads_here and not Workers(1, 2).shard and Workers(1, 2, "fsdp").shard
    other_machine = Workers(2, 4, "fsdp", first_here=2)
    assert not other_machine.leads and other_machine.leads_here
    assert Workers().all_reduce((1.5, 2)) == [1.5, 2] and Workers().all_gather("a") == ["a"] and Workers().broadcast("b") == "b"
