"""Whether what a sweep compares and expects can be seen at all: metrics that are evaluated, tasks and arms that exist.

In: names of metrics, tasks and arms. Out: what is wrong, by place in the sweep or experiment file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mm1_ablate.config.errors import Diagnostic, did_you_mean, listed
from mm1_ablate.config.evaluation import Evaluation, tasks_of
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.metric_name import AVERAGE, LOSSES, PROBABILITY, TEXT_CORE, MetricName
from mm1_ablate.config.sweep.declaration import Compare, Sweep
from mm1_ablate.config.tasks import task_names, task_settings
from mm1_ablate.config.yaml_file import FileErrors

NAMED = 12
"""Arms that a message lists."""


def metric_problem(metric: str, evaluation: Evaluation) -> tuple[str, str] | None:
    """What is wrong with the name of a metric, and a suggestion; None if the metric will be evaluated."""
    names = list(dict.fromkeys([AVERAGE, *task_names(evaluation), *evaluation.groups]))
    try:
        parsed = MetricName.parse(metric)
    except ValueError:
        known = [MetricName(suite, name) for suite in (*(f"shot_{shots}" for shots in evaluation.shots), TEXT_CORE) for name in names]
        known += [MetricName(suite, name) for suite in LOSSES for name in evaluation.losses]
        message = f"'{metric}' is not a metric; expected shot_<k>/<name> or text_core/<name>, where the name is a task, a group or average"
        message += ", or loss/<name> or bits_per_byte/<name> of evaluation.losses; <k>-shot and TextCore are the averages"
        return message, did_you_mean(metric, [str(one) for one in known] + [one.title for one in known])
    if parsed.is_loss:
        if parsed.name in evaluation.losses:
            return None
        there = f"evaluation.losses has {', '.join(evaluation.losses)}" if evaluation.losses else "evaluation.losses is empty"
        return f"'{metric}' is not measured: {there}", did_you_mean(parsed.name, evaluation.losses)
    if parsed.shots is not None and parsed.shots not in evaluation.shots:
        shots = ", ".join(map(str, evaluation.shots))
        return f"'{metric}' is not evaluated: evaluation.shots has {shots}", f"add {parsed.shots} to evaluation.shots"
    if parsed.task not in names:
        return f"'{metric}' is not evaluated: '{parsed.task}' is not one of {', '.join(names)}", did_you_mean(parsed.task, names)
    if parsed.rule == PROBABILITY and not evaluation.probability:
        return f"'{metric}' is not evaluated: probabilities are measured where that is asked", "set `evaluation.probability: true`"
    if parsed.shots is not None and parsed.shots < (fewest := _fewest_shots(parsed.task, evaluation)):
        return f"'{metric}' is not evaluated: '{parsed.task}' is asked from {fewest} shots on", f"name the score at {fewest} shots or more"
    return None


def _fewest_shots(name: str, evaluation: Evaluation) -> int:
    """From how many shots on a task is asked, or any task of a group or average; 0 where that is unknown."""
    records = {}
    for task, entry in zip(task_names(evaluation), evaluation.tasks, strict=True):
        try:
            records[task] = task_settings(entry)
        except FileErrors:
            return 0
    members = tasks_of(name, evaluation.groups) if name in evaluation.groups else {name} if name in records else records
    return min((records[task].fewest_shots for task in members if task in records and records[task].family == "image"), default=0)


def comparison(compare: Compare, written: bool, baselines: Sequence[Experiment]) -> tuple[Compare, list[Diagnostic]]:
    """The metrics of the comparison, those of the defaults that no baseline evaluates left out, and what is wrong with them.

    Args:
        written: whether the file is a sweep, whose primary metric must be evaluated; an experiment run alone declares none.
    """
    if not baselines:
        return compare, []

    def problem(metric: str) -> tuple[str, str] | None:
        problems = [metric_problem(metric, experiment.evaluation) for experiment in baselines]
        return None if None in problems else problems[0]

    found = []
    if "metrics" in compare.model_fields_set:
        for index, metric in enumerate(compare.metrics):
            wrong = problem(metric)
            if wrong:
                found.append(Diagnostic(("compare", "metrics", index), *wrong))
    else:
        compare = compare.model_copy(update={"metrics": [metric for metric in compare.metrics if problem(metric) is None]})
    # Every arm needs the primary metric, so every baseline must evaluate it.
    wrong = next((wrong for experiment in baselines if (wrong := metric_problem(compare.primary, experiment.evaluation))), None)
    if wrong and written:
        message, hint = wrong
        default = "" if "primary" in compare.model_fields_set else " (the default; declare another)"
        found.append(Diagnostic(("compare", "primary"), message + default, hint))
    elif wrong:
        most = max(baselines[0].evaluation.shots)
        compare = compare.model_copy(update={"primary": str(MetricName(f"shot_{most}", AVERAGE))})
    return compare, found


def expectations(
    sweep: Sweep, places: Sequence[int], arms: dict[str, Experiment], baselines: Collection[str], complete: bool
) -> list[Diagnostic]:
    """What is wrong with the expectations.

    Args:
        places: of each expectation in the file's list.
        arms: every arm by name, the sweep's baseline first.
        complete: whether all arms are known; if some could not be made, an unknown name says nothing.
    """
    found = []
    for index, expectation in zip(places, sweep.expect, strict=True):
        place = ("expect", index)
        if expectation.arm in baselines and expectation.than is None:
            message = f"'{expectation.arm}' is a baseline; expectations compare other arms with it"
            found.append(Diagnostic((*place, "arm"), message, "or name another arm with 'than'"))
        for key, name in (("arm", expectation.arm), ("than", expectation.than)):
            if name is not None and name not in arms and complete:
                message = f"there is no arm '{name}'; the arms are {listed(sorted(set(arms) - set(baselines)), NAMED) or 'none'}"
                found.append(Diagnostic((*place, key), message, did_you_mean(name, arms)))
        both = [arms[name] for name in (expectation.arm, expectation.than) if name in arms] or list(arms.values())[:1]
        wrong = next((wrong for experiment in both if (wrong := metric_problem(expectation.metric, experiment.evaluation))), None)
        if wrong:
            found.append(Diagnostic((*place, "metric"), *wrong))
    return found
