"""A trained model and an experiment in, the score of every item of every task at every number of shots out.

Prompts are made and their lengths checked for all tasks before anything is generated. Then, task by task, questions go through in
batches; those of a batch may have different demonstrations, which are read once, kept while a later batch needs them, and read on
from for the next higher number of shots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pandas
import torch

from mm1_ablate.evaluation.context import Context, join, needs_equal_lengths, read_on
from mm1_ablate.evaluation.demonstrations import demonstrations
from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.generation import generate
from mm1_ablate.evaluation.likelihood import choice_log_likelihoods
from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.prompts import TokenisedPrompt, continuation, demonstration, question, render, shown, tokenise
from mm1_ablate.evaluation.scores import Judged, summarise, table
from mm1_ablate.evaluation.task import Task, load_task
from mm1_ablate.spec.progress import Progress

if TYPE_CHECKING:
    from mm1_ablate.data.documents import Item
    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.tokenizer import Tokenizer
    from mm1_ablate.model.multimodal import MultimodalModel
    from mm1_ablate.spec.experiment import Evaluation, Experiment

__all__ = ["ContextOverflow", "check_context", "evaluate", "prepare", "summarise"]


class ContextOverflow(ValueError):
    """A prompt and its answer do not fit into the model's context."""


@dataclass(frozen=True, slots=True)
class Question:
    """One item, ready to be asked.

    Attributes:
        solved: its demonstrations at the highest number of shots; fewer shots take the first ones.
        demonstrations: the same, tokenised.
        choices: tokens of each choice, for tasks of kind choose.
        shown: the question as people read it.
    """

    item: Item
    prompt: TokenisedPrompt
    solved: tuple[Item, ...]
    demonstrations: tuple[TokenisedPrompt, ...]
    choices: tuple[tuple[int, ...], ...]
    stop: tuple[str, ...]
    shown: str

    def set_at(self, shots: int) -> tuple[str, ...]:
        """The ids of the demonstrations at a number of shots: which context it continues."""
        return tuple(item.id for item in self.solved[:shots])

    def length(self, shots: int, image_tokens: int) -> int:
        """Tokens of the prompt."""
        return sum(part.length(image_tokens) for part in (*self.demonstrations[:shots], self.prompt))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task with all its questions, tokenised."""

    task: Task
    shots: tuple[int, ...]
    questions: tuple[Question, ...]


def prepare(task: Task, evaluation: Evaluation, tokenizer: Tokenizer) -> Prepared:
    """Draw the items and their demonstrations, and tokenise them.

    Raises:
        LookupError: where an item lacks what the prompt names.
        ValueError: where there are too few demonstrations, or nothing to ask.
    """
    shots = tuple(sorted(evaluation.shots)) if task.family == "image" else (0,)
    items = task.items.open(split=evaluation.split, count=evaluation.items, seed=evaluation.seed)
    pools: dict[str, list[Item]] = {}
    for item in items.demonstrations:
        pools.setdefault(item.group, []).append(item)
    solved_prompts: dict[str, TokenisedPrompt] = {}

    def solved_prompt(item: Item) -> TokenisedPrompt:
        if item.id not in solved_prompts:
            solved_prompts[item.id] = tokenise(demonstration(task.prompt, task.separator, item), tokenizer)
        return solved_prompts[item.id]

    questions = []
    for item in items.queries:
        parts, space = question(task.prompt, item)
        if not parts:
            raise ValueError(f"task {task.task}, item {item.id}: nothing stands before the answer, so there is nothing to ask")
        solved = demonstrations(item, pools.get(item.group, []), max(shots), evaluation.seed, task.task, evaluation.demonstrations)
        questions.append(
            Question(
                item=item,
                prompt=tokenise(parts, tokenizer),
                solved=solved,
                demonstrations=tuple(solved_prompt(other) for other in solved),
                choices=tuple(continuation(parts, space, choice, tokenizer) for choice in item.choices) if task.kind == "choose" else (),
                stop=tuple("".join(str(part) for part in render(text, item, item.fields)) for text in task.stop),
                shown=shown(parts),
            )
        )
        if task.kind == "choose" and (item.correct is None or not all(questions[-1].choices) or not item.choices):
            raise ValueError(f"task {task.task}, item {item.id}: expected choices, none of them empty, and which is right")
    if not questions:
        raise ValueError(f"task {task.task}: no items")
    return Prepared(task, shots, tuple(questions))


def check_context(prepared: Prepared, image_tokens: int, context_length: int) -> None:
    """Whether every prompt and its answer fit.

    Raises:
        ContextOverflow: naming the task and the number of shots.
    """
    for shots in prepared.shots:
        prompt, answer = max(
            (
                (one.length(shots, image_tokens), max((len(choice) for choice in one.choices), default=prepared.task.max_new_tokens))
                for one in prepared.questions
            ),
            key=sum,
        )
        if prompt + answer > context_length:
            raise ContextOverflow(
                f"evaluation: task {prepared.task.task} at {shots} shots needs {prompt + answer} tokens of context ({prompt} of prompt,"
                f" where an image takes {image_tokens}, and {answer} of answer), and the language model has {context_length};"
                " use fewer shots or image tokens, or a longer context"
            )


class _Contexts:
    """Contexts of demonstration sets, read once and kept while needed. A set of more shots reads on from the same set of fewer."""

    def __init__(self, embedder: PromptEmbedder, shots: Sequence[int]) -> None:
        self.embedder = embedder
        self.shots = shots
        self._kept: dict[tuple[str, ...], Context] = {}

    def before(self, batch: Sequence[Question], shots: int) -> Context:
        """The demonstrations of each question, [B]."""
        if not shots:
            return Context.nothing(len(batch), self.embedder.device)
        fewer = max((other for other in self.shots if other < shots), default=0)
        missing = {one.set_at(shots): one for one in batch if one.set_at(shots) not in self._kept}
        if missing:
            start = self.before(list(missing.values()), fewer)
            further = [TokenisedPrompt(tuple(_segments(one.demonstrations[fewer:shots]))) for one in missing.values()]
            embeddings, valid = self.embedder(further)
            scored = torch.zeros_like(valid)
            scored[0, 0] = True  # one position, as no logits are wanted
            read, _ = read_on(self.embedder.model, start, embeddings, valid, scored)
            self._kept.update(zip(missing, read.separate(), strict=True))
        sets = [one.set_at(shots) for one in batch]
        distinct = list(dict.fromkeys(sets))
        place = {key: number for number, key in enumerate(distinct)}
        return join([self._kept[key] for key in distinct]).select(torch.tensor([place[key] for key in sets], device=self.embedder.device))

    def keep_only(self, coming: Sequence[Question]) -> None:
        """Forget what no coming question needs."""
        needed = {one.set_at(shots) for one in coming for shots in self.shots}
        self._kept = {key: context for key, context in self._kept.items() if key in needed}


def _segments(prompts: Sequence[TokenisedPrompt]) -> Iterator[Any]:
    for prompt in prompts:
        yield from prompt.segments


def _batches(prepared: Prepared, batch_items: int, image_tokens: int, equal_lengths: bool) -> Iterator[list[int]]:
    """Indices of questions that go through together: those with the same demonstrations beside each other, short ones first."""

    def lengths(number: int) -> tuple[int, ...]:
        return tuple(prepared.questions[number].length(shots, image_tokens) for shots in prepared.shots)

    def demonstration_set(number: int) -> tuple[str, ...]:
        return prepared.questions[number].set_at(max(prepared.shots))

    order = sorted(range(len(prepared.questions)), key=lambda number: (demonstration_set(number), lengths(number)))
    parts = [list(alike) for _, alike in groupby(sorted(order, key=lengths), lengths)] if equal_lengths else [order]
    for part in parts:
        yield from (part[start : start + batch_items] for start in range(0, len(part), batch_items))


def _ask(
    prepared: Prepared, batch: Sequence[Question], context: Context, embedder: PromptEmbedder, tokenizer: Tokenizer
) -> list[Prediction]:
    """Predictions of a batch after a context, [B]."""
    prompts = [one.prompt for one in batch]
    if prepared.task.kind == "generate":
        answers = generate(embedder, tokenizer, context, prompts, [one.stop for one in batch], prepared.task.max_new_tokens)
        return [Prediction(one.item.id, answer.text, one.item.references) for one, answer in zip(batch, answers, strict=True)]
    scores = choice_log_likelihoods(embedder, context, prompts, [one.choices for one in batch])
    return [
        Prediction(
            one.item.id,
            one.item.choices[own.index(max(own))],
            one.item.references,
            one.item.choices,
            one.item.correct,
            tuple(own),
        )
        for one, own in zip(batch, scores, strict=True)
    ]


@contextmanager
def _judging(model: MultimodalModel) -> Iterator[None]:
    """Dropout off and no gradients; the model is left as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def evaluate(
    model: MultimodalModel,
    experiment: Experiment,
    tokenizer: Tokenizer,
    pipeline: ImagePipeline,
    report: Callable[[Progress], None] = lambda progress: None,
) -> pandas.DataFrame:
    """Score a model on all tasks of an experiment.

    Returns:
        A row for each task, number of shots, metric and item, in this order, whatever the batch size: see `scores.table`.
        Scores are of 1; `summarise` turns them into the numbers of tables.

    Raises:
        ContextOverflow, LookupError, ValueError: before anything is generated.
    """
    evaluation = experiment.evaluation
    tasks = [prepare(load_task(name), evaluation, tokenizer) for name in evaluation.tasks]
    names = [prepared.task.task for prepared in tasks]
    if len(set(names)) != len(names):
        raise ValueError(f"evaluation.tasks: two records have the same name: {', '.join(names)}")
    for prepared in tasks:
        check_context(prepared, model.image_tokens, model.context_length)
    total = sum(len(prepared.questions) * len(prepared.shots) for prepared in tasks)
    done = 0
    tables = []
    equal_lengths = needs_equal_lengths(model)
    embedder = PromptEmbedder(model, pipeline, tokenizer.padding)
    with _judging(model):
        for prepared in tasks:
            contexts = _Contexts(embedder, prepared.shots)
            judged: dict[int, dict[int, Judged]] = {shots: {} for shots in prepared.shots}
            batches = list(_batches(prepared, evaluation.batch_items, model.image_tokens, equal_lengths))
            for number, indices in enumerate(batches):
                batch = [prepared.questions[index] for index in indices]
                for shots in prepared.shots:
                    predictions = _ask(prepared, batch, contexts.before(batch, shots), embedder, tokenizer)
                    for index, one, prediction in zip(indices, batch, predictions, strict=True):
                        judged[shots][index] = Judged(prediction, one.item.group, " ".join(one.set_at(shots)), one.shown)
                    done += len(batch)
                    report(Progress(stage="evaluate", step=done, steps=total, loss=None))
                contexts.keep_only([prepared.questions[index] for index in batches[number + 1]] if number + 1 < len(batches) else [])
            tables += [table(prepared.task, shots, [own[index] for index in sorted(own)]) for shots, own in judged.items()]
    return pandas.concat(tables, ignore_index=True)
