"""An experiment on the miniature world that trains in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mm1_ablate.config.experiment import Experiment

REPOSITORY = Path(__file__).resolve().parents[2]

CAPTIONED = {"type": "miniature", "data_type": "captioned", "content": "synthetic_captions", "documents": 64}
TEXT = {"type": "miniature", "data_type": "text", "content": "text", "documents": 64}
INTERLEAVED = {"type": "miniature", "data_type": "interleaved", "content": "interleaved", "documents": 64}


TINY = {"evaluation.tasks": ["miniature_vqa"], "evaluation.shots": [0], "evaluation.items": 4}
"""As little evaluation as there can be."""

SWEEP = """\
sweep: tiny
experiment: ../experiments/tiny.yaml
seeds: [0, 1]
ablations:
  without:
    remove_each: [data.mixture.interleaved, data.mixture.text]
compare:
  primary: shot_0/average
  metrics: [shot_0/average]
"""


def tiny_experiment(changes: dict[str, Any] | None = None, prepared: bool = False) -> Experiment:
    """The tiny experiment with values at dotted paths changed; `prepared`: starting from a prepared encoder and LM."""
    declared: dict[str, Any] = {
        "experiment": "tiny",
        "data": {
            "mixture": {"captioned": 45, "interleaved": 45, "text": 10},
            "sources": {"synthetic_captions": CAPTIONED, "interleaved": INTERLEAVED, "text": TEXT},
            "packing": {"row_tokens": 128, "nominal_image_tokens": 4, "buffer_documents": 16},
        },
        "model": {
            "image_encoder": {
                "type": "vision_transformer",
                "image_size": 24,
                "patches_per_side": 2,
                "width": 16,
                "depth": 1,
                "heads": 2,
            },
            "connector": {"type": "average_pool", "image_tokens": 4},
            "language_model": {
                "model_type": "phi",
                "configuration": {
                    "hidden_size": 32,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 64,
                    "max_position_embeddings": 512,
                    "qk_layernorm": True,
                    "tie_word_embeddings": True,
                },
                "initialisation": "fan_in",
                "scale_embeddings": True,
            },
        },
        "training": {
            "steps": 4,
            "batch_rows": 2,
            "optimizer": {"type": "adamw", "learning_rate": 1e-3},
            "warmup_steps": 1,
        },
        "evaluation": {"tasks": ["miniature_vqa", "miniature_facts"], "items": 8},
    }
    if prepared:
        encoder = {"objective": "contrastive", "steps": 2, "batch_images": 16, "source": CAPTIONED}
        declared["model"]["image_encoder"]["preparation"] = encoder
        language = {"steps": 2, "batch_rows": 2, "row_tokens": 64, "source": TEXT, "optimizer": {"type": "adamw", "learning_rate": 1e-3}}
        declared["model"]["language_model"]["preparation"] = language
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        section = declared
        for parent in parents:
            section = section[parent]
        section[last] = value
    return Experiment.model_validate(declared)


def write_tiny_sweep(folder: Path) -> Path:
    """A sweep of a baseline and two arms with two seeds, in `sweeps/` of a folder, and its experiment in `experiments/`."""
    experiment = yaml.safe_dump(tiny_experiment(TINY).model_dump(mode="json"))
    for name, text in (("experiments", experiment), ("sweeps", SWEEP)):
        (folder / name).mkdir()
        (folder / name / "tiny.yaml").write_text(text)
    return folder / "sweeps" / "tiny.yaml"
