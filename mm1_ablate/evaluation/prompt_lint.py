"""What of a task's prompts can make a wrong score without an error, whatever the model is: a task with its questions in, remarks out.

Looked at is a bounded sample of questions and demonstrations. Remarks are plain values, because they are kept beside what prompts take
(`preflight.py`). How prompts begin after images is a fact here and no remark: it is compared with the training data (`preflight.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from mm1_ablate.config.task_record import ANSWER, CHOICE, IMAGE, Task, template_fields, template_pieces
from mm1_ablate.data.documents import Image, Item, after_images
from mm1_ablate.data.joining import leading_space, segments, spelled
from mm1_ablate.data.tokenizer import Tokenizer, UnknownWords
from mm1_ablate.evaluation.prompts import Incomplete, continuation, cut, demonstration, question, right_answer
from mm1_ablate.evaluation.requests import TaskRequests

SAMPLE = 128
"""Questions looked at, and demonstrations."""
SELDOM = 0.05
"""Share of the sample up to which there is no warning: benchmarks have odd items."""
CHAT = re.compile(
    r"<\|[^\s<>|]+\|>|<｜[^\s<>]+｜>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|IMG)\]|<</?SYS>>|</?s>|<(?:start|end)_of_(?:turn|utterance|image)>|<(?:bos|eos|image|img|image_soft_token)>"
)
"""How tokens of chat templates and other special tokens are written."""


class Remark(NamedTuple):
    """A warning about a field of a task."""

    field: str
    """Of the record: prompt, separator, stop, max_new_tokens, items."""
    message: str
    hint: str


class Facts(NamedTuple):
    """What prompts of a task are like. Of plain values."""

    remarks: list[Remark]
    leading_spaces: dict[str, int]
    """How many texts after images begin with which white space, as the tokenizer sees it."""
    asked: str
    """A demonstration and a question as tokens, for display."""

    @classmethod
    def of_plain(cls, remarks: Sequence[Sequence[str]], leading_spaces: Mapping[str, int], asked: str) -> Facts:
        """From JSON's lists."""
        return cls([Remark(*remark) for remark in remarks], dict(leading_spaces), asked)


def facts_of(prepared: TaskRequests, tokenizer: Tokenizer) -> Facts:
    """Remarks on a task as it is asked."""
    task = prepared.task
    queries = [one.item for one in prepared.requests[:SAMPLE]]
    solved = list(islice({item.id: item for one in prepared.requests for item in one.solved}.values(), SAMPLE))
    remarks = [
        *chat_remarks(task, tokenizer.special),
        *_chat_in_items(task, queries, tokenizer.special),
        *_double_spaces(task, [*queries, *solved]),
        *_parted_answers(task, queries, tokenizer),
    ]
    if task.kind == "generate":
        remarks += [
            *_stops_that_never_come(task, queries, tokenizer),
            *_stop_before_the_answer(task),
            *_answers_cut(task, queries),
            *_answers_too_long(task, queries, tokenizer),
            *_no_end(task, solved),
        ]
    return Facts(remarks, _leading_spaces(task, queries, solved, tokenizer), _asked(task, queries, solved, tokenizer))


# ---------------------------------------------------------------- special tokens
def chat_remarks(task: Task, special: Sequence[str] = ()) -> list[Remark]:
    """Special tokens, or what looks like some, in templates.

    Args:
        special: of the tokenizer, where it is known.
    """
    templates = [("prompt", task.prompt), ("separator", task.separator), *(("stop", stop) for stop in task.stop)]
    found: dict[str, list[str]] = {}
    told: set[str] = set()
    for field, template in templates:
        for mark in marks_in("".join(text for text, _ in template_pieces(template)), special):
            # What demonstrations spell in plain text, answers can end with.
            if field != "stop" or mark not in told:
                found.setdefault(field, []).append(mark)
                told.add(mark)
    return [Remark(field, f"{_listed(marks)} {PLAIN_TEXT}", USE_WORDS) for field, marks in found.items()]


PLAIN_TEXT = "is read as plain text, not as a special token: it never occurs in training, and conversations are not supported yet"
USE_WORDS = "write the prompt in plain words, and end demonstrations with text such as a line end"


