"""A task and an experiment's evaluation settings in, every question with its demonstrations out, as tokens. Imports no torch.

Also how much context they need: so a plan can tell that a prompt does not fit before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mm1_ablate.config.evaluation import Demonstrations, Evaluation
from mm1_ablate.config.task_record import CHOICE, Task, template_fields
from mm1_ablate.data.documents import Image, Item, Unreadable
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.evaluation.demonstrations import assigned_sets, demonstrations
from mm1_ablate.evaluation.prompts import Incomplete, TokenisedPrompt, continuation, demonstration, question, render, shown, tokenise


class Need(NamedTuple):
    """What the longest prompts of a number of shots and of images take."""

    shots: int
    images: int
    text_tokens: int
    answer_tokens: int


class ContextOverflow(ValueError):
    """A prompt and its answer do not fit into the model's context."""


@dataclass(frozen=True, slots=True)
class Request:
    """One item under one evaluation seed, ready to be asked.

    Attributes:
        place: the item's number in its task.
        set_number: which of the sets of demonstrations: see `demonstrations.assigned_sets`.
        prompts: what stands before the answer: one, or one for each choice where the prompt names `{choice}`.
        solved: its demonstrations at the highest number of shots; fewer shots take the first ones.
        solved_texts: the demonstrations without images that it has at 0 shots.
        demonstrations, text_only: both, tokenised.
        choices: tokens of each choice, or of the one answer whose likelihood is asked, if any is.
        shown: the question as people read it.
        replaced: demonstrations whose turn it was and which could not be shown: how many were shown before it, and why.
    """

    item: Item
    place: int
    evaluation_seed: int
    set_number: int
    prompts: tuple[TokenisedPrompt, ...]
    choices: tuple[tuple[int, ...], ...]
    stop: tuple[str, ...]
    shown: str
    solved: tuple[Item, ...] = ()
    solved_texts: tuple[Item, ...] = ()
    demonstrations: tuple[TokenisedPrompt, ...] = ()
    text_only: tuple[TokenisedPrompt, ...] = ()
    replaced: tuple[tuple[int, str], ...] = ()

    def before(self, shots: int) -> tuple[TokenisedPrompt, ...]:
        """What is read before the question."""
        return self.demonstrations[:shots] if shots else self.text_only

    def set_at(self, shots: int) -> tuple[str, ...]:
        """The ids of the demonstrations at a number of shots."""
        return tuple(item.id for item in (self.solved[:shots] if shots else self.solved_texts))

    def replaced_at(self, shots: int) -> tuple[str, ...]:
        """Why demonstrations could not be shown at a number of shots, whatever higher numbers are asked too."""
        return tuple(reason for place, reason in self.replaced if place < shots)

    def lengths(self, shots: int, image_tokens: Callable[[Image], int]) -> tuple[int, int]:
        """Tokens of what is read before the question, and of the question's longest prompt."""
        return (
            sum(part.length(image_tokens) for part in self.before(shots)),
            max(prompt.length(image_tokens) for prompt in self.prompts),
        )


@dataclass(frozen=True)
class TaskRequests:
    """A task as it is asked, with all its requests.

    Attributes:
        requests: of the first evaluation seed, then of the next; of further seeds only those that have demonstrations.
        left_out: place, id and reason of the items that cannot be asked.
    """

    task: Task
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    requests: tuple[Request, ...]
    left_out: tuple[tuple[int, str, Unreadable], ...]
    sampler: DemonstrationSampler = field(repr=False)

    def shots_of(self, one: Request) -> tuple[int, ...]:
        """The numbers of shots at which to ask. Without demonstrations all evaluation seeds are alike, and only the first asks."""
        if one.evaluation_seed == self.seeds[0] or one.text_only:
            return self.shots
        return tuple(shots for shots in self.shots if shots)

    def without(self, one: Request, unreadable: Mapping[str, Unreadable]) -> Request:
        """A question with other demonstrations instead of those whose image is unreadable; the next in order take their places."""
        if not any(item.image is not None and item.image.key in unreadable for item in one.solved):
            return one
        return self.sampler.sample(one, unreadable)


