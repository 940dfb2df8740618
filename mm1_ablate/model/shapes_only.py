"""Models that have shapes and no values.

In: nothing. Out: a context in which modules are made on torch's meta device, without the initialisation that would fill them: of a large
encoder on the meta device that is nearly all the time it takes to make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules made here are on the meta device, and nothing fills them."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Functions that only give new values to a tensor that has none are not called."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in FILLING:
            filled = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        return function(*args, **(kwargs or {}))


OF_TENSORS = {"uniform_", "normal_", "erfinv_", "mul_", "div_", "add_", "sub_", "clamp_", "fill_", "zero_", "copy_"}
"""Names of Tensor's methods."""
OF_INIT = {"constant_", "zeros_", "ones_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"}
"""Names of functions of `torch.nn.init`, beside those that Tensor has too."""
FILLING = OF_TENSORS | OF_INIT
