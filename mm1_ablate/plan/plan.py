"""A sweep compared with its store: what will run, why, what it costs, what it can show.

In: one or several expanded studies and a store. Out: a `Plan`; nothing is started or written but the cache of model statistics. Studies
that are planned together share their trials: one that feeds arms of several is counted once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.preparation import Preparation
from mm1_ablate.config.settings import own_classes
from mm1_ablate.config.study import Study
from mm1_ablate.config.tasks import task_settings
from mm1_ablate.config.yaml_file import FileProblem, in_order
from mm1_ablate.plan.cost import GpuAssumptions
from mm1_ablate.plan.estimate import CostEstimate, MeasuredCost, Measurements, Workload, not_estimated, over_budget
from mm1_ablate.plan.flops import preparation_flops
from mm1_ablate.plan.model_statistics import ModelStatistics
from mm1_ablate.plan.power import Detectable, detectable
from mm1_ablate.plan.trials import PlanRow, Pricing, collect, labelled
from mm1_ablate.plan.until_decided import as_needed, expected_trials, may_need
from mm1_ablate.store.store import Store


@dataclass(frozen=True)
class PreparationRow:
    """An encoder or language model that trials start from."""

    name: str
    fingerprint: str
    status: str
    """done, run, or not needed: its trials have no more to do."""
    trials: int
    flops: float


@dataclass(frozen=True)
class Plan:
    studies: tuple[Study, ...]
    rows: tuple[PlanRow, ...]
    """Distinct trials, baseline first."""
    row_count: int
    """Arms times seeds, before trials that are the same are joined."""
    preparations: tuple[PreparationRow, ...]
    cost: CostEstimate
    """Of what remains to be done."""
    detectable: dict[str, Detectable]
    """By study."""
    over_budget: tuple[str, ...]
    """Sentences on budgets that what remains exceeds."""
    not_estimated: tuple[str, ...] = ()
    """Sentences on what the verdict about budgets leaves out."""
    repeats: tuple[str, ...] = ()
    """Sentences on arms that read data again which their baselines read once at most."""
    problems: tuple[str, ...] = ()
    """What was wrong with the data when its first rows were packed: trials will fail because of it."""
    stages: tuple[PlanRow, ...] = ()
    """Earlier stages that trials start from and that are not arms of their own, each once; their arms are those of the trials that start
    from them."""
    unlisted: tuple[tuple[str, str], ...] = ()
    """Trials that a study once had and its file no longer lists: name, and where they lie. They are not touched."""
    measured: tuple[MeasuredCost, ...] = ()
    """The cost by timed steps, a record for each device."""
    most: Plan | None = None
    """Where seeds are added until all is decided: the plan of all trials that it may still come to. Budgets are held against it."""
    expected_trials: float | None = None
    """How many of these trials are expected; None where no look has been taken."""

    @property
    def warnings(self) -> tuple[FileProblem, ...]:
        """Warnings about the files of the studies, each once."""
        return tuple(in_order(warning for study in self.studies for warning in study.warnings))

    @property
    def imported(self) -> dict[str, str]:
        """Classes of the user's own that the studies name, and the files that were imported, and run, to read them."""
        found: dict[str, str] = {}
        for study in self.studies:
            with study.snapshot.active():
                for arm in study.arms:
                    found |= own_classes(arm.experiment)
                    for task in arm.experiment.evaluation.tasks:
                        found |= own_classes(task_settings(task))
        return dict(sorted(found.items()))

    @property
    def provisional(self) -> bool:
        """Whether fingerprints lack the contents of data that was not read: then what the store has of these trials is not known."""
        return any(study.provisional for study in self.studies)

    @property
    def to_do(self) -> tuple[PlanRow, ...]:
        return tuple(row for row in self.rows if row.to_do)

    @property
    def failed(self) -> tuple[PlanRow, ...]:
        return tuple(row for row in self.rows if row.status == "failed")

    def to_json(self) -> dict[str, Any]:
        return {
            "trials": [row.to_json() for row in self.rows],
            "rows": self.row_count,
            "distinct_trials": len(self.rows),
            "to_do": len(self.to_do),
            "at_most_to_do": len(self.most.to_do) if self.most else len(self.to_do),
            "expected_to_do": self.expected_trials,
            "at_most_cost": vars(self.most.cost) if self.most else vars(self.cost),
            "not_run": [{"name": one.trial.name, "reason": one.reason} for study in self.studies for one in study.not_run],
            "stages": [row.to_json() for row in self.stages],
            "preparations": [vars(row) for row in self.preparations],
            "cost": vars(self.cost),
            "measured": [cost.to_json() for cost in self.measured],
            "detectable": {name: entry.to_json() for name, entry in self.detectable.items()},
            "over_budget": list(self.over_budget),
            "not_reckoned": list(self.not_estimated),
            "arms": {study.name: study.differences_json() for study in self.studies},
            "provisional": self.provisional,
            "repeats": list(self.repeats),
            "imported": self.imported,
            "warnings": [warning.to_json() for warning in self.warnings],
            "problems": list(self.problems),
            "no_longer_named": [{"name": name, "folder": folder} for name, folder in self.unlisted],
        }


