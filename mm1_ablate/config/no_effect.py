"""Settings that have no effect because of others, such as the learning rate of a frozen part. Warnings, as an arm may change that.

In: an experiment. Out: a diagnostic for each such setting that is written, by place in the experiment. What no arm can give an effect is
refused: here, where it takes a task's record to tell, else by the settings themselves or, where it takes the parts of a model, by
`model.preflight`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mm1_ablate.config.data import Source
from mm1_ablate.config.errors import Diagnostic
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.settings import Settings
from mm1_ablate.config.sweep.declaration import Sweep
from mm1_ablate.config.tasks import task_settings
from mm1_ablate.config.training import Muon


def without_effect(experiment: Experiment) -> list[Diagnostic]:
    """What is written and does nothing, in an experiment and its earlier stages. Their own evaluations are not run, as is documented."""
    found = [*_in_model(experiment), *_in_training(experiment), *_in_sources(experiment), *_in_evaluation(experiment)]
    for number, stage in enumerate(reversed(experiment.earlier), start=1):
        own = [*_in_model(stage), *_in_training(stage)]
        found += [replace(diagnostic, path=("starts_from",) * number + diagnostic.path) for diagnostic in own]
    return found


def _warning(place: str, message: str) -> Diagnostic:
    return Diagnostic(tuple(place.split(".")), f"has no effect: {message}", at_key=True, warning=True)


def _says(settings: Settings, name: str) -> bool:
    """Whether a field is written, and is not what it is by default."""
    return name in settings.model_fields_set and getattr(settings, name) != type(settings).model_fields[name].default


def _in_model(experiment: Experiment) -> Iterator[Diagnostic]:
    model = experiment.model
    encoder, language_model = model.image_encoder, model.language_model
    if encoder.frozen and _says(encoder, "learning_rate_scale"):
        yield _warning("model.image_encoder.learning_rate_scale", "the image encoder is frozen; leave it out")
    preparation = encoder.preparation
    if preparation is not None and preparation.objective != "contrastive" and _says(preparation, "tokenizer"):
        yield _warning("model.image_encoder.preparation.tokenizer", f"a {preparation.objective} objective reads no captions; leave it out")
    if language_model.initialisation == "fan_in" and "initializer_range" in language_model.configuration:
        place = "model.language_model.configuration.initializer_range"
        yield _warning(place, "initialisation: fan_in draws matrices and token embeddings; leave one of the two out")
    if model.preparation_seed is not None and preparation is None and language_model.preparation is None:
        yield _warning("model.preparation_seed", "neither the image encoder nor the language model is prepared; leave it out")


def _in_training(experiment: Experiment) -> Iterator[Diagnostic]:
    training = experiment.training
    if isinstance(training.optimizer, Muon) and experiment.model.language_model.frozen:
        message = "muon trains only matrices of the language model, which is frozen; its `rest` trains everything else. Declare type: adamw"
        yield _warning("training.optimizer.type", message)
    rows = training.micro_batch_rows
    if rows is not None and rows > training.batch_rows:
        yield _warning("training.micro_batch_rows", f"a step has only {training.batch_rows} rows (batch_rows); leave it out")


def _in_sources(experiment: Experiment) -> Iterator[Diagnostic]:
    """Sources that stand alone, so that there is nothing to weigh them against."""
    model = experiment.model
    alone: dict[str, tuple[Source, tuple[str, ...]]] = {}
    if model.image_encoder.preparation is not None:
        alone["model.image_encoder.preparation.source"] = model.image_encoder.preparation.source, ("weight", "max_epochs")
    if model.language_model.preparation is not None:
        alone["model.language_model.preparation.source"] = model.language_model.preparation.source, ("weight",)
    for name, held_out in experiment.evaluation.losses.items():
        alone[f"evaluation.losses.{name}.source"] = held_out.source, ("weight", "max_epochs")
    for place, (source, names) in alone.items():
        for name in names:
            if _says(source, name):
                told = "this source is the only one here" if name == "weight" else "this source is repeated as often as needed"
                yield replace(_warning("", f"{told}; leave it out"), path=(*place.split("."), name))


def _in_evaluation(experiment: Experiment) -> Iterator[Diagnostic]:
    evaluation = experiment.evaluation
    records = [task_settings(task) for task in evaluation.tasks]
    shots, unseen = [shots for shots in evaluation.shots if shots], evaluation.zero_shot is None or 0 not in evaluation.shots
    only_text = all(record.family == "text" for record in records)
    if only_text and shots and "shots" in evaluation.model_fields_set:
        yield _warning("evaluation.shots", "text tasks have no demonstrations; leave it out")
    if _says(evaluation, "zero_shot") and (only_text or 0 not in evaluation.shots):
        yield _warning("evaluation.zero_shot", "no image task is evaluated at 0 shots; add 0 to shots, or leave it out")
    if only_text or (not shots and unseen):
        if evaluation.seeds is not None and len(evaluation.seeds) > 1:
            yield _warning("evaluation.seeds", "nothing is evaluated with demonstrations, so only the first seed is used; leave it out")
        if _says(evaluation, "demonstrations"):
            yield _warning("evaluation.demonstrations", "nothing is evaluated with demonstrations; leave it out")
    for record in records:
        wording = evaluation.overrides.get(record.task)
        if wording is None:
            continue
        nothing = {"separator": "a text task has no demonstrations"} if record.family == "text" else {}
        if record.kind != "generate":
            nothing |= dict.fromkeys(("stop", "max_new_tokens"), f"a task of kind {record.kind} generates no answers")
        for name, why in nothing.items():
            if getattr(wording, name) is not None:
                place = ("evaluation", "overrides", record.task, name)
                yield Diagnostic(place, f"has no effect: {why}; leave it out", at_key=True)


def without_effect_in_sweep(sweep: Sweep) -> list[Diagnostic]:
    """The same of a sweep's own settings."""
    found = []
    resources, budget = sweep.resources, sweep.budget
    if resources.strategy == "fsdp" and resources.workers == 1:
        found.append(_warning("resources.strategy", "one worker has the whole model; declare more workers, or leave it out"))
    if budget.gpu_hours is not None and not resources.gpus:
        found.append(_warning("budget.gpu_hours", "trials have no GPU (resources.gpus); declare cpu_hours, or GPUs"))
    return found
