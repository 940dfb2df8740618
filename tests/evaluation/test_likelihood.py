"""How likely right answers, choices and held-out documents are, against each computed alone."""

from __future__ import annotations

import json
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TEXT
from toy_tasks import (
    CHOOSE,
    CONFIGURATION,
    GENERATE,
    Toy,
    experiment_on,
    plain_log_likelihood,
    random_model,
    record,
    run,
)

from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Image, Item
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.packing import tokenise
from mm1_ablate.evaluation.requests import ContextOverflow, prepare_requests
from mm1_ablate.evaluation.scores import summarise


def test_a_task_can_ask_how_likely_the_right_answer_is(model, tokenizer, tmp_path) -> None:
    fields = {**GENERATE, "kind": "likelihood", "metrics": ["lambada_accuracy", "perplexity"]}
    experiment = experiment_on([record(tmp_path, fields)], shots=[0])
    table = run(model, experiment, tokenizer)
    scores = table.set_index(["metric", "item"])["score"]
    nats = []
    for query in Toy().open("report", None, 0).queries:
        assert query.image
        expected, greedy = plain_log_likelihood(model, tokenizer, [query.image, f"{query.fields['q']} ->"], query.references[0])
        assert scores["perplexity", query.id] == pytest.approx(-expected, abs=1e-4)
        assert scores["lambada_accuracy", query.id] == greedy
        nats.append(expected)
    summary = summarise(table)
    assert summary["shot_0/toy.perplexity"] == pytest.approx(np.exp(-np.mean(nats)), rel=1e-4)


def test_greedy_continuations_are_distinguished_from_others(model, tokenizer, tmp_path) -> None:
    generated = run(model, experiment_on([record(tmp_path, {**GENERATE, "max_new_tokens": 2})], shots=[0]), tokenizer).set_index("item")

    class Answers(Toy):
        def open(self, split: str, count: int | None, seed: int) -> Any:
            items = super().open(split, count, seed)
            queries = [
                Item(item.id, item.group, item.image, item.fields, (generated.loc[item.id, "prediction"] if number % 2 else "red",))
                for number, item in enumerate(items.queries)
            ]
            return type(items)(queries, items.demonstrations)

    fields = {**GENERATE, "kind": "likelihood", "metrics": ["lambada_accuracy"], "items": Answers(type=f"{__name__}.Answers")}
    prepared = prepare_requests(Task.model_validate(fields), experiment_on(["x.yaml"], shots=[0]).evaluation, tokenizer)
    from mm1_ablate.evaluation.embedding import PromptEmbedder
    from mm1_ablate.evaluation.evaluate import _TaskRunner

    with torch.no_grad():
        asker = _TaskRunner(prepared, PromptEmbedder(model, ImagePipeline(24), tokenizer.padding), tokenizer)
        asked = list(asker.ask([prepared.requests], lambda answers: None))
    for one in asked:
        assert one.prediction and one.prediction.token_counts == (len(tokenizer.encode(one.prediction.choices[0])),)
        if one.place % 2:
            assert one.prediction.greedy == (True,) and one.prediction.text == one.prediction.choices[0]
    assert {one.prediction.greedy for one in asked if one.prediction} == {(True,), (False,)}


@pytest.mark.parametrize("window", [None, 9])
def test_a_choice_in_the_middle_is_judged_by_what_follows_it(model, tokenizer, tmp_path, window) -> None:
    if window:
        plain_fields = {name: value for name, value in CONFIGURATION.items() if name != "qk_layernorm"}
        model = random_model(
            {"model_type": "mistral", "configuration": {**plain_fields, "num_key_value_heads": 1, "sliding_window": window}}
        )
    fields = {**CHOOSE, "prompt": "{image} {q} {choice} -> {answer}", "metrics": ["choice_accuracy"]}
    table = run(model, experiment_on([record(tmp_path, fields)], shots=[0]), tokenizer).set_index("item")
    for query in Toy().open("report", None, 0).queries:
        assert query.image
        expected = [
            plain_log_likelihood(model, tokenizer, [query.image, f"{query.fields['q']} {choice} ->"], query.references[0])[0]
            for choice in query.choices
        ]
        assert json.loads(table.loc[query.id, "log_likelihoods"]) == pytest.approx(expected, abs=1e-4)
        assert table.loc[query.id, "prediction"] == query.choices[int(np.argmax(expected))]


def test_held_out_loss_is_that_of_each_document_alone(model, tokenizer) -> None:
    held_out = {
        "text": {"source": {**TEXT, "documents": None}, "first": 40_000 - 6, "documents": 40},
        "captions": {"source": {"type": "miniature", "data_type": "captioned", "content": "alt_text"}, "documents": 3},
    }
    # Sources are read as they are declared; unseen documents of the same world are those behind what training reads.
    held_out["text"]["source"]["documents"] = 40_000
    experiment = experiment_on(["miniature_facts"], items=2, losses=held_out)
    table = run(model, experiment, tokenizer)
    summary = summarise(table)
    assert table[table["family"] == "loss"].groupby(["task", "metric"]).size().to_dict() == {
        ("captions", "bits_per_byte"): 3, ("captions", "loss"): 3, ("text", "bits_per_byte"): 6, ("text", "loss"): 6,
    }  # fmt: skip
    for name, held in experiment.evaluation.losses.items():
        documents = held.source.open(0, name)
        nats, text_nats, tokens, size = 0.0, 0.0, 0, 0
        for index in range(held.first, held.first + (6 if name == "text" else 3)):
            document = documents[index]
            segments = tokenise(document, tokenizer, 4).segments
            parts = [
                model.encode_images(ImagePipeline(24).load([part]))[0] if isinstance(part, Image) else model.embed(torch.tensor(part))
                for part in segments
            ]
            with torch.no_grad():
                logits = model.language_model(inputs_embeds=torch.cat(parts)[None]).logits[0].log_softmax(-1)
            place = 0
            for part in segments:
                if isinstance(part, Image):
                    place += 4
                    continue
                for token in part:
                    if place:
                        own = -float(logits[place - 1, token].detach())
                        nats, tokens = nats + own, tokens + 1
                        text_nats += own if token != tokenizer.end else 0
                    place += 1
            words = document.text if name == "captions" else document.text.split(" ", 1)[1]
            size += len(words.encode())
        assert summary[f"loss/{name}"] == pytest.approx(nats / tokens, abs=1e-4)
        assert summary[f"bits_per_byte/{name}"] == pytest.approx(text_nats / log(2) / size, abs=1e-4)


def test_a_held_out_document_that_does_not_fit_is_an_error(model, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(model, "context_length", 12)
    with pytest.raises(ContextOverflow, match=r"evaluation.losses.text: document .* tokens of context"):
        run(model, experiment_on(["miniature_facts"], items=2, losses={"text": {"source": TEXT}}), tokenizer)
