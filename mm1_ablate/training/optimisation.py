"""Optimisers and the learning rate's course: AdamW or Muon, linear warm-up, cosine; MM1's rule for the peak."""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, exp, log, pi

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mm1_ablate.config.training import AdamW, AnyOptimizer, Muon
from mm1_ablate.model.language_model import block_matrices
from mm1_ablate.training.batched_muon import BatchedMuon


def mm1_learning_rate(parameters: int) -> float:
    """Peak learning rate for a language model of so many parameters without embeddings (MM1, section 3.3)."""
    return exp(-0.4214 * log(parameters) - 0.5535)


def learning_rate_share(step: int, steps: int, warmup_steps: int, final: float) -> float:
    """Share of the peak at a step counted from 0: linear to 1 over the warm-up, then a cosine down to `final`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + cos(pi * min(1.0, progress)))


def _adamw(parameters: Iterable[tuple[nn.Parameter, float]], settings: AdamW, language_parameters: int) -> Optimizer:
    """AdamW over parameters, each with its learning rate's scale. Vectors (biases, norms) are not decayed."""
    peak = mm1_learning_rate(language_parameters) if settings.learning_rate == "mm1" else settings.learning_rate
    # torch multiplies the decay by the learning rate, which MM1's optimiser does not: its 0.1 x peak is torch's 0.1.
    decay = 0.1 if settings.weight_decay == "mm1" else settings.weight_decay
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter, scale in parameters:
        groups.setdefault((scale, parameter.ndim >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "lr": peak * scale, "weight_decay": decay if is_matrix else 0.0}
            for (scale, is_matrix), members in groups.items()
        ],
        betas=settings.betas,
        # One kernel over all parameters: tiny models are bound by calls, not by arithmetic.
        fused=True,
    )


def build_optimizers(
    settings: AnyOptimizer, parts: Iterable[tuple[nn.Module, float]], language_model: nn.Module, language_parameters: int
) -> list[Optimizer]:
    """One or two optimisers over the trained parameters of parts, each part with its learning rate's scale.

    Every group remembers its peak rate as `peak`, which `set_learning_rates` scales.
    """
    trained = [(parameter, scale) for part, scale in parts for parameter in part.parameters() if parameter.requires_grad]
    if isinstance(settings, Muon):
        matrices = [parameter for parameter in block_matrices(language_model) if parameter.requires_grad]
        chosen = {id(parameter) for parameter in matrices}
        rest = [(parameter, scale) for parameter, scale in trained if id(parameter) not in chosen]
        optimizers: list[Optimizer] = [_adamw(rest, settings.rest, language_parameters)]
        if matrices:  # none where the language model is frozen
            # Parts of a matrix that processes share are gathered one matrix at a time.
            kind = torch.optim.Muon if any(isinstance(matrix, DTensor) for matrix in matrices) else BatchedMuon
            muon = kind(matrices, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay)
            optimizers.insert(0, muon)
    else:
        optimizers = [_adamw(trained, settings, language_parameters)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def set_learning_rates(optimizers: Iterable[Optimizer], share: float) -> None:
    """Give every group its peak rate times a share."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share
