"""Checks of an experiment's evaluation before anything is trained: whether prompts fit into the context, whether the language model can be
evaluated by this package, and whether prompts look like training data. No weights, no images.

In: an experiment. Out: diagnostics by place in it. Prompts are tokenised once for all arms with the same evaluation, and compared with
each arm's context length and image tokens, and with a bounded sample of each source of training data: how texts begin after an image (see
`data/joining.py`). Results are cached (`data/cache.py`). Items have a file of their own (`preflight_items.py`), as have remarks on
prompts (`prompt_lint.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from pydantic import ValidationError

from mm1_ablate.config.data import Source
from mm1_ablate.config.errors import Diagnostic, listed
from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import Place, contents_of, identity_of, look, once
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.config.identity.model_digests import tokenizer_digest
from mm1_ablate.config.local_path import local
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.config.settings import SettingError
from mm1_ablate.config.task_record import Task
from mm1_ablate.config.tasks import is_own, task_settings
from mm1_ablate.config.yaml_file import read_tree
from mm1_ablate.data.cache import known, remember, remembered
from mm1_ablate.data.hub import Unavailable
from mm1_ablate.data.joining import leading_spaces
from mm1_ablate.data.tokenizer import Tokenizer, load_tokenizer
from mm1_ablate.evaluation.prediction_shards import asked_identity
from mm1_ablate.evaluation.prompt_lint import Facts, Remark, chat_remarks, facts_of
from mm1_ablate.evaluation.protocols import as_asked
from mm1_ablate.evaluation.requests import ContextOverflow, Need, check_context, needs, prepare_requests
from mm1_ablate.model.context_length import context_length
from mm1_ablate.model.preflight import facts_about, first_line, is_limit, language_model_key, without_values

COUNTED = 4
"""Version of how tokens of prompts are counted: increased when that changes, as cached results then no longer hold."""
SAMPLED = 2
"""Version of how training data is sampled, likewise."""
SELDOM = 0.01
"""Fewer texts after images than this share begin so: as good as never."""
ENOUGH_LAYERS = 6
"""Of layers that are all alike, or of kinds that take turns, so many are run."""


class TokenisedTasks(NamedTuple):
    """The tasks of an evaluation as a tokenizer reads them."""

    wrong: list[Diagnostic]
    """What is wrong with tasks whatever the model is."""
    needed: dict[str, list[Need]]
    """By task, what its prompts take."""
    facts: dict[str, Facts]
    """By task, what its prompts are like."""


# ---------------------------------------------------------------- tasks
def unaskable_tasks(experiment: Experiment) -> list[Diagnostic]:
    """Tasks that cannot be asked as declared, by place in the experiment: prompts that do not fit, too few demonstrations.

    Where data may not be looked at, or the tokenizer is unavailable, nothing is reported.
    """
    if look() == "nowhere":
        return []
    evaluation, model = experiment.evaluation, experiment.model
    tokenizer = model.language_model.tokenizer
    wrong, needed, _ = asked(evaluation, tokenizer)
    found = list(wrong)
    try:
        length = context_length(model.language_model) if needed else 0
    except Unavailable:
        return found
    for task, own in needed.items():
        try:
            check_context(task, own, model.image_tokens_at_most, length)
        except ContextOverflow as error:
            found.append(Diagnostic(("evaluation", "shots"), str(error).removeprefix("evaluation: ")))
    return found


def asked(evaluation: Evaluation, tokenizer: str) -> TokenisedTasks:
    """The tasks as they are asked, found out once for each study that is loaded; those that this machine cannot tokenise are left out.

    Args:
        tokenizer: the name or path of the language model's.
    """
    return once(f"asked {tokenizer} {evaluation.model_dump_json()}", lambda: _asked(evaluation, tokenizer))


def _asked(evaluation: Evaluation, tokenizer: str) -> TokenisedTasks:
    found = TokenisedTasks([], {}, {})
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
            found.wrong.append(
                Diagnostic(place, f"the task cannot be evaluated like this: {_reason(error)}", line=misfit.line if misfit else 0)
            )
            continue
        try:
            found.needed[task.task], found.facts[task.task] = _prompts(task, evaluation, tokenizer)
        except Unavailable:
            continue
        except (ValueError, LookupError, OSError) as error:
            found.wrong.append(Diagnostic(("evaluation", "tasks", index), _reason(error).removeprefix("evaluation.tasks: ")))
    return found


def _prompts(task: Task, evaluation: Evaluation, tokenizer: str) -> tuple[list[Need], Facts]:
    text_only = canonical(evaluation.zero_shot) if evaluation.zero_shot else None
    drawn = [sorted(evaluation.shots), list(evaluation.evaluation_seeds), canonical(evaluation.demonstrations), text_only]
    identity = fingerprint(["prompts", COUNTED, asked_identity(task, evaluation), drawn, _identity_of_tokenizer(tokenizer)])

    def look_at_prompts() -> tuple[list[Need], Facts]:
        loaded = _tokenizer(tokenizer)
        prepared = prepare_requests(task, evaluation, loaded)
        return needs(prepared), facts_of(prepared, loaded)

    taken, facts = remembered(identity, look_at_prompts)
    return [Need(*need) for need in taken], Facts.of_plain(*facts)


def _identity_of_tokenizer(tokenizer: str) -> str:
    """Which tokenizer a name or path stands for."""
    return tokenizer_digest(path) if (path := local(tokenizer)) else tokenizer


def _tokenizer(tokenizer: str) -> Tokenizer:
    """The tokenizer of a name or path.

    Raises:
        Unavailable: this machine lacks it, or it cannot be read, which `model.preflight.wrong_parts` reports.
    """
    try:
        return load_tokenizer(tokenizer)
    except Exception as error:  # transformers and huggingface_hub raise types of their own
        raise Unavailable from error


def _of_settings(error: Exception) -> SettingError | None:
    """What does not go together, where that is what is wrong."""
    found = error.errors(include_url=False)[0].get("ctx", {}).get("error") if isinstance(error, ValidationError) else None
    return found if isinstance(found, SettingError) else None


def _reason(error: Exception) -> str:
    """The line that says it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return str(first.get("ctx", {}).get("error", first["msg"]))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# ---------------------------------------------------------------- language models
