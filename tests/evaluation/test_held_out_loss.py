"""Which held-out documents are measured, over which tokens and bytes, and what becomes of those that cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
from tiny import TEXT, tiny_experiment

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.data.documents import Document, Image, LeftOut, Unreadable
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.evaluation import held_out_loss as module
from mm1_ablate.evaluation.evaluation_mode import evaluating
from mm1_ablate.evaluation.held_out_loss import measure, prepare_documents
from mm1_ablate.evaluation.requests import ContextOverflow
from mm1_ablate.evaluation.scores import LOSS_COLUMNS


def picture(name: str, readable: bool = True) -> Image:
    def load() -> np.ndarray:
        if not readable:
            raise Unreadable("truncated JPEG", name)
        return np.full((24, 24, 3), 40, dtype=np.uint8)

    return Image(name, load)


class Documents(list[Any]):
    """A source that is open: documents, and what is raised instead of some."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(found, Exception):
            raise found
        return found


DOCUMENTS = Documents(
    [
        Document("before", "own", "text", ("red",)),
        LeftOut("too short"),
        Unreadable("invalid JSON", "line 7"),
        Unreadable("no row"),
        Document("text", "own", "text", ("red green blue",)),
        Document("caption", "own", "captioned", (picture("a"), "small red circle")),
        Document("broken", "own", "captioned", (picture("b", readable=False), "small red circle")),
        Document("damaged", "own", "interleaved", ("red",), {}, (Unreadable("no picture", "x"), Unreadable("no picture", "y"))),
        Document("long", "own", "text", (" ".join(["red"] * 40),)),
        Document("last", "own", "text", ("square",)),
        Document("never", "own", "text", ("square",)),
    ]
)


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    opened: list[Any] = []
    monkeypatch.setattr(module, "open_source", lambda *given: opened.append(given) or DOCUMENTS)
    held = {"own": {"source": TEXT, "first": 1, "documents": 8}}
    packing = {"row_tokens": 24, "nominal_image_tokens": 4, "buffer_documents": 16, "long_documents": "drop"}
    return tiny_experiment({"evaluation": {"tasks": ["miniature_facts"], "losses": held}, "data.packing": packing})


def measured(model: Any, experiment: Experiment, tokenizer: Any, **more: Any) -> pandas.DataFrame:
    with evaluating(model):
        return measure(model, prepare_documents(model, experiment, tokenizer), tokenizer, ImagePipeline(24), **more)


# Of each what is predicted: a text's first token has nothing before it, the end of a document is a token and no text.
EXPECTED = [
    ("own", 2, "line 7", "text", 0, 0, "invalid JSON: line 7"),
    ("own", 3, "3", "text", 0, 0, "no row"),
    ("own", 4, "text", "text", 3, len("green blue"), ""),
    ("own", 5, "caption", "captioned", 4, len("small red circle"), ""),
    ("own", 6, "broken", "captioned", 0, 0, "truncated JPEG: b"),
    ("own", 7, "damaged", "interleaved", 0, 0, "no picture: x; no picture: y"),
    ("own", 8, "long", "text", 0, 0, "longer than a row"),
    ("own", 9, "last", "text", 1, 0, ""),
]


def test_each_document_is_counted_over_what_is_predicted_of_it(model, tokenizer, experiment) -> None:
    table = measured(model, experiment, tokenizer)
    assert list(table.columns) == LOSS_COLUMNS
    counts = table[["loss", "place", "document", "data_type", "tokens", "bytes", "problem"]]
    assert counts.apply(tuple, axis=1).tolist() == EXPECTED
    told = table["problem"] == ""
    assert (table.loc[~told, ["nats", "text_nats"]] == 0).all().all()
    assert (table.loc[told, "nats"] > table.loc[told, "text_nats"]).all()
    assert table.set_index("document").loc["last", "text_nats"] == 0


