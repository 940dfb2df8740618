"""What a language model refuses or is refused for, at the bound and word for word; and how documents of a row are grouped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.settings import SettingError
from mm1_ablate.model.context_length import context_length, context_length_of, known_context_length
from mm1_ablate.model.language_model import _check_rows, build_language_model, check_vocabulary, token_ids
from mm1_ablate.model.packable import FAR, _compared, _is_alike, _told, _why_not
from mm1_ablate.model.packed_attention import DocumentLayout, NotPackable, packed_attention

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


# ---------------------------------------------------------------- vocabularies
@pytest.mark.parametrize(
    ("tokens", "declared", "words"),
    [
        (1000, 1000, None),
        (1000, 2023, None),
        (1000, 999, "999 are too few: the tokenizer 'ours' has 1,000 tokens. Declare 1024, or leave vocab_size out"),
        (
            1000,
            2024,
            "2,024 are more than rounding up explains: the tokenizer 'ours' has 1,000 tokens. Declare 1024, or leave vocab_size out",
        ),
        (1024, 10, "10 are too few: the tokenizer 'ours' has 1,024 tokens. Declare 1024, or leave vocab_size out"),
        (1025, 10, "10 are too few: the tokenizer 'ours' has 1,025 tokens. Declare 1088, or leave vocab_size out"),
    ],
)
def test_a_vocabulary_is_held_against_its_tokenizers_at_either_bound(tokens: int, declared: int, words: str | None) -> None:
    settings = LanguageModel(model_type="llama", tokenizer="ours", configuration={"vocab_size": declared})
    if words is None:
        check_vocabulary(settings, tokens)
        return
    with pytest.raises(SettingError) as caught:
        check_vocabulary(settings, tokens)
    assert (caught.value.at, caught.value.message) == ("configuration.vocab_size", words)


def test_a_named_model_needs_a_row_for_each_token() -> None:
    settings = LanguageModel(name="lab/model", tokenizer="ours")
    _check_rows(settings, 1000, 1000)
    with pytest.raises(SettingError) as caught:
        _check_rows(settings, 1001, 1000)
    assert caught.value.at == "tokenizer"
    assert caught.value.message == (
        "'ours' has 1,001 tokens, more than the 1,000 of 'lab/model'; name the tokenizer that the model was trained with, or leave this out"
    )
    assert token_ids(settings) == (0, 0, 0)
    assert token_ids(LanguageModel(model_type="llama", tokenizer="nowhere", configuration={"vocab_size": 77})) == (77, 0, 0)


@pytest.mark.parametrize(
    ("settings", "at", "words"),
    [
        ({"model_type": "lamma"}, "model_type", "transformers has no model type 'lamma'; did you mean 'llama'?"),
        ({"model_type": "qqqqqqqq"}, "model_type", "transformers has no model type 'qqqqqqqq'"),
        (
            {"model_type": "llama", "configuration": {**TINY, "hiden_act": "silu"}},
            "configuration.hiden_act",
            "transformers' llama has no field 'hiden_act'; did you mean 'hidden_act'?",
        ),
        (
            {"model_type": "llama", "configuration": {**TINY, "qqqqqqqq": 1}},
            "configuration.qqqqqqqq",
            "transformers' llama has no field 'qqqqqqqq'",
        ),
        (
            {"model_type": "mixtral", "configuration": {**TINY, "num_key_value_heads": 2, "router_aux_loss_coef": 0.1}},
            "configuration.router_aux_loss_coef",
            "routers are trained by the loss of tokens alone, so this has no effect; leave it out",
        ),
        (
            {"model_type": "mixtral", "configuration": {**TINY, "num_key_value_heads": 2, "output_router_logits": True}},
            "configuration.output_router_logits",
            "routers are trained by the loss of tokens alone, so this has no effect; leave it out",
        ),
    ],
)
def test_what_transformers_would_take_without_a_word_is_refused(settings: dict[str, Any], at: str, words: str) -> None:
    with pytest.raises(SettingError) as caught, torch.device("meta"):
        build_language_model(LanguageModel(**settings), 100, 0, 1)
    assert (caught.value.at, caught.value.message) == (at, words)


def test_a_language_model_has_the_tokenizers_ids_and_what_is_declared_instead() -> None:
    with torch.device("meta"):
        plain = build_language_model(LanguageModel(model_type="llama", configuration=TINY), 100, 7, 8).config
        quiet = {**TINY, "output_router_logits": False, "num_key_value_heads": 2, "bos_token_id": 5}
        own = build_language_model(LanguageModel(model_type="mixtral", configuration=quiet), 100, 7, 8).config
    assert (plain.vocab_size, plain.pad_token_id, plain.eos_token_id, plain.bos_token_id) == (100, 7, 8, 8)
    assert (own.pad_token_id, own.eos_token_id, own.bos_token_id) == (7, 8, 5)
    assert plain._attn_implementation == "sdpa"


# ---------------------------------------------------------------- context
@pytest.mark.parametrize(
    ("configuration", "tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 64}}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 64}}, 64),
        ({"max_position_embeddings": 48, "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 64}}, 48),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "longrope"}, "original_max_position_embeddings": 32}, 32),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "longrope"}}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": None}, 4096),
    ],
)
def test_a_models_context_is_that_in_which_a_document_depends_on_no_other(configuration: dict[str, Any], tokens: int) -> None:
    assert context_length_of(SimpleNamespace(**configuration)) == tokens


def test_a_declared_context_is_taken_by_its_word_unless_another_field_changes_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM1_ABLATE_CACHE", str(tmp_path))
    none = LanguageModel(model_type="none", configuration={"max_position_embeddings": 77})
    assert context_length(none) == known_context_length(none) == 77, "transformers is not asked"
    assert known_context_length(LanguageModel(model_type="none")) is None
    for field in ("rope_parameters", "rope_scaling"):
        more = {"max_position_embeddings": 77, field: {"rope_type": "default", "rope_theta": 10000.0}}
        assert known_context_length(LanguageModel(model_type="none", configuration=more)) is None
    assert known_context_length(LanguageModel(name="lab/that-is-nowhere")) is None


# ---------------------------------------------------------------- attention
def test_documents_of_like_length_share_a_call_down_to_six_tenths_of_the_longest() -> None:
    layout = DocumentLayout([6, 10, 5, 3, 1], torch.device("cpu"))
    buckets, kept = layout.in_buckets
    assert [bucket.tolist() for bucket in buckets] == [
        [[6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]],
        [[16, 17, 18, 19, 20], [21, 22, 23, 23, 23]],
        [[24]],
    ]
    assert kept.tolist() == [*range(10, 16), *range(10), *range(20, 25), *range(25, 28), 30]
    assert layout.cumulative.tolist() == [0, 6, 16, 21, 24, 25] and layout.cumulative.dtype == torch.int32 and layout.longest == 10
    assert DocumentLayout([], torch.device("cpu")).longest == 0


def test_a_window_holds_a_token_and_so_many_less_one_before_it() -> None:
    layout = DocumentLayout([4], torch.device("cpu"))
    assert layout.window(4, 4) is None and layout.window(5, 4) is None
    assert layout.window(2, 4).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert layout.window(3, 4).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]]
    assert layout.window(2, 3).shape == (3, 3)


class Layer(nn.Module):
    """A layer of attention; causal unless it says otherwise."""


@pytest.mark.parametrize(
    ("arguments", "requests"),
    [
        ({"softcap": 30.0}, "softcap"),
        ({"s_aux": 1, "sinks": 1, "position_bias": 1, "indices": 1, "block_indices": 1},
         "s_aux, sinks, position_bias, indices, block_indices"),
        ({"attention_mask": torch.ones(1)}, "an attention mask of its own"),
        ({"is_causal": False}, "attention to later tokens"),
        ({"attention_mask": torch.ones(1), "softcap": 1.0, "is_causal": False},
         "softcap, an attention mask of its own, attention to later tokens"),
    ],
)  # fmt: skip
def test_attention_that_is_not_computed_here_is_refused_by_its_name(arguments: dict[str, Any], requests: str) -> None:
    heads, layout = torch.zeros(1, 2, 3, 4), DocumentLayout([3], torch.device("cpu"))
    given = {"attention_mask": None, "document_layout": layout, **arguments}
    with pytest.raises(NotPackable) as caught:
        packed_attention(Layer(), heads, heads, heads, **given)
    assert str(caught.value) == f"Layer requests {requests}, which packed documents do not support" and caught.value.field == ""
    assert packed_attention(Layer(), heads, heads, heads, None, document_layout=layout, softcap=None)[0].shape == (1, 3, 2, 4)
    with pytest.raises(NotPackable, match=r"^Layer does not pass on which documents are packed$"):
        packed_attention(Layer(), heads, heads, heads, None)


def test_a_layer_that_says_itself_that_it_sees_later_tokens_is_refused_unless_the_call_says_otherwise() -> None:
    heads, layout, layer = torch.zeros(1, 2, 3, 4), DocumentLayout([3], torch.device("cpu")), Layer()
    layer.is_causal = False
    with pytest.raises(NotPackable, match="attention to later tokens"):
        packed_attention(layer, heads, heads, heads, None, document_layout=layout)
    assert packed_attention(layer, heads, heads, heads, None, document_layout=layout, is_causal=True)


def test_attention_scales_windows_and_shares_keys_as_asked() -> None:
    """Two heads that share one of keys; documents of three tokens and of one; against sums by hand."""
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 2, 4, 3), torch.randn(1, 1, 4, 3), torch.randn(1, 1, 4, 5)
    layout = DocumentLayout([3, 1], torch.device("cpu"))
    for scaling, window in ((None, None), (0.7, None), (0.7, 2)):
        found, none = packed_attention(Layer(), query, key, value, None, scaling, layout, sliding_window=window)
        assert found.shape == (1, 4, 2, 5) and none is None
        for token, seen in enumerate(([0], [0, 1], [0, 1, 2] if window is None else [1, 2], [3])):
            scores = query[0, :, token] @ key[0, 0, seen].T * (3**-0.5 if scaling is None else scaling)
            torch.testing.assert_close(found[0, token], scores.softmax(-1) @ value[0, 0, seen])


# ---------------------------------------------------------------- packable
def mask(sees: Any, window: int | None = None) -> Any:
    return _told(1, 13, 13, lambda batch, head, query, key: sees(int(query) - int(key)), local_size=window)


@pytest.mark.parametrize(
    ("sees", "masked", "given", "alike"),
    [
        (lambda back: back >= 0, None, None, True),
        (lambda back: back > 0, None, None, False),
        (lambda back: back >= -1, None, None, False),
        (lambda back: 0 <= back < FAR, None, None, False),
        (lambda back: 0 <= back < 4, 4, 4, True),
        (lambda back: 0 <= back < 4, 4, None, False),
        (lambda back: 0 <= back < 3, 4, 4, False),
        (lambda back: 0 <= back <= 4, 4, 4, False),
        (lambda back: back >= 0, None, 4, False),
        (lambda back: back / 0, None, None, True),
    ],
)
def test_a_mask_is_held_against_what_a_token_sees_of_its_document(sees: Any, masked: int | None, given: int | None, alike: bool) -> None:
    assert _is_alike(mask(sees, masked), given) is alike


def test_a_mask_that_sees_otherwise_is_refused_at_the_window_where_that_is_why() -> None:
    heads, layout = torch.zeros(1, 2, 13, 4), DocumentLayout((8, 5), torch.device("cpu"))

    def compared(sees: Any, masked: int | None, given: int | None) -> tuple[str, str]:
        with pytest.raises(NotPackable) as caught:
            _compared(Layer(), heads, heads, heads, mask(sees, masked), given, layout)
        return str(caught.value), caught.value.field

    what = "the mask of Layer has a window of {} tokens, and its attention gets {}: packed documents would get another attention"
    assert compared(lambda back: 0 <= back < 4, 4, None) == (what.format(4, "none"), "sliding_window")
    assert compared(lambda back: 0 <= back < 4, 4, 7) == (what.format(4, 7), "sliding_window")
    assert compared(lambda back: back > 0, None, None) == ("the mask of Layer cannot be applied to packed documents", "")
    fine = _compared(Layer(), heads, heads, heads, mask(lambda back: back >= 0), None, layout)[0]
    assert fine.shape == _compared(Layer(), heads, heads, heads, None, None, layout)[0].shape == (1, 13, 2, 4)


class Positioned(nn.Module):
    """A language model whose forward pass takes positions."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)

    def forward(self, inputs_embeds: Any, position_ids: Any) -> None: ...


