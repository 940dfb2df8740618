"""Weights that one worker has, given to all of a sharded model: no other worker ever holds the whole of them.

In: on every worker a model whose parameters have no values yet (`model.multimodal.build_without_values`), sharded or not; on the one that
leads the values by name. Out: the model with these values, each worker with the parts that it is to have. Tensors go one at a time, so
that beside its own parts a worker holds the largest tensor at most.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mm1_ablate.model.weight_conversion import state_dict_mismatch
from mm1_ablate.training.workers import Workers


def parameters_and_buffers(model: nn.Module) -> dict[str, Tensor]:
    """All values of a model by name: its state dict, and buffers that are not in it."""
    return dict(model.named_buffers()) | model.state_dict()


def check_weights(weights: Mapping[str, Tensor], model: nn.Module, whose: str) -> None:
    """Whether a state dict is one of a model, sharded or not, with values or without.

    Raises:
        ValueError: naming what does not fit first.
    """
    own = model.state_dict()
    _check({name: tuple(value.shape) for name, value in weights.items()}, {name: tuple(value.shape) for name, value in own.items()}, whose)


def _check(there: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]], whose: str) -> None:
    if wrong := state_dict_mismatch(there, here):
        raise ValueError(f"{whose} do not fit: {wrong}")


def allocate(model: nn.Module, device: torch.device) -> None:
    """Put a model on a device: parameters without values, or the parts of them that this worker is to have, get memory there."""
    for parameter in model.parameters():
        if parameter.is_meta:
            # In place, so that what several modules share stays shared.
            memory = nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
            torch.utils.swap_tensors(parameter, memory)  # type: ignore[no-untyped-call]
    model.to(device)


def broadcast_weights(model: nn.Module, weights: Mapping[str, Tensor] | None, workers: Workers) -> None:
    """Fill a model that has memory with values. All workers call this at the same time.

    Args:
        weights: the values by name, on the worker that leads; buffers outside the state dict may be among them, else they stay as they are.

    Raises:
        ValueError: the lead's values are not those of this model.
    """
    shapes = workers.broadcast({name: tuple(value.shape) for name, value in (weights or {}).items()})
    kept = model.state_dict()
    own: dict[str, Tensor] = {name: buffer for name, buffer in model.named_buffers() if name in kept or name in shapes}
    _check(shapes, {name: tuple(value.shape) for name, value in (kept | own).items()}, "the weights of the first worker")
    # What modules share has several names in a state dict, and one here.
    own |= model.named_parameters()
    with torch.no_grad():
        for name, target in own.items():
            if weights is None:
                whole = torch.empty(target.shape, dtype=target.dtype, device=workers.device)
            else:
                whole = weights[name].detach().to(device=workers.device, dtype=target.dtype).contiguous()
            distributed.broadcast(whole, 0)
            if isinstance(target, DTensor):
                # Of what was sent each worker takes its own part; nothing more is sent.
                part = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
                target.to_local().copy_(part.to_local())
            else:
                target.copy_(whole)