@pytest.mark.parametrize("at_once", [1, 8, 10_000])
def test_documents_are_the_same_however_many_go_through_together_and_whoever_measures_them(
    model, tokenizer, experiment, monkeypatch, at_once
) -> None:
    whole = measured(model, experiment, tokenizer)
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", at_once)
    pandas.testing.assert_frame_equal(measured(model, experiment, tokenizer), whole, rtol=1e-5)
    for rank in (0, 1, 2):
        own = measured(model, experiment, tokenizer, rank=rank, ranks=3)
        pandas.testing.assert_frame_equal(own, whole[rank::3].reset_index(drop=True), rtol=1e-5)


def test_batches_hold_as_many_tokens_as_go_through_at_once_and_a_longer_document_alone(model, tokenizer, experiment, monkeypatch) -> None:
    """Documents of 4, 8 (an image of 4), 8 and 2 tokens; the others have none."""
    documents = prepare_documents(model, experiment, tokenizer)["own"]

    def batched(tokens: int) -> list[list[str]]:
        monkeypatch.setattr(module, "TOKENS_AT_ONCE", tokens)
        return [[one.document for one in batch if one.pieces] for batch in module._batches(documents, 4)]

    assert batched(22) == [["text", "caption", "broken", "last"]]
    assert batched(21) == [["text", "caption", "broken"], ["last"]]
    assert batched(12) == [["text", "caption"], ["broken", "last"]]
    assert batched(7) == [["text"], ["caption"], ["broken"], ["last"]]
    assert list(module._batches([], 4)) == []


def test_a_long_document_that_may_be_cut_is_measured_in_its_pieces(model, tokenizer, experiment) -> None:
    """41 tokens in rows of 24 are 24 and 17, of each all but the first are predicted; 16 words with spaces between after the first."""
    tree = experiment.model_dump(mode="json")
    tree["data"]["packing"]["long_documents"] = "split"
    row = measured(model, Experiment.model_validate(tree), tokenizer).set_index("document").loc["long"]
    assert (row["tokens"], row["bytes"], row["problem"]) == (23 + 16, len(" ".join(["red"] * 23)) + len(" ".join(["red"] * 15)), "")
    assert 0 < row["text_nats"] < row["nats"]


def test_a_document_that_fills_the_context_fits_and_one_token_more_is_told(model, tokenizer, experiment, monkeypatch) -> None:
    """A caption of three words takes 8 tokens: 4 of its image, and the end."""
    monkeypatch.setattr(model, "context_length", 8)
    assert len(prepare_documents(model, experiment, tokenizer)["own"]) == 8
    monkeypatch.setattr(model, "context_length", 7)
    with pytest.raises(ContextOverflow) as error:
        prepare_documents(model, experiment, tokenizer)
    assert str(error.value) == (
        "evaluation.losses.own: document caption needs 8 tokens of context, and the language model has 7; lower data.packing.row_tokens or "
        "the image tokens, or use a longer context"
    )


@pytest.mark.parametrize(("first", "documents", "places"), [(1, 2, [2, 3]), (9, 5, [9, 10]), (10, 1, [10]), (0, 3, [0, 2, 3])])
def test_as_many_documents_are_kept_as_are_asked_for_and_those_that_are_left_out_do_not_count(
    model, tokenizer, experiment, first, documents, places
) -> None:
    tree = experiment.model_dump(mode="json")
    tree["evaluation"]["losses"]["own"] |= {"first": first, "documents": documents}
    held = prepare_documents(model, Experiment.model_validate(tree), tokenizer)
    assert [one.place for one in held["own"]] == places


def test_a_source_that_has_no_document_there_is_an_error(model, tokenizer, experiment) -> None:
    tree = experiment.model_dump(mode="json")
    tree["evaluation"]["losses"]["own"]["first"] = 11
    with pytest.raises(ValueError, match=r"^evaluation\.losses\.own: no documents from number 11 on; the source has 11$"):
        prepare_documents(model, Experiment.model_validate(tree), tokenizer)
