"""A trained model and an experiment in, what it answers to every item of every task at every number of shots out.

Prompts are made and their lengths checked for all tasks before anything is generated. Then, task by task, questions go through in
batches; those of a batch may have different demonstrations, which are read once, kept while a later batch needs them, and read on
from for the next higher number of shots. Predictions (`predict`) and their scores (`scores.scored`) are two steps, because scores can
be computed again without a model.

Several processes share the batches; what comes out is the same for any batch size and number of processes. On a CPU in float32
predictions are equal and log-likelihoods equal to 1e-5; in half precision, or on a GPU, the order of summation can turn a near tie.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import pandas
import torch
from torch import Tensor

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.task_record import Task
from mm1_ablate.config.training import Progress
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.evaluation_mode import evaluating, is_sharded
from mm1_ablate.evaluation.generation import generate
from mm1_ablate.evaluation.kv_cache import DemonstrationCache, KVCache, needs_equal_lengths, read_questions
from mm1_ablate.evaluation.likelihood import Likelihood, answer_likelihoods
from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.evaluation.requests import ContextOverflow, Request, TaskRequests, check_context, needs, prepare_requests
from mm1_ablate.evaluation.scores import ItemOutcome, ids_in_line, merged, predictions_table
from mm1_ablate.model.multimodal import MultimodalModel

Report = Callable[[Progress], None]
Wanted = Callable[[str, int, int], bool]
"""Whether to evaluate a task at a number of shots under an evaluation seed."""


Failed = Callable[[str, Sequence[int], Exception], None]
"""What becomes of it that a task cannot be asked at some numbers of shots."""


def everything(task: str, shots: int, evaluation_seed: int) -> bool:
    """All that an experiment asks."""
    return True


class _TaskRunner:
    """Asks the questions of one task, batch by batch."""

    def __init__(self, prepared: TaskRequests, embedder: PromptEmbedder, tokenizer: Tokenizer, wanted: Wanted = everything) -> None:
        self.prepared = prepared
        self.wanted = wanted
        self.embedder = embedder
        self.tokenizer = tokenizer
        self.demonstration_cache = DemonstrationCache(embedder, prepared.shots)
        self.equal_lengths = needs_equal_lengths(embedder.model)

    def ask(self, batches: Sequence[Sequence[Request]], report: Callable[[int], None]) -> Iterator[ItemOutcome]:
        """What comes of every question, in no particular order.

        Args:
            report: called with the number of answers that are there or will never be.
        """
        for number, batch in enumerate(batches):
            if not any(self.shots_of(one) for one in batch):
                continue
            readable, problems = self._readable(batch)
            for one, problem in problems:
                for shots in self.shots_of(one):
                    yield from self._told(one, shots, None, str(problem))
                report(len(self.shots_of(one)))
            for shots in self.prepared.shots:
                asking = [one for one in readable if shots in self.shots_of(one)]
                for alike in self._alike(asking, shots):
                    for one, prediction in zip(alike, self._answers(alike, shots), strict=True):
                        yield from self._told(one, shots, prediction, "")
                    report(len(alike))
            coming = batches[number + 1] if number + 1 < len(batches) else []
            self.demonstration_cache.keep_only([self._current(one) for one in coming])

    def answers_to(self, batches: Sequence[Sequence[Request]]) -> int:
        """How many answers there will be to these."""
        return sum(len(self.shots_of(one)) for batch in batches for one in batch)

    def shots_of(self, one: Request) -> tuple[int, ...]:
        """The numbers of shots at which to ask, as far as that is wanted. Batches and what is read before questions are those of all."""
        task = self.prepared.task.task
        return tuple(shots for shots in self.prepared.shots_of(one) if self.wanted(task, shots, one.evaluation_seed))

    def _told(self, one: Request, shots: int, prediction: Prediction | None, problem: str) -> Iterator[ItemOutcome]:
        """A row of the table; one for each evaluation seed where they are all alike."""
        alike = one.evaluation_seed == self.prepared.seeds[0] and not one.before(shots)
        for seed in self.prepared.seeds if alike else (one.evaluation_seed,):
            ids, number, replaced = (
                ids_in_line(one.set_at(shots)),
                one.set_number if one.before(shots) else 0,
                "; ".join(one.replaced_at(shots)),
            )
            yield ItemOutcome(shots, seed, one.place, one.item.id, one.item.group, ids, number, replaced, one.shown, problem, prediction)

    def _current(self, one: Request) -> Request:
        return self.prepared.without(one, self.embedder.unreadable)

    def _readable(self, batch: Sequence[Request]) -> tuple[list[Request], list[tuple[Request, Unreadable]]]:
        """Questions whose images can all be shown, others taking the place of demonstrations; and questions that cannot be asked."""
        problems: list[tuple[Request, Unreadable]] = []
        current = [self._current(one) for one in batch]
        while True:
            self.embedder.encode([image for one in current for part in (*one.demonstrations, *one.prompts) for image in part.images])
            asked: list[Request] = []
            for one in current:
                image = one.item.image if any(prompt.images for prompt in one.prompts) else None
                if image is not None and image.key in self.embedder.unreadable:
                    problems.append((one, self.embedder.unreadable[image.key]))
                else:
                    asked.append(self._current(one))
            if all(one is other for one, other in zip(asked, current, strict=False)) and len(asked) == len(current):
                break
            current = asked
        for one in current:
            if one.replaced:  # another demonstration may be longer
                longer = TaskRequests(self.prepared.task, self.prepared.shots, self.prepared.seeds, (one,), (), self.prepared.sampler)
                model = self.embedder.model
                needed = [need for need in needs(longer) if need.shots in self.shots_of(one)]
                check_context(self.prepared.task.task, needed, model.image_tokens_at_most, model.context_length)
        return current, problems

    def _alike(self, batch: Sequence[Request], shots: int) -> Iterator[list[Request]]:
        """The batch, in parts of equal lengths if the model needs that."""

        def lengths(one: Request) -> tuple[int, int]:
            return one.lengths(shots, self.embedder.tokens_of)

        if not self.equal_lengths:
            yield from [list(batch)] if batch else []
        else:
            yield from (list(part) for _, part in groupby(sorted(batch, key=lengths), lengths))

    def _answers(self, batch: Sequence[Request], shots: int) -> list[Prediction]:
        """Predictions of a batch, [B]."""
        task, cache = self.prepared.task, self.demonstration_cache.before(batch, shots)
        if task.kind == "generate":
            read = read_questions(self.embedder, cache, [one.prompts[0] for one in batch])
            # Before generation, from the same reading of the prompt: only the tokens of the references are computed beside it.
            likelihoods = self._of_answers(batch, *read)
            answers = generate(self.embedder, self.tokenizer, *read, [one.stop for one in batch], task.max_new_tokens)
            return [
                Prediction(one.item.id, answer.text, one.item.references, reference_log_likelihoods=tuple(each.nats for each in own))
                for one, answer, own in zip(batch, answers, likelihoods, strict=True)
            ]
        likelihoods = self._likelihoods(batch, cache)
        return [_judgement(task.kind, one, own) for one, own in zip(batch, likelihoods, strict=True)]

    def _of_answers(self, batch: Sequence[Request], cache: KVCache, logits: Tensor) -> list[list[Likelihood]]:
        """Of the answers of each question whose likelihood is asked, where the questions have been read."""
        if not any(one.choices for one in batch):
            return [[] for _ in batch]
        return answer_likelihoods(self.embedder, cache, logits, [one.choices for one in batch])

    def _likelihoods(self, batch: Sequence[Request], cache: KVCache) -> list[list[Likelihood]]:
        """Of each choice of each question."""
        if all(len(one.prompts) == 1 for one in batch):
            return self._of_answers(batch, *read_questions(self.embedder, cache, [one.prompts[0] for one in batch]))
        # Each choice has a prompt of its own, with one answer.
        found: list[list[Likelihood]] = [[] for _ in batch]
        rows = [(row, number) for row, one in enumerate(batch) for number in range(len(one.prompts))]

        def length(row: tuple[int, int]) -> int:
            return batch[row[0]].prompts[row[1]].length(self.embedder.tokens_of) if self.equal_lengths else 0

        placed: dict[tuple[int, int], Likelihood] = {}
        for _, part in groupby(sorted(rows, key=length), length):
            alike = list(part)
            own = cache.select(torch.tensor([row for row, _ in alike], device=self.embedder.device))
            read = read_questions(self.embedder, own, [batch[row].prompts[number] for row, number in alike])
            answers = [[batch[row].choices[number]] for row, number in alike]
            placed.update(zip(alike, (one for (one,) in answer_likelihoods(self.embedder, *read, answers)), strict=True))
        for row, number in rows:
            found[row].append(placed[row, number])
        return found


def _judgement(kind: str, one: Request, likelihoods: Sequence[Likelihood]) -> Prediction:
    """The prediction that likelihoods of a question's choices, or of its one answer, make."""
    item = one.item
    nats = tuple(likelihood.nats for likelihood in likelihoods)
    more: dict[str, Any] = {
        "log_likelihoods": nats,
        "greedy": tuple(likelihood.greedy for likelihood in likelihoods),
        "token_counts": tuple(likelihood.tokens for likelihood in likelihoods),
    }
    if kind == "likelihood":
        answer = item.references[0]
        return Prediction(item.id, answer if likelihoods[0].greedy else "", item.references, (answer,), 0, **more)
    if len(one.prompts) > 1:  # what is predicted is the same for all choices
        more["byte_counts"] = (len(item.references[0].encode()),) * len(nats)
    return Prediction(item.id, item.choices[nats.index(max(nats))], item.references, item.choices, item.correct, **more)


