"""What an experiment's data holds. In: a sweep or experiment file. Out: a table, JSON, and a page with documents to look at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mm1_ablate.commands.common import FILE_IS_WRONG, read_study, stop
from mm1_ablate.commands.plan import count
from mm1_ablate.commands.prepare_data import bar, ready
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import DataSnapshot, identity_of
from mm1_ablate.config.study import Arm, Study
from mm1_ablate.data.accounting import describe_bad
from mm1_ablate.data.inspection import Inspection, SourceContent, Spread, inspect
from mm1_ablate.data.lost_documents import losses_to_json
from mm1_ablate.report.pages import data_page, percent, spread
from mm1_ablate.report.terminal import fit, print_sentence


def arm_of(study: Study, name: str | None) -> Arm:
    """The arm of a name, or the baseline; ends the command with 2 where there is none."""
    if name is None:
        return study.arms[0]
    try:
        return study.arm(name)
    except KeyError:
        stop(FILE_IS_WRONG, f"{study.path}: there is no arm '{name}'; the arms are {', '.join(arm.name for arm in study.arms)}")


@dataclass(frozen=True)
class Stage:
    """What is looked at: an experiment, or one of several that form a chain."""

    name: str
    """Of the arm, and of the stage where there are several."""
    experiment: Experiment
    number: int
    """From 1."""
    stages: int
    snapshot: DataSnapshot
    """Of the study's data."""


def stage_of(arm: Arm, asked: str | None, snapshot: DataSnapshot) -> Stage:
    """The stage of a name or a number, or the last one; ends the command with 2 where there is none."""
    stages = dict(enumerate([*arm.experiment.earlier, arm.experiment], 1))
    numbers = [number for number in stages if str(number) == (asked or str(len(stages)))]
    numbers = numbers or [number for number, stage in stages.items() if stage.experiment == asked]
    if len(numbers) != 1:
        there = ", ".join(f"{number}: {stage.experiment}" for number, stage in stages.items())
        problem = f"there is no stage '{asked}'"
        if numbers:
            problem = f"stages {' and '.join(map(str, numbers))} are all called '{asked}', give a number"
        stop(FILE_IS_WRONG, f"--stage: {problem}; the stages of {arm.name} are {there}")
    (number,) = numbers
    stage = stages[number]
    name = f"{arm.name}, stage {number}: {stage.experiment}" if len(stages) > 1 else arm.name
    return Stage(name, stage, number, len(stages), snapshot)


def look_at_data(
    path: Path, arm_name: str | None, stage_name: str | None, sample: int, shown: int, seed: int, console: Console
) -> tuple[Stage, Inspection]:
    """Look at the data of a stage of an arm, with a bar; ends the command with 2 where it cannot be read."""
    study = read_study(path)
    stage = stage_of(arm_of(study, arm_name), stage_name, study.snapshot)
    data = stage.experiment.data
    place = ("starts_from",) * (stage.stages - stage.number)
    ready({identity_of(data.sources[name]): ((*place, "data", "sources", name), data.sources[name]) for name in data.shares()}, console)
    with bar(console, bytes_are_counted=False) as report:
        try:
            inspection = inspect(stage.experiment, sample, shown, seed=seed, threads=(os.cpu_count() or 2) - 1, report=report)
        except (OSError, ValueError) as error:
            stop(FILE_IS_WRONG, f"{path}: the data cannot be looked at: {error}")
    return stage, inspection


def joined(stage: Stage, inspection: Inspection) -> dict[str, str]:
    """A document of each source, and a demonstration and question of each task that is here, as tokens."""
    asked = {f"task {task}": shown for task, shown in asked_by(stage).items()}
    return {**{source.name: source.joined for source in inspection.sources if source.joined}, **asked}


def asked_by(stage: Stage) -> dict[str, str]:
    """By task, a demonstration and a question as tokens; of tasks whose files are here."""
    from mm1_ablate.evaluation.preflight import asked

    experiment = stage.experiment
    with stage.snapshot.active():
        tasks = asked(experiment.evaluation, experiment.model.language_model.tokenizer).facts
    return {task: facts.asked for task, facts in tasks.items()}


