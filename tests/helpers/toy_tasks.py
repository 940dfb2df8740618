"""Tasks of random words and pictures, and random models to be asked them: small enough to compare with the plain loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
import yaml
from evaluated import evaluate
from tiny import tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.data.documents import Image, Item, ItemSet, Unreadable
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.items import ItemSource
from mm1_ablate.data.tokenizer import Tokenizer, load_tokenizer
from mm1_ablate.model.multimodal import MultimodalModel, build

WORDS = ["red", "green", "blue", "circle", "square", "small", "large", "mesh", "what", "card", "->"]
CONFIGURATION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256,
    "qk_layernorm": True,
}  # fmt: skip
OUTPUTS = ("dense.weight", "fc2.weight", "o_proj.weight", "down_proj.weight", "c_proj.weight")


class Toy(ItemSource):
    """Items of random words and pictures, in two groups, with prompts and choices of many lengths."""

    type: str = f"{__name__}.Toy"
    demonstrations: int = 10
    corrupt: list[str] = []
    """Items whose picture cannot be read."""
    incomplete: list[str] = []
    """Items without references and choices."""
    bad: int = 0
    """Items that the source could not make."""

    def open(self, split: str, count: int | None, seed: int) -> ItemSet:
        draws = np.random.default_rng(seed)

        def words(most: int) -> str:
            return " ".join(draws.choice(WORDS, draws.integers(1, most + 1)))

        def item(name: str, number: int) -> Item:
            pixels = draws.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            identity = f"{name}{number}"
            choices = tuple(words(3) for _ in range(3))

            def load() -> np.ndarray:
                if identity in self.corrupt:
                    raise Unreadable("truncated JPEG", identity)
                return pixels

            fields, answer = {"q": words(6)}, words(4)
            image = Image(identity, load)
            if identity in self.incomplete:
                return Item(identity, "ab"[number % 2], image, fields, ())
            return Item(identity, "ab"[number % 2], image, fields, (answer,), choices, 0)

        bad = [Unreadable("no annotation", f"row {number}") for number in range(self.bad)]
        demonstrations = [item("d", number) for number in range(self.demonstrations)]
        return ItemSet([item("q", number) for number in range(count or 9)], demonstrations, bad)


GENERATE: dict[str, Any] = {
    "task": "toy", "family": "image", "kind": "generate", "items": {"type": f"{__name__}.Toy"},
    "prompt": "{image} {q} -> {answer}", "separator": " |", "max_new_tokens": 5, "metrics": ["exact_match"],
}  # fmt: skip
CHOOSE = GENERATE | {"kind": "choose", "metrics": ["choice_accuracy", "choice_accuracy_normalised"]}


def toy(**items: Any) -> dict[str, Any]:
    """The record of a task that generates, about other items."""
    return {**GENERATE, "items": {"type": f"{__name__}.Toy", **items}}


def word_tokenizer() -> Tokenizer:
    return load_tokenizer("miniature")


def random_model(language_model: dict[str, Any] | None = None, scale_embeddings: bool = True) -> MultimodalModel:
    """With blocks that weigh more than the last token, so that answers depend on the whole prompt."""
    declared = language_model or {"model_type": "phi", "configuration": CONFIGURATION}
    declared = {**declared, "initialisation": "fan_in", "scale_embeddings": scale_embeddings}
    model = build(tiny_experiment({"model.language_model": declared}), seed=3)
    with torch.no_grad():
        for name, weight in model.language_model.named_parameters():
            weight.mul_(6 if name.endswith(OUTPUTS) else 1)
    return model.eval()


def experiment_on(tasks: list[str], **evaluation: Any) -> Experiment:
    declared = {"tasks": tasks, "shots": [0, 2, 3], "batch_items": 4} | evaluation
    return tiny_experiment({"model.language_model.configuration": CONFIGURATION, "evaluation": declared})


def record(folder: Path, fields: Mapping[str, Any]) -> str:
    """The path of a new task record."""
    path = folder / f"{len(list(folder.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump(dict(fields)))
    return str(path)


def run(model: MultimodalModel, experiment: Experiment, tokenizer: Tokenizer, **more: Any) -> pandas.DataFrame:
    return evaluate(model, experiment, tokenizer, ImagePipeline(24), **more)


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
    """The prompt of a toy question."""
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
def plain_log_likelihood(model: MultimodalModel, tokenizer: Tokenizer, parts: list[str | Image], choice: str) -> tuple[float, bool]:
    """Of a choice, and whether each of its tokens is the likeliest."""
    tokens = tokenizer.encode(choice)
    logits = model.language_model(inputs_embeds=plain_inputs(model, tokenizer, parts, tokens)).logits[0].log_softmax(-1)
    own = [(logits[place - len(tokens) - 1], token) for place, token in enumerate(tokens)]
    return sum(float(row[token]) for row, token in own), all(int(row.argmax()) == token for row, token in own)


def demonstrations_of(table: pandas.DataFrame, shots: int) -> dict[str, list[str]]:
    """The demonstrations of each item, by name, in their order."""
    own = table[(table["shots"] == shots) & table["primary"]]
    return {item: text.split() for item, text in zip(own["item"], own["demonstration_set"], strict=True)}
