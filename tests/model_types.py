"""Every causal language model of transformers in a tiny size: whether it is accepted, and whether what is accepted is trained and asked alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mm1_ablate.data.loader import Batch
from mm1_ablate.evaluation.context import Context, last_of, needs_equal_lengths, read_on
from mm1_ablate.model.language_model import build_language_model, shape_of_language_model
from mm1_ablate.model.multimodal import MultimodalModel
from mm1_ablate.spec.model import LanguageModel
from mm1_ablate.spec.training import AdamW
from mm1_ablate.training.optimisation import build_optimizers

TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY, LARGE = 64, 10_000_000

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "head_dim": 8,
}
"""What is declared of every type that has it."""
SMALLER = {
    **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16, "ffn_hidden_size": 64},
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2},
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12, "n_group": 1, "topk_group": 1},
    **{"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "global_head_dim": 8},
    **{"first_k_dense_replace": 1, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "ffn_dim": 64, "word_embed_proj_dim": 32},
    **{"embedding_size": 32, "sliding_window": 4, "n_ctx": 128, "n_positions": 128, "n_inner": 64, "dim_ff": 64, "d_ff": 64},
}
"""What is large by default in some types."""
PARTICULAR: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "layer_types": ["full_attention", "full_attention"]},
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "longcat_flash": {"head_dim": 8, "num_layers": 2, "expert_ffn_hidden_size": 16, "zero_expert_num": 2},
    "lfm2": {"layer_types": ["full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "xlnet": {"d_head": 8},
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


def made(settings: LanguageModel) -> MultimodalModel:
    """The model with random weights of about the same size everywhere, gates, sinks and biases among them, so that logits tell all apart."""
    shape = shape_of_language_model(settings, VOCABULARY, 0, 1)
    assert sum(parameter.numel() for parameter in shape.parameters()) < LARGE, "declare a smaller one"
    torch.manual_seed(0)
    language_model = build_language_model(settings, VOCABULARY, 0, 1).eval()
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


def check_training(model: MultimodalModel) -> None:
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
    model.train()
    loss = cross_entropy(model(batch).float(), batch.targets)
    loss.backward()
    (optimizer,) = build_optimizers(AdamW(learning_rate=1e-3), [(model, 1.0)], model.language_model, 1000)
    optimizer.step()
    assert torch.isfinite(cross_entropy(model(batch).float(), batch.targets))
    model.zero_grad(set_to_none=True)
    model.eval()


@torch.no_grad()
def check_asking(model: MultimodalModel) -> None:
    """Questions at 0 and more shots, their answers token by token, and several answers to one question: the logits are plain ones."""
    alike = needs_equal_lengths(model)
    few, more = (6, 6) if alike else (6, 3), (5, 5) if alike else (4, 7)
    asked = (4, 4, 4) if alike else (2, 6, 3)

    def read(context: Context, rows: list[list[int]], everywhere: bool = False) -> tuple[Context, Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        valid = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
        return read_on(model, context, model.embed(ids), valid, valid if everywhere else last_of(valid))

    questions = [some_tokens(10 + number, length) for number, length in enumerate(asked)]
    nothing = Context.nothing(3, torch.device("cpu"))
    sets = [some_tokens(20 + number, length) for number, length in enumerate(few)]
    further = [some_tokens(30 + number, length) for number, length in enumerate(more)]
    first, _ = read(Context.nothing(2, torch.device("cpu")), sets)
    kept = first.separate()
    second, _ = read(Context.after(kept, [0, 1]), further)
    whole = [before + after for before, after in zip(sets, further, strict=True)]
    of = [1, 0, 1]
    contexts = ((nothing, [[]] * 3), (Context.after(kept, of), [sets[place] for place in of]))
    contexts = (*contexts, (Context.after(second.separate(), of), [whole[place] for place in of]))
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


def check(settings: LanguageModel) -> None:
    """Whether training and asking give what plain transformers gives."""
    model = made(settings)
    check_training(model)
    check_asking(model)