def plan(study: Study, store: Store, retry: bool = False) -> Plan:
    """The plan of one study."""
    return plan_together([study], store, retry)


def plan_together(studies: Sequence[Study], store: Store, retry: bool = False, gpus: GpuAssumptions | None = None) -> Plan:
    """The plan of several studies that share a store, and with it their trials: collected, priced, summed up.

    Args:
        retry: whether failed trials are tried again.
        gpus: GPUs and utilisation to estimate for; None: what the sweeps say.
    """
    narrowed = [as_needed(study, store) for study in studies]
    planned = _planned(narrowed, store, retry, gpus or GpuAssumptions())
    if not any(one.possible for study in narrowed for one in study.not_run):
        return planned
    most = _planned([may_need(study) for study in narrowed], store, retry, gpus or GpuAssumptions())
    later = [more for study in narrowed if study.not_run and (more := expected_trials(study, store)) is not None]
    expected = len(planned.to_do) + sum(later) if later else None
    return replace(planned, most=most, over_budget=most.over_budget, expected_trials=expected)


def _planned(studies: Sequence[Study], store: Store, retry: bool, gpus: GpuAssumptions) -> Plan:
    """The plan of the trials that studies have."""
    sizes = ModelStatistics(look=not any(study.provisional or study.from_record for study in studies))
    trials, earlier = collect(studies)

    pricing = Pricing(store, sizes, gpus, some_on_gpus=any(trial.resources.gpus for trial in trials), retry=retry)
    by_key = {trial.trial.evaluation_fingerprint: pricing.row(trial) for trial in trials}
    rows, stages = tuple(by_key.values()), tuple(pricing.stage_row(stage, by_key) for stage in earlier)
    preparations = _preparations((*rows, *stages), store)

    # By training fingerprint: a model that is evaluated in two ways is trained once. In one order always, so that sums are the same.
    to_train = {row.fingerprint: row for row in (*rows, *stages) if row.to_train}
    resources = max((row.resources for row in rows if row.to_do), key=lambda each: each.gpus, default=studies[0].sweep.resources)
    workload = Workload(
        rows=(*rows, *stages),
        to_train=tuple(to_train.values()),
        preparation_flops=sum(row.flops for row in preparations if row.status == "run"),
        resources=resources,
        gpus=gpus.of(resources),
    )
    measurements = Measurements(store.root, damaged=store.files.note_damage)
    cost, measured = workload.estimate(store), workload.measured(measurements)
    return Plan(
        studies=tuple(studies),
        rows=rows,
        row_count=sum(study.row_count for study in studies),
        preparations=preparations,
        cost=cost,
        over_budget=over_budget(studies, cost, measured),
        not_estimated=not_estimated(studies, cost),
        detectable={study.name: detectable(study, store) for study in studies},
        repeats=tuple(line for study in studies for line in _repeats(study, studies, by_key)),
        problems=tuple(sizes.problems),
        measured=measured,
        stages=stages,
        unlisted=tuple(
            (labelled(studies, study, name), store.where(folder))
            for study in studies
            if not study.provisional
            for folder, name in store.unlisted_trials(study).items()
        ),
    )


def _preparations(rows: Sequence[PlanRow], store: Store) -> tuple[PreparationRow, ...]:
    """Distinct preparations that trials and earlier stages start from."""
    needed: dict[str, tuple[Preparation, list[PlanRow]]] = {}
    for row in rows:
        for preparation in row.trial.preparations:
            needed.setdefault(preparation.fingerprint, (preparation, []))[1].append(row)
    found = []
    for fingerprint, (preparation, users) in needed.items():
        if store.preparation_status(preparation).status == "done":
            status = "done"
        else:
            status = "run" if any(row.to_do for row in users) else "not needed"
        flops = preparation_flops(preparation, users[0].parameters)
        found.append(PreparationRow(preparation.name, short(fingerprint), status, len(users), flops))
    return tuple(found)


def _repeats(study: Study, studies: Sequence[Study], rows: Mapping[str, PlanRow]) -> list[str]:
    """Arms that repeat a source (1.05 epochs or more, as counts are estimates) that their baseline reads once at most; alike for all seeds.

    Args:
        rows: by evaluation fingerprint.
    """
    epochs = {arm.name: rows[study.trials_of(arm.name)[0].evaluation_fingerprint].epochs for arm in study.arms}
    lines = []
    for arm in study.arms:
        for name, read in epochs[arm.name].items() if arm.name != arm.baseline else ():
            once = epochs[arm.baseline].get(name, 0.0)
            if read >= 1.05 and once <= 1 and epochs[arm.baseline]:
                arm_name = labelled(studies, study, arm.name)
                lines.append(f"{arm_name} reads source '{name}' about {read:.1f} times (baseline {once:.1f})")
    return lines
