"""A causal language model of transformers, by configuration or by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from mm1_ablate.config.identity.model_digests import local_identity
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.hub import hub_if_reachable
from mm1_ablate.model.meta_initialisation import meta_module

ROUNDED_UP = 1024
"""A declared vocabulary may be larger than the tokenizer's by less than this: vocabularies are rounded up, as that is faster."""


def token_ids(settings: LanguageModel) -> tuple[int, int, int]:
    """Size of the vocabulary, padding and end of text, as far as an architecture needs them. A vocabulary that the configuration declares
    does without the tokenizer, so that plans can be made where there is none, and a model by name has its own; what is not needed is 0.

    Raises:
        OSError: transformers', if there is no such tokenizer.
    """
    declared = settings.configuration.get("vocab_size")
    if settings.name is not None:
        return 0, 0, 0
    if isinstance(declared, int):
        return declared, 0, 0
    from mm1_ablate.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(settings.tokenizer)
    return tokenizer.vocabulary_size, tokenizer.padding, tokenizer.end


def check_vocabulary(settings: LanguageModel, tokens: int) -> None:
    """Whether a declared vocabulary is that of a tokenizer of so many tokens.

    Raises:
        SettingError: it is not.
    """
    declared = settings.configuration.get("vocab_size")
    if isinstance(declared, int) and not tokens <= declared < tokens + ROUNDED_UP:
        few = "too few" if declared < tokens else "more than rounding up explains"
        raise SettingError(
            "configuration.vocab_size",
            f"{declared:,} are {few}: the tokenizer '{settings.tokenizer}' has {tokens:,} tokens. Declare {-(-tokens // 64) * 64}, or "
            "leave vocab_size out",
        )


def _check_rows(settings: LanguageModel, tokens: int, rows: int) -> None:
    if tokens > rows:
        what = f"'{settings.tokenizer}' has {tokens:,} tokens, more than the {rows:,} of '{settings.name}'"
        raise SettingError("tokenizer", f"{what}; name the tokenizer that the model was trained with, or leave this out")


def _check_packable(settings: LanguageModel, vocabulary_size: int, padding: int, end: int) -> None:
    """Of a model by name: when its file was read it may not have been on that machine."""
    from mm1_ablate.model.packable import check_packable
    from mm1_ablate.model.packed_attention import NotPackable

    try:
        check_packable(shape_of_language_model(settings, vocabulary_size, padding, end))
    except NotPackable as error:
        raise SettingError("name", f"{error}; choose another model") from error
    except Exception:  # what cannot be run without values may yet be run with them
        return


