"""Every causal language model of transformers in a tiny size: whether it is accepted, and whether what is accepted is trained and asked as
plain transformers computes it. `python tests/helpers/model_types.py` writes the table of docs/language_models.md."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import tiny_experiment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.training import AdamW, Training
from mm1_ablate.data.loader import Batch
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.evaluation.kv_cache import KVCache, extend_cache, last_positions, needs_equal_lengths
from mm1_ablate.evaluation.preflight import unaskable_models
from mm1_ablate.evaluation.shared_attention import can_share
from mm1_ablate.model.language_model import build_language_model, shape_of_language_model
from mm1_ablate.model.multimodal import MultimodalModel, language_model_blocks
from mm1_ablate.model.packed_attention import DocumentLayout, packed, packed_throughout
from mm1_ablate.model.preflight import facts_about, wrong_parts
from mm1_ablate.model.profiler import profile_language_model
from mm1_ablate.training.activation_checkpointing import checkpointed_and_compiled
from mm1_ablate.training.optimisation import build_optimizers

TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TOKENIZER = load_tokenizer("miniature")
VOCABULARY, LARGE = TOKENIZER.vocabulary_size, 20_000_000
IDS = VOCABULARY, TOKENIZER.padding, TOKENIZER.end

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "head_dim": 8,
}
"""What is declared of every type that has it."""
SMALLER: dict[str, Any] = {
    **{
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
        "ffn_hidden_size": 64,
    },
    **{
        "num_experts": 4,
        "num_local_experts": 4,
        "n_routed_experts": 4,
        "moe_num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_k": 2,
        "moe_topk": 2,
    },
    **{
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "n_group": 1,
        "topk_group": 1,
    },
    **{"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "global_head_dim": 8},
    **{
        "first_k_dense_replace": 1,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
    },
    **{"embedding_size": 32, "sliding_window": 4, "n_ctx": 128, "n_positions": 128, "n_inner": 64, "dim_ff": 64, "d_ff": 64},
}
"""What is large by default in some types."""
PARTICULAR: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "layer_types": ["full_attention", "full_attention"]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "emu3_text_model": {"pad_token_id": 0},
    "mllama_text_model": {"pad_token_id": 0},
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "longcat_flash": {"head_dim": 8, "num_layers": 2, "expert_ffn_hidden_size": 16, "zero_expert_num": 2},
    "lfm2": {"layer_types": ["full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "xlnet": {"d_head": 8},
    "phimoe": {"sliding_window": None},
    "zamba": {"layer_types": ["mamba", "hybrid"]},
    "zamba2": {"layer_types": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What some types cannot do without, for the sizes above."""


def configuration(model_type: str) -> dict[str, Any]:
    """A tiny configuration of a type; of one that has more than a language model, with such a one inside."""
    own = CONFIG_MAPPING[model_type]
    inside = own.sub_configs.get("text_config")
    text = {} if inside in (None, AutoConfig) else {"text_config": fields_of(inside)}
    return {**fields_of(own), **text}


def fields_of(own: type[PreTrainedConfig]) -> dict[str, Any]:
    fields = {*getattr(own, "__dataclass_fields__", {}), *own.attribute_map}
    # Latent attention: each head has keys of its own, whose size is that of their two parts.
    left_out = {"head_dim", "num_key_value_heads"} if "qk_rope_head_dim" in fields else set()
    small = {"vocab_size": VOCABULARY, **SMALL, **SMALLER}
    return {name: value for name, value in small.items() if name in fields - left_out} | PARTICULAR.get(own.model_type, {})


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("deepseek_v3", {"q_lora_rank": None}),
    ("gemma4_text", {"hidden_size_per_layer_input": 0}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"reorder_and_upcast_attn": True}),
    ("granite", {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.2, "attention_multiplier": 0.1}),
    ("llama", {"num_key_value_heads": 4, "attention_bias": True, "tie_word_embeddings": True}),
    ("llama", {"return_dict": False}),
    ("mistral", {"sliding_window": None}),
    ("mixtral", {"sliding_window": None}),
    ("opt", {"word_embed_proj_dim": 16}),
    ("opt", {"do_layer_norm_before": False}),
    ("phi3", {"sliding_window": None}),
    ("phimoe", {"sliding_window": 4}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    ("starcoder2", {"sliding_window": None}),
]
"""What some types may be declared with besides."""