def unaskable_models(experiment: Experiment) -> list[Diagnostic]:
    """A language model that can be trained and could not be asked. It is run without values, as `kv_cache.extend_cache` runs it, on what an
    evaluation may give it: demonstrations of several lengths, others after them, questions after a prefix that they share, a token after
    that. Models that are read with the cache of transformers are left to it."""
    settings = experiment.model.language_model
    try:
        facts_about(settings)
    except (Unavailable, SettingError):  # reported by `model.preflight.wrong_parts`
        return []
    key = fingerprint({"read on": language_model_key(settings)})
    if known(key) is not None:
        return []
    if why := _why_unaskable(settings):
        field = "name" if settings.name is not None else "model_type"
        message = f"such a model could be trained but not evaluated: {why}; choose another kind of model"
        return [Diagnostic(("model", "language_model", field), message)]
    remember(key, {})
    return []


def _why_unaskable(settings: LanguageModel) -> str:
    try:
        language_model = without_values(settings)
    except OSError:  # deleted meanwhile
        return ""
    try:
        check_readable(shorter(language_model))
    except Exception as error:  # whatever a model does with what it never saw
        return "" if is_limit(error) else first_line(error)
    return ""


def shorter(language_model: Any) -> Any:
    """A model of the same layers with fewer of them, which is read sooner; the model itself where its layers may differ in more than their
    `layer_types`, or too few would show all kinds."""
    from transformers import AutoModelForCausalLM

    from mm1_ablate.model.meta_initialisation import meta_initialisation

    declared = language_model.config.to_dict()
    layers = declared.get("num_hidden_layers")
    if not isinstance(layers, int) or layers <= ENOUGH_LAYERS:
        return language_model
    by_layer = {name for name, value in declared.items() if isinstance(value, list) and len(value) == layers}
    numbers = {name for name, value in declared.items() if "layer" in name and isinstance(value, int) and value > 1}
    kinds = declared.get("layer_types") or []
    if by_layer - {"layer_types"} or numbers - {"num_hidden_layers"} or set(kinds) != set(kinds[:ENOUGH_LAYERS]):
        return language_model
    config = copy.deepcopy(language_model.config)
    config.num_hidden_layers = ENOUGH_LAYERS
    if kinds:
        config.layer_types = kinds[:ENOUGH_LAYERS]
    with meta_initialisation():
        plainly: dict[str, Any] = {"dtype": language_model.dtype, "attn_implementation": "sdpa"}
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False, **plainly).to("meta")


