"""Muon (Jordan et al. 2024) with Newton-Schulz iterations over all matrices of one shape at once.

`torch.optim.Muon` takes matrices one by one, in bfloat16. Small ones wait for calls more than for arithmetic, and CPUs without units for
bfloat16 emulate it. Here a GPU iterates in bfloat16 as torch does, with the same bits, and a CPU in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor


def orthogonalised(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Matrices with singular values near 1 and the singular vectors of those that are given, by quintic Newton-Schulz iterations.

    Args:
        matrices: (number, rows, columns).
        dtype: in which is iterated, and of what is returned.
    """
    a, b, c = coefficients
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.to(dtype, copy=True)
    if tall:
        x = x.mT
    # Each for itself: a norm over the matrices of a batch at once is summed in another order, and its last bit differs.
    x = x / torch.stack([matrix.norm() for matrix in x]).clamp(min=epsilon)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class BatchedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with its settings, its state and its rule for the rate; matrices of one shape are orthogonalised together."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple[torch.Size, torch.device, torch.dtype], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault((parameter.shape, parameter.device, parameter.dtype), []).append(parameter)
            for (shape, device, _), parameters in alike.items():
                updates = torch.stack([self._with_momentum(parameter, group) for parameter in parameters])
                dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
                updates = orthogonalised(updates, group["ns_coefficients"], group["ns_steps"], group["eps"], dtype)
                rate = group["lr"] * sqrt(max(1, shape[0] / shape[1]))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)
        return loss

    def _with_momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """The gradient with what is remembered of earlier ones, Nesterov's way."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad, memory_format=torch.preserve_format)
        remembered: Tensor = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(remembered, group["momentum"])
