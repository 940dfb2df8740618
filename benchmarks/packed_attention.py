"""A training step of the miniature's language model with packed attention against transformers' dense mask, on one CPU thread.

`python benchmarks/packed_attention.py` prints CPU milliseconds of a forward and backward pass over 1,000 tokens, and the ratio, and by how
much the logits differ from those of each document alone. Needs neither Ray nor MLflow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.model.language_model import build_language_model
from mm1_ablate.model.packed_attention import DocumentLayout, packed

LENGTHS = [14] * 25 + [80, 75, 60, 55, 50, 40, 90, 30] + [20] * 8
EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "miniature.yaml"


def milliseconds(step: Callable[[], Tensor], repeats: int = 15) -> float:
    """Median CPU time of a step with its backward pass."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        step().square().mean().backward()
        times.append(time.process_time() - began)
    return 1000 * median(times)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_language_model(load_study(EXPERIMENT).arms[0].experiment.model.language_model, vocabulary_size=255, padding=0, end=1)
    embeddings = torch.randn(1, sum(LENGTHS), model.config.hidden_size)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]

    def ours() -> Tensor:
        with packed(model, DocumentLayout(LENGTHS, embeddings.device)) as arguments:
            return model(inputs_embeds=embeddings, position_ids=positions, **arguments).logits

    def dense() -> Tensor:
        # transformers makes the mask out of the positions where there is no cache.
        return model(inputs_embeds=embeddings, position_ids=positions, use_cache=False).logits

    with torch.no_grad():
        alone = [model(inputs_embeds=part, use_cache=False).logits for part in embeddings.split(LENGTHS, 1)]
        leak = (torch.cat(alone, 1) - ours()).abs().max().item()
    first, second = milliseconds(ours), milliseconds(dense)
    print(f"packed {first:.1f} ms, dense mask {second:.1f} ms, ratio {first / second:.2f}; largest difference from alone {leak:.1e}")


if __name__ == "__main__":
    main()
