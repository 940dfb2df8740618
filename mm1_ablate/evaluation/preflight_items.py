"""Whether the items of an experiment's tasks can be asked and scored as declared, before anything is trained: no weights, no tokenizer.

In: an experiment. Out: diagnostics by place in it. Items are drawn as an evaluation draws them, and only those are looked at: their images
by name, the first of them by the headers of their files too. Passed checks of tasks of this package are cached; the user's
own tasks are looked at each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import look, once
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.config.task_record import ANSWER, CHOICE, IMAGE, Task, template_fields
from mm1_ablate.config.tasks import is_own, task_settings
from mm1_ablate.data.cache import known, remember
from mm1_ablate.data.documents import Item, ItemSet, Unreadable
from mm1_ablate.evaluation.chance_baselines import can_score, ceiling, chance_baseline
from mm1_ablate.evaluation.metrics import Metric, Prediction
from mm1_ablate.evaluation.prediction_shards import asked_identity
from mm1_ablate.evaluation.prompts import Incomplete, question, render
from mm1_ablate.evaluation.protocols import as_asked

RULE = 2
"""Version of the rule by which items are checked: increased when more is checked, as results are cached."""
NAMED = 3
"""Items of a kind whose ids are given."""
PICTURES = 256
"""Pictures that are opened, of the questions and of the demonstrations: all of a large benchmark would take minutes."""
SEARCHED = 20_000
"""Items up to which a constant answer is looked for."""
OF_THE_RECORD = ("no correct choice", "an id occurs twice")
"""Reasons that are the record's or the file's fault as a whole: leaving such items out would hide that others are wrong too."""


def wrong_items(experiment: Experiment) -> list[Diagnostic]:
    """Items of tasks that cannot be asked, and scores that cannot tell models apart. Tasks that cannot be opened are reported by
    other checks."""
    if look() == "nowhere":
        return []
    evaluation = experiment.evaluation
    return once(f"items {evaluation.model_dump_json()}", lambda: list(_of_all(evaluation)))


def _of_all(evaluation: Evaluation) -> Iterator[Diagnostic]:
    for index, name in enumerate(evaluation.tasks):
        try:
            task = as_asked(task_settings(name), evaluation)
            found = _found(task, evaluation, is_own(name))
        except (ValueError, LookupError, OSError):
            continue
        of = f"task '{task.task}' ({name})" if is_own(name) else f"task '{task.task}'"
        for message, warning in found:
            yield Diagnostic(("evaluation", "tasks", index), f"{of}: {message}", warning=warning)


def _found(task: Task, evaluation: Evaluation, own: bool) -> list[tuple[str, bool]]:
    """What is wrong with a task, and whether that is a warning."""
    # The code behind a user's own task may change without its settings.
    key = "" if own else fingerprint(["items", RULE, asked_identity(task, evaluation), canonical(task.metrics)])
    if key and known(key) is not None:
        return []
    found = list(_looked_at(task, evaluation, own))
    if key and not found:
        remember(key, {})
    return found


def _looked_at(task: Task, evaluation: Evaluation, own: bool) -> Iterator[tuple[str, bool]]:
    items = task.items.open(split=evaluation.split, count=evaluation.items_of(task.task), seed=evaluation.seed)
    asked, bad = _askable(task, items)
    where = "queries" if evaluation.split == "report" else "development"
    yield from _left_out(bad, f"items.{where}: {{}} of {len(bad) + len(asked):,} items cannot be evaluated", own)
    total = len(items.bad_demonstrations) + len(items.demonstrations)
    yield from _left_out(items.bad_demonstrations, f"items.demonstrations: {{}} of {total:,} demonstrations cannot be used", own)
    if "://" not in str(getattr(task.items, "folder", "")):
        for place, some in ((where, asked), ("demonstrations", items.demonstrations)):
            looked, broken = _broken_pictures(some)
            yield from _left_out(broken, f"items.{place}: {{}} of the {looked:,} images checked cannot be read", own)
    fields = [field for field in template_fields(task.prompt) if field not in (IMAGE, ANSWER)]
    if fields and CHOICE not in fields:
        blank = [item.id for item in asked if not any(item.fields[field].strip() for field in fields)]
        if blank:
            yield f"prompt: {_named(blank)} of {len(asked):,} items have an empty {' and '.join(dict.fromkeys(fields))}", True
    if asked:
        for metric in task.metrics:
            yield from _senseless(task, metric, asked)


# ---------------------------------------------------------------- items
def _askable(task: Task, items: ItemSet) -> tuple[list[Item], list[Unreadable]]:
    """The queries that can be asked and scored, and what is wrong with the others."""
    asked: list[Item] = []
    bad = list(items.bad)
    known: set[str] = set()
    by_choice = CHOICE in template_fields(task.prompt)
    for item in items.queries:
        try:
            _check(task, item, by_choice)
            if item.id in known:
                raise Unreadable("an id occurs twice", item.id)
        except Incomplete as error:
            bad.append(Unreadable(error.reason, item.id))
        except Unreadable as error:
            bad.append(error)
        else:
            asked.append(item)
        known.add(item.id)
    return asked, bad


def _broken_pictures(items: Sequence[Item]) -> tuple[int, list[Unreadable]]:
    """How many pictures were looked at, and what is wrong with those that cannot be read, by the headers of their files."""
    pictures = {item.image.key: (item.id, item.image.size) for item in items if item.image is not None and item.image.size is not None}
    broken = []
    looked_at = list(pictures.values())[:PICTURES]
    for name, size in looked_at:
        try:
            size()
        except Unreadable as error:
            broken.append(Unreadable(error.reason, f"{name} ({error.what})"))
    return len(looked_at), broken


def _check(task: Task, item: Item, by_choice: bool) -> None:
    """Raises Incomplete or Unreadable where an item lacks what asking or scoring it needs."""
    if task.kind == "choose":
        if not item.choices:
            raise Unreadable("no choices", item.id)
        if item.correct is None or not 0 <= item.correct < len(item.choices):
            raise Unreadable("no correct choice", f"{item.id} ({item.correct}, of {len(item.choices)} choices)")
        if not all(choice.strip() for choice in item.choices):
            raise Unreadable("an empty answer to choose", item.id)
    if (task.kind != "choose" or by_choice) and not any(reference.strip() for reference in item.references):
        raise Unreadable("no reference", item.id)
    question(task.prompt, item, item.choices[0] if by_choice else None)


def _left_out(bad: Sequence[Unreadable], sentence: str, own: bool) -> Iterator[tuple[str, bool]]:
    """Told by reason. Items that are wrong by the record's fault are an error in a task of the user's own, who can change it."""
    reasons: dict[str, list[str]] = {}
    for problem in bad:
        reasons.setdefault(problem.reason, []).append(problem.what)
    for reason, ids in reasons.items():
        wrong = own and reason in OF_THE_RECORD
        yield (
            f"{sentence.format(f'{len(ids):,}')}: {reason} (first: {', '.join(ids[:NAMED])})" + (f"; {_help(reason)}" if wrong else ""),
            not wrong,
        )


def _help(reason: str) -> str:
    if reason == "an id occurs twice":
        return "give each row an id of its own, leave 'id' out, or declare 'merge: true' if rows of one id are one item"
    return "'correct' counts choices from 0; exclude rows without a correct choice with 'where'"


def _named(ids: Sequence[str]) -> str:
    return f"{len(ids):,} ({', '.join(ids[:NAMED])}{', ...' if len(ids) > NAMED else ''})"


# ---------------------------------------------------------------- scores
def _senseless(task: Task, metric: Metric, items: Sequence[Item]) -> Iterator[tuple[str, bool]]:
    """Scores that are the same whatever a model answers."""
    predictions = [Prediction(item.id, "", item.references, item.choices, item.correct) for item in items]
    of = f"metrics: {metric.type}"
    if task.kind == "choose":
        if metric.floor == "constant_choice" and all(len(item.choices) == 1 for item in items):
            yield f"{of} can only be {metric.scale:g}: every item has a single choice; give several, or use lambada_accuracy", False
            return
    elif task.kind == "generate" and not metric.wants_split_references:
        references = [tuple(dict.fromkeys(item.references)) for item in items]
        reachable = [tuple(dict.fromkeys(_cut(task, item, reference) for reference in item.references)) for item in items]
        if not can_score(metric, predictions, reachable):
            yield f"{of} can only be 0: {_why(task, metric, predictions, references)}", False
            return
        single = [place for place, item in enumerate(items) if len(item.references) == 1]
        few = [predictions[place] for place in single]
        if len(few) > 1 and not can_score(metric, few, [references[place] for place in single]):
            named = _named([one.item for one in few])
            yield f"{of} can only be 0 for {named} of {len(items):,} items: they have a single reference, and it counts agreement", True
    if len(items) > 1 and len(items) <= SEARCHED and metric.ceiling != "none" and not metric.wants_split_references:
        least, most = chance_baseline(metric, predictions), ceiling(metric, predictions)
        if least is not None and most is not None and least.value >= most - 1e-9:
            same = f"the same answer to every item, '{least.answer}', has {most:.4g}, the highest possible score"
            yield f"{of} cannot tell models apart: {same}", True


def _cut(task: Task, item: Item, reference: str) -> str:
    """The reference as a model's answer can be, which ends before a stop string."""
    stops = ["".join(str(part) for part in render(text, item, item.fields)) for text in task.stop]
    return reference[: min((place for stop in stops if (place := reference.find(stop)) >= 0), default=None)].strip()


def _why(task: Task, metric: Metric, predictions: Sequence[Prediction], references: Sequence[tuple[str, ...]]) -> str:
    if can_score(metric, predictions, references):
        stops = ", ".join(repr(stop) for stop in task.stop)
        return f"every reference holds a stop string ({stops}), and an answer ends before it; declare other stop strings"
    if all(len(one.references) == 1 for one in predictions):
        if len(predictions) == 1 and metric.score([Prediction("", "a", ("a",) * 4)]) != [1.0]:
            return "over a single item it is 0 by definition; evaluate more items"
        return "every item has a single reference, and it counts the agreement with other annotators; use exact_match"
    return "even the references score 0 as answers; use another metric, or other references"
