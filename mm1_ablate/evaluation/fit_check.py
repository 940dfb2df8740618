"""Whether an experiment's prompts fit into its language model's context, before anything is trained: no weights, no images, no torch.

What prompts take is one list for all arms that ask alike, so a plan makes it once and compares it with each arm's context length and
image tokens. It is kept in the cache, together with what else prompts are like (`prompt_facts.py`): large tasks take a while to be read
and tokenised.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from mm1_ablate.config.errors import Finding
from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import look, once
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.config.identity.model_digests import local_identity, tokenizer_digest
from mm1_ablate.config.local_path import local
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.settings import Misfit
from mm1_ablate.config.tasks import task_settings
from mm1_ablate.data.cache import ProgressCallback, build_once
from mm1_ablate.data.hub import hub_if_reachable
from mm1_ablate.data.tokenizer import Tokenizer, load_tokenizer
from mm1_ablate.evaluation.prediction_shards import asked_identity
from mm1_ablate.evaluation.prompt_facts import Facts, facts_of
from mm1_ablate.evaluation.protocols import as_asked, load_tasks
from mm1_ablate.evaluation.requests import ContextOverflow, Need, check_context, needs, prepare_requests
from mm1_ablate.evaluation.task import Task
from mm1_ablate.model.context_length import context_length_of

__all__ = ["ContextOverflow", "check_fits", "context_length", "context_needs", "kept", "known_context_length", "overflows"]

COUNTED = 4
"""How tokens are counted: another number where that changes, for what is kept is no longer right."""


class NotHere(Exception):
    """A tokenizer or configuration that this machine lacks."""


class Asked(NamedTuple):
    """The tasks of an evaluation as a tokenizer reads them."""

    wrong: list[Finding]
    """What is wrong with tasks whatever the model is."""
    needed: dict[str, list[Need]]
    """By task, what its prompts take."""
    facts: dict[str, Facts]
    """By task, what its prompts are like."""


def context_length(settings: LanguageModel) -> int:
    """Tokens of context that a language model has, from its configuration.

    Raises:
        ValueError, OSError: transformers knows no such model.
    """
    if (declared := _declared_length(settings)) is not None:
        return declared
    from transformers import AutoConfig

    if settings.name is not None:
        with hub_if_reachable(settings.name):
            return context_length_of(AutoConfig.from_pretrained(settings.name))
    return context_length_of(AutoConfig.for_model(settings.model_type or "", **settings.configuration))


def _declared_length(settings: LanguageModel) -> int | None:
    """The context that a file declares, where nothing else has a say in it."""
    declared = settings.configuration.get("max_position_embeddings")
    plain = settings.name is None and not {"rope_parameters", "rope_scaling"} & set(settings.configuration)
    return declared if plain and isinstance(declared, int) else None


def context_needs(evaluation: Evaluation, tokenizer: str) -> dict[str, list[Need]]:
    """By task, what its longest prompts take. A pure function of the arguments and of the annotation files.

    Args:
        tokenizer: the name or path of the language model's.

    Raises:
        LookupError, ValueError, OSError: a task that cannot be opened, or of which nothing can be asked.
    """
    loaded = load_tokenizer(tokenizer)
    return {task.task: needs(prepare_requests(task, evaluation, loaded)) for task in load_tasks(evaluation)}


def check_fits(experiment: Experiment, needed: Mapping[str, Sequence[Need]] | None = None) -> None:
    """Whether every prompt and its answer fit into the language model's context.

    Args:
        needed: `context_needs` of the experiment, if it is known already (JSON's lists will do).

    Raises:
        ContextOverflow: naming the task and the number of shots.
        LookupError, ValueError, OSError: see `context_needs` and `context_length`.
    """
    settings = experiment.model
    if needed is None:
        needed = context_needs(experiment.evaluation, settings.language_model.tokenizer)
    length = context_length(settings.language_model)
    for task, own in needed.items():
        check_context(task, (Need(*need) for need in own), settings.image_tokens_at_most, length)


# ---------------------------------------------------------------- at planning time
def overflows(experiment: Experiment) -> list[Finding]:
    """Tasks that cannot be asked as declared, by place in the experiment: prompts that do not fit, too few demonstrations.

    A check for `config.sweep.expand.load_study`. Where data may not be looked at, or the tokenizer is not here, there is nothing to say.
    """
    if look() == "nowhere":
        return []
    evaluation, model = experiment.evaluation, experiment.model
    tokenizer = model.language_model.tokenizer
    wrong, needed, _ = asked(evaluation, tokenizer)
    found = list(wrong)
    try:
        length = _kept_length(model.language_model) if needed else 0
    except NotHere:
        return found
    for task, own in needed.items():
        try:
            check_context(task, own, model.image_tokens_at_most, length)
        except ContextOverflow as error:
            found.append(Finding(("evaluation", "shots"), str(error).removeprefix("evaluation: ")))
    return found


def asked(evaluation: Evaluation, tokenizer: str) -> Asked:
    """The tasks as they are asked, found out once for each study that is loaded; those that this machine cannot tokenise are left out.

    Args:
        tokenizer: the name or path of the language model's.
    """
    return once(f"asked {tokenizer} {evaluation.model_dump_json()}", lambda: _asked(evaluation, tokenizer))


def _asked(evaluation: Evaluation, tokenizer: str) -> Asked:
    found = Asked([], {}, {})
    for index, name in enumerate(evaluation.tasks):
        settings = task_settings(name)
        try:
            task = as_asked(settings, evaluation)
        except ValueError as error:
            place: tuple[str | int, ...] = ("evaluation", "overrides", settings.task)
            misfit = _of_settings(error)
            field = misfit.at.partition(".")[0] if misfit else ""
            if settings.task in evaluation.overrides and field in evaluation.overrides[settings.task].model_fields_set:
                place = (*place, field)
            found.wrong.append(Finding(place, f"the task cannot be asked so: {_first(error)}", line=misfit.line if misfit else 0))
            continue
        try:
            found.needed[task.task], found.facts[task.task] = _kept_prompts(task, evaluation, tokenizer)
        except NotHere:
            continue
        except (ValueError, LookupError, OSError) as error:
            found.wrong.append(Finding(("evaluation", "tasks", index), _first(error).removeprefix("evaluation.tasks: ")))
    return found


def _kept_prompts(task: Task, evaluation: Evaluation, tokenizer: str) -> tuple[list[Need], Facts]:
    text_only = canonical(evaluation.zero_shot) if evaluation.zero_shot else None
    drawn = [sorted(evaluation.shots), list(evaluation.evaluation_seeds), canonical(evaluation.demonstrations), text_only]
    identity = fingerprint([COUNTED, asked_identity(task, evaluation), drawn, tokenizer_identity(tokenizer)])

    def look_at_prompts() -> tuple[list[Need], Facts]:
        loaded = tokenizer_here(tokenizer)
        prepared = prepare_requests(task, evaluation, loaded)
        return needs(prepared), facts_of(prepared, loaded)

    taken, facts = kept(identity, look_at_prompts)
    return [Need(*need) for need in taken], Facts.of_plain(*facts)


def tokenizer_identity(tokenizer: str) -> str:
    """Which tokenizer a name or path stands for."""
    return tokenizer_digest(path) if (path := local(tokenizer)) else tokenizer


def tokenizer_here(tokenizer: str) -> Tokenizer:
    """The tokenizer of a name or path.

    Raises:
        NotHere: this machine lacks it, or it cannot be read, which the check of parts tells.
    """
    try:
        return load_tokenizer(tokenizer)
    except Exception as error:  # transformers and huggingface_hub raise types of their own
        raise NotHere from error


def known_context_length(settings: LanguageModel) -> int | None:
    """Tokens of context that a language model has, as far as this machine knows them; nothing where it does not, or may not look."""
    if (declared := _declared_length(settings)) is not None:
        return declared
    if settings.name is not None and (local(settings.name) is None or look() == "nowhere"):
        return None
    try:
        return _kept_length(settings)
    except NotHere:
        return None


def _kept_length(settings: LanguageModel) -> int:
    def find() -> int:
        try:
            return context_length(settings)
        except Exception as error:  # transformers raises its own types; what is wrong with a configuration the check of parts tells
            raise NotHere from error

    name = local_identity(settings).get("name", settings.name)
    identity = fingerprint({"name": name, "model_type": settings.model_type, "configuration": settings.configuration})
    return once(f"context length {identity}", lambda: kept(identity, find))


def kept(identity: str, make: Callable[[], Any]) -> Any:
    """Plain values from the cache, or made and kept there; a cache that cannot be written costs time, no more."""

    def build(folder: Path, report: ProgressCallback) -> None:
        (folder / "kept.json").write_text(json.dumps(make()))

    try:
        return json.loads((build_once("context", identity, 1 << 16, build) / "kept.json").read_text())
    except OSError:
        return make()


def _of_settings(error: Exception) -> Misfit | None:
    """What does not go together, where that is what is wrong."""
    found = error.errors(include_url=False)[0].get("ctx", {}).get("error") if isinstance(error, ValidationError) else None
    return found if isinstance(found, Misfit) else None


def _first(error: Exception) -> str:
    """The line that says it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return str(first.get("ctx", {}).get("error", first["msg"]))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