class Unpositioned(Positioned):
    def forward(self, inputs_embeds: Any) -> None: ...  # type: ignore[override]


class Encoders(SimpleNamespace):
    sub_configs = {"vision_config": None, "text_config": None, "audio_config": None}


def test_why_a_class_of_models_cannot_take_packed_documents() -> None:
    assert _why_not(Positioned()) is None and _why_not(Positioned(layer_types=["full_attention", "sliding_attention"])) is None
    apart = "which do not keep packed documents apart"
    assert _why_not(Positioned(layer_types=["mamba", "full_attention", "conv"])) == f"have layers of the kind conv, mamba, {apart}"
    stateful = Positioned()
    stateful._is_stateful = True
    assert _why_not(stateful) == f"have layers with a running state, {apart}"
    seeing = Positioned()
    seeing.config = Encoders()
    assert _why_not(seeing) == "have encoders of their own for images or sound (audio_config, vision_config), which would not be used"
    for padding, why in ((None, None), (0, "count positions from their padding token's, and packed documents from 0")):
        counting = Positioned()
        counting.position_embeddings = nn.Embedding(4, 2, padding_idx=padding)
        assert _why_not(counting) == why
    assert _why_not(Unpositioned()) == "take no position_ids, so positions in a packed document would not begin at 0"
    inside = Unpositioned()
    inside.base_model = Positioned()
    assert _why_not(inside) is None
