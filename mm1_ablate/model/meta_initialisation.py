"""Meta initialisation: modules that have shapes and no values.

In: nothing. Out: contexts in which modules, or their parameters alone, are made on torch's meta device, without the initialisation that
would fill them: of a large encoder on the meta device that is nearly all the time it takes to make. And a cache of modules that were made
so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def meta_initialisation() -> Iterator[None]:
    """Modules made here are on the meta device, and their initialisation is skipped."""
    with torch.device("meta"), _Unfilled():
        yield


_MODULES: dict[str, nn.Module] = {}


def meta_module(key: str, make: Callable[[], Module], to_change: bool = False) -> Module:
    """A module on the meta device, made once in a process.

    Args:
        key: all that the module depends on.
        to_change: whether the caller changes it: then it is not shared.
    """
    if key not in _MODULES:
        with meta_initialisation():
            made = make()
        # Whatever was drawn without a word about a device (torch.normal with a size) has values all the same.
        _MODULES[key] = made.to("meta")
    module = _MODULES.pop(key) if to_change else _MODULES[key]
    return module  # type: ignore[return-value]


@contextmanager
def meta_parameters() -> Iterator[None]:
    """Modules made here have their buffers, with values, and parameters on the meta device, whose values are to come from elsewhere.

    Each parameter is allocated for a moment; what was never written to takes no memory.
    """

    def without_values(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return parameter
        # One that several modules share must stay one.
        if not hasattr(parameter, SHAPE):
            setattr(parameter, SHAPE, nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad))
        shape: nn.Parameter = getattr(parameter, SHAPE)
        return shape

    hook = register_module_parameter_registration_hook(without_values)  # type: ignore[arg-type]  # may return another, it says
    try:
        with _Unfilled():
            yield
    finally:
        hook.remove()


SHAPE = "_mm1_ablate_shape"
"""The attribute of a parameter that names the one on the meta device that stands for it."""


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
