"""Workers that share a sharded model ask it different questions, and score what one process with the whole model scores."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from evaluated import evaluate
from tiny import tiny_experiment
from toy_tasks import CHOOSE, CONFIGURATION, GENERATE, OUTPUTS, record

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.evaluation import evaluation_mode
from mm1_ablate.model.multimodal import build
from mm1_ablate.run import child_process
from mm1_ablate.run.worker_group import Share, WorkerFailure, free_port, jobs_of, run_together

HERE = str(Path(__file__).parent)
PATIENCE = 300
"""Seconds. Where workers wait for each other for ever, the test fails then; else they are done in a few."""
LIKELIHOOD = GENERATE | {"family": "text", "kind": "likelihood", "prompt": "{q} -> {answer}", "metrics": ["lambada_accuracy"]}
LOSSES = {"text": {"source": {"type": "miniature", "data_type": "text", "content": "text"}, "first": 500, "documents": 7}}
PHI = {"model_type": "phi", "configuration": CONFIGURATION, "initialisation": "fan_in", "scale_embeddings": True}
SLIDING = {  # keeps its own attention and the cache of transformers
    "model_type": "mistral",
    "initialisation": "fan_in",
    "configuration": {**CONFIGURATION, "num_key_value_heads": 1, "sliding_window": 24, "tie_word_embeddings": True},
}
SLIDING["configuration"].pop("qk_layernorm")  # type: ignore[attr-defined]


def experiment_of(declared: dict[str, Any], tasks: list[str], **evaluation: Any) -> Experiment:
    own = {"tasks": tasks, "shots": [0, 2], "items": 5, "batch_items": 2, "losses": LOSSES} | evaluation
    return tiny_experiment({**declared, "evaluation": own})


# ---------------------------------------------------------------- what the children do
def score(folder: str, experiment: dict[str, Any], fails: int, rank: int, ranks: int) -> None:
    """Evaluate, and write what came of it; one may fail after its first answers."""
    from mm1_ablate.training.fit import load_trained
    from mm1_ablate.training.workers import Workers

    torch.set_num_threads(1)
    settings = Experiment.model_validate(experiment)
    workers = Workers(rank, ranks, "fsdp")
    calls: dict[str, int] = {"language": 0, "encoder": 0, "idle": 0}

    def report(progress: Any) -> None:
        if rank == fails:
            raise ArithmeticError(f"what worker {rank} cannot do")

    def count(name: str) -> Any:
        def counted(*_: Any) -> None:
            calls[name] += 1

        return counted

    join_in = evaluation_mode._join_in

    def idle(model: Any) -> None:
        calls["idle"] += 1
        join_in(model)

    evaluation_mode._join_in = idle
    with workers.joined():
        model = load_trained(settings, 0, Path(folder), workers, settings.evaluation.precision)
        model.language_model.register_forward_pre_hook(count("language"))
        model.encoder.register_forward_pre_hook(count("encoder"))
        pipeline = ImagePipeline(settings.model.image_encoder.image_size, sub_images=settings.model.sub_images)
        tokenizer = load_tokenizer("miniature")
        table = evaluate(model, settings, tokenizer, pipeline, report, rank, ranks)
        held = sum(getattr(one, "_local_tensor", one).nbytes for one in model.language_model.parameters())
    table.to_pickle(f"{folder}/{rank}.pickle")
    pd.Series({**calls, "held": held}).to_json(f"{folder}/{rank}.json")


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    with child_process.server() as folder:
        yield folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trained(experiment: Experiment, folder: Path) -> Any:
    """A model whose answers depend on the whole prompt, kept as a training leaves it."""
    model = build(experiment, 0).eval()
    with torch.no_grad():
        for name, weight in model.language_model.named_parameters():
            weight.mul_(6 if name.endswith(OUTPUTS) else 1)
    torch.save(model.state_dict(), folder / "model.pt")
    return model


def scored_by(server: Path, folder: Path, experiment: Experiment, ranks: int, fails: int = -1) -> WorkerFailure | None:
    import socket

    threads, environment = child_process.share_of_machine(1, 0)
    arguments = {"folder": str(folder), "experiment": experiment.model_dump(mode="json"), "fails": fails}
    log = str(folder / "log.txt")
    job = child_process.Job("test_sharded_lockstep:score", arguments, log, threads, environment, import_paths=(*sys.path, HERE))
    ours, theirs = socket.socketpair()
    timer = threading.Timer(PATIENCE, theirs.close)
    timer.start()
    try:
        return run_together(server, jobs_of(job, Share(0, ranks, ranks, "127.0.0.1", free_port())), stop=ours)
    finally:
        timer.cancel()
        ours.close()
        theirs.close()


def said(folder: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("log*.txt")))


def bytes_of(model: Any) -> tuple[int, int]:
    """Of a language model in float32, outside its blocks and in them."""
    blocks = sum(value.nbytes for block in model.language_model.model.layers for value in block.parameters())
    return sum(value.nbytes for value in model.language_model.parameters()) - blocks, blocks


def numbers(text: Any) -> list[float]:
    return json.loads(text) if isinstance(text, str) and text else []


def assert_scored_alike(model: Any, experiment: Experiment, folder: Path, ranks: int, tolerance: float = 1e-4) -> list[dict[str, int]]:
    """Every worker has the scores that one process gets; returns what each called, and how many bytes of the language model it had."""
    pipeline = ImagePipeline(experiment.model.image_encoder.image_size, sub_images=experiment.model.sub_images)
    alone = evaluate(model, experiment, load_tokenizer("miniature"), pipeline)
    for rank in range(ranks):
        table = pd.read_pickle(folder / f"{rank}.pickle")
        pd.testing.assert_frame_equal(
            alone.drop(columns="log_likelihoods"), table.drop(columns="log_likelihoods"), rtol=tolerance, atol=tolerance
        )
        for one, other in zip(alone["log_likelihoods"], table["log_likelihoods"], strict=True):
            assert numbers(other) == pytest.approx(numbers(one), rel=tolerance)
    assert alone["prediction"].nunique() > 5, "else the comparison says little"
    return [pd.read_json(folder / f"{rank}.json", typ="series").to_dict() for rank in range(ranks)]


# ---------------------------------------------------------------- tests
@pytest.mark.parametrize("kind", ["shared", "sliding", "sub_images"])
def test_sharded_workers_score_as_one_process(server: Path, tmp_path: Path, kind: str) -> None:
    """Generation, choices, likelihoods, probabilities and held-out documents, with 2 and 3 workers; the last does no more than it must."""
    declared: dict[str, Any] = {"model.language_model": SLIDING if kind == "sliding" else PHI}
    if kind == "sub_images":
        declared |= {"model.sub_images": {}, "model.image_encoder.image_size": 12}
    tasks = [record(tmp_path, GENERATE), record(tmp_path, CHOOSE | {"task": "chosen"}), record(tmp_path, LIKELIHOOD | {"task": "likely"})]
    experiment = experiment_of(declared, tasks, probability=True)
    model = trained(experiment, tmp_path)
    for ranks in (2, 3) if kind == "shared" else (2,):
        assert scored_by(server, tmp_path, experiment, ranks) is None, said(tmp_path)
        counts = assert_scored_alike(model, experiment, tmp_path, ranks)
        assert len({own["language"] for own in counts}) == 1, "all have called the language model equally often"
        assert any(own["idle"] for own in counts) and all(own["idle"] < own["language"] for own in counts)
        outside, blocks = bytes_of(model)
        assert all(own["held"] < outside + blocks / ranks * 1.1 for own in counts), "blocks are sharded again after each call"


def test_a_worker_without_a_single_question_joins_in(server: Path, tmp_path: Path) -> None:
    experiment = experiment_of({"model.language_model": PHI}, [record(tmp_path, GENERATE)], items=2, shots=[2], losses={})
    model = trained(experiment, tmp_path)
    assert scored_by(server, tmp_path, experiment, 3) is None, said(tmp_path)
    alone = evaluate(model, experiment, load_tokenizer("miniature"), ImagePipeline(24))
    assert list(pd.read_pickle(tmp_path / "2.pickle")["prediction"]) == list(alone["prediction"])
    counts = [pd.read_json(tmp_path / f"{rank}.json", typ="series").to_dict() for rank in range(3)]
    assert counts[2]["idle"] == counts[2]["language"] > 0 and counts[2]["encoder"] == 0, "of the encoder it needs nothing"
    assert counts[0]["encoder"] > 0


def test_half_precision_is_sharded_too(server: Path, tmp_path: Path) -> None:
    tasks = [record(tmp_path, CHOOSE)]
    experiment = experiment_of({"model.language_model": PHI}, tasks, precision="bf16-mixed", losses={})
    model = trained(experiment, tmp_path)
    assert scored_by(server, tmp_path, experiment, 2) is None, said(tmp_path)
    alone = evaluate(model, experiment, load_tokenizer("miniature"), ImagePipeline(24))
    table = pd.read_pickle(tmp_path / "1.pickle")
    for one, other in zip(alone["log_likelihoods"], table["log_likelihoods"], strict=True):
        assert numbers(other) == pytest.approx(numbers(one), rel=0.03)
    outside, blocks = bytes_of(model)
    assert pd.read_json(tmp_path / "1.json", typ="series")["held"] < outside + blocks / 2 / 2 * 1.1


def test_a_worker_that_fails_ends_all(server: Path, tmp_path: Path) -> None:
    experiment = experiment_of({"model.language_model": PHI}, [record(tmp_path, GENERATE)])
    trained(experiment, tmp_path)
    began = time.monotonic()
    assert scored_by(server, tmp_path, experiment, 3, fails=1) is not None
    assert time.monotonic() - began < PATIENCE / 2
    assert "what worker 1 cannot do" in said(tmp_path) and not list(tmp_path.glob("*.pickle"))
