"""Bad data in batches: left out, counted and named; too much of it stops the run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from flawed import FLAWS, PIPELINE, flawed, of, same
from tiny import tiny_experiment

from mm1_ablate.data.accounting import Accounting, TooMuchBadData
from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import BatchLoader, collate
from mm1_ablate.data.packing import TokenisedDocument, open_packed_rows
from mm1_ablate.data.tokenizer import load_tokenizer
from mm1_ablate.model.multimodal import build
from mm1_ablate.training.fit import train


def test_what_cannot_be_decoded_is_left_out_and_the_rest_of_the_batch_is_as_if_it_had_never_been_there():
    rows = open_packed_rows(flawed(**FLAWS), load_tokenizer(), 0)
    documents = [document for _ in range(40) for document in next(rows)]
    accounting = Accounting({name: 60 for name in ("some_captioned", "some_synthetic_captioned", "some_interleaved", "some_text")})
    batch = collate(documents, 3, 0, PIPELINE, accounting)
    expected: list[TokenisedDocument] = []
    unreadable: Counter[str] = Counter()
    for document in documents:
        readable = [image for image in document.images if _loads(image)]
        unreadable[document.source] += len(document.images) - len(readable)
        if len(readable) < len(document.images) and "captioned" in document.data_type:
            continue
        segments = tuple(segment for segment in document.segments if not isinstance(segment, Image) or segment in readable)
        if segments:
            expected.append(TokenisedDocument(document.key, document.source, segments, tuple(readable), 0))
    assert same(batch, collate(expected, 3, 0, PIPELINE))
    assert all(unreadable[name] for name in accounting.sources if name != "some_text")
    for name, counts in accounting.sources.items():
        assert counts.unreadable_images == counts.bad["truncated JPEG"] == unreadable[name]
        assert counts.loaded_images == sum(len(document.images) for document in documents if document.source == name)


def _loads(image: Image) -> bool:
    try:
        image.load()
    except Unreadable:
        return False
    return True


def test_interleaved_documents_keep_their_text_without_an_image():
    for (batch,) in of(flawed(unreadable_images=100), steps=5):
        assert len(batch.images) == len(batch.image_positions) == 0
        assert batch.documents and all("interleaved" in key or "text" in key for key in batch.documents)
        assert len(batch.targets) == len(batch.supervised) == (batch.positions > 0).sum()


def test_a_batch_of_nothing_is_a_batch():
    captions = flawed(unreadable_images=100).model_copy(update={"mixture": {"captioned": 1}})
    loaded = of(captions, steps=3)
    for batch, second in (step for step in of(captions, steps=3, micro_batch_rows=2)):
        assert same(batch, second) and batch.documents == batch.document_lengths == []
        assert batch.tokens.shape == batch.targets.shape == batch.image_positions.shape == (0,) and len(batch.images) == 0
    assert list(loaded) and loaded.account()["some_captioned"]["bad"]["truncated JPEG"] > 0


def test_a_model_trains_through_batches_without_images_and_without_anything(tmp_path: Path):
    experiment = tiny_experiment({"training.steps": 3})
    for mixture in ({"captioned": 1}, {"captioned": 1, "interleaved": 1}):
        declared = flawed(unreadable_images=100).model_copy(update={"mixture": mixture})
        model = build(experiment, 0)
        before = [parameter.clone() for parameter in model.parameters()]
        loader = BatchLoader(declared, load_tokenizer(), 4, ImagePipeline(24), 0, steps=3, batch_rows=2)
        train(model, loader, experiment.training, 1.0, tmp_path / "-".join(mixture), lambda progress: None)
        changed = any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        assert changed == ("interleaved" in mixture)


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize(
    ("flaw", "reason"), [("bad_documents", "empty caption"), ("missing_images", "missing image"), ("unreadable_images", "truncated JPEG")]
)
def test_too_much_bad_data_stops_the_run_at_the_same_step_and_is_in_the_account(threads: int, flaw: str, reason: str):
    def steps_until_it_stops(threads: int) -> tuple[int, str, BatchLoader]:
        loaded = of(flawed(max_bad_share=0.05, **{flaw: 20}), steps=200, threads=threads)
        with pytest.raises(TooMuchBadData) as raised:
            for _ in loaded:
                pass
        return loaded.step, str(raised.value), loaded

    step, message, loaded = steps_until_it_stops(threads)
    assert (step, message) == steps_until_it_stops(0)[:2]
    assert reason in message and "more than the 5.0% allowed" in message and "data.max_bad_share" in message
    worst = max(loaded.account().values(), key=lambda account: account["bad_share"])
    assert worst["bad"][reason] > 0 and worst["examples"][reason] and worst["bad_share"] > 0.05


def test_a_little_bad_data_stops_nothing_and_is_listed():
    loaded = of(flawed(max_bad_share=0.9, **FLAWS), steps=40)
    assert len(list(loaded)) == 40
    account = loaded.account()
    assert account["some_interleaved"]["bad"].keys() == {"empty caption", "missing image", "truncated JPEG"}
    assert all(len(names) == 3 and "/" in names[0] for names in account["some_interleaved"]["examples"].values())
    assert account["some_text"]["left_out"].keys() == {"text of fewer than 5 characters"}
    assert account["some_text"]["epochs"] == account["some_text"]["drawn"] / 60
    assert json.loads(json.dumps(account)) == account


def test_a_limit_of_a_source_goes_before_that_of_all():
    strict = flawed(max_bad_share=0.0, bad_documents=5)
    own = {name: source.model_copy(update={"max_bad_share": 1.0}) for name, source in strict.sources.items()}
    assert len(list(of(strict.model_copy(update={"sources": own}), steps=20))) == 20
    with pytest.raises(TooMuchBadData, match=r"more than the 0\.0% allowed"):
        list(of(strict, steps=20))
