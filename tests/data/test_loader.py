"""Batches: text is predicted and nothing else, the same documents whatever an image becomes, resumed bit for bit."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
import torch
from flawed import PIPELINE, flawed, of, same

from mm1_ablate.config.data import Data
from mm1_ablate.data.documents import Image
from mm1_ablate.data.loader import BatchLoader, DataUsedUp, collate
from mm1_ablate.data.packing import TokenisedDocument
from mm1_ablate.data.tokenizer import load_tokenizer


def data(count: str = "documents", buffer: int = 24, **mixture: float) -> Data:
    contents = {"captioned": "alt_text", "interleaved": "interleaved", "text": "text"}
    return Data.model_validate(
        {
            "mixture": mixture or {"captioned": 45, "interleaved": 45, "text": 10},
            "sources": {name: {"type": "miniature", "content": content, "data_type": name} for name, content in contents.items()},
            "count": count,
            "packing": {"row_tokens": 128, "nominal_image_tokens": 4, "buffer_documents": buffer},
        }
    )


def loader(declared: Data | None = None, image_tokens: int = 4, seed: int = 0, steps: int = 6, micro: int | None = None) -> BatchLoader:
    return BatchLoader(declared or data(), load_tokenizer(), image_tokens, PIPELINE, seed, steps, batch_rows=4, micro_batch_rows=micro)


# ---------------------------------------------------------------- what a batch is
def test_text_and_end_are_predicted_images_and_first_tokens_are_not():
    picture = Image("picture", lambda: np.zeros((12, 12, 3), np.uint8))
    first = TokenisedDocument("first", "source", (picture, (7, 8), picture, (9, 1)), (picture, picture), 0)
    second = TokenisedDocument("second", "source", ((5, 6), (4, 1)), (), 0)
    batch = collate([first, second], image_tokens=2, padding=0, pipeline=PIPELINE)
    assert batch.tokens.tolist() == [0, 0, 7, 8, 0, 0, 9, 1, 5, 6, 4, 1]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    assert batch.document_lengths == [8, 4]
    assert batch.supervised.tolist() == [1, 2, 5, 6, 8, 9, 10]
    assert batch.targets.tolist() == [7, 8, 9, 1, 6, 4, 1]
    assert batch.image_positions.tolist() == [0, 1, 4, 5]
    assert batch.images.shape == (2, 3, 12, 12)


@pytest.mark.parametrize("image_tokens", [1, 4, 9])
def test_batches_are_consistent(image_tokens: int):
    tokenizer = load_tokenizer()
    for (batch,) in loader(image_tokens=image_tokens):
        assert sum(batch.document_lengths) == len(batch.tokens) == len(batch.positions)
        assert len(batch.image_positions) == image_tokens * len(batch.images)
        assert (batch.tokens[batch.image_positions] == tokenizer.padding).all()
        assert (batch.tokens == tokenizer.padding).sum() == len(batch.image_positions)
        assert torch.equal(batch.tokens[batch.supervised + 1], batch.targets)
        assert (batch.targets != tokenizer.padding).all()
        ends = torch.tensor(batch.document_lengths).cumsum(0) - 1
        assert (batch.tokens[ends] == tokenizer.end).all()
        assert not set(ends.tolist()) & set(batch.supervised.tolist())
        assert (batch.positions == 0).sum() == len(batch.documents)


def test_a_batch_moves_to_a_device():
    (batch,) = next(iter(loader()))
    assert batch.to("meta").tokens.device.type == "meta" and batch.to("meta").documents == batch.documents


# ---------------------------------------------------------------- which documents it holds
def test_documents_do_not_depend_on_what_an_image_becomes():
    few, many = loader(image_tokens=1), loader(image_tokens=16)
    assert [batch.documents for (batch,) in few] == [batch.documents for (batch,) in many]


def test_micro_batches_hold_the_same_documents():
    for whole, parts in zip(loader(), loader(micro=1), strict=True):
        assert whole[0].documents == [key for part in parts for key in part.documents]
        assert len(parts) == 4


def test_the_order_is_the_same_for_ever():
    keys = "\n".join(key for (batch,) in loader() for key in batch.documents)
    assert sha256(keys.encode()).hexdigest()[:12] == "2ae4e0bfad2a"


def test_another_seed_is_another_order():
    assert next(iter(loader(seed=0)))[0].documents != next(iter(loader(seed=1)))[0].documents


def test_removing_a_data_type_removes_its_documents():
    for (batch,) in loader(data(captioned=1, text=1)):
        assert not any("interleaved" in key for key in batch.documents)


# ---------------------------------------------------------------- resuming
@pytest.mark.parametrize("count", ["documents", "tokens"])
@pytest.mark.parametrize("steps_before", range(7))
def test_a_fresh_loader_continues_bit_for_bit(count: str, steps_before: int):
    uninterrupted = list(loader(data(count)))
    first = loader(data(count))
    batches = iter(first)
    for _ in range(steps_before):
        next(batches)
    state = json.loads(json.dumps(first.state_dict()))
    fresh = loader(data(count))
    fresh.load_state_dict(state)
    rest = list(fresh)
    assert len(rest) == 6 - steps_before
    assert all(same(mine, expected) for (mine,), (expected,) in zip(rest, uninterrupted[steps_before:], strict=True))
    assert fresh.step == 6 and len(fresh) == 6


def test_a_resumed_loader_can_be_interrupted_again():
    expected = [batch.documents for (batch,) in loader()]
    state, seen = None, []
    for _ in range(6):
        fresh = loader()
        if state:
            fresh.load_state_dict(state)
        seen.append(next(iter(fresh))[0].documents)
        state = fresh.state_dict()
    assert seen == expected


def test_the_state_is_small():
    stopped = loader(data(buffer=256))
    next(iter(stopped))
    assert len(json.dumps(stopped.state_dict())) < 1000


def test_what_became_of_the_data_survives_resuming():
    packing = {"max_images": 5, "long_documents": "drop"}
    tight = data().model_copy(update={"packing": data().packing.model_copy(update=packing)})
    whole, stopped = loader(tight), loader(tight)
    assert list(whole) and whole.account()["interleaved"]["dropped"]["too many images"] > 0
    next(iter(stopped))
    fresh = loader(tight)
    fresh.load_state_dict(stopped.state_dict())
    assert list(fresh) and fresh.account() == whole.account()


# ---------------------------------------------------------------- what is mixed and packed
@pytest.mark.parametrize("threads", [0, 2])
def test_data_that_is_used_up_is_an_error_that_says_at_which_step(threads: int):
    loaded = of(flawed(max_epochs=1), steps=500, threads=threads)
    with pytest.raises(
        DataUsedUp, match=r"the data is used up at step (\d+) of 500: raise max_epochs of data.sources \(some_cap.*, or train"
    ) as raised:
        list(loaded)
    assert f"at step {loaded.step + 1} of" in str(raised.value)
    assert {account["epochs"] for account in loaded.account().values()} == {1.0}


def test_shares_by_text_tokens_do_not_count_images():
    text_tokens: Counter[str] = Counter()
    for (batch,) in of(flawed().model_copy(update={"count": "text_tokens"}), steps=60):
        bounds = torch.tensor([0, *batch.document_lengths]).cumsum(0)
        for key, start, end in zip(batch.documents, bounds[:-1], bounds[1:], strict=True):
            shown = ((batch.image_positions >= start) & (batch.image_positions < end)).sum().item()
            text_tokens[key.split("/")[0]] += int(end - start) - shown
    shares = {name: count / text_tokens.total() for name, count in text_tokens.items()}
    expected = {"some_captioned": 4 / 11, "some_synthetic_captioned": 2 / 11, "some_interleaved": 4 / 11, "some_text": 1 / 11}
    assert shares == pytest.approx(expected, abs=0.02)


def test_pieces_of_a_document_are_documents_of_their_own_to_the_model():
    long = flawed().model_copy(update={"packing": flawed().packing.model_copy(update={"row_tokens": 10, "max_images": 2})})
    seen = 0
    for (batch,) in of(long, steps=20):
        starts = torch.tensor([0, *batch.document_lengths]).cumsum(0)[:-1]
        assert (batch.positions[starts] == 0).all() and (batch.positions == 0).sum() == len(starts)
        assert not set((starts - 1).tolist()) & set(batch.supervised.tolist())
        ends = set((starts[1:] - 1).tolist()) | {len(batch.tokens) - 1}
        last = {place for place in ends if batch.tokens[place] == load_tokenizer().end}
        assert (batch.tokens == load_tokenizer().end).sum() == len(last)
        seen += sum("#" in key for key in batch.documents)
    assert seen > 20