def _batches(prepared: TaskRequests, size: int, image_tokens: int) -> list[list[Request]]:
    """Questions that go through together: those with the same demonstrations beside each other, short ones first."""

    def order(one: Request) -> tuple[Any, ...]:
        return (
            one.set_at(max(prepared.shots)),
            one.set_at(0),
            [one.lengths(shots, lambda image: image_tokens) for shots in prepared.shots],
            one.place,
        )

    ordered = sorted(prepared.requests, key=order)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _nothing(task: str) -> None:
    """No check."""


def _alone(error: Exception | None) -> Exception | None:
    """What happened to the only process happened to all."""
    return error


def predict(
    model: MultimodalModel,
    experiment: Experiment,
    tokenizer: Tokenizer,
    pipeline: ImagePipeline,
    report: Report = lambda progress: None,
    rank: int = 0,
    ranks: int = 1,
    wanted: Wanted = everything,
    keep: Callable[[pandas.DataFrame], None] = lambda predictions: None,
    failed: Failed | None = None,
    check: Callable[[str], None] = _nothing,
    agree: Callable[[Exception | None], Exception | None] = _alone,
) -> pandas.DataFrame:
    """Ask a model all questions of an experiment, or one process's share of them.

    Args:
        rank, ranks: which share of how many; `scores.merged` joins them.
        wanted: what to ask; the rest is not even opened. What is asked comes out as if all were. Where no demonstrations make a difference,
            the first evaluation seed stands for all.
        keep: called with the predictions of each task, or this process's share of them, as soon as it has been asked.
        failed: called where a task cannot be asked, or not at some numbers of shots; all else is asked then. None: that is raised.
        check: called with a task's name before and after its items are opened.
        agree: from what happened to one process, and None, what happened to any. All processes call it as often.

    Returns:
        A row for each task, number of shots, evaluation seed and item, in this order: see `scores.predictions_table`.

    Raises:
        ContextOverflow, LookupError, ValueError: without `failed`; before anything is generated, but where a demonstration that replaces
            one with an unreadable image is too long.
    """
    evaluation = experiment.evaluation
    shots, seeds = sorted({0, *evaluation.shots}), evaluation.evaluation_seeds
    declared = load_tasks(evaluation)
    fewest = {task.task: task.fewest_shots for task in declared}
    refused: set[tuple[str, int]] = set()

    def asks(task: str, number: int, seed: int) -> bool:
        return number >= fewest[task] and (task, number) not in refused and wanted(task, number, seed)

    def asked_at(task: str) -> list[int]:
        return [number for number in shots if any(asks(task, number, seed) for seed in seeds)]

    def refuse(task: str, numbers: Sequence[int], error: Exception) -> None:
        if failed is None:
            raise error
        failed(task, numbers, error)
        refused.update((task, number) for number in numbers)

    def opened(record: Task, numbers: Sequence[int]) -> tuple[TaskRequests | None, Exception | None]:
        """Its requests at these numbers of shots, or why there are none."""
        prepared, error = _prepared(record, evaluation.model_copy(update={"shots": list(numbers)}), tokenizer, check)
        return prepared, agree(error)

    def prepare(record: Task) -> TaskRequests | None:
        numbers = asked_at(record.task)
        prepared, problem = opened(record, evaluation.shots)
        if problem is not None and failed is not None and len(numbers) > 1:
            # What keeps one number of shots from being asked need not keep the others.
            alone = {number: opened(record, [number])[1] for number in numbers}
            if left := [number for number in numbers if alone[number] is None]:
                for number, error in alone.items():
                    if error is not None:
                        refuse(record.task, [number], error)
                prepared, problem = opened(record, left)
        if problem is not None and (left := asked_at(record.task)):
            refuse(record.task, left, problem)
        return prepared if asked_at(record.task) else None

    records = [task for task in declared if asked_at(task.task)]
    tasks: list[TaskRequests] = []
    for record in records:
        if (prepared := prepare(record)) is None:
            continue
        for number in asked_at(record.task):
            needed = [need for need in needs(prepared) if need.shots == number]
            try:
                check_context(record.task, needed, model.image_tokens_at_most, model.context_length)
            except ContextOverflow as overflow:
                refuse(record.task, [number], overflow)
        if asked_at(record.task):
            tasks.append(prepared)
    if not tasks:
        return pandas.DataFrame()
    shares = list(_shares(tasks, evaluation.batch_items, model.image_tokens_at_most, rank, ranks))
    embedder = PromptEmbedder(model, pipeline, tokenizer.padding)
    runners = [_TaskRunner(prepared, embedder, tokenizer, asks) for prepared in tasks]
    answered = _counted(report, sum(runner.answers_to(share) for runner, share in zip(runners, shares, strict=True)))

    def attempt(runner: _TaskRunner, share: Sequence[Sequence[Request]]) -> tuple[list[ItemOutcome], Exception | None]:
        found: list[ItemOutcome] = []
        error: Exception | None = None
        try:
            with evaluating(model, evaluation.precision):
                found = list(runner.ask(share, answered))
        except Exception as caught:
            if failed is None or ends_all(caught, model):
                raise
            error = without_frames(caught)
        return found, agree(error)

    tables = []
    for runner, share in zip(runners, shares, strict=True):
        task = runner.prepared.task.task
        asked, problem = attempt(runner, share)
        if problem is not None:
            asked = []
            several = asked_at(task)
            for number in several:
                if len(several) > 1:
                    # What keeps one number of shots from being asked need not keep the others.
                    one = _TaskRunner(runner.prepared, embedder, tokenizer, partial(_at_shots, number, asks))
                    some, problem = attempt(one, share)
                    asked += some if problem is None else []
                if problem is not None:
                    refuse(task, [number], problem)
        runner.demonstration_cache.keep_only([])
        if not asked_at(task):
            continue
        if rank == 0:
            asked += _left_out(runner.prepared, asks)
        tables.append(merged([predictions_table(runner.prepared.task, asked)], [runner.prepared.task]))
        keep(tables[-1])
    return merged(tables, records) if tables else pandas.DataFrame()


