"""In which precision a model is evaluated: float32, or bfloat16 as `bf16-mixed` training computes.

In: a model and `evaluation.precision`. Out: a block of code in which its forward passes compute that way, and a model whose large matrices
take half the memory. Mixed precision rounds matrices to bfloat16 in every product; matrices that are kept so give the same outputs.
The head is not rounded: of two answers that are nearly as likely, bfloat16 logits would find neither the likelier one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mm1_ablate.config.training import Precision
from mm1_ablate.model.multimodal import MultimodalModel


@contextmanager
def autocast_in(model: MultimodalModel, precision: Precision) -> Iterator[None]:
    """Forward passes in a precision, the head's in float32."""
    if precision == "32-true":
        yield
        return
    device, head = model.device.type, model.language_model.get_output_embeddings()
    plainly = head.forward

    def exactly(hidden: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            logits: Tensor = plainly(hidden.float())
            return logits

    head.forward = exactly
    try:
        # Without autocast's cache of rounded weights, which would keep all of a sharded model.
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            yield
    finally:
        del head.forward


def cast_weights(model: MultimodalModel, precision: Precision) -> None:
    """Keep the weights of a model, with values or without, as a precision needs them: no longer to be trained. Buffers, norms, embeddings
    and the head stay in float32."""
    if precision == "32-true":
        return
    head: Any = model.language_model.get_output_embeddings()
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Linear | _ConvNd) and module is not head:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