def build_language_model(settings: LanguageModel, vocabulary_size: int, padding: int, end: int, weights: bool = True) -> Any:
    """A transformers model for causal language modelling, in float32, from torch's current random state where it has no weights.

    Args:
        weights: whether to read the weights of a model that is given by name; without, only its architecture is made.

    Raises:
        ValueError: where transformers knows no such model type, or its configuration refuses or does not know a field; or where a declared
            vocabulary is not that of the tokenizer, or a model by name lacks some of its tokens.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    plainly: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    if settings.name is None and settings.model_type not in CONFIG_MAPPING:
        near = get_close_matches(settings.model_type or "", CONFIG_MAPPING, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise SettingError("model_type", f"transformers has no model type '{settings.model_type}'{hint}")
    if settings.name is not None:
        with hub_if_reachable(settings.name):
            if weights:
                model = AutoModelForCausalLM.from_pretrained(settings.name, trust_remote_code=False, **plainly)
            else:
                # The type that published weights are kept in is not that of training.
                config = AutoConfig.from_pretrained(settings.name, trust_remote_code=False)
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **plainly)  # type: ignore[no-untyped-call]
        embeddings: Any = model.get_input_embeddings()
        _check_rows(settings, vocabulary_size, embeddings.num_embeddings)
        if weights:
            _check_packable(settings, vocabulary_size, padding, end)
        return model
    check_vocabulary(settings, vocabulary_size)
    fields = {"vocab_size": vocabulary_size, "pad_token_id": padding, "eos_token_id": end, "bos_token_id": end, **settings.configuration}
    try:
        config = AutoConfig.for_model(settings.model_type or "", **fields)
    except Exception as error:  # transformers raises its own types for unknown models and for fields of a wrong type
        raise ValueError(
            f"model.language_model: transformers refuses {settings.model_type} with {settings.configuration}: {error}"
        ) from error
    _check_fields(settings.configuration, config)
    # Published configurations name the type that weights are kept in, which is not that of training.
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **plainly)  # type: ignore[no-untyped-call]
    if settings.initialisation == "fan_in":
        _initialise_by_fan_in(model)
    return model


def shape_of_language_model(settings: LanguageModel, vocabulary_size: int, padding: int, end: int, to_change: bool = False) -> Any:
    """The declared model without values.

    Args:
        to_change: whether the caller changes it.

    Raises:
        ValueError: as `build_language_model`.
    """
    own = settings.model_dump_json(exclude={"preparation", "frozen", "scale_embeddings"})
    key = f"{own} {local_identity(settings)} {vocabulary_size} {padding} {end}"
    return meta_module(key, lambda: build_language_model(settings, vocabulary_size, padding, end, weights=False), to_change)


def _check_fields(declared: Mapping[str, Any], config: Any) -> None:
    """transformers keeps a field that it does not know without a word, and the model is the one without it."""
    fields = {*getattr(type(config), "__dataclass_fields__", {}), *type(config).attribute_map}
    left = config.to_dict()
    routers = [name for name in declared if name.startswith("router_") and "loss" in name]
    routers += [name for name in declared if name == "output_router_logits" and declared[name]]
    if routers:
        raise SettingError(
            f"configuration.{routers[0]}", "routers are trained by the loss of tokens alone, so this has no effect; leave it out"
        )
    for name in declared:
        if name not in fields and name in left:
            near = get_close_matches(name, fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise SettingError(f"configuration.{name}", f"transformers' {config.model_type} has no field '{name}'{hint}")


def _initialise_by_fan_in(model: Any) -> None:
    """Matrices normal with sd fan_in^-0.5, those that write to the residual stream times (2 x layers)^-0.5, embeddings
    sd width^-0.5, biases zero: at widths of a hundred the usual sd of 0.02 leaves the signal too small to learn from quickly."""
    from transformers.pytorch_utils import Conv1D

    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    known = (nn.Linear, Conv1D)  # the second is GPT-2's name of the first, with its weight the other way round
    own = {id(parameter) for block in model.modules() if isinstance(block, (*known, nn.Embedding)) for parameter in block.parameters()}
    if others := [name for name, parameter in model.named_parameters() if parameter.ndim > 1 and id(parameter) not in own]:
        kind = f"models of type {model.config.model_type} have weights that are not torch.nn.Linear ({others[0]})"
        raise SettingError("initialisation", f"{kind}, which fan_in does not cover; leave it out, or choose another model type")
    embeddings = model.get_input_embeddings()
    for block in model.modules():
        if isinstance(block, known):
            nn.init.normal_(block.weight, std=block.weight.shape[0 if isinstance(block, Conv1D) else 1] ** -0.5)
            if block.bias is not None:
                nn.init.zeros_(block.bias)
    for name, block in model.named_modules():
        if isinstance(block, known) and name.rpartition(".")[2] in RESIDUAL_OUTPUTS:
            with torch.no_grad():
                block.weight.mul_((2 * layers) ** -0.5)
    nn.init.normal_(embeddings.weight, std=width**-0.5)


RESIDUAL_OUTPUTS = {"dense", "o_proj", "out_proj", "c_proj", "fc2", "down_proj", "dense_4h_to_h"}
"""How transformers' models name the linear layers that write to the residual stream."""


def block_matrices(model: Any) -> list[nn.Parameter]:
    """The matrices inside a transformers model's blocks: what Muon is for. Embeddings, of positions too, and the head are not among them;
    nor are the experts of a mixture, of which transformers keeps all in one tensor."""
    embeddings = [part for part in model.modules() if isinstance(part, nn.Embedding)]
    parts = (*embeddings, model.get_input_embeddings(), model.get_output_embeddings())
    outside = {id(parameter) for part in parts if part is not None for parameter in part.parameters()}
    return [parameter for parameter in model.parameters() if parameter.ndim == 2 and id(parameter) not in outside]


def parameters_without_embeddings(model: Any) -> int:
    """N of MM1's learning-rate rule."""
    embeddings = model.get_input_embeddings()
    tied = model.get_output_embeddings()
    outside = {id(parameter) for part in (embeddings, tied) if part is not None for parameter in part.parameters()}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in outside)
