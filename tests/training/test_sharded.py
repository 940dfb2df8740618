"""A model that no single worker can hold: made, prepared, gone on with and loaded by several, of whom one alone ever has all weights."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_experiment

from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.multimodal import build, build_without_values
from mm1_ablate.run import child_process
from mm1_ablate.run.worker_group import Share, WorkerFailure, free_port, jobs_of, run_together
from mm1_ablate.training.distributed import Workers
from mm1_ablate.training.fit import fit, load_trained

HERE = str(Path(__file__).parent)
STILL = {
    "training.steps": 1,
    "training.warmup_steps": 0,
    "training.optimizer": {"type": "adamw", "learning_rate": 1e-30, "weight_decay": 0.0},
}
"""A step that changes nothing but zeros, and those by less than anybody sees."""
LLAMA = {
    "model_type": "llama",
    "configuration": {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
        "max_position_embeddings": 512, "tie_word_embeddings": False,
    },
}  # fmt: skip
LARGE = {
    "model_type": "llama",
    "configuration": {
        "hidden_size": 384, "num_hidden_layers": 20, "num_attention_heads": 4, "intermediate_size": 1152, "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
"""154 MB, nearly all of it in blocks, each of which is little beside it."""


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    with child_process.server() as folder:
        yield folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# ---------------------------------------------------------------- what the children do
def train(folder: str, changes: dict[str, Any], parts: list[str | None], start: str | None, rank: int = 0, ranks: int = 1) -> None:
    torch.set_num_threads(1)
    workers = Workers(rank, ranks, "fsdp")
    paths = [None if part is None else Path(part) for part in (*parts, start)]
    with workers.joined():
        fit(tiny_experiment(changes), 0, *paths[:2], Path(folder), lambda progress: None, workers, paths[2])


def memory(most: bool = False) -> int:
    """Bytes that this process has, or had at its highest."""
    name = "VmHWM" if most else "VmRSS"
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def train_and_load(folder: str, small: dict[str, Any], large: dict[str, Any], rank: int, ranks: int) -> None:
    """Train, then load what was trained, and write how much memory each took at most beside what a small model takes."""
    torch.set_num_threads(1)
    # What is freed is given back, or this would count what was used once.
    ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 18)  # M_MMAP_THRESHOLD
    workers, taken = Workers(rank, ranks, "fsdp"), []
    with workers.joined():
        for changes in (small, large):
            experiment, own = tiny_experiment(changes), Path(folder, changes["experiment"])
            before = memory()
            assert fit(experiment, 0, None, None, own, lambda progress: None, workers) is None
            taken.append(memory(most=True) - before)
            gc.collect()
            model = load_trained(experiment, 0, own, workers)
            taken.append(memory(most=True) - before)
        state = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in model.state_dict().items()}
        assert not any(value.is_meta for value in (*state.values(), *model.buffers()))
        if rank == ranks - 1:
            torch.save({**state, **dict(model.named_buffers())}, f"{folder}/loaded.pt")
    Path(folder, f"{rank}.json").write_text(json.dumps(taken[2:]))


def run(server: Path, function: str, folder: Path, ranks: int, **arguments: Any) -> WorkerFailure | None:
    folder.mkdir(exist_ok=True)
    threads, environment = child_process.share_of_machine(1, 0)
    job = child_process.Job(
        f"test_sharded:{function}", {"folder": str(folder), **arguments}, str(folder / "log.txt"), threads, environment,
        import_paths=(*sys.path, HERE),
    )  # fmt: skip
    return run_together(server, jobs_of(job, Share(0, ranks, ranks, "127.0.0.1", free_port())))


def said(folder: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("log*.txt")))


def weights(folder: Path, name: str = "model.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-25, msg=name)


# ---------------------------------------------------------------- tests
@pytest.mark.parametrize("ranks", [2, 3])
def test_sharded_training_starts_from_the_weights_that_one_process_makes(server: Path, tmp_path: Path, ranks: int) -> None:
    changes = {**STILL, "model.language_model": LLAMA, "training.batch_rows": 3}
    assert run(server, "train", tmp_path, ranks, changes=changes, parts=[None, None], start=None) is None, said(tmp_path)
    assert_equal(build(tiny_experiment(changes), 0).state_dict(), weights(tmp_path))


def test_prepared_parts_and_an_earlier_stage_are_what_it_starts_from(server: Path, tmp_path: Path) -> None:
    changes = {**STILL, "model.language_model": LLAMA}
    other = build(tiny_experiment(changes), 7)
    parts = []
    for name, part in (("encoder", other.encoder), ("language", other.language_model)):
        (tmp_path / name).mkdir()
        torch.save(part.state_dict(), tmp_path / name / "weights.pt")
        parts.append(str(tmp_path / name))
    folder = tmp_path / "prepared"
    assert run(server, "train", folder, 2, changes=changes, parts=parts, start=None) is None, said(folder)
    expected = build(tiny_experiment(changes), 0).state_dict()
    own = other.state_dict()
    assert_equal({name: expected[name] if name.startswith("connector") else own[name] for name in expected}, weights(folder))

    (tmp_path / "earlier").mkdir()
    torch.save(own, tmp_path / "earlier" / "model.pt")
    folder, earlier = tmp_path / "later", str(tmp_path / "earlier")
    assert run(server, "train", folder, 2, changes=changes, parts=[None, None], start=earlier) is None, said(folder)
    assert_equal(own, weights(folder))

    wider = changes | {"model.language_model": {**LLAMA, "configuration": {**LLAMA["configuration"], "intermediate_size": 64}}}  # type: ignore[dict-item]
    folder = tmp_path / "wider"
    assert run(server, "train", folder, 2, changes=wider, parts=[None, None], start=earlier) is not None
    assert f"the weights of the earlier stage in {earlier} do not fit" in said(folder)


def test_only_the_first_worker_ever_holds_all_weights(server: Path, tmp_path: Path) -> None:
    """From the making of the model to its evaluation. Its blocks are frozen, so that training adds little to its weights."""
    small = {**STILL, "experiment": "small", "data.packing.row_tokens": 32, "training.batch_rows": 2}
    large = {**small, "experiment": "large", "model.language_model": {**LARGE, "frozen": True}}
    assert run(server, "train_and_load", tmp_path, 2, small=small, large=large) is None, said(tmp_path)
    expected = build(tiny_experiment(large), 0)
    whole = sum(value.nbytes for value in expected.parameters())
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first[0] > whole, "or memory is not counted"
    # A half of it, and while it is trained a few blocks. Whoever had made it whole before would be far above it.
    assert max(second) < 0.95 * whole, f"{second[0] / whole:.2f} of the weights, {second[1] / whole:.2f} at the end"
    loaded = weights(tmp_path, "loaded.pt")
    assert_equal(dict(expected.named_buffers()) | expected.state_dict(), loaded)


def test_a_model_without_values_differs_from_one_with_values_in_nothing_else(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "tie_word_embeddings": True}
    published = LlamaForCausalLM(LlamaConfig(vocab_size=load_tokenizer("miniature").vocabulary_size, **sizes))
    published.to(torch.bfloat16).save_pretrained(tmp_path)
    timm = {"type": "timm", "name": "eva02_tiny_patch14_224", "image_size": 28, "weights": None}
    for changes in (
        {},
        {"model.language_model": LLAMA},
        {"model.image_encoder": timm},
        {"model.language_model": {"name": str(tmp_path), "tokenizer": "miniature"}},
    ):
        experiment = tiny_experiment(changes)
        one, other = build(experiment, 0), build_without_values(experiment, 0)
        assert all(parameter.is_meta for parameter in other.parameters())
        assert [name for name, _ in one.named_parameters()] == [name for name, _ in other.named_parameters()], "what is tied stays tied"
        shapes = [{name: (value.shape, value.dtype) for name, value in model.state_dict().items()} for model in (one, other)]
        assert shapes[0] == shapes[1]
        buffers = dict(other.named_buffers())
        for name, value in one.named_buffers():
            torch.testing.assert_close(buffers.pop(name), value, rtol=0, atol=0)
        assert not buffers