class DemonstrationSampler:
    """Draws and tokenises the demonstrations of one task.

    Args:
        pool: solved items of all groups.
        most: demonstrations at the highest number of shots.
        text_only: demonstrations without images at 0 shots.
    """

    def __init__(self, task: Task, policy: Demonstrations, pool: Sequence[Item], most: int, text_only: int, tokenizer: Tokenizer) -> None:
        self.task = task
        self.policy = policy
        self.most = most
        self.text_only = text_only
        self._tokenizer = tokenizer
        self._pools: dict[str, list[Item]] = {}
        for item in pool:
            self._pools.setdefault(item.group, []).append(item)
        self._tokenised: dict[tuple[str, bool], TokenisedPrompt | Unreadable] = {}

    def sample(self, one: Request, unreadable: Mapping[str, Unreadable] | None = None) -> Request:
        """The question with its demonstrations.

        Args:
            unreadable: images that cannot be shown, by key.

        Raises:
            ValueError: there are too few.
        """
        reasons: list[tuple[int, str]] = []
        placed = 0

        def usable(item: Item) -> bool:
            nonlocal placed
            found: object = self._of(item, True)
            if unreadable and item.image is not None and not isinstance(found, Unreadable):
                found = unreadable.get(item.image.key)
            if isinstance(found, Unreadable):
                reasons.append((placed, str(found)))
                return False
            placed += 1
            return True

        pool = self._pools.get(one.item.group, [])
        key = (one.evaluation_seed, self.task.task, self.policy, one.set_number)
        solved = demonstrations(one.item, pool, self.most, *key, usable)
        # Without their images, those whose image is unreadable will do.
        texts = demonstrations(one.item, pool, self.text_only, *key, lambda item: not isinstance(self._of(item, False), Unreadable))
        return replace(
            one,
            solved=solved,
            solved_texts=texts,
            demonstrations=tuple(self._prompt(item, True) for item in solved),
            text_only=tuple(self._prompt(item, False) for item in texts),
            replaced=tuple(reasons),
        )

    def _prompt(self, item: Item, images: bool) -> TokenisedPrompt:
        found = self._of(item, images)
        assert isinstance(found, TokenisedPrompt)
        return found

    def _of(self, item: Item, images: bool) -> TokenisedPrompt | Unreadable:
        """A demonstration, or why the item cannot be one."""
        key = (item.id, images)
        if key not in self._tokenised:
            try:
                parts = demonstration(self.task.prompt, self.task.separator, item, images)
                self._tokenised[key] = tokenise(parts, self._tokenizer)
            except Incomplete as error:
                self._tokenised[key] = Unreadable(error.reason, item.id)
        return self._tokenised[key]


def prepare_requests(task: Task, evaluation: Evaluation, tokenizer: Tokenizer) -> TaskRequests:
    """Draw the items of a task (see `protocols.as_asked`) and their demonstrations, and tokenise them.

    Raises:
        ValueError: where there are too few demonstrations, or no item can be evaluated.
    """
    items = task.items.open(split=evaluation.split, count=evaluation.items_of(task.task), seed=evaluation.seed)
    seeds = evaluation.evaluation_seeds
    shots = task.shots_of(evaluation.shots)
    text_only = evaluation.zero_shot.text_only if evaluation.zero_shot and task.family == "image" and 0 in shots else 0
    questions: list[Request] = []
    left_out: list[tuple[int, str, Unreadable]] = []
    for place, item in enumerate(items.queries):
        try:
            questions.append(_request(task, item, place, seeds[0], tokenizer, evaluation.probability))
        except Incomplete as error:
            left_out.append((place, item.id, Unreadable(error.reason, item.id)))
    for bad in items.bad:  # what the source could not make an item of
        left_out.append((len(items.queries) + len(left_out), bad.what, bad))
    if not questions:
        examples = "; ".join(str(problem) for _, _, problem in left_out[:3])
        raise ValueError(f"task {task.task}: no items" + (f" that can be evaluated: {examples}" if examples else ""))
    sampler = DemonstrationSampler(task, evaluation.demonstrations, items.demonstrations, max(shots, default=0), text_only, tokenizer)
    asked = []
    for seed in seeds if sampler.most or text_only else seeds[:1]:
        numbers = assigned_sets([one.item for one in questions], evaluation.demonstrations, seed, task.task)
        seeded = (replace(one, evaluation_seed=seed, set_number=number) for one, number in zip(questions, numbers, strict=True))
        asked += [sampler.sample(one) for one in seeded]
    return TaskRequests(task, shots, seeds, tuple(asked), tuple(left_out), sampler)


