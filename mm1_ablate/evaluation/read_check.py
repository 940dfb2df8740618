"""Whether a language model can be asked as this package asks: demonstrations that are read once, questions that go on from them.

In: an experiment. Out: what is wrong, by place. The model is run without values, as `kv_cache.extend_cache` runs it, on what an evaluation
may give it: demonstrations of several lengths, others after them, questions after a prefix that they share, a token after that. What was
found right is remembered. Models that are read with the cache of transformers are left to it.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

from mm1_ablate.config.errors import Finding
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import fingerprint
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.settings import Misfit
from mm1_ablate.model.check_cache import known, remember
from mm1_ablate.model.parts_check import NotHere, facts_about, in_words, is_limit, language_model_key, without_values

ENOUGH_LAYERS = 6
"""Of layers that are all alike, or of kinds that take turns, so many are read."""


def unreadable_models(experiment: Experiment) -> list[Finding]:
    """A language model that can be trained and could not be asked. A check for `config.sweep.expand.load_study`."""
    settings = experiment.model.language_model
    try:
        facts_about(settings)
    except (NotHere, Misfit):  # told by `parts_check.wrong_parts`
        return []
    key = fingerprint({"read on": language_model_key(settings)})
    if known(key) is not None:
        return []
    if why := _why_not(settings):
        field = "name" if settings.name is not None else "model_type"
        message = f"such a model could be trained and not be asked: {why}; choose another kind of model"
        return [Finding(("model", "language_model", field), message)]
    remember(key, {})
    return []


def _why_not(settings: LanguageModel) -> str:
    try:
        language_model = without_values(settings)
    except OSError:  # not here any more
        return ""
    try:
        check_readable(shorter(language_model))
    except Exception as error:  # whatever a model does with what it never saw
        return "" if is_limit(error) else in_words(error)
    return ""


def shorter(language_model: Any) -> Any:
    """A model of the same layers with fewer of them, which is read sooner; the model itself where its layers may differ in more than their
    `layer_types`, or too few would show all kinds."""
    from transformers import AutoModelForCausalLM

    from mm1_ablate.model.meta_initialisation import shapes_only

    declared = language_model.config.to_dict()
    layers = declared.get("num_hidden_layers")
    if not isinstance(layers, int) or layers <= ENOUGH_LAYERS:
        return language_model
    by_layer = {name for name, value in declared.items() if isinstance(value, list) and len(value) == layers}
    numbers = {name for name, value in declared.items() if "layer" in name and isinstance(value, int) and value > 1}
    kinds = declared.get("layer_types") or []
    if by_layer - {"layer_types"} or numbers - {"num_hidden_layers"} or set(kinds) != set(kinds[:ENOUGH_LAYERS]):
        return language_model
    config = copy.deepcopy(language_model.config)
    config.num_hidden_layers = ENOUGH_LAYERS
    if kinds:
        config.layer_types = kinds[:ENOUGH_LAYERS]
    with shapes_only():
        return AutoModelForCausalLM.from_config(config, dtype=language_model.dtype, attn_implementation="sdpa").to("meta")


def check_readable(language_model: Any) -> None:
    """Read with a model without values as an evaluation does.

    Raises:
        Exception: whatever goes wrong.
    """
    import torch

    from mm1_ablate.evaluation.kv_cache import KVCache, extend_cache, last_positions
    from mm1_ablate.evaluation.shared_attention import can_share

    if not can_share(language_model):
        return
    model: Any = SimpleNamespace(language_model=language_model)
    width = language_model.config.hidden_size

    def read(context: KVCache, *lengths: int) -> KVCache:
        valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        embeddings = torch.empty(len(lengths), max(lengths), width, device="meta")
        context, logits = extend_cache(model, context, embeddings, valid, last_positions(valid))
        if logits.ndim != 2 or len(logits) != len(lengths):
            raise ValueError(f"of {len(lengths)} tokens it gives logits of shape {list(logits.shape)}")
        return context

    with torch.no_grad():
        demonstrations = read(KVCache.empty(2, torch.device("cpu")), 7, 5)
        further = read(demonstrations.branch(torch.tensor([1, 0])), 3, 6)
        shared = read(demonstrations.branch(torch.tensor([0, 1, 1])), 2, 9, 4)
        read(shared, 1, 1, 1)
        read(further, 1, 1)
