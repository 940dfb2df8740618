"""Multiple choice by likelihood with a model of 100 million random parameters: this package against lm-evaluation-harness, on a CPU.

`python benchmarks/multiple_choice.py [items]` writes made-up HellaSwag, ARC, SciQ and PIQA files of usual lengths in the shapes that these
are published in, scores them with the shipped task records and with lm-evaluation-harness's own (`pip install lm-eval accelerate`), asserts
that all choices have the same log-likelihoods to 1e-3 and the tasks the same accuracies, and prints CPU seconds of one thread.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas
import torch
import yaml

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.evaluation.evaluate import predict
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.evaluation.scores import scored, summarise
from mm1_ablate.model.multimodal import build

BATCH = 16
VOCABULARY = 32_000
FILES = {
    "hellaswag": ("validation", "hellaswag/validation-0.parquet"),
    "arc_easy": ("test", "arc/ARC-Easy/test-0.parquet"),
    "sciq": ("test", "sciq/test-0.parquet"),
    "piqa": ("validation", "piqa/validation-0.parquet"),
}
WORDS = "the of a to in is that it was for on are with as they at be this from have or by one had not but what all were we when can".split()  # noqa: SIM905


def row(task: str, number: int, draws: random.Random) -> dict[str, Any]:
    """A made-up question; words are tokens, and as many as in the benchmark, about."""

    def text(fewest: int, most: int) -> str:
        return " ".join(draws.choice(WORDS) for _ in range(draws.randint(fewest, most)))

    if task == "hellaswag":
        endings = [text(12, 40) for _ in range(4)]
        return {"activity_label": text(2, 4), "ctx_a": text(30, 80), "ctx_b": text(3, 6), "endings": endings, "label": str(number % 4)}
    if task == "arc_easy":
        choices = {"text": [text(2, 8) for _ in range(4)], "label": list("ABCD")}
        return {"id": str(number), "question": text(12, 40), "choices": choices, "answerKey": "ABCD"[number % 4]}
    if task == "sciq":
        names = ("distractor1", "distractor2", "distractor3", "correct_answer")
        return {"question": text(10, 20), "support": text(60, 140), **{name: text(1, 3) for name in names}}
    return {"goal": text(6, 20), "sol1": text(10, 40), "sol2": text(10, 40), "label": number % 2}


def save_model(folder: Path) -> None:
    """A random Llama of 100 million parameters, and a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<end>", "<unknown>", *(f" {word}" for word in WORDS), *WORDS, *(chr(code) for code in range(32, 127)), "\n"]
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.Split(pattern=__import__("tokenizers").Regex(r" ?[a-z]+|\s|."), behavior="isolated")
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unknown>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=768, intermediate_size=2048, num_hidden_layers=11, num_attention_heads=12,
        num_key_value_heads=12, max_position_embeddings=1024, tie_word_embeddings=True, initializer_range=0.1, eos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def harness(folder: Path) -> tuple[float, dict[str, Any]]:
    """CPU seconds and results of lm-evaluation-harness."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    (folder / "records").mkdir()
    for task, (split, name) in FILES.items():
        included = Path(lm_eval.__file__).parent / "tasks" / task.split("_")[0] / f"{task}.yaml"
        local = {
            "include": str(included), "task": f"local_{task}", "tag": [], "dataset_path": "parquet", "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(folder / "benchmarks" / name)}}, "training_split": None,
            "validation_split": split if split == "validation" else None, "test_split": split if split == "test" else None,
        }  # fmt: skip
        (folder / "records" / f"{task}.yaml").write_text(yaml.safe_dump(local))
    manager = TaskManager(include_path=str(folder / "records"), include_defaults=False)
    model = HFLM(pretrained=str(folder / "model"), batch_size=BATCH, device="cpu", dtype="float32")
    began = time.process_time()
    results = lm_eval.simple_evaluate(
        model, tasks=[f"local_{task}" for task in FILES], num_fewshot=0, task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    return time.process_time() - began, results


def main() -> None:
    items = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    folder = Path(tempfile.mkdtemp())
    os.environ.update(
        HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=str(folder / "hf"), MM1_ABLATE_BENCHMARKS=str(folder / "benchmarks")
    )
    torch.set_num_threads(1)
    draws = random.Random(0)
    for task, (_, name) in FILES.items():
        path = folder / "benchmarks" / name
        path.parent.mkdir(parents=True)
        pandas.DataFrame([row(task, number, draws) for number in range(items)]).to_parquet(path)
    save_model(folder / "model")
    name = str(folder / "model")
    experiment = Experiment.model_validate(
        {
            "experiment": "multiple choice",
            "data": {"mixture": {"text": 1}, "sources": {"text": {"type": "miniature", "data_type": "text", "content": "text"}}},
            "model": {
                "image_encoder": {"type": "vision_transformer", "image_size": 48, "patches_per_side": 4},
                "connector": {"type": "average_pool", "image_tokens": 4},
                "language_model": {"name": name, "tokenizer": name},
            },
            "training": {"steps": 1, "warmup_steps": 0},
            "evaluation": {"tasks": list(FILES), "batch_items": BATCH},
        }
    )
    model, tokenizer, pipeline = build(experiment, seed=0), load_tokenizer(name), ImagePipeline(48)
    parameters = sum(parameter.numel() for parameter in model.language_model.parameters())
    print(f"{parameters / 1e6:.0f} million parameters, {items} questions of each of {', '.join(FILES)}, batches of {BATCH}")
    theirs, results = harness(folder)
    began = time.process_time()
    table = scored(predict(model, experiment, tokenizer, pipeline), load_tasks(experiment.evaluation), experiment.evaluation)
    ours = time.process_time() - began
    scores, largest = summarise(table), 0.0
    for task in FILES:
        own = {line["prompt"]: line for line in table[(table["task"] == task) & table["primary"]].to_dict("records")}
        for sample in results["samples"][f"local_{task}"]:
            found = json.loads(own[sample["arguments"][0][0].rstrip()]["log_likelihoods"])
            differences = [abs(nats - float(response[0][0])) for nats, response in zip(found, sample["resps"], strict=True)]
            largest = max(largest, *differences)
        for metric, key in (("choice_accuracy", "acc,none"), ("choice_accuracy_normalised", "acc_norm,none")):
            score = scores.get(f"text_core/{task}.{metric}", scores[f"text_core/{task}"])
            assert abs(score - 100 * results["results"][f"local_{task}"][key]) < 1e-6, (task, metric)
    assert largest < 1e-3, largest
    print(
        f"ours {ours:.1f} s, lm-evaluation-harness {theirs:.1f} s ({theirs / ours:.1f} x); log-likelihoods differ by {largest:.0e} at most"
    )


if __name__ == "__main__":
    main()
