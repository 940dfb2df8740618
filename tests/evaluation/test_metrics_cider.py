"""CIDEr against pycocoevalcap's Python scorer, and its tokens against those of Stanford's tokeniser."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.metrics._cider import reference_vectors
from mm1_ablate.evaluation.metrics.cider_ptb import CiderPtb
from mm1_ablate.evaluation.metrics.cider_raw import CiderRaw
from mm1_ablate.evaluation.ptb_tokenizer import PUNCTUATION, ptb_tokens

GOLDEN: dict[str, str] = json.loads((Path(__file__).parents[1] / "golden" / "ptb_tokens.json").read_text())
"""Texts, and their tokens by CoreNLP 3.4.1 with pycocoevalcap's punctuation removed, a space between."""
DIFFERENT = {"caf&eacute;s", "<<a>>", "e'er", "Y'llphone"}

words = st.sampled_from(["a", "red", "blue", "circle", "on", "the", "wall", ".", "Two", "man's", "b", "c"])
captions = st.lists(words, max_size=9).map(" ".join)
item_lists = st.lists(st.tuples(captions, st.lists(captions.filter(bool), min_size=1, max_size=3)), min_size=1, max_size=6)


def predictions_of(items: list[tuple[str, list[str]]]) -> list[Prediction]:
    return [Prediction(str(place), text, tuple(references)) for place, (text, references) in enumerate(items)]


def reference_scores(items: list[tuple[str, list[str]]]) -> list[float]:
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer()
    for text, references in items:
        scorer += (text, references)
    return scorer.compute_score()[1].tolist()


@settings(max_examples=100, deadline=None)
@given(item_lists)
def test_cider_is_that_of_pycocoevalcap(items: list[tuple[str, list[str]]]) -> None:
    assert CiderRaw().score(predictions_of(items)) == pytest.approx(reference_scores(items), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(item_lists, st.integers(1, 6))
def test_frequency_of_the_split_makes_scores_of_a_part_those_of_the_whole(items: list[tuple[str, list[str]]], part: int) -> None:
    split = [references for _, references in items]
    metric = CiderRaw(frequency="split")
    assert metric.wants_split_references and not CiderRaw().wants_split_references
    of_part = metric.score(predictions_of(items[:part]), split)
    assert of_part == pytest.approx(reference_scores(items)[:part], abs=1e-9)


def test_frequency_of_the_split_without_its_references_is_an_error() -> None:
    with pytest.raises(ValueError, match="cider_raw with frequency: split needs the references of all items"):
        CiderRaw(frequency="split").score(predictions_of([("a", ["a"])]))


def test_references_are_prepared_once_for_all_arms() -> None:
    items = [("a red circle", ["a red circle", "one circle"]), ("two men", ["two blue men"])]
    CiderRaw().score(predictions_of(items))
    before = reference_vectors.cache_info()
    CiderRaw().score(predictions_of([("another arm", references) for _, references in items]))
    after = reference_vectors.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_items_without_references_have_no_score_and_change_no_other() -> None:
    items: list[tuple[str, list[str]]] = [("a red circle", ["a red circle"]), ("two men", ["two blue men"])]
    scores = CiderRaw().score(predictions_of([*items, ("a", [])]))
    assert scores[:2] == CiderRaw().score(predictions_of(items)) and math.isnan(scores[2])
    assert CiderRaw().score([]) == []


def test_captions_of_one_item_or_without_words_score_nothing() -> None:
    assert CiderRaw().score(predictions_of([("a red circle", ["a red circle"])])) == [0]
    assert CiderRaw().score(predictions_of([("", ["a"]), ("  ", ["b"])])) == [0, 0]


@settings(max_examples=40, deadline=None)
@given(item_lists)
def test_cider_ptb_is_pycocoevalcaps_on_tokens(items: list[tuple[str, list[str]]]) -> None:
    tokens = [(" ".join(ptb_tokens(text)), [" ".join(ptb_tokens(one)) for one in references]) for text, references in items]
    assume(any(any(references) for _, references in tokens))  # of punctuation alone pycocoevalcap makes no scores
    assert CiderPtb().score(predictions_of(items)) == pytest.approx(reference_scores(tokens), abs=1e-9)


def test_tokens_are_those_of_stanford() -> None:
    wrong = {text: (ptb_tokens(text), tokens) for text, tokens in GOLDEN.items() if ptb_tokens(text) != tokens.split()}
    assert set(wrong) == DIFFERENT
    assert len(GOLDEN) > 1000


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man (left) isn't sure.", "a man -lrb- left -rrb- is n't sure"),
        ("Wait... what?! No!!", "wait what ?! no !!"),
        ("Dr. Smith of the U.S. paid £3.50 at 5 p.m.", "dr. smith of the u.s. paid # 3.50 at 5 p.m."),
        ("“It’s” – a ten-year-old — 'dog'", "it 's a ten-year-old dog"),
        ("a 🙂 smile", "a smile"),
        ("rock ’n’ roll ’til ’till ’cause ’em ’50s", "rock ’n’ roll ’til ’till ’cause ’em ’50s"),
        ("", ""),
    ],
)
def test_tokens_of_some_sentences(text: str, tokens: str) -> None:
    assert ptb_tokens(text) == tokens.split()


@given(st.text(max_size=30))
def test_any_text_gives_tokens_without_white_space_and_punctuation(text: str) -> None:
    for token in ptb_tokens(text):
        assert token and token.split() == [token] and token not in PUNCTUATION


@pytest.mark.skipif(shutil.which("java") is None, reason="the golden tokens can be made again only where there is Java")
def test_golden_tokens_are_what_stanford_gives(tmp_path: Path) -> None:
    package = Path(pytest.importorskip("pycocoevalcap").__path__[0])
    (jar,) = (package / "tokenizer").glob("*.jar")
    file = tmp_path / "texts"
    file.write_text("".join(f"{text}\nx\n" for text in GOLDEN))  # a line between, as Stanford's looks into the next
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    lines = subprocess.run([*command, "-preserveLines", "-lowerCase", str(file)], capture_output=True, text=True, check=True).stdout
    found = lines.split("\n")[0:-1:2]
    assert [" ".join(" ".join(token for token in line.split(" ") if token not in PUNCTUATION).split()) for line in found] == list(
        GOLDEN.values()
    )
