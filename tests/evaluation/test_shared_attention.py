"""Attention to shared prefixes is that of each row alone, and keeping image tokens costs no more memory than allowed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from toy_tasks import CONFIGURATION, Toy, random_model, word_tokenizer

from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.kv_cache import KVCache, extend_cache, last_positions
from mm1_ablate.evaluation.prompts import TokenisedPrompt, tokenise
from mm1_ablate.evaluation.shared_attention import Reading, can_share

SIZE, VALUE_SIZE = 8, 5


@settings(deadline=None, max_examples=40)
@given(
    prefix_lengths=st.lists(st.integers(1, 9), min_size=0, max_size=3),
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=6),
    groups=st.sampled_from([1, 3]),
    seed=st.integers(0, 9),
)
def test_rows_with_shared_prefixes_attend_as_each_row_alone(
    prefix_lengths: list[int], rows: list[tuple[int, int, int]], groups: int, seed: int
) -> None:
    torch.manual_seed(seed)
    heads, longest = 2, max(prefix_lengths, default=0)
    sizes = (SIZE, VALUE_SIZE)
    prefix = [tuple(torch.randn(len(prefix_lengths), heads, longest, size) for size in sizes)] if prefix_lengths else []
    prefix_seen = torch.arange(longest) < torch.tensor(prefix_lengths or [0])[:, None] if prefix_lengths else None
    prefix_of = torch.tensor([number % len(prefix_lengths) for number, _, _ in rows]) if prefix_lengths else None
    own_length, tokens = max(own for _, own, _ in rows), max(new for _, _, new in rows)
    own = [tuple(torch.randn(len(rows), heads, own_length, size) for size in sizes)] if own_length else []
    own_seen = torch.arange(own_length) < torch.tensor([own for _, own, _ in rows])[:, None]
    valid = torch.arange(tokens) < torch.tensor([new for _, _, new in rows])[:, None]
    query = torch.randn(1, heads * groups, int(valid.sum()), SIZE)
    key, value = (torch.randn(1, heads, int(valid.sum()), size) for size in sizes)

    reading = Reading(prefix, prefix_seen, prefix_of, own, own_seen, valid)
    found = reading.attend(query, key, value, SIZE**-0.5)

    start = 0
    for number, (_, own_tokens, new) in enumerate(rows):
        part = slice(start, start + new)
        start += new
        pieces = []
        for which, now in enumerate((key, value)):
            before = []
            if prefix_lengths and prefix_of is not None:
                place = int(prefix_of[number])
                before.append(prefix[0][which][place : place + 1, :, : prefix_lengths[place]])
            if own:
                before.append(own[0][which][number : number + 1, :, :own_tokens])
            pieces.append(torch.cat([*before, now[:, :, part]], 2).repeat_interleave(groups, 1))
        length = pieces[0].shape[2]
        mask = torch.ones(new, length, dtype=torch.bool).tril(length - new)
        alone = scaled_dot_product_attention(query[:, :, part], *pieces, attn_mask=mask)
        torch.testing.assert_close(found[:, part], alone.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_models_with_other_attention_are_read_with_the_cache_of_transformers() -> None:
    fields = {name: value for name, value in CONFIGURATION.items() if name != "qk_layernorm"}
    assert can_share(random_model().language_model)
    assert not can_share(random_model({"model_type": "mistral", "configuration": {**fields, "sliding_window": 9}}).language_model)
    assert not can_share(random_model({"model_type": "gemma3_text", "configuration": {**fields, "head_dim": 16}}).language_model)


@torch.no_grad()
def test_rows_branch_and_read_on_without_touching_what_they_share() -> None:
    model, tokenizer = random_model(), word_tokenizer()
    embedder = PromptEmbedder(model, ImagePipeline(24), tokenizer.padding)

    def read(context: KVCache, *texts: str) -> tuple[KVCache, torch.Tensor]:
        embeddings, valid = embedder([TokenisedPrompt((tuple(tokenizer.encode(text)),)) for text in texts])
        return extend_cache(model, context, embeddings, valid, last_positions(valid))

    nothing = KVCache.empty(1, embedder.device)
    first, _ = read(nothing, "red green blue circle")
    before = [part.clone() for layer in first.layers for part in layer]
    shared = KVCache.after_prefixes([first], [0, 0])
    longer, logits = read(shared, "square", "small large what")
    again, _ = read(longer.select(torch.tensor([1])), "card")
    _, last = read(again.branch(torch.tensor([0, 0])), "red", "-> rows")
    for row, text in enumerate(("square", "small large what")):
        torch.testing.assert_close(logits[row], read(nothing, f"red green blue circle {text}")[1][0], atol=1e-4, rtol=1e-4)
    for row, text in enumerate(("red", "-> rows")):
        whole = read(nothing, f"red green blue circle small large what card {text}")[1][0]
        torch.testing.assert_close(last[row], whole, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(part, kept) for part, kept in zip([part for layer in first.layers for part in layer], before, strict=True))
    alone = longer.separate()[0]
    assert alone.prefix is None and alone.seen.shape == (1, 5)


@torch.no_grad()
@pytest.mark.parametrize("kept", [0, 3, 100])
def test_kept_image_tokens_take_no_more_memory_than_allowed(kept: int) -> None:
    model, tokenizer = random_model(), word_tokenizer()
    one = 4 * model.width * 4  # four tokens of float32
    embedder = PromptEmbedder(model, ImagePipeline(24), tokenizer.padding, batch_images=2, kept_bytes=kept * one)
    items = Toy().open("report", 7, 0).queries
    prompts = [tokenise([item.image, "red"], tokenizer) for item in items if item.image]
    plain = PromptEmbedder(model, ImagePipeline(24), tokenizer.padding)(prompts)[0]
    for _ in range(2):
        torch.testing.assert_close(embedder(prompts)[0], plain)
        assert sum(tokens.nbytes for tokens in embedder._kept.values()) <= kept * one
    assert embedder.encoded == (7 if kept == 100 else 14 - (kept if kept < 7 else 0))


def test_a_deep_model_is_looked_at_by_few_of_its_layers_where_these_are_of_all_its_kinds() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from mm1_ablate.evaluation.preflight import ENOUGH_LAYERS, check_readable, shorter

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}

    def made(model_type: str, layers: int, **more: Any) -> Any:
        with torch.device("meta"):
            config = AutoConfig.for_model(model_type, num_hidden_layers=layers, **sizes, **more)
            return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")

    deep = shorter(made("llama", 40))
    assert deep.config.num_hidden_layers == ENOUGH_LAYERS == len(deep.model.layers)
    check_readable(deep)
    in_turns = ["sliding_attention", "full_attention"] * 20
    assert shorter(made("gemma3_text", 40, head_dim=8, layer_types=in_turns)).config.layer_types == in_turns[:ENOUGH_LAYERS]
    late = ["sliding_attention"] * 20 + ["full_attention"] * 20
    for whole in (made("llama", 3), made("gemma3_text", 40, head_dim=8, layer_types=late)):
        assert shorter(whole) is whole


def test_what_is_read_stays_on_the_device_of_the_caches() -> None:
    """The meta device stands for a GPU."""
    elsewhere = KVCache.after_prefixes([KVCache.empty(1, torch.device("meta"))] * 2, [0, 1, 1])
    branched = elsewhere.flat().branch(torch.zeros(2, dtype=torch.long, device="meta"))
    for cache in (elsewhere, branched, elsewhere.select(torch.zeros(2, dtype=torch.long, device="meta"))):
        assert {cache.seen.device.type, cache.lengths.device.type} == {"meta"}


@pytest.mark.parametrize(
    ("configuration", "shares"),
    [
        ({}, True),
        ({"layer_types": ["full_attention", "full_attention"]}, True),
        ({"layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"sliding_window": 8}, False),
        ({"attn_logit_softcapping": 50.0}, False),
        ({"attention_chunk_size": 8}, False),
        ({"model_type": "gpt_oss"}, False),
    ],
)
def test_prefixes_are_shared_where_attention_is_plain(configuration: dict[str, Any], shares: bool) -> None:
    config = SimpleNamespace(**{"model_type": "llama", **configuration})
    assert can_share(SimpleNamespace(config=config, _supports_attention_backend=True)) == shares
    assert not can_share(SimpleNamespace(config=config))
