"""Evaluation as a whole, on a random model: the same answers as the plain loop, whatever is shared and batched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import yaml
from tiny import tiny_experiment

from mm1_ablate.data.documents import Image, Item, ItemSet
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.items import ItemSource
from mm1_ablate.data.tokenizer import Tokenizer, load_tokenizer
from mm1_ablate.evaluation.evaluate import ContextOverflow, evaluate, prepare
from mm1_ablate.evaluation.scores import COLUMNS, summarise
from mm1_ablate.evaluation.task import load_task
from mm1_ablate.model.multimodal import MultimodalModel, build
from mm1_ablate.spec.claims import shipped_tasks
from mm1_ablate.spec.experiment import Experiment
from mm1_ablate.spec.progress import Progress

WORDS = ["red", "green", "blue", "circle", "square", "small", "large", "E", "what", "card", "->"]
CONFIGURATION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256,
    "qk_layernorm": True,
}  # fmt: skip


class Toy(ItemSource):
    """Items of random words and pictures, in two groups, with prompts and choices of many lengths."""

    type: str = f"{__name__}.Toy"

    def open(self, split: str, count: int | None, seed: int) -> ItemSet:
        draws = np.random.default_rng(seed)

        def words(most: int) -> str:
            return " ".join(draws.choice(WORDS, draws.integers(1, most + 1)))

        def item(name: str, number: int) -> Item:
            pixels = draws.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            choices = tuple(words(3) for _ in range(3))
            image = Image(f"{name}{number}", lambda: pixels)
            return Item(f"{name}{number}", "ab"[number % 2], image, {"q": words(6)}, (words(4),), choices, 0)

        return ItemSet([item("q", number) for number in range(count or 9)], [item("d", number) for number in range(10)])


GENERATE: dict[str, Any] = {
    "task": "toy", "family": "image", "kind": "generate", "items": {"type": f"{__name__}.Toy"},
    "prompt": "{image} {q} -> {answer}", "separator": " |", "max_new_tokens": 5, "metrics": ["exact_match"],
}  # fmt: skip
CHOOSE = GENERATE | {"kind": "choose", "metrics": ["choice_accuracy", "choice_accuracy_normalised"]}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("miniature")


@pytest.fixture(scope="module")
def model() -> MultimodalModel:
    return random_model({"model_type": "phi", "configuration": CONFIGURATION})


def random_model(language_model: dict[str, Any]) -> MultimodalModel:
    """With blocks that weigh more than the last token, so that answers depend on the whole prompt."""
    model = build(
        tiny_experiment({"model.language_model": {**language_model, "initialisation": "fan_in", "scale_embeddings": True}}), seed=3
    )
    with torch.no_grad():
        for name, weight in model.language_model.named_parameters():
            weight.mul_(6 if name.endswith(("dense.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")) else 1)
    return model


def experiment_on(tasks: list[str], **evaluation: Any) -> Experiment:
    declared = {"tasks": tasks, "shots": [0, 2, 3], "batch_items": 4} | evaluation
    return tiny_experiment({"model.language_model.configuration": CONFIGURATION, "evaluation": declared})


def record(folder: Path, fields: Mapping[str, Any]) -> str:
    path = folder / f"{len(list(folder.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump(dict(fields)))
    return str(path)


def run(model: MultimodalModel, experiment: Experiment, tokenizer: Tokenizer) -> pandas.DataFrame:
    return evaluate(model, experiment, tokenizer, ImagePipeline(24))


def plain_inputs(model: MultimodalModel, tokenizer: Tokenizer, parts: list[str | Image], further: list[int]) -> torch.Tensor:
    """Embeddings [1, T, D] of a prompt, part after part."""
    pieces = [
        model.encode_images(ImagePipeline(24).load([part]))[0]
        if isinstance(part, Image)
        else model.embed(torch.tensor(tokenizer.encode(part)))
        for part in parts
    ]
    return torch.cat([*pieces, model.embed(torch.tensor(further, dtype=torch.long))])[None]


def plain_parts(item: Item, solved: tuple[Item, ...]) -> list[str | Image]:
    parts: list[str | Image] = []
    for other in solved:
        assert other.image
        parts += [other.image, f"{other.fields['q']} -> {other.references[0]} |"]
    assert item.image
    return [*parts, item.image, f"{item.fields['q']} ->"]


@torch.no_grad()
def plain_generation(model: MultimodalModel, tokenizer: Tokenizer, parts: list[str | Image], steps: int) -> str:
    """The usual loop: everything encoded again for every token."""
    tokens: list[int] = []
    for _ in range(steps):
        token = int(model.language_model(inputs_embeds=plain_inputs(model, tokenizer, parts, tokens)).logits[0, -1].argmax())
        if token == tokenizer.end:
            break
        tokens.append(token)
    return tokenizer.decode(tokens)


@torch.no_grad()
def plain_log_likelihood(model: MultimodalModel, tokenizer: Tokenizer, parts: list[str | Image], choice: str) -> float:
    tokens = tokenizer.encode(choice)
    logits = model.language_model(inputs_embeds=plain_inputs(model, tokenizer, parts, tokens)).logits[0].log_softmax(-1)
    return sum(float(logits[place - len(tokens) - 1, token]) for place, token in enumerate(tokens))


@pytest.mark.parametrize("policy, window", [("per_task", None), ("per_query", None), ("per_task", 9)])
def test_shared_and_batched_answers_are_token_for_token_those_of_the_plain_loop(model, tokenizer, tmp_path, policy, window) -> None:
    if window:
        others = {"num_key_value_heads": 1, "sliding_window": window}
        configuration = {name: value for name, value in CONFIGURATION.items() if name != "qk_layernorm"}
        model = random_model({"model_type": "mistral", "configuration": configuration | others})
    experiment = experiment_on([record(tmp_path, GENERATE)], demonstrations=policy)
    prepared = prepare(load_task(experiment.evaluation.tasks[0]), experiment.evaluation, tokenizer)
    scored = run(model.eval(), experiment, tokenizer).set_index(["shots", "item"])
    answers = set()
    for shots in (0, 2, 3):
        for asked in prepared.questions:
            expected = plain_generation(model, tokenizer, plain_parts(asked.item, asked.solved[:shots]), 5)
            assert scored.loc[(shots, asked.item.id), "prediction"] == expected
            answers.add(expected)
    assert len(answers) > 5  # else the comparison says little


def test_likelihoods_of_choices_are_those_of_one_choice_at_a_time(model, tokenizer, tmp_path) -> None:
    experiment = experiment_on([record(tmp_path, {**CHOOSE, "prompt": "{image} {q} -> {answer}"})], shots=[0])
    scored = run(model.eval(), experiment, tokenizer).query("primary").set_index("item")
    for asked in prepare(load_task(experiment.evaluation.tasks[0]), experiment.evaluation, tokenizer).questions:
        parts = plain_parts(asked.item, ())
        expected = [plain_log_likelihood(model, tokenizer, parts, choice) for choice in asked.item.choices]
        assert yaml.safe_load(scored.loc[asked.item.id, "log_likelihoods"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("fields", [GENERATE, CHOOSE], ids=["generate", "choose"])
def test_batch_size_changes_nothing(model, tokenizer, tmp_path, fields) -> None:
    path = record(tmp_path, fields)
    tables = [run(model, experiment_on([path], batch_items=size), tokenizer) for size in (1, 5, 64)]
    columns = [column for column in COLUMNS if column != "log_likelihoods"]  # equal but for rounding
    for other in tables[1:]:
        pandas.testing.assert_frame_equal(tables[0][columns], other[columns])


def test_answers_end_before_stop_strings(model, tokenizer, tmp_path) -> None:
    free = run(model, experiment_on([record(tmp_path, GENERATE)]), tokenizer)["prediction"]
    word = free.str.split().explode().mode()[0]
    stopped = run(model, experiment_on([record(tmp_path, {**GENERATE, "stop": [word]})]), tokenizer)["prediction"]
    assert stopped.tolist() == [text.split(word)[0].strip() for text in free]
    assert stopped.tolist() != free.tolist()


def test_each_image_is_encoded_once_for_all_shots_and_tasks(model, tokenizer, tmp_path, monkeypatch) -> None:
    seen = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda images: seen.extend(image.numpy().tobytes() for image in images) or encode(images))
    run(model, experiment_on([record(tmp_path, GENERATE), record(tmp_path, {**CHOOSE, "task": "other"})]), tokenizer)
    assert seen and len(seen) == len(set(seen))


def test_overflow_is_an_error_that_names_task_and_shots_before_anything_is_generated(model, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(model, "context_length", 40)
    reports: list[Progress] = []
    with pytest.raises(ContextOverflow, match="task toy at 3 shots"):
        evaluate(model, experiment_on([record(tmp_path, GENERATE)]), tokenizer, ImagePipeline(24), reports.append)
    assert not reports


def test_every_shipped_task_runs_and_is_summarised(model, tokenizer) -> None:
    tasks = sorted(shipped_tasks())
    experiment = experiment_on(tasks, items=6, shots=[8, 0], batch_items=6)
    reports: list[Progress] = []
    scored = evaluate(model, experiment, tokenizer, ImagePipeline(24), reports.append)
    assert list(scored.columns) == COLUMNS
    assert reports[-1].step == reports[-1].steps
    summary = summarise(scored)
    assert {"shot_0/average", "shot_8/average", "text_core/average", "shot_8/miniature_captions.cider_raw"} <= set(summary)
    image_tasks = [name for name in tasks if load_task(name).family == "image"]
    assert summary["shot_8/average"] == pytest.approx(np.mean([summary[f"shot_8/{name}"] for name in image_tasks]))
    assert scored.groupby(["task", "shots", "metric"]).size().unique().tolist() == [6]
    assert scored.query("shots == 8")["demonstration_set"].str.split().str.len().unique().tolist() == [8]
