"""Where an answer ends, and when greedy decoding would give it: each question by its own rule, held against the plain loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tasks import GENERATE, Toy, experiment_on, plain_inputs, plain_log_likelihood, random_model, record, run, word_tokenizer

from mm1_ablate.data.documents import Image, Item, ItemSet
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.evaluation import likelihood
from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.generation import cut
from mm1_ablate.evaluation.kv_cache import KVCache, read_questions
from mm1_ablate.evaluation.likelihood import answer_likelihoods, token_log_likelihoods
from mm1_ablate.evaluation.prompts import tokenise


# ---------------------------------------------------------------- stop strings
@pytest.mark.parametrize("stop", [[",", "."], [".", ","], [".", "x", ","], ["nothing", ", "]])
def test_an_answer_ends_at_whichever_stop_string_comes_first(stop: list[str]) -> None:
    assert cut("red, blue. red", stop) == ("red", True)


@given(st.text("ab,.", max_size=12), st.lists(st.text("ab,.", min_size=1, max_size=2), max_size=4))
def test_what_is_left_is_the_longest_beginning_before_any_stop_string(text: str, stop: list[str]) -> None:
    kept, stopped = cut(text, stop)
    assert text.startswith(kept) and stopped == any(string in text for string in stop) == (kept != text or "" in stop)
    if stopped:
        assert any(text.startswith(kept + string) for string in stop)
        assert not any(text.startswith(string, place) for place in range(len(kept)) for string in stop)


class Stopping(Toy):
    """Items that name their own stop strings."""

    type: str = f"{__name__}.Stopping"
    ends: dict[str, list[str]] = {}
    """By item."""

    def open(self, split: str, count: int | None, seed: int) -> ItemSet:
        items = super().open(split, count, seed)
        nothing = ["nowhere", "nowhere"]
        queries = [
            Item(
                item.id,
                item.group,
                item.image,
                {**item.fields, **dict(zip("xy", self.ends.get(item.id, nothing), strict=True))},
                item.references,
            )
            for item in items.queries
        ]
        return ItemSet(queries, items.demonstrations)


def stopped(model: Any, tokenizer: Any, path: str, **more: Any) -> dict[str, str]:
    table = run(model, experiment_on([path], shots=[0], **more), tokenizer)
    return dict(zip(table["item"], table["prediction"], strict=True))


def test_each_answer_ends_at_any_of_the_stop_strings_of_its_own_item(model, tokenizer, tmp_path) -> None:
    """Some items stop at their own second word, some at a phrase of two tokens, some never; the strings are filled in item by item."""
    free = stopped(model, tokenizer, record(tmp_path, {**GENERATE, "items": {"type": f"{__name__}.Stopping"}}), batch_items=9)
    ends: dict[str, list[str]] = {}
    for place, (item, text) in enumerate(free.items()):
        words = text.split()
        if place % 3 < 2 and len(words) > 2:
            ends[item] = ["nowhere", words[1]] if place % 3 else [f"{words[1]} {words[2]}", "nowhere"]
    assert len(ends) > 3 and len(set(map(tuple, ends.values()))) > 2
    fields = {**GENERATE, "items": {"type": f"{__name__}.Stopping", "ends": ends}, "stop": ["never", "{x}", "{y}"]}
    found = stopped(model, tokenizer, record(tmp_path, fields), batch_items=9)
    for item, text in free.items():
        places = [text.find(string) for string in ends.get(item, []) if string in text]
        assert found[item] == text[: min(places, default=None)].strip()
    assert found != free


# ---------------------------------------------------------------- likelihoods
@torch.no_grad()
def greedy_tokens(model: Any, tokenizer: Any, parts: list[str | Image], begun: list[int], count: int) -> list[int]:
    """A beginning and what the plain loop makes of it, whatever the tokens are."""
    tokens = list(begun)
    for _ in range(count - len(begun)):
        tokens.append(int(model.language_model(inputs_embeds=plain_inputs(model, tokenizer, parts, tokens)).logits[0, -1].argmax()))
    return tokens


def test_an_answer_is_greedy_where_each_of_its_tokens_is_the_likeliest_after_those_before_it() -> None:
    """Right at the beginning, in the middle or at the end alone is not enough."""
    model, tokenizer = random_model(), word_tokenizer()
    questions: list[list[str | Image]] = [
        [query.image, f"{query.fields['q']} ->"] for query in Toy().open("report", 4, 0).queries if query.image
    ]
    answers, expected = [], []
    for parts in questions:
        right = greedy_tokens(model, tokenizer, parts, [], 3)
        other = next(token for token in range(5, 30) if token not in right)
        own = {
            tuple(right): True,
            tuple(right[:1]): True,
            (*right[:2], other): False,
            (right[0], other, *greedy_tokens(model, tokenizer, parts, [right[0], other], 3)[2:]): False,
            tuple(greedy_tokens(model, tokenizer, parts, [other], 3)): False,
            (other,): False,
        }
        answers.append(list(own))
        expected.append(list(own.values()))
    with torch.no_grad():
        embedder = PromptEmbedder(model, ImagePipeline(24), tokenizer.padding)
        prompts = [tokenise(parts, tokenizer) for parts in questions]
        empty = KVCache.after_prefixes([KVCache.empty(1, embedder.device)], [0] * 4)
        found = answer_likelihoods(embedder, *read_questions(embedder, empty, prompts), answers)
    assert [[one.greedy for one in own] for own in found] == expected
    for parts, own, tokens in zip(questions, found, answers, strict=True):
        assert [one.tokens for one in own] == [len(one) for one in tokens]
        for one, text in zip(own, tokens, strict=True):
            words = tokenizer.decode(list(text))
            if tokenizer.encode(words) == list(text):
                assert one.nats == pytest.approx(plain_log_likelihood(model, tokenizer, parts, words)[0], abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
def test_likelihoods_are_the_same_however_many_logits_are_taken_together(rows: int, at_once: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, targets = 5 * torch.randn(rows, 7, generator=generator), torch.randint(7, (rows,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "LOGITS_AT_ONCE", at_once)
        nats, greedy = token_log_likelihoods(logits, targets)
    expected = logits.double().log_softmax(-1)
    torch.testing.assert_close(nats, expected[torch.arange(rows), targets], atol=1e-5, rtol=1e-5)
    assert torch.equal(greedy, expected.argmax(-1) == targets) and nats.dtype == torch.float64
