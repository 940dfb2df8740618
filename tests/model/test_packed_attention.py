"""Documents packed into one row must not see each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.config.model import LanguageModel
from mm1_ablate.model.language_model import build_language_model
from mm1_ablate.model.packed_attention import DocumentLayout, packed

CONFIGURATIONS = {
    "phi": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "qk_layernorm": True},
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64},
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "mistral": {
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64},
        **{"sliding_window": 4},
    },
    "gemma3_text": {
        **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64},
        **{"head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    },
}
"""With and without sliding windows."""


def tiny(model_type: str):
    torch.manual_seed(0)
    settings = LanguageModel(model_type=model_type, configuration=CONFIGURATIONS[model_type], initialisation="fan_in")
    return build_language_model(settings, vocabulary_size=50, padding=0, end=1).eval()


MODELS = {name: tiny(name) for name in CONFIGURATIONS}


def packed_logits(model, embeddings: torch.Tensor, lengths: list[int], **arguments) -> torch.Tensor:
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad(), packed(model, DocumentLayout(lengths, embeddings.device)) as more:
        return model(inputs_embeds=embeddings[None], position_ids=positions, **arguments, **more).logits[0]


@pytest.mark.parametrize("model_type", CONFIGURATIONS)
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_packed_documents_give_the_logits_they_give_alone(model_type, lengths, seed):
    model = MODELS[model_type]
    embeddings = torch.randn(sum(lengths), 32, generator=torch.Generator().manual_seed(seed))
    together = packed_logits(model, embeddings, lengths)
    start = 0
    for length in lengths:
        with torch.no_grad():
            alone = model(inputs_embeds=embeddings[None, start : start + length], use_cache=False).logits[0]
        torch.testing.assert_close(together[start : start + length], alone, atol=1e-5, rtol=1e-5)
        start += length


@pytest.mark.parametrize("lengths", [[6, 5, 9], [64]])
def test_attention_drops_out_where_the_model_says_so(lengths):
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "attention_dropout": 0.5}
    model = build_language_model(LanguageModel(model_type="llama", configuration=settings), vocabulary_size=50, padding=0, end=1)
    embeddings = torch.randn(sum(lengths), 32)
    assert torch.equal(*(packed_logits(model.eval(), embeddings, lengths) for _ in range(2)))
    once, again = (packed_logits(model.train(), embeddings, lengths) for _ in range(2))
    assert not torch.allclose(once, again)


def test_a_change_in_one_document_reaches_no_other():
    model, lengths = MODELS["phi"], [5, 17, 9]
    embeddings = torch.randn(31, 32)
    before = packed_logits(model, embeddings, lengths)
    embeddings[5:22] += 1
    after = packed_logits(model, embeddings, lengths)
    changed = (before - after).abs().amax(1) > 0
    assert changed[5:22].all() and not changed[:5].any() and not changed[22:].any()


def test_head_runs_on_the_asked_positions_only():
    model, lengths = MODELS["phi"], [6, 8]
    embeddings, asked = torch.randn(14, 32), torch.tensor([0, 7, 13])
    everything = packed_logits(model, embeddings, lengths)
    some = packed_logits(model, embeddings, lengths, logits_to_keep=asked)
    assert some.shape == (3, 50)
    torch.testing.assert_close(some, everything[asked])


def test_a_model_is_itself_again_after_packing():
    model = MODELS["phi"]
    packed_logits(model, torch.randn(4, 32), [4])
    assert model.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_initialisation_by_fan_in_has_the_declared_deviations():
    model = MODELS["phi"]
    block = model.model.layers[0]
    assert float(block.self_attn.q_proj.weight.std()) == pytest.approx(32**-0.5, rel=0.1)
    assert float(block.self_attn.dense.weight.std()) == pytest.approx(32**-0.5 * 4**-0.5, rel=0.1)
    assert float(block.mlp.fc2.weight.std()) == pytest.approx(64**-0.5 * 4**-0.5, rel=0.1)


def test_initialisation_by_fan_in_knows_the_other_way_round_of_gpt2():
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 128}
    model = build_language_model(LanguageModel(model_type="gpt2", configuration=settings, initialisation="fan_in"), 50, 0, 1)
    block = model.transformer.h[0]
    assert float(block.attn.c_attn.weight.std()) == pytest.approx(32**-0.5, rel=0.1)
    assert float(block.mlp.c_fc.weight.std()) == pytest.approx(32**-0.5, rel=0.1)
    assert float(block.mlp.c_proj.weight.std()) == pytest.approx(128**-0.5 * 4**-0.5, rel=0.1)


def test_an_unknown_model_type_is_named():
    with pytest.raises(ValueError, match="phy"):
        build_language_model(LanguageModel(model_type="phy"), 10, 0, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mixed", [True, False], ids=["autocast", "bfloat16"])
@pytest.mark.parametrize("model_type", CONFIGURATIONS)
def test_on_a_gpu_in_half_precision_one_kernel_takes_all_documents(model_type, mixed):
    lengths = [5, 17, 300, 1, 64]
    model = tiny(model_type).cuda().to(torch.float32 if mixed else torch.bfloat16)
    embeddings = torch.randn(sum(lengths), 32, device="cuda", dtype=torch.float32 if mixed else torch.bfloat16, requires_grad=True)
    layout = DocumentLayout(lengths, embeddings.device)
    positions = torch.cat([torch.arange(length) for length in lengths])[None].cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=mixed), packed(model, layout) as more:
        together = model(inputs_embeds=embeddings[None], position_ids=positions, **more).logits[0].float()
        (gradient,) = torch.autograd.grad(together.square().sum(), embeddings)
    assert "in_buckets" not in vars(layout)
    with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
        alone = torch.cat([model(inputs_embeds=part[None], use_cache=False).logits[0] for part in embeddings.split(lengths)]).float()
    (expected,) = torch.autograd.grad(alone.square().sum(), embeddings)
    torch.testing.assert_close(together, alone, atol=0.05, rtol=0.05)
    assert torch.nn.functional.cosine_similarity(gradient.float().flatten(), expected.float().flatten(), dim=0) > 0.99