def facts(stage: Stage, inspection: Inspection) -> list[str]:
    """Sentences on the whole."""
    experiment = stage.experiment
    training, packing = experiment.training, experiment.data.packing
    sentences = [f"Stage {stage.number} of {stage.stages}, {experiment.experiment}; --stage shows another one."] if stage.stages > 1 else []
    sentences += [
        f"{training.steps:,} steps x {training.batch_rows:,} rows x {packing.row_tokens:,} nominal tokens;"
        f" the model reads {count(inspection.tokens)} tokens."
        f" Packing efficiency {percent(inspection.fill)} ({inspection.rows_packed} rows sampled)."
    ]
    repeated = [f"{source.name} ({source.epochs:.2f} times)" for source in inspection.sources if source.epochs > 1]
    if repeated:
        sentences.append(f"Read more than once in this training: {', '.join(repeated)}.")
    used_up = [
        source.name for source in inspection.sources if (most := experiment.data.sources[source.name].max_epochs) and source.epochs >= most
    ]
    if len(used_up) == len(inspection.sources):
        rows = inspection.rows_that_the_data_makes
        when = "before the training's last step" if rows is None else f"at step {rows // training.batch_rows + 1:,} of {training.steps:,}"
        sentences.append(f"A run would stop: the data is used up {when}. Raise max_epochs of data.sources, or train for fewer steps.")
    elif used_up:
        sentences.append(f"Exhausted before training ends (max_epochs): {', '.join(used_up)}; the other sources take over their share.")
    if inspection.never_read:
        named = ", ".join(f"{name} ({data_type})" for name, data_type in inspection.never_read.items())
        sentences.append(f"Never read, because the data type has no share in the mixture: {named}.")
    if inspection.split:
        sentences.append(f"Documents too long for a row, cut into pieces: {_listed(inspection.split)}, of the rows packed.")
    for name, reasons in inspection.dropped.items():
        sentences.append(f"Left out of {name}, because no row can hold them: {_listed(reasons)}, of the rows packed.")
    for source in inspection.sources:
        sentences += [f"{source.name}: {one.in_words()}" for one in source.lost]
        if source.unmatched:
            sentences.append(f"{source.name} was joined without {_listed(source.unmatched)}.")
    limits = {name: source.max_bad_share for name, source in experiment.data.sources.items()}
    for source in inspection.sources:
        own = limits[source.name]
        limit = experiment.data.max_bad_share if own is None else own
        if source.bad_share > limit:
            would = "would" if source.bad.is_too_bad(limit, source.documents, source.lost_share) else "may"
            reasons_of_documents = [describe_bad(source.bad)] if source.bad.bad else []
            why = "; ".join((["files that cannot be read"] if source.lost else []) + reasons_of_documents)
            sentences.append(
                f"A run {would} stop: {percent(source.bad_share)} of {source.name} cannot be read, {percent(limit)} is allowed"
                f" ({why}). Repair the files, or raise data.sources.{source.name}.max_bad_share."
            )
    return sentences


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())


def show_data(stage: Stage, inspection: Inspection, console: Console) -> None:
    """The table and the sentences."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title, justify in (
        ("source", "left"), ("type", "left"), ("share", "right"), ("documents", "right"), ("epochs", "right"), ("text tokens", "right"),
        ("images", "right"), ("shorter side", "right"), ("unreadable", "right"), ("not kept", "right"),
    ):  # fmt: skip
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for source in inspection.sources:
        table.add_row(
            source.name,
            source.data_type,
            percent(source.share),
            count(source.documents),
            f"{source.epochs:.3g}" if source.epochs < 100 else f"{source.epochs:,.0f}",
            spread(source.text_tokens),
            spread(source.images_per_document),
            spread(source.shorter_side),
            percent(source.bad_share),
            percent(sum(source.left_out.values()) / source.sampled if source.sampled else 0.0),
        )
    fit(table, console)
    console.print(table)
    console.print()
    about = "text tokens and images of a document, and pixels of an image's shorter side: median (5th to 95th percentile)"
    print_sentence(console, about, style="dim")
    for source in inspection.sources:
        if source.bad.bad:
            print_sentence(console, f"unreadable in {source.name}, of {source.sampled:,} sampled: {describe_bad(source.bad)}")
        for reason, number in source.left_out.items():
            print_sentence(console, f"not kept of {source.name}: {number:,} of {source.sampled:,} sampled: {reason}")
    for fact in facts(stage, inspection):
        print_sentence(console, fact)
    console.print()
    print_sentence(console, "how texts and images are joined, in training and in prompts (each token in brackets, a space as ␣):")
    for name, tokens in joined(stage, inspection).items():
        console.print(f"{name}: {tokens}", markup=False, soft_wrap=True)


def page_of(stage: Stage, inspection: Inspection, name: str) -> str:
    """The page."""
    return data_page(inspection, name, facts(stage, inspection), joined(stage, inspection))


def to_json(stage: Stage, inspection: Inspection) -> dict[str, Any]:
    """All numbers, without the documents."""
    return {
        "experiment": stage.experiment.experiment,
        "stage": stage.number,
        "stages": stage.stages,
        "rows": inspection.rows,
        "rows_packed": inspection.rows_packed,
        "rows_that_the_data_makes": inspection.rows_that_the_data_makes,
        "fill": inspection.fill,
        "tokens": inspection.tokens,
        "split": inspection.split,
        "dropped": inspection.dropped,
        "never_read": inspection.never_read,
        "asked": asked_by(stage),
        "sources": {source.name: _source_json(source) for source in inspection.sources},
    }


def _source_json(source: SourceContent) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in vars(source).items():
        if name not in ("name", "bad", "lost"):
            values[name] = vars(value) if isinstance(value, Spread) else value
    reasons = {
        "lost": losses_to_json(source.lost),
        "bad": dict(source.bad.bad),
        "examples": source.bad.examples,
        "bad_share": source.bad_share,
    }
    return {**values, "text_tokens_in_all": source.text_tokens_in_all, "images_in_all": source.images_in_all, **reasons}
