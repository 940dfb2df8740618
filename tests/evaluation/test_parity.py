"""The same as others get: `generate` of transformers on the same prompts, and lm-evaluation-harness on the same files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import yaml
from evaluated import evaluate
from tiny import tiny_experiment
from toy_tasks import CONFIGURATION, GENERATE, experiment_on, plain_inputs, plain_parts, random_model, record, run, word_tokenizer

from mm1_ablate.config.evaluation import TASKS
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.evaluation.protocols import load_task
from mm1_ablate.evaluation.requests import prepare_requests
from mm1_ablate.evaluation.scores import summarise
from mm1_ablate.model.multimodal import build

SIZES: dict[str, Any] = {
    name: CONFIGURATION[name] for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings")
}
MODELS: dict[str, dict[str, Any]] = {
    "phi": CONFIGURATION,
    "llama": {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen3": {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "tie_word_embeddings": False},
}


# ---------------------------------------------------------------- transformers
@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("policy", ["per_task", "per_query"])
def test_answers_are_token_for_token_those_of_generate(model_type: str, policy: str, tmp_path: Path) -> None:
    # `generate` embeds its own tokens, unscaled.
    tokenizer = word_tokenizer()
    model = random_model({"model_type": model_type, "configuration": MODELS[model_type]}, scale_embeddings=False)
    experiment = experiment_on([record(tmp_path, GENERATE)], demonstrations=policy, shots=[0, 4], items=6)
    scored = run(model, experiment, tokenizer).set_index(["shots", "item"])["prediction"]
    for shots in (0, 4):
        for asked in prepare_requests(load_task(experiment.evaluation.tasks[0]), experiment.evaluation, tokenizer).requests:
            with torch.no_grad():
                inputs = plain_inputs(model, tokenizer, plain_parts(asked.item, asked.solved[:shots]), [])
                tokens = model.language_model.generate(
                    inputs_embeds=inputs,
                    attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long),
                    max_new_tokens=5,
                    do_sample=False,
                    eos_token_id=tokenizer.end,
                    pad_token_id=tokenizer.padding,
                )[0].tolist()
            tokens = tokens[: tokens.index(tokenizer.end)] if tokenizer.end in tokens else tokens
            tokens = [token for token in tokens if token != tokenizer.padding]  # which has no text
            assert tokenizer.encode(scored[shots, asked.item.id]) == tokens
    assert scored.nunique() > 6  # else the comparison says little


# ---------------------------------------------------------------- lm-evaluation-harness
WORDS = [
    "the", "of", "a", "to", "in", "is", "that", "it", "was", "for", "on", "are", "with", "as", "they", "at",
    "be", "this", "from", "have", "or", "by", "one", "had", "not", "but", "what", "all", "were", "we", "when", "can",
]  # fmt: skip


def sentence(draws: random.Random, most: int) -> str:
    return " ".join(draws.choice(WORDS) for _ in range(draws.randint(1, most)))


def published(draws: random.Random, items: int = 12) -> dict[str, tuple[str, str, list[dict[str, Any]]]]:
    """By task, its split, its file and made-up rows in the shape that it is published in."""

    def some(most: int) -> str:
        return sentence(draws, most)

    def arc() -> dict[str, Any]:
        choices = {"text": [some(4) for _ in range(4)], "label": ["A", "B", "C", "D"]}
        return {"question": some(12), "choices": choices, "answerKey": draws.choice("ABCD")}

    def hellaswag() -> dict[str, Any]:
        endings = [f"{some(6)} [title] {some(3)}" for _ in range(4)]
        return {
            "activity_label": some(2), "ctx_a": f"{some(8)} [header] {some(2)}", "ctx_b": some(3), "endings": endings,
            "label": str(draws.randrange(4)),
        }  # fmt: skip

    def winogrande() -> dict[str, Any]:
        return {"sentence": f"{some(6)} _ {some(5)}.", "option1": some(1), "option2": some(2), "answer": draws.choice("12")}

    def sciq() -> dict[str, Any]:
        names = ("distractor1", "distractor2", "distractor3", "correct_answer")
        return {"question": some(8), "support": f" {some(12)}", **{name: some(3) for name in names}}

    rows = {
        "arc_easy": ("test", "arc/ARC-Easy/test-0.parquet", lambda: {"id": str(draws.random()), **arc()}),
        "arc_challenge": ("test", "arc/ARC-Challenge/test-0.parquet", lambda: {"id": str(draws.random()), **arc()}),
        "hellaswag": ("validation", "hellaswag/validation-0.parquet", hellaswag),
        "winogrande": ("validation", "winogrande/winogrande_xl/validation-0.parquet", winogrande),
        "piqa": (
            "validation",
            "piqa/validation-0.parquet",
            lambda: {"goal": some(9), "sol1": some(9), "sol2": some(9), "label": draws.randrange(2)},
        ),
        "sciq": ("test", "sciq/test-0.parquet", sciq),
        "lambada": ("test", "lambada/test-0.parquet", lambda: {"text": f"{some(20)} {some(20)} {some(1)}"}),
    }
    return {task: (split, name, [row() for _ in range(items)]) for task, (split, name, row) in rows.items()}


def save_language_model(folder: Path) -> None:
    """A small random Llama and a byte-level tokenizer, as files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    draws = random.Random(1)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator((sentence(draws, 30) for _ in range(200)), trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(backend.get_vocab()), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, tie_word_embeddings=True, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


HARNESS_NAMES = {"lambada": ("lambada", "lambada_openai"), "arc_easy": ("arc", "arc_easy"), "arc_challenge": ("arc", "arc_challenge")}


def harness(folder: Path, tasks: dict[str, tuple[str, str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """What lm-evaluation-harness's own task records give on the same files."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    records = folder / "records"
    records.mkdir()
    for task, (split, name, _) in tasks.items():
        part, own = HARNESS_NAMES.get(task, (task, task))
        included = Path(lm_eval.__file__).parent / "tasks" / part / f"{'default' if task == 'winogrande' else own}.yaml"
        if task == "arc_challenge":
            included = included.with_name("arc_easy.yaml")
        local = {
            "include": str(included), "task": f"local_{task}", "tag": [], "dataset_path": "parquet", "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(folder / "benchmarks" / name)}}, "training_split": None,
            "validation_split": split if split == "validation" else None, "test_split": split if split == "test" else None,
        }  # fmt: skip
        (records / f"{task}.yaml").write_text(yaml.safe_dump(local))
    manager = TaskManager(include_path=str(records), include_defaults=False)
    model = HFLM(pretrained=str(folder / "model"), batch_size=8, device="cpu", dtype="float32")
    return lm_eval.simple_evaluate(
        model, tasks=[f"local_{task}" for task in tasks], num_fewshot=0, task_manager=manager, bootstrap_iters=0, log_samples=True
    )


def test_text_tasks_are_scored_as_by_lm_evaluation_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MM1_ABLATE_BENCHMARKS", str(tmp_path / "benchmarks"))
    tasks = published(random.Random(0))
    for _, name, rows in tasks.values():
        path = tmp_path / "benchmarks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pandas.DataFrame(rows).to_parquet(path)
    save_language_model(tmp_path / "model")
    theirs = harness(tmp_path, tasks)

    folder = str(tmp_path / "model")
    experiment = tiny_experiment(
        {"model.language_model": {"name": folder, "tokenizer": folder}, "evaluation": {"tasks": list(tasks), "batch_items": 5}}
    )
    tokenizer = load_tokenizer(folder)
    items = evaluate(build(experiment, seed=0), experiment, tokenizer, ImagePipeline(24))
    ours = summarise(items)

    for task in tasks:
        primary = items[(items["task"] == task) & items["primary"]]
        samples = sorted(theirs["samples"][f"local_{task}"], key=lambda sample: sample["doc_id"])
        found = {row["prompt"]: row for row in primary.to_dict("records")}
        assert len(found) == len(samples)
        for sample in samples:
            answers = [response[0] for response in sample["resps"]]
            prompts = {argument[0].rstrip() for argument in sample["arguments"]}
            own = (
                found.get(prompts.pop())
                if task != "winogrande"
                else next(row for row in found.values() if sample["doc"]["sentence"].startswith(row["prompt"]))
            )
            assert own is not None, (task, sample["arguments"][0], list(found)[:3])
            assert json.loads(own["log_likelihoods"]) == pytest.approx([float(nats) for nats, _ in answers], abs=1e-4)
    results = {task: theirs["results"][f"local_{task}"] for task in tasks}
    for task in tasks:
        if task == "lambada":
            assert ours["text_core/lambada"] == pytest.approx(100 * results[task]["acc,none"])
            assert ours["text_core/lambada.perplexity"] == pytest.approx(results[task]["perplexity,none"], rel=1e-5)
            continue
        declared = yaml.safe_load((TASKS / f"{task}.yaml").read_text())["metrics"]
        for place, metric in enumerate(declared):
            name = {"choice_accuracy": "acc,none", "choice_accuracy_normalised": "acc_norm,none"}[metric]
            key = f"text_core/{task}" if place == 0 else f"text_core/{task}.{metric}"
            assert ours[key] == pytest.approx(100 * results[task][name])
    assert len({round(score, 3) for score in ours.values()}) > 4  # else the comparison says little
