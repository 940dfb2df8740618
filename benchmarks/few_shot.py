"""Few-shot answers of a model of 100 million random parameters: this package against `generate` of transformers, on a CPU.

`python benchmarks/few_shot.py [items]` prints, at 0, 4 and 8 shots, CPU seconds of one thread for
  ours      all questions through `evaluation.evaluate.predict`, demonstrations read once, images encoded once,
  beside    the same with the probability of every right answer (`evaluation.probability`), and how many times as long that takes,
  generate  the same prompts in batches through `generate`, each with all its demonstrations, images encoded once,
  loop      the usual loop: as `generate`, and the images of every prompt go through the encoder again,
and how many times as fast ours is: the more questions share the demonstrations, the more. Answers are asserted to be equal token for
token. Takes about five minutes of one core; needs neither Ray nor MLflow.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.data.documents import Image, Item, ItemSet
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.items import ItemSource
from mm1_ablate.data.tokenizer import Tokenizer, load_tokenizer
from mm1_ablate.evaluation.evaluate import predict
from mm1_ablate.evaluation.evaluation_mode import evaluating
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.evaluation.requests import Request, prepare_requests
from mm1_ablate.model.multimodal import MultimodalModel, build

SHOTS = (0, 4, 8)
NEW_TOKENS = 5
BATCH = 32
WORDS = ["red", "green", "blue", "circle", "square", "small", "large", "what", "card", "left", "right", "top"]


class Questions(ItemSource):
    """Random pictures and questions of one group."""

    type: str = f"{__name__}.Questions"

    def open(self, split: str = "report", count: int | None = None, seed: int = 0) -> ItemSet:
        draws = np.random.default_rng(seed)

        def item(name: str) -> Item:
            pixels = draws.integers(0, 256, (224, 224, 3), dtype=np.uint8)
            question, answer = (" ".join(draws.choice(WORDS, draws.integers(low, high))) for low, high in ((5, 12), (1, 3)))
            return Item(name, "all", Image(name, lambda: pixels), {"question": question}, (answer,))

        return ItemSet([item(f"q{number}") for number in range(count or 24)], [item(f"d{number}") for number in range(16)])


def experiment(folder: str, items: int, shots: Sequence[int], probability: bool = False) -> Experiment:
    encoder = {"type": "vision_transformer", "image_size": 224, "patch_size": 16, "width": 192, "depth": 12, "heads": 3}
    configuration = {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12, "intermediate_size": 2048,
        "max_position_embeddings": 2048, "tie_word_embeddings": False, "initializer_range": 0.1,
    }  # fmt: skip
    return Experiment.model_validate(
        {
            "experiment": "few shot",
            "data": {
                "mixture": {"text": 1},
                "sources": {"text": {"type": "miniature", "data_type": "text", "content": "text"}},
            },
            "model": {
                "image_encoder": encoder,
                "connector": {"type": "average_pool", "image_tokens": 144},
                "language_model": {"model_type": "llama", "configuration": configuration},
            },
            "training": {"steps": 1, "warmup_steps": 0},
            "evaluation": {
                "tasks": [f"{folder}/questions.yaml"],
                "shots": list(shots),
                "items": items,
                "batch_items": BATCH,
                "probability": probability,
            },
        }
    )


RECORD = f"""
task: questions
family: image
kind: generate
items: {{type: {__name__}.Questions}}
prompt: "{{image}} Q : {{question}} A : {{answer}}"
separator: " ."
max_new_tokens: {NEW_TOKENS}
metrics: [exact_match]
"""


def generated(
    model: MultimodalModel,
    tokenizer: Tokenizer,
    questions: Sequence[Request],
    shots: int,
    encode: Callable[[Sequence[Image]], list[Tensor]],
) -> list[str]:
    """The answers of `generate`, in batches padded on the left."""
    answers: list[str] = []
    for start in range(0, len(questions), BATCH):
        rows = []
        for one in questions[start : start + BATCH]:
            segments = [segment for part in (*one.before(shots), *one.prompts) for segment in part.segments]
            encoded = iter(encode([segment for segment in segments if not isinstance(segment, tuple)]))
            parts = [
                model.embed(torch.tensor(part, device=model.device)) if isinstance(part, tuple) else next(encoded) for part in segments
            ]
            rows.append(torch.cat(parts))
        longest = max(map(len, rows))
        language_model: Any = model.language_model
        tokens = language_model.generate(
            inputs_embeds=torch.stack([pad(row, (0, 0, longest - len(row), 0)) for row in rows]),
            attention_mask=torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in rows]).to(model.device),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.end,
            pad_token_id=tokenizer.padding,
        )
        for row in tokens.tolist():
            answers.append(tokenizer.decode(row[: row.index(tokenizer.end)] if tokenizer.end in row else row).strip())
    return answers


def main() -> None:
    import tempfile
    from pathlib import Path

    items = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    folder = tempfile.mkdtemp()
    Path(folder, "questions.yaml").write_text(RECORD)
    torch.set_num_threads(1)  # seconds of threads that wait for each other on a busy machine say nothing
    tokenizer, pipeline = load_tokenizer("miniature"), ImagePipeline(224)
    model = build(experiment(folder, items, SHOTS), seed=0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters / 1e6:.0f} million parameters, {items} questions, batches of {BATCH}")

    def encode_again(images: Sequence[Image]) -> list[Tensor]:
        return list(model.encode_images(pipeline.load(images).to(model.device)))

    with evaluating(model):
        predict(model, experiment(folder, 2, [0]), tokenizer, pipeline)  # whatever is slow the first time
        for shots in SHOTS:
            declared = experiment(folder, items, [shots])
            prepared = prepare_requests(load_tasks(declared.evaluation)[0], declared.evaluation, tokenizer)
            kept: dict[str, Tensor] = {}

            def encode_once(images: Sequence[Image], kept: dict[str, Tensor] = kept) -> list[Tensor]:
                missing = [image for image in images if image.key not in kept]
                kept.update(zip((image.key for image in missing), encode_again(missing), strict=True) if missing else ())
                return [kept[image.key] for image in images]

            began = time.process_time()
            ours = predict(model, declared, tokenizer, pipeline)["prediction"].tolist()
            seconds = [time.process_time() - began]
            began = time.process_time()
            beside = predict(model, experiment(folder, items, [shots], probability=True), tokenizer, pipeline)
            longer = time.process_time() - began
            assert beside["prediction"].tolist() == ours and not beside["reference_log_likelihoods"].eq("[]").any()
            for encode in (encode_once, encode_again) if shots else (encode_once,):  # without demonstrations both are the same
                began = time.process_time()
                theirs = generated(model, tokenizer, prepared.requests, shots, encode)
                seconds.append(time.process_time() - began)
                assert ours == theirs, [(own, other) for own, other in zip(ours, theirs, strict=True) if own != other]
            first, second, third = seconds[0], seconds[1], seconds[-1]
            print(
                f"{shots} shots: ours {first:.1f} s, beside {longer:.1f} s ({longer / first:.2f} x), generate {second:.1f} s"
                f" ({second / first:.1f} x), loop {third:.1f} s ({third / first:.1f} x); {len(set(ours))} different answers"
            )


if __name__ == "__main__":
    main()