def declared(model_type: str, more: dict[str, Any] | None = None) -> LanguageModel:
    return LanguageModel(model_type=model_type, configuration={**configuration(model_type), **(more or {})})


def refusal(settings: LanguageModel) -> str:
    """Why a language model is refused before anything is trained; empty where it is accepted."""
    experiment = tiny_experiment()
    model = experiment.model.model_copy(update={"language_model": settings})
    found = [
        diagnostic for check in (wrong_parts, unaskable_models) for diagnostic in check(experiment.model_copy(update={"model": model}))
    ]
    return found[0].message if found else ""


def made(settings: LanguageModel) -> MultimodalModel:
    """The model with random weights of about the same size everywhere, gates and biases too, so that logits tell all apart."""
    shape = shape_of_language_model(settings, *IDS)
    assert sum(parameter.numel() for parameter in shape.parameters()) < LARGE, "declare a smaller one"
    torch.manual_seed(0)
    language_model = build_language_model(settings, *IDS).eval()
    with torch.no_grad():
        for parameter in language_model.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(noise * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else parameter + 0.1 * noise)
    model = MultimodalModel(nn.Identity(), nn.Identity(), language_model, image_tokens=1, scale_embeddings=settings.scale_embeddings)
    return model.eval()


def plain_logits(model: MultimodalModel, tokens: list[int]) -> Tensor:
    """[T, V], as transformers has them of tokens without embedding, packing or cache of ours."""
    return model.language_model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def some_tokens(seed: int, length: int) -> list[int]:
    return torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.01, f"logits tell nothing apart: {expected.std()}"
    torch.testing.assert_close(found.float(), expected.float(), atol=2e-3 * float(expected.abs().max()), rtol=2e-3)


def check_training(model: MultimodalModel) -> Batch:
    """Packed documents have the logits that they have alone, and a step of training changes every block."""
    documents = [some_tokens(number, length) for number, length in enumerate((9, 4, 14))]
    flat, lengths = [token for document in documents for token in document], [len(document) for document in documents]
    positions = [place for length in lengths for place in range(length)]
    last = {sum(lengths[: number + 1]) - 1 for number in range(len(lengths))}
    supervised = [place for place in range(len(flat)) if place not in last]
    batch = Batch(
        tokens=torch.tensor(flat),
        positions=torch.tensor(positions),
        document_lengths=lengths,
        supervised=torch.tensor(supervised),
        targets=torch.tensor([flat[place + 1] for place in supervised]),
        image_positions=torch.empty(0, dtype=torch.long),
        images=torch.empty(0, 3, 1, 1, dtype=torch.uint8),
        documents=["a", "b", "c"],
    )
    with torch.no_grad():
        close(model(batch), torch.cat([plain_logits(model, document)[:-1] for document in documents]))
        # Images are no tokens.
        images = torch.randn(1, len(flat), model.width, generator=torch.Generator().manual_seed(7))
        with packed(model.language_model, DocumentLayout(lengths, images.device)) as arguments:
            together = model.language_model(inputs_embeds=images.clone(), position_ids=batch.positions[None], **arguments).logits[0]
        alone = [model.language_model(inputs_embeds=part, use_cache=False).logits[0] for part in images.split(lengths, 1)]
        close(together, torch.cat(alone))
    model.train()
    loss = cross_entropy(model(batch).float(), batch.targets)
    loss.backward()
    (optimizer,) = build_optimizers(AdamW(learning_rate=1e-3), [(model, 1.0)], model.language_model, 1000)
    optimizer.step()
    assert torch.isfinite(cross_entropy(model(batch).float(), batch.targets))
    idle = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not idle, idle[:3]
    model.zero_grad(set_to_none=True)
    model.eval()
    return batch