def _request(task: Task, item: Item, place: int, seed: int, tokenizer: Tokenizer, probability: bool) -> Request:
    """A question without its demonstrations.

    Args:
        probability: whether the likelihood of the right answer is asked also where text is generated.

    Raises:
        Incomplete: the item lacks what asking or scoring it needs.
    """
    if task.kind == "choose" and (item.correct is None or not item.choices):
        raise Incomplete(item, "no choices" if not item.choices else "no correct choice", "")
    by_choice = CHOICE in template_fields(task.prompt)
    if not item.references and (task.kind != "choose" or by_choice):
        raise Incomplete(item, "no reference", "")
    asked = [question(task.prompt, item, choice) for choice in (item.choices if by_choice else (None,))]
    if not all(parts for parts, _ in asked):
        raise ValueError(f"task {task.task}, item {item.id}: the prompt before the answer is empty, so there is no question to ask")
    answers: Sequence[str] = ()
    if task.kind == "generate":
        answers = [text for text in item.references[:1] if probability and text.strip()]
    else:
        answers = item.references[:1] * len(asked) if by_choice or task.kind == "likelihood" else item.choices
        asked = asked if by_choice else asked * len(answers)
    choices = tuple(continuation(parts, space, answer, tokenizer) for (parts, space), answer in zip(asked, answers, strict=False))
    if not all(choices):
        raise Incomplete(item, "an empty answer to choose", "")
    prompts = tuple(tokenise(parts, tokenizer) for parts, _ in (asked if by_choice else asked[:1]))
    shown_parts = question(task.prompt, item, "_")[0] if by_choice else asked[0][0]
    return Request(
        item=item,
        place=place,
        evaluation_seed=seed,
        set_number=0,
        prompts=prompts,
        choices=choices,
        stop=tuple("".join(str(part) for part in render(text, item, item.fields)) for text in task.stop),
        shown=shown(shown_parts),
    )


def needs(prepared: TaskRequests) -> list[Need]:
    """How much context the longest prompts and their answers take, whatever an image takes: one for each number of shots and images."""
    found: dict[tuple[int, int], Need] = {}
    for one in prepared.requests:
        generated = prepared.task.max_new_tokens if prepared.task.kind == "generate" else 0
        answer = max([generated, *map(len, one.choices)])
        for shots in prepared.shots_of(one):
            before = one.before(shots)
            for prompt in one.prompts:
                images = sum(len(part.images) for part in (*before, prompt))
                need = Need(shots, images, sum(part.text_tokens for part in (*before, prompt)), answer)
                longest = found.setdefault((shots, images), need)
                if need[2:] != longest[2:]:
                    found[shots, images] = max(longest, need, key=lambda one: one.text_tokens + one.answer_tokens)
    return [found[key] for key in sorted(found)]


def check_context(task: str, needed: Iterable[Need], image_tokens: int, context_length: int) -> None:
    """Whether every prompt and its answer fit.

    Args:
        needed: see `needs`.
        image_tokens: of an image; the most that one can take, where that depends on its size.

    Raises:
        ContextOverflow: naming the task and the number of shots.
    """
    for shots, images, text, answer in needed:
        prompt = text + images * image_tokens
        if prompt + answer > context_length:
            raise ContextOverflow(
                f"evaluation: task {task} at {shots} shots needs {prompt + answer} tokens of context ({prompt} of prompt,"
                f" where an image takes {image_tokens}, and {answer} of answer), and the language model has {context_length};"
                " use fewer shots or image tokens, or a longer context"
            )
