"""Whether tasks are asked as the model was trained, before anything is trained: warnings, for nothing here stops a run.

Compared with the training data is how texts begin after an image (see `data/joining.py`): a bounded sample of each source, kept in the
cache. The rest are the remarks on prompts (`prompt_facts.py`) and tokens that a tokenizer places before a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mm1_ablate.config.data import Source
from mm1_ablate.config.errors import Finding, listed
from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import Place, contents_of, identity_of, look, once
from mm1_ablate.config.identity.fingerprint import fingerprint
from mm1_ablate.config.local_path import local
from mm1_ablate.config.tasks import is_own, task_settings
from mm1_ablate.config.yaml_file import read_tree
from mm1_ablate.data.joining import leading_spaces
from mm1_ablate.evaluation.fit_check import NotHere, asked, kept, tokenizer_here, tokenizer_identity
from mm1_ablate.evaluation.prompt_facts import Remark, chat_remarks
from mm1_ablate.evaluation.protocols import as_asked
from mm1_ablate.evaluation.task import Task

VERSION = 2
"""How training data is looked at: another number where that changes, for what is kept is no longer right."""
SELDOM = 0.01
"""Fewer texts after images than this share begin so: as good as never."""


def asked_unlike_training(experiment: Experiment) -> list[Finding]:
    """Warnings about prompts, at the record or the setting that says how a task is asked. A check for `load_study`. Where
    data may not be looked at, or the tokenizer is not here, only templates are."""
    evaluation, tokenizer = experiment.evaluation, experiment.model.language_model.tokenizer
    facts = asked(evaluation, tokenizer).facts if look() != "nowhere" else {}
    trained = _leading_spaces_in_training(experiment) if facts else None
    found: dict[tuple[Place, str, Remark], tuple[Place, list[str]]] = {}
    for index, name in enumerate(evaluation.tasks):
        try:
            task = as_asked(task_settings(name), evaluation)
        except ValueError:
            continue  # told as wrong
        remarks = list(facts[task.task].remarks) if task.task in facts else chat_remarks(task)
        if trained and task.task in facts:
            remarks += _unlike(task, facts[task.task].leading_spaces, trained)
        for remark in remarks:
            place = _place(task, evaluation, index, remark.field)
            at = _line_of_record(name, remark.field) if place[1] == "tasks" else ""
            # Tasks that are asked alike are told together, at the first.
            found.setdefault((place[:2], at, remark), (place, []))[1].append(task.task)
    findings = []
    for (_, at, remark), (place, tasks) in found.items():
        message = f"{at}task{'s' if len(tasks) > 1 else ''} {listed(tasks, 4)}: {remark.field}: {remark.message}"
        findings.append(Finding(place, message, remark.hint, warning=True))
    return findings


def _place(task: Task, evaluation: Evaluation, index: int, field: str) -> Place:
    """Where a field of a task as it is asked is written."""
    own = evaluation.overrides.get(task.task) if field != "items" else None
    if own is not None and getattr(own, field, None) is not None:
        return "evaluation", "overrides", task.task, field
    recorded = task_settings(evaluation.tasks[index])
    if getattr(recorded, field) != getattr(task, field):
        return "evaluation", "protocol"
    return "evaluation", "tasks", index


def _line_of_record(name: str, field: str) -> str:
    """File, line and column of a field of a user's own record."""
    if not is_own(name):
        return ""
    problem = read_tree(Path(name))[1].problem((field,), "")
    return f"{problem.file}:{problem.line}:{problem.column}: "


# ---------------------------------------------------------------- after images
def _unlike(task: Task, asked: Mapping[str, int], trained: Mapping[str, float]) -> Iterator[Remark]:
    """White space after images that training does not have there, or lacks where training has some."""
    for space in asked:
        if trained.get(space, 0.0) >= SELDOM:
            continue
        usual = max(trained, key=lambda one: trained[one])
        message = (
            f"after an image {task.prompt!r} goes on with {_named(space)}, and texts after images in training begin with {_named(usual)}:"
            " to this tokenizer those are other first tokens, so the model is asked in a way that it hardly ever saw"
        )
        yield Remark("prompt", message, f"write the prompt with {_named(usual)} after {{image}}")


def _named(space: str) -> str:
    return {"": "no white space", " ": "a space", "\n": "a line end"}.get(space, repr(space))


def _leading_spaces_in_training(experiment: Experiment) -> dict[str, float] | None:
    """The largest share, over the sources of all stages, of texts after images that begin with which white space. None where that is
    not known of some source, or no text follows an image."""
    tokenizer = experiment.model.language_model.tokenizer
    shares: dict[str, float] = {}
    for stage in (*experiment.earlier, experiment):
        for name in stage.data.shares():
            source = stage.data.sources[name]
            if source.data_type == "text":
                continue
            counts = _of_source(source, tokenizer)
            if not counts and getattr(source, "images", True):
                return None
            counts = counts or {}
            for space, count in counts.items():
                shares[space] = max(shares.get(space, 0.0), count / sum(counts.values()))
    return shares or None


def _of_source(source: Source, tokenizer: str) -> dict[str, int] | None:
    def find() -> dict[str, int] | None:
        try:
            identity = [VERSION, identity_of(source), contents_of(source), tokenizer_identity(tokenizer)]
            found: dict[str, int] | None = kept(fingerprint(identity), lambda: leading_spaces(source, tokenizer_here(tokenizer)))
        except Exception:  # of a source of anybody's: what cannot be read is told where it is looked at
            return None
        return found

    return once(f"after images {identity_of(source)} {tokenizer}", find)


# ---------------------------------------------------------------- before a text
def unplaced_tokens(experiment: Experiment) -> list[Finding]:
    """A warning where a published model's tokenizer places a token before a text, which neither training nor evaluation does. A check for
    `load_study`; where the tokenizer is not here, there is nothing to say."""
    settings = experiment.model.language_model
    if settings.name is None or look() == "nowhere":
        return []

    name = settings.name

    def find() -> str:
        try:
            # The model's own tokenizer says what it was trained with, whichever is used here.
            return str(kept(fingerprint(["begins", tokenizer_identity(name)]), lambda: tokenizer_here(name).begin))
        except NotHere:
            return ""

    begin = once(f"begins {name}", find)
    if not begin:
        return []
    called = Path(name).name if local(name) else name
    message = (
        f"the tokenizer of {called} places '{begin}' before a text, and the published model was trained so; here documents and prompts"
        f" begin without it, in training and in evaluation alike"
    )
    hint = "scores without training, of a frozen model above all, may be lower than published ones"
    return [Finding(("model", "language_model", "name"), message, hint, warning=True)]