@torch.no_grad()
def check_asking(model: MultimodalModel) -> None:
    """Questions at 0 and more shots, their answers token by token, and several answers to one question: the logits are plain ones."""
    alike = needs_equal_lengths(model)
    few, more = (6, 6) if alike else (6, 3), (5, 5) if alike else (4, 7)
    asked = (4, 4, 4) if alike else (2, 6, 3)

    def read(context: KVCache, rows: list[list[int]], everywhere: bool = False) -> tuple[KVCache, Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        valid = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
        return extend_cache(model, context, model.embed(ids), valid, valid if everywhere else last_positions(valid))

    questions = [some_tokens(10 + number, length) for number, length in enumerate(asked)]
    nothing = KVCache.empty(3, torch.device("cpu"))
    sets = [some_tokens(20 + number, length) for number, length in enumerate(few)]
    further = [some_tokens(30 + number, length) for number, length in enumerate(more)]
    first, _ = read(KVCache.empty(2, torch.device("cpu")), sets)
    kept = first.separate()
    second, _ = read(KVCache.after_prefixes(kept, [0, 1]), further)
    whole = [before + after for before, after in zip(sets, further, strict=True)]
    of = [1, 0, 1]
    contexts = ((nothing, [[]] * 3), (KVCache.after_prefixes(kept, of), [sets[place] for place in of]))
    contexts = (*contexts, (KVCache.after_prefixes(second.separate(), of), [whole[place] for place in of]))
    for context, before in contexts:
        said = [list(before[row]) + questions[row] for row in range(3)]
        after, logits = read(context, questions)
        close(logits, torch.stack([plain_logits(model, tokens)[-1] for tokens in said]))
        answers = [some_tokens(40 + number, 3) for number in range(4)]
        rows = [0, 2, 2, 1]
        _, logits = read(after.branch(torch.tensor(rows)), answers, everywhere=True)
        close(logits, torch.cat([plain_logits(model, said[row] + answer)[-3:] for row, answer in zip(rows, answers, strict=True)]))
        for step in range(3):
            token = [some_tokens(50 + 3 * step + row, 1) for row in range(3)]
            said = [tokens + new for tokens, new in zip(said, token, strict=True)]
            after, logits = read(after, token)
            close(logits, torch.stack([plain_logits(model, tokens)[-1] for tokens in said]))


def check_recomputing(model: MultimodalModel, batch: Batch) -> None:
    """Activations that are computed again give the gradients of those that are kept."""
    gradients = []
    for again in (False, True):
        torch.manual_seed(1)
        model.zero_grad(set_to_none=True)
        settings = Training(steps=2, warmup_steps=0, activation_checkpointing=again)
        with checkpointed_and_compiled(model.train(), settings), packed_throughout(model.language_model):
            model(batch).float().square().mean().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-3 * float(gradient.abs().max()) + 1e-7, rtol=1e-3)
    model.zero_grad(set_to_none=True)
    model.eval()


def check(settings: LanguageModel) -> None:
    """Whether training and asking give what plain transformers gives, and whether it can be planned for and shown its activations again."""
    model = made(settings)
    batch = check_training(model)
    if facts_about(settings)["recomputes"]:
        check_recomputing(model, batch)
    check_asking(model)
    assert profile_language_model(settings, *IDS, "32-true").cache > 0
    assert language_model_blocks(model)


# ---------------------------------------------------------------- the table
COLUMNS = "| type | | evaluated with | why not |\n|---|---|---|---|"


def row(model_type: str, more: dict[str, Any] | None = None) -> str:
    """A line of the table."""
    settings = declared(model_type, more)
    name = f"`{model_type}`" + (f", `{json.dumps(more)}`" if more else "")
    if why := refusal(settings):
        return f"| {name} | refused | | {why.partition('; choose another')[0]} |"
    shared = can_share(shape_of_language_model(settings, *IDS))
    return f"| {name} | accepted | {'a shared prefix' if shared else 'the cache of transformers'} | |"


def rows() -> list[str]:
    return [row(model_type) for model_type in TYPES] + [row(*variant) for variant in VARIANTS]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    document = Path(__file__).resolve().parents[2] / "docs" / "language_models.md"
    above = document.read_text().partition("| type |")[0] if document.exists() else ""
    above = re.sub(r"transformers [0-9.]+", f"transformers {transformers.__version__}", above)
    document.write_text("\n".join([above.rstrip(), "", COLUMNS, *rows(), ""]))