def marks_in(text: str, special: Sequence[str] = ()) -> list[str]:
    """The special tokens that a text spells, and what looks like some."""
    return list(dict.fromkeys([*(mark for mark in special if mark in text), *CHAT.findall(text)]))


def _chat_in_items(task: Task, items: Sequence[Item], special: Sequence[str]) -> Iterator[Remark]:
    found: Counter[tuple[str, str]] = Counter()
    fields = [field for field in template_fields(task.prompt) if field not in (IMAGE, ANSWER, CHOICE)]
    for item in items:
        found.update({(mark, field) for field in fields for mark in marks_in(item.fields.get(field, ""), special)})
    for (mark, field), count in found.items():
        if count > SELDOM * len(items):
            yield Remark(
                "items", f"the field '{field}' of items holds '{mark}', which {PLAIN_TEXT}", "take it out of the field in the record"
            )


# ---------------------------------------------------------------- white space
def _leading_spaces(task: Task, queries: Sequence[Item], solved: Sequence[Item], tokenizer: Tokenizer) -> dict[str, int]:
    """Of questions, of demonstrations, and of choices that follow an image directly."""
    found: Counter[str] = Counter()
    for item in queries:
        for parts, space in _questions(task, item):
            found.update(leading_space(text, tokenizer) for text in after_images(parts))
            if task.kind != "generate" and not isinstance(parts[-1], str):
                found[leading_space(space + (item.choices or item.references)[0], tokenizer)] += 1
    for item in solved:
        found.update(leading_space(text, tokenizer) for text in after_images(_demonstration(task, item)))
    return {space: count for space, count in found.items() if count > SELDOM * found.total()}


def _double_spaces(task: Task, items: Sequence[Item]) -> Iterator[Remark]:
    """A value that begins or ends with a space beside a space of the template."""
    pieces = template_pieces(task.prompt)
    after = [text for text, _ in pieces[1:]] + [""]
    for (before, field), following in zip(pieces, after, strict=True):
        if field is None or field in (IMAGE, CHOICE):
            continue
        values = [value for item in items if (value := _value(item, field)) is not None]
        double = [value for value in values if (before.endswith(" ") and value[:1] == " ") or (following[:1] == " " and value[-1:] == " ")]
        if len(double) > SELDOM * len(values):
            message = (
                f"{len(double)} of {len(values)} items have a space at an end of '{field}' beside the space of the prompt: {double[0]!r}"
            )
            yield Remark("items", message, "two spaces give other tokens than one: add `| trim` to the expression in the record")


def _value(item: Item, field: str) -> str | None:
    if field != ANSWER:
        return item.fields.get(field)
    with suppress(Incomplete):
        return right_answer(item)
    return None


# ---------------------------------------------------------------- answers
def _parted_answers(task: Task, items: Sequence[Item], tokenizer: Tokenizer) -> Iterator[Remark]:
    """Whether the tokens of a question are those that the question and its answer begin with."""
    asked = parted = 0
    shown = ""
    for item in items:
        for parts, space in _questions(task, item)[:1]:
            before, answer = parts[-1] if parts else "", _value(item, ANSWER)
            if not isinstance(before, str) or answer is None:
                continue
            with suppress(UnknownWords):
                own = tokenizer.ids(before)
                whole = tokenizer.ids(before + space + answer)
                asked += 1
                if whole[: len(own)] != own:
                    parted += 1
                    shown = shown or before[-12:] + space + answer[:12]
    if parted > SELDOM * asked:
        message = (
            f"in {parted} of {asked} items the tokenizer merges the end of the question and the beginning of the answer into one token"
            f" ({shown!r}): demonstrations hold that token, and a question ends before it"
        )
        yield Remark("prompt", message, "end the question with a word or a colon and a space before {answer}")


def _stops_that_never_come(task: Task, items: Sequence[Item], tokenizer: Tokenizer) -> Iterator[Remark]:
    for template in task.stop:
        if template_fields(template):
            continue
        if not any(template in _written(text, tokenizer) for text in (template, f"a{template}b", f"a {template} b")):
            message = f"the stop string {template!r} never appears: this tokenizer cannot produce it, so no answer ends there"
            yield Remark("stop", message, "name what a demonstration ends with, as the tokenizer produces it")


def _written(text: str, tokenizer: Tokenizer) -> str:
    with suppress(UnknownWords):
        return tokenizer.decode(tokenizer.ids(text))
    return ""