def check_readable(language_model: Any) -> None:
    """Read with a model without values as an evaluation does.

    Raises:
        Exception: whatever goes wrong.
    """
    import torch

    from mm1_ablate.evaluation.kv_cache import KVCache, extend_cache, last_positions
    from mm1_ablate.evaluation.shared_attention import can_share

    if not can_share(language_model):
        return
    model: Any = SimpleNamespace(language_model=language_model)
    width = language_model.config.hidden_size

    def read(context: KVCache, *lengths: int) -> KVCache:
        valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        embeddings = torch.empty(len(lengths), max(lengths), width, device="meta")
        context, logits = extend_cache(model, context, embeddings, valid, last_positions(valid))
        if logits.ndim != 2 or len(logits) != len(lengths):
            raise ValueError(f"of {len(lengths)} tokens it gives logits of shape {list(logits.shape)}")
        return context

    with torch.no_grad():
        demonstrations = read(KVCache.empty(2, torch.device("cpu")), 7, 5)
        further = read(demonstrations.branch(torch.tensor([1, 0])), 3, 6)
        shared = read(demonstrations.branch(torch.tensor([0, 1, 1])), 2, 9, 4)
        read(shared, 1, 1, 1)
        read(further, 1, 1)


# ---------------------------------------------------------------- prompts
def prompts_unlike_training(experiment: Experiment) -> list[Diagnostic]:
    """Warnings about prompts, at the record or the setting that says how a task is asked. Where data may not be looked at, or the tokenizer
    is unavailable, only templates are."""
    evaluation, tokenizer = experiment.evaluation, experiment.model.language_model.tokenizer
    facts = asked(evaluation, tokenizer).facts if look() != "nowhere" else {}
    trained = _leading_spaces_in_training(experiment) if facts else None
    found: dict[tuple[Place, str, Remark], tuple[Place, list[str]]] = {}
    for index, name in enumerate(evaluation.tasks):
        try:
            task = as_asked(task_settings(name), evaluation)
        except ValueError:
            continue  # reported by `unaskable_tasks`
        remarks = list(facts[task.task].remarks) if task.task in facts else chat_remarks(task)
        if trained and task.task in facts:
            remarks += _unlike(task, facts[task.task].leading_spaces, trained)
        for remark in remarks:
            place = _place(task, evaluation, index, remark.field)
            at = _line_of_record(name, remark.field) if place[1] == "tasks" else ""
            # Tasks that are asked alike are reported together, at the first.
            found.setdefault((place[:2], at, remark), (place, []))[1].append(task.task)
    diagnostics = []
    for (_, at, remark), (place, tasks) in found.items():
        message = f"{at}task{'s' if len(tasks) > 1 else ''} {listed(tasks, 4)}: {remark.field}: {remark.message}"
        diagnostics.append(Diagnostic(place, message, remark.hint, warning=True))
    return diagnostics


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
            f"after an image {task.prompt!r} continues with {_named(space)}, and texts after images in training begin with {_named(usual)}:"
            " their first tokens differ with this tokenizer, so prompts are unlike the training data"
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
            identity = ["after images", SAMPLED, identity_of(source), contents_of(source), _identity_of_tokenizer(tokenizer)]
            found: dict[str, int] | None = remembered(fingerprint(identity), lambda: leading_spaces(source, _tokenizer(tokenizer)))
        except Exception:  # of any type: a source may be the user's own, and that it cannot be read is reported by other checks
            return None
        return found

    return once(f"after images {identity_of(source)} {tokenizer}", find)


# ---------------------------------------------------------------- before a text
def unplaced_begin_tokens(experiment: Experiment) -> list[Diagnostic]:
    """A warning where a published model's tokenizer places a token before a text, which neither training nor evaluation does. Where
    the tokenizer is unavailable, nothing is reported."""
    settings = experiment.model.language_model
    if settings.name is None or look() == "nowhere":
        return []

    name = settings.name

    def find() -> str:
        try:
            # The model's own tokenizer says what it was trained with, whichever is used here.
            return str(remembered(fingerprint(["begins", _identity_of_tokenizer(name)]), lambda: _tokenizer(name).begin))
        except Unavailable:
            return ""

    begin = once(f"begins {name}", find)
    if not begin:
        return []
    called = Path(name).name if local(name) else name
    message = (
        f"the tokenizer of {called} adds '{begin}' before a text, and the published model was trained with it; here documents and"
        f" prompts begin without it, in training and in evaluation"
    )
    hint = "scores without training, of a frozen model above all, may be lower than published ones"
    return [Diagnostic(("model", "language_model", "name"), message, hint, warning=True)]