def _at_shots(number: int, wanted: Wanted, task: str, shots: int, evaluation_seed: int) -> bool:
    return shots == number and wanted(task, shots, evaluation_seed)


def _prepared(
    task: Task, evaluation: Evaluation, tokenizer: Tokenizer, check: Callable[[str], None]
) -> tuple[TaskRequests | None, Exception | None]:
    try:
        check(task.task)
        prepared = prepare_requests(task, evaluation, tokenizer)
        check(task.task)
    except Exception as error:
        return None, error
    return prepared, None


def ends_all(error: Exception, model: MultimodalModel) -> bool:
    """Whether nothing else can be done after an error: the workers of a sharded model wait for one another at every layer, and after an
    error of CUDA's no computation works."""
    return is_sharded(model.language_model) or "CUDA error" in str(error)


def without_frames(error: Exception) -> Exception:
    """An error that keeps the text of its traceback, but no longer the tensors of the functions that it went through."""
    error.add_note("".join(traceback.format_exception(error)))
    return error.with_traceback(None)


def _shares(tasks: Sequence[TaskRequests], batch_items: int, image_tokens: int, rank: int, ranks: int) -> Iterator[list[list[Request]]]:
    """The batches of each task that one process asks. Processes take turns, which go on from task to task."""
    before = 0
    for prepared in tasks:
        # Smaller batches where there are fewer requests than processes could take.
        batches = _batches(prepared, min(batch_items, -(-len(prepared.requests) // ranks)), image_tokens)
        yield [batch for number, batch in enumerate(batches, before) if number % ranks == rank]
        before += len(batches)


def _counted(report: Report, total: int) -> Callable[[int], None]:
    """Reports progress as answers come in."""
    done = 0

    def answered(answers: int) -> None:
        nonlocal done
        done += answers
        report(Progress(stage="evaluate", step=min(done, total), steps=total, loss=None))

    return answered


def _left_out(prepared: TaskRequests, wanted: Wanted) -> Iterator[ItemOutcome]:
    """Items that cannot be asked, at every number of shots."""
    for place, item, problem in prepared.left_out:
        for shots in prepared.shots:
            for seed in prepared.seeds:
                if wanted(prepared.task.task, shots, seed):
                    yield ItemOutcome(shots, seed, place, item, "", "", 0, "", "", str(problem), None)
