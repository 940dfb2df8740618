"""Evaluation by workers that share a sharded language model: what it costs that they call it in step, and that blocks are gathered.

`python benchmarks/sharded_evaluation.py [workers] [items]` starts workers on CPUs, which talk over gloo, and prints CPU seconds of all
  whole    each worker has the whole model and answers all questions,
  sharded  the same, but the language model's blocks are sharded and gathered; nobody says that he has work, which none needs here,
           for all have as much,
  in step  the same, and workers say before each call of the language model that they have work,
  shared   in step, and the questions are dealt out, so that a worker without one left joins in with calls that nobody looks at,
as the best of several turns, and as ratios. Answers are asserted to be equal. Ratios of a GPU are others: there a call costs less and
gathering goes over another network; waiting for each other is not in CPU seconds.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import few_shot
import pandas
import torch

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.evaluation import evaluation_mode
from mm1_ablate.evaluation.evaluate import predict
from mm1_ablate.model.multimodal import MultimodalModel, build
from mm1_ablate.run.worker_group import free_port
from mm1_ablate.training.fit import load_trained
from mm1_ablate.training.workers import Workers

TURNS = 2
SHOTS = (0, 4)


def declared(folder: str, items: int) -> Experiment:
    """A quarter of the widths of `few_shot.py`, two of whose batches would be all questions."""
    tree = few_shot.experiment(folder, items, SHOTS).model_dump(mode="json")
    tree["model"]["language_model"]["configuration"] |= {"hidden_size": 192, "num_attention_heads": 3, "num_key_value_heads": 3}
    tree["model"]["language_model"]["configuration"]["intermediate_size"] = 512
    tree["model"]["image_encoder"]["depth"] = 2
    tree["evaluation"]["batch_items"] = 4
    return Experiment.model_validate(tree)


def work(rank: int, ranks: int, port: int, folder: str, items: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    experiment, workers = declared(folder, items), Workers(rank, ranks, "fsdp")
    tokenizer, pipeline = load_tokenizer("miniature"), ImagePipeline(224)
    with workers.joined():
        whole, sharded = (load_trained(experiment, 0, Path(folder), Workers(rank, ranks, how)) for how in ("ddp", "fsdp"))  # type: ignore[arg-type]

        def timed(model: MultimodalModel, own: bool, in_step: bool = True) -> tuple[float, pandas.DataFrame]:
            workers.barrier()
            began = time.process_time()
            with nullcontext() if in_step else patch.object(evaluation_mode, "is_sharded", lambda language_model: False):
                share = predict(model, experiment, tokenizer, pipeline, rank=rank if own else 0, ranks=ranks if own else 1)
            return workers.all_reduce([time.process_time() - began])[0], share

        seconds: dict[str, float] = {}
        for turn in range(TURNS + 1):  # the first is not counted
            found = {
                "whole": timed(whole, False),
                "sharded": timed(sharded, False, in_step=False),
                "in step": timed(sharded, False),
                "shared": timed(sharded, True),
            }
            dealt = pandas.concat(workers.all_gather(found["shared"][1]))["prediction"]
            for name in ("sharded", "in step"):
                assert found[name][1].equals(found["whole"][1]), "answers differ"
            assert sorted(dealt) == sorted(found["whole"][1]["prediction"]), "answers differ"
            if turn:
                seconds = {name: min(seconds.get(name, found[name][0]), found[name][0]) for name in found}
    if rank == 0:
        print(f"{ranks} workers, {items} questions, batches of 4: " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
        print(f"in step against not: {seconds['in step'] / seconds['sharded']:.2f}; ", end="")
        print(f"sharded against whole: {seconds['sharded'] / seconds['whole']:.2f}")


def main() -> None:
    ranks, items = (int(own or usual) for own, usual in zip([*sys.argv[1:3], "", ""], (2, 10), strict=False))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "questions.yaml").write_text(few_shot.RECORD)
        torch.save(build(declared(folder, items), 0).state_dict(), Path(folder, "model.pt"))
        torch.multiprocessing.start_processes(work, (ranks, free_port(), folder, items), nprocs=ranks, start_method="fork")


if __name__ == "__main__":
    main()
