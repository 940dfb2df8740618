"""What a language model does to embeddings itself, before its first block: Gemma multiplies them by the square root of its width, Granite
by a number of its configuration, NanoChat normalises them, most leave them as they are.

Found out by giving values to the model's own embedding, and to the model without its weights: `scale_embeddings` beside it would act twice,
or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mm1_ablate.model.meta_initialisation import meta_parameters

TOKENS = 3


def embedding_scale(build: Callable[[], Any]) -> float:
    """The factor between a row of the table of embeddings and what the first block is given: 1 where it is that row, or unknown; 0
    where a row and twice that row come out alike.

    Args:
        build: makes the language model of transformers.
    """
    with meta_parameters():
        language_model = build().eval()
    table = language_model.get_input_embeddings()
    rows = torch.linspace(-1, 2, table.weight.shape[1])[None].expand(table.weight.shape)
    ids = torch.arange(2, 2 + TOKENS)[None]
    with torch.no_grad():
        _fill_what_is_small(language_model)
        looked_up = _factor(lambda times: functional_call(table, {"weight": times * rows}, (ids,)), rows[0])
        return looked_up * _factor(lambda times: _given_to_the_first_block(language_model, times * rows[None, :TOKENS]), rows[0])


def _factor(function: Callable[[float], Tensor | None], row: Tensor) -> float:
    """By what it multiplies rows: 0 where the double comes out as the single, 1 where that is no multiplication."""
    once, twice = function(1.0), function(2.0)
    if once is None or twice is None or once.is_meta or once.shape[-1:] != row.shape:
        return 1.0
    if torch.allclose(once, twice, rtol=1e-4):
        return 0.0
    more = twice - once  # without what is added to each, such as positions
    factor = float(more.flatten()[0] / row[0])
    return factor if torch.allclose(more, factor * row.expand_as(more), rtol=1e-3, atol=1e-4) else 1.0


def _fill_what_is_small(language_model: nn.Module) -> None:
    """Values for norms outside the blocks: ones."""
    inside = {id(parameter) for stack in _stacks(language_model) for parameter in stack.parameters()}
    for module in language_model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1 and id(parameter) not in inside:
                setattr(module, name, nn.Parameter(torch.ones(parameter.shape), requires_grad=False))


def _stacks(language_model: nn.Module) -> list[nn.ModuleList]:
    return [part for part in language_model.modules() if isinstance(part, nn.ModuleList)]


class _Stop(Exception):
    pass


def _given_to_the_first_block(language_model: Any, embeddings: Tensor) -> Tensor | None:
    given: list[Tensor] = []

    def stop(_: nn.Module, arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
        given.extend(value for value in (*arguments, *more.values()) if isinstance(value, Tensor) and value.is_floating_point())
        raise _Stop

    hooks = [block.register_forward_pre_hook(stop, with_kwargs=True) for stack in _stacks(language_model) for block in stack]
    try:
        # A model that computes with large weights before its first block does not get there: they have no values.
        with suppress(Exception):
            positions = torch.arange(TOKENS)[None]
            language_model(inputs_embeds=embeddings, position_ids=positions, attention_mask=None, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return given[0] if given and given[0].shape == embeddings.shape else None