def _stop_before_the_answer(task: Task) -> Iterator[Remark]:
    """White space before the answer is left to the model to write."""
    text = next(before for before, field in template_pieces(task.prompt) if field == ANSWER)
    space = text[len(text.rstrip()) :]
    for stop in task.stop:
        if stop in space:
            message = (
                f"the white space before {{answer}} holds the stop string {stop!r}: an answer written as demonstrated ends before it begins"
            )
            yield Remark("prompt", message, "put a space there, or end demonstrations and answers with another string")


def _answers_cut(task: Task, items: Sequence[Item]) -> Iterator[Remark]:
    """Items of which every reference holds a stop string with more after it."""
    stops = [stop for stop in task.stop if not template_fields(stop)]
    ended: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for item in items:
        by = [next((stop for stop in stops if _loses(reference, stop)), None) for reference in item.references]
        if by and all(by):
            ended[str(by[0])] += 1
            shown.setdefault(str(by[0]), item.references[0])
    if ended.total() > SELDOM * len(items):
        stop, _ = ended.most_common(1)[0]
        message = (
            f"{ended.total()} of {len(items)} items have only references that a stop string cuts, such as {shown[stop]!r} before {stop!r}:"
            " they cannot be answered correctly"
        )
        yield Remark("stop", message, "stop at what ends a demonstration, such as a line end")


def _loses(reference: str, stop: str) -> bool:
    left, stopped = cut(reference, [stop])
    return stopped and any(character.isalnum() for character in reference[len(left) :])


def _answers_too_long(task: Task, items: Sequence[Item], tokenizer: Tokenizer) -> Iterator[Remark]:
    """Items of which every reference takes more tokens than may be generated."""
    lengths: list[int] = []
    for item in items:
        for parts, space in _questions(task, item)[:1]:
            with suppress(UnknownWords):
                lengths.append(min(len(continuation(parts, space, reference, tokenizer)) for reference in item.references))
    long = [length for length in lengths if length > task.max_new_tokens]
    if len(long) > SELDOM * len(lengths):
        message = (
            f"{len(long)} of {len(lengths)} items have only references of more than {task.max_new_tokens} tokens"
            f" ({max(long)} at most): answers end before"
        )
        yield Remark("max_new_tokens", message, f"allow {max(long)} tokens")


def _no_end(task: Task, solved: Sequence[Item]) -> Iterator[Remark]:
    """Whether an answer that ends as demonstrated is cut there."""
    pieces = template_pieces(task.prompt + task.separator)
    place = next(number for number, (_, field) in enumerate(pieces) if field == ANSWER)
    rest = pieces[place + 1 :]
    if not solved or any(field is not None for _, field in rest) or any(template_fields(stop) for stop in task.stop):
        return
    end = "".join(text for text, _ in rest)
    if not any(stop in end for stop in task.stop):
        message = "a demonstration has no end (separator is empty), so the model is not shown where an answer ends"
        if end:
            stops = _listed(task.stop) if task.stop else "there is none"
            message = (
                f"a demonstration ends with {end!r}, which holds no stop string ({stops}): an answer as demonstrated continues after it"
            )
        yield Remark("separator", message, "end demonstrations with a stop string, such as a line end in both")


# ---------------------------------------------------------------- helpers
def _questions(task: Task, item: Item) -> list[tuple[tuple[str | Image, ...], str]]:
    choices: Iterable[str | None] = item.choices if CHOICE in template_fields(task.prompt) else (None,)
    with suppress(Incomplete):
        return [asked for choice in choices if (asked := question(task.prompt, item, choice))[0]]
    return []


def _demonstration(task: Task, item: Item) -> tuple[str | Image, ...]:
    with suppress(Incomplete):
        return demonstration(task.prompt, task.separator, item)
    return ()


def _asked(task: Task, queries: Sequence[Item], solved: Sequence[Item], tokenizer: Tokenizer) -> str:
    parts = [*(_demonstration(task, solved[0]) if solved else ()), *next(iter(_questions(task, queries[0])), ((), ""))[0]]
    return spelled(segments(parts, tokenizer), tokenizer)


def _listed(marks: Sequence[str]) -> str:
    return ", ".join(repr(mark) for mark in dict.fromkeys(marks))
