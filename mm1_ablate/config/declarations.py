"""What a study declares before its scores are there: expectations, what verdicts are about, which arms are compared, with which seeds.

In: a study. Out: plain JSON values that are equal where two files declare the same, whatever their comments, prose and order; and the
record of what was declared when, which `store/declarations.py` keeps and `report/said_before.py` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import canonical, digest, evaluation_identity, short
from mm1_ablate.config.metric_name import AVERAGE, TEXT_CORE, MetricName
from mm1_ablate.config.passwords import hidden
from mm1_ablate.config.study import Study, Trial
from mm1_ablate.config.sweep.declaration import Expectation
from mm1_ablate.config.tasks import task_identities, task_names, task_settings

PROSE = ("because", "paper")
"""Fields of an expectation that claim nothing."""


@dataclass(frozen=True)
class Declaration:
    """What a study declared at a time."""

    time: float
    """When it was first seen, in seconds since the epoch."""
    declared: Mapping[str, Any]
    """See `declared`."""
    scored: frozenset[str]
    """The trials that had scores then, of those that the study ever had: 12 digits of their training fingerprints."""
    known_before: bool = False
    """Whether the study had been run before anything was recorded of it: what it declared then is not known."""

    @property
    def trials(self) -> frozenset[str]:
        """The trials that the study had then."""
        return frozenset(trial for arm in self.declared["arms"].values() for trial in arm["trials"])


@dataclass(frozen=True)
class History:
    """What a study declared, in the order in which it was seen; what it declares now is the last."""

    declarations: tuple[Declaration, ...]
    problems: tuple[str, ...] = ()
    """Entries of the record that are damaged or missing, a sentence each."""
    recorded: bool = True
    """Whether the last declaration is in the record too."""

    @property
    def now(self) -> Declaration:
        """What the study declares now."""
        return self.declarations[-1]


class Design(NamedTuple):
    """The seeds of a study, from a time on."""

    time: float
    seeds: Any
    """As the sweep declares them: a list, or the settings of a rule."""
    arms: Mapping[str, tuple[int, ...]]
    """The seeds that each arm had then."""
    scored: int
    """How many trials had scores when it was first seen."""
    trials: int
    """Of how many."""


def designs(history: History) -> list[Design]:
    """The designs that a study had, the first one first: another one where its declared seeds, or those of an arm that it still has,
    were changed. More arms with the same seeds are the same design."""
    found: list[Design] = []
    for one in history.declarations:
        arms = {name: tuple(arm["seeds"]) for name, arm in one.declared["arms"].items()}
        same = (
            found and found[-1].seeds == one.declared["seeds"] and all(found[-1].arms.get(name, own) == own for name, own in arms.items())
        )
        if not same:
            found.append(Design(one.time, one.declared["seeds"], arms, len(one.scored & one.trials), len(one.trials)))
    return found


def recorded_fingerprint(trial: Trial) -> str:
    """By which a trial goes in a record: that of its training, so that it counts as scored by whatever evaluation."""
    return short(trial.fingerprint)


def declared(study: Study) -> dict[str, Any]:
    """What a study declares, as plain JSON values without what makes no difference."""
    compare, arms = study.sweep.compare, {arm.name: arm for arm in study.arms}
    with study.snapshot.active():
        evaluated = {
            (metric, name): _measured(metric, arms[name].experiment)
            for metric, names in _metrics(study).items()
            for name in names
            if name in arms
        }
    families = study.families or [""] * len(study.sweep.expect)
    claims = []
    for expected, family in zip(study.sweep.expect, families, strict=True):
        reference = _reference(study, expected)
        measured = [evaluated.get((expected.metric, name), "") for name in (expected.arm, reference)]
        claims.append({**claim(expected), "family": family, "measured": short(digest(measured))})
    seeds = canonical(study.sweep.seeds)
    content = {
        "expectations": sorted(claims, key=lambda one: json.dumps(one, sort_keys=True)),
        "primary": compare.primary,
        "measured": evaluated[compare.primary, study.arms[0].name],
        "metrics": sorted(compare.metrics),
        "smallest_difference_of_interest": canonical(compare.smallest_difference_of_interest),
        "confidence": canonical(compare.confidence),
        "seeds": sorted(seeds) if isinstance(seeds, list) else seeds,
        "arms": {
            name: {
                "baseline": arm.baseline,
                "family": study.sweep_of_group.get(arm.group, ""),
                "seeds": sorted(study.possible_seeds_of(name)),
                "trials": sorted(recorded_fingerprint(trial) for trial in study.possible_trials_of(name)),
            }
            for name, arm in arms.items()
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(hidden(content)))
    return plain


def claim(expected: Expectation) -> dict[str, Any]:
    """What an expectation claims, without its reason and the paper's numbers; a field at its default is left out."""
    found: dict[str, Any] = canonical(expected)
    return {key.rstrip("_"): value for key, value in found.items() if key not in PROSE}


def expectation_of(recorded: Mapping[str, Any]) -> Expectation:
    """The expectation of a recorded claim; its reason was not recorded.

    Raises:
        ValueError: another version of the package wrote it, with fields that this one does not know.
    """
    return Expectation.model_validate(
        {key: value for key, value in recorded.items() if key not in ("family", "measured")} | {"because": "(not recorded)"}
    )


def _reference(study: Study, expected: Expectation) -> str:
    """The arm that an expectation compares with; empty where its arm is not there."""
    return expected.than or next((arm.baseline for arm in study.arms if arm.name == expected.arm), "")


def _metrics(study: Study) -> dict[str, set[str]]:
    """The metrics whose making is declared, each with arms that are measured by it."""
    found = {study.sweep.compare.primary: {study.arms[0].name}}
    for expected in study.sweep.expect:
        found.setdefault(expected.metric, set()).update((expected.arm, _reference(study, expected)))
    return found


# ---------------------------------------------------------------- what a metric is made of
def _measured(metric: str, experiment: Experiment) -> str:
    """The same where a metric is made of the same tasks, items and demonstrations, whatever else is evaluated: 12 hex digits."""
    evaluation, name = experiment.evaluation, MetricName.parse(metric)
    identities = task_identities(evaluation)
    section = evaluation_identity(experiment, "", identities)["evaluation"]
    if name.is_loss:
        return short(digest({"losses": section.get("losses", {}).get(name.name), "precision": section.get("precision")}))
    members, groups = _members(name, evaluation)
    kept = {key: value for key, value in section.items() if key not in ("tasks", "shots", "losses", "groups", "overrides")}
    kept["groups"] = {group: section["groups"][group] for group in sorted(groups)}
    kept["overrides"] = {task: own for task, own in section.get("overrides", {}).items() if task in members}
    kept["tasks"] = {task: canonical(identities[task]) for task in sorted(members & identities.keys())}
    return short(digest(kept))


def _members(name: MetricName, evaluation: Evaluation) -> tuple[set[str], set[str]]:
    """The tasks that a metric is made of, and the groups that make it."""
    family = "text" if name.suite == TEXT_CORE else "image"
    tasks = dict(zip(task_names(evaluation), evaluation.tasks, strict=True))
    if name.task not in evaluation.groups:
        named = set(tasks) if name.task == AVERAGE else {name.task} & tasks.keys()
        return {one for one in named if task_settings(tasks[one]).family == family}, set()
    waiting, groups, members = [name.task], set[str](), set[str]()
    while waiting:
        if (one := waiting.pop()) not in evaluation.groups:
            members.add(one)
        elif one not in groups:
            groups.add(one)
            waiting += evaluation.groups[one].tasks
    return {one for one in members if task_settings(tasks[one]).family == family}, groups
