"""What the metrics over the answers of several annotators share: how answers are normalised, and what agreement is.

Antol et al. 2015, "VQA: Visual Question Answering". The official evaluators of VQAv2, TextVQA and VizWiz normalise with the same steps,
whose quirks are kept and named, so that scores are those that others get. They differ in what is normalised when: see each metric.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache

from mm1_ablate.evaluation.metrics import Metric, Prediction, References

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # the apostrophe, the colon and the full stop are not among them
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_REMOVED = 32
_NUMBER_WORDS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}
# Written without one of its apostrophes, each of these gets it back.
_CONTRACTED = str.split("""
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll
    how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't shan't
    she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas
    wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
    why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""")


def _apostrophes_left_out() -> Iterator[tuple[str, str]]:
    for word in _CONTRACTED:
        places = [place for place, character in enumerate(word) if character == "'"]
        yield from ((word[:place] + word[place + 1 :], word) for place in places)
    # Spelt out in the official table, and unlike the rest.
    yield "ow's'at", "'ow's'at"
    yield "'ows'at", "'ow's'at"
    yield "'ow'sat", "'ow's'at"
    # A quirk: this one loses its apostrophe.
    yield "somebody'd", "somebodyd"
    # Not here, though the official table lists them: "Id've", "I'dve", "Im" and "Ive" with a capital, which no lower-cased word equals.


CONTRACTIONS = dict(_apostrophes_left_out())


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """An answer without punctuation and articles, in lower case, number words as digits and contractions with their apostrophe."""
    return normalised(answer, CONTRACTIONS)


def normalised(answer: str, contractions: Mapping[str, str]) -> str:
    """As `normalise`, with a table of contractions."""
    # A quirk: a number such as 1,000 anywhere in the answer makes every mark vanish; elsewhere, one with a space beside it anywhere
    # vanishes and another gives way to a space.
    number = _COMMA_IN_NUMBER.search(answer) is not None
    text = answer
    for mark in _PUNCTUATION:
        text = text.replace(mark, "" if number or f"{mark} " in answer or f" {mark}" in answer else " ")
    # Two quirks: a full stop stays before a digit only, wherever it stands, as the look-behind of the official expression is
    # mistyped; and a flag passed instead of a count leaves all full stops beyond the first 32.
    text = _PERIOD.sub("", text, count=_PERIODS_REMOVED)
    words = [_NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


def stripped(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def shares(annotators: Sequence[str]) -> dict[str, float]:
    """Of each answer of annotators, the mean over annotators of min(1, matches among the others / 3). Any other answer has 0.

    Left out is the annotator at that place, not every annotator of the same answer. With fewer than four annotators even the answer of
    all of them scores less than 1, and with a single one 0: that is the official rule.
    """
    count = len(annotators)
    return {
        answer: (matches * min(1.0, (matches - 1) / 3) + (count - matches) * min(1.0, matches / 3)) / count
        for answer, matches in Counter(annotators).items()
    }


Form = Callable[[str], str]
"""What of an answer is compared."""


class AnnotatorAgreement(Metric):
    """What the metrics share; `forms` tells them apart."""

    ceiling = "best_reference"

    def forms(self, annotators: Sequence[str]) -> tuple[Form, Form]:
        """What of the answer, and what of each annotator's answer is compared; the same functions for items that are treated alike."""
        raise TypeError(f"{type(self).__name__} does not implement what it compares")

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        scores = []
        for one in predictions:
            of_answer, of_annotator = self.forms(one.references)
            known = shares([of_annotator(annotator) for annotator in one.references])
            scores.append(known.get(of_answer(one.text), 0.0) if one.references else math.nan)
        return scores

    def means_of_constants(
        self, answers: Sequence[str], predictions: Sequence[Prediction], split_references: References | None = None
    ) -> list[float]:
        judged = [one for one in predictions if one.references]
        sums: defaultdict[tuple[Form, Hashable], float] = defaultdict(float)
        for one in judged:
            of_answer, of_annotator = self.forms(one.references)
            for form, share in shares([of_annotator(annotator) for annotator in one.references]).items():
                sums[of_answer, form] += share
        ways = {way for way, _ in sums}
        return [math.fsum(sums.get((way, way(answer)), 0.0) for way in ways) / len(judged) for answer in answers]
