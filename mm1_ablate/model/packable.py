"""Whether a language model can be trained on packed documents and images: whether all its layers keep documents apart, attend as they were
made to, and need only the embedding of a token.

In: a model without values. Out: None, or an error that says why not. Found out from its class, and by running it: with an attention
function that counts its calls, with tokens in place of embeddings, and with the masks that transformers would build, which are compared
with what packed attention does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from mm1_ablate.model.packed_attention import DocumentLayout, NotPackable, attending_by, packed, packed_attention

COUNTED, MASKED = "mm1_packed_counted", "mm1_packed_masked"
"""Packed attention that counts its calls; and that is given the masks of transformers, to compare."""
LENGTHS = (8, 5)
"""Of two documents: together a number of tokens that is no likely size of anything else."""
FAR = 1 << 20
"""Tokens that a model sees back who sees all of them."""


def check_packable(language_model: Any) -> None:
    """Whether a model can be trained on packed documents and images.

    Args:
        language_model: on the meta device.

    Raises:
        NotPackable: why it cannot, in words.
        Exception: whatever a model raises that cannot be run, or not without values.
    """
    kind = f"models of type {language_model.config.model_type}"
    if why := _why_not(language_model):
        raise NotPackable(f"{kind} {why}")
    with torch.no_grad():
        if again := _read_again(language_model):
            raise NotPackable(f"{kind} look up token ids a second time, in {again}, and images have no token ids")
        _check_layers(language_model)
        _check_masks(language_model)


def _inputs(language_model: Any) -> dict[str, Tensor]:
    return {
        "inputs_embeds": torch.empty(1, sum(LENGTHS), language_model.config.hidden_size, device="meta"),
        "position_ids": torch.zeros(1, sum(LENGTHS), dtype=torch.int64, device="meta"),
    }


def _why_not(language_model: Any) -> str | None:
    """Why documents cannot be packed for a model, by what its class says of it; None where they can."""
    kinds = {*(getattr(language_model.config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}
    if getattr(language_model, "_is_stateful", False) or kinds:
        has = f"layers of the kind {', '.join(sorted(kinds))}" if kinds else "layers with a running state"
        return f"have {has}, which do not keep packed documents apart"
    if others := sorted({"vision_config", "audio_config"} & set(getattr(type(language_model.config), "sub_configs", ()))):
        return f"have encoders of their own for images or sound ({', '.join(others)}), which would not be used"
    tables = [part for name, part in language_model.named_modules() if name.endswith("position_embeddings")]
    if any(isinstance(table, nn.Embedding) and table.padding_idx is not None for table in tables):
        return "count positions from their padding token's, and packed documents from 0"
    inner = getattr(language_model, "base_model", language_model)
    if not any("position_ids" in inspect.signature(part.forward).parameters for part in (language_model, inner)):
        return "take no position_ids, so positions in a packed document would not begin at 0"
    return None


# ---------------------------------------------------------------- layers
def _counted(*arguments: Any, **more: Any) -> tuple[Tensor, None]:
    result = packed_attention(*arguments, **more)
    more["document_layout"].attended += 1
    return result


AttentionInterface.register(COUNTED, _counted)


def _check_layers(language_model: Any) -> None:
    """Whether all layers attend by the interface of transformers, and logits are given where they are asked for."""
    layers, asked = language_model.config.num_hidden_layers, torch.tensor([1, 9, 12], device="meta")
    layout: Any = DocumentLayout(LENGTHS, torch.device("meta"))
    layout.attended = 0
    with packed(language_model, layout) as arguments, attending_by(COUNTED, language_model):
        output = language_model(**_inputs(language_model), logits_to_keep=asked, **arguments)
    kind = f"models of type {language_model.config.model_type}"
    if layout.attended < layers:
        few = f"{layout.attended} of their {layers} layers attend through transformers' attention interface"
        raise NotPackable(f"{kind} cannot keep packed documents apart: {few}")
    shape = tuple(getattr(getattr(output, "logits", None), "shape", ()))
    if shape[:2] != (1, len(asked)) or len(shape) != 3:
        raise NotPackable(f"{kind}, with this configuration do not return logits for the {len(asked)} requested tokens")


# ---------------------------------------------------------------- tokens
def _read_again(language_model: Any) -> str | None:
    """A table in which a model looks its tokens up beside its embeddings; None where there is none."""
    inputs = _inputs(language_model)
    embeddings = inputs.pop("inputs_embeds")
    own = language_model.get_input_embeddings()
    tables: dict[str, nn.Module] = {
        name: part for name, part in language_model.named_modules() if isinstance(part, nn.Embedding) and part is not own
    }
    if not tables:
        return None
    with _calls_of(tables) as with_tokens, suppress(Exception):
        language_model(input_ids=inputs["position_ids"].clone(), use_cache=False, **inputs)
    with _calls_of(tables) as with_embeddings, suppress(Exception):
        language_model(inputs_embeds=embeddings, use_cache=False, **inputs)
    return next((name for name in with_tokens if name not in with_embeddings), None)


@contextmanager
def _calls_of(parts: dict[str, nn.Module]) -> Iterator[list[str]]:
    """The names of the parts that are called meanwhile."""
    called: list[str] = []
    hooks = [part.register_forward_pre_hook(lambda *_, name=name: called.append(name)) for name, part in parts.items()]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


# ---------------------------------------------------------------- masks
def _check_masks(language_model: Any) -> None:
    """Whether packed attention sees what the masks that transformers would build let a token see: a model may build a window into its mask
    without a word to its attention."""
    layout = DocumentLayout(LENGTHS, torch.device("meta"))
    ones = torch.ones(1, sum(LENGTHS), dtype=torch.int64, device="meta")
    # What goes wrong with masks alone does not go wrong without.
    with attending_by(MASKED, language_model), _other_errors_passed():
        language_model(**_inputs(language_model), attention_mask=ones, use_cache=False, document_layout=layout)


@contextmanager
def _other_errors_passed() -> Iterator[None]:
    try:
        yield
    except NotPackable:
        raise
    except Exception:
        return


def _told(batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Any], device: Any = "meta", **more: Any) -> Tensor:
    """A mask function of transformers: a mask without values that knows its rule."""
    mask = torch.ones(batch_size, 1, q_length, kv_length, dtype=torch.bool, device=device)
    noted: Any = mask
    noted.rule, noted.window = mask_function, more.get("local_size")
    return mask


def _compared(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    sliding_window: int | None = None,
    document_layout: DocumentLayout | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Packed attention, after a look at the mask.

    Raises:
        NotPackable: a token sees otherwise by the mask.
    """
    if hasattr(attention_mask, "rule") and not _is_alike(attention_mask, sliding_window):
        name, window = type(module).__name__, attention_mask.window
        if window != sliding_window:
            what = f"the mask of {name} has a window of {window} tokens, and its attention gets {sliding_window or 'none'}"
            raise NotPackable(f"{what}: packed documents would get another attention", "sliding_window")
        raise NotPackable(f"the mask of {name} cannot be applied to packed documents")
    return packed_attention(module, query, key, value, None, sliding_window=sliding_window, document_layout=document_layout, **more)


def _is_alike(mask: Any, window: int | None) -> bool:
    """Whether by the rule of a mask a token sees those that it sees in a packed document, through a sliding window or through none."""
    edges = {back for size in {window, mask.window} - {None} for back in (size - 1, size)}
    zero, place = torch.tensor(0), torch.tensor(2 * FAR)
    try:
        seen = {back: bool(mask.rule(zero, zero, place, place - back)) for back in {-1, 0, 1, FAR, *edges}}
    except Exception:  # a rule that looks into tensors
        return True
    return all(by_mask == (back >= 0 and (window is None or back < window)) for back, by_mask in seen.items())


AttentionInterface.register(MASKED, _compared)
AttentionMaskInterface.register(MASKED, _told)
