"""What a sweep asks for, held against what the store has: what will run, why, what it costs, what it can show.

In: one or several expanded studies and a store. Out: a `Plan`; nothing is started or written but the cache of sizes. Studies
that are planned together share their trials: one that feeds arms of several is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from mm1_ablate.config.identity.fingerprint import short
from mm1_ablate.config.preparation import Preparation, preparations_of
from mm1_ablate.config.sweep.declaration import Resources
from mm1_ablate.config.sweep.expand import Study, Trial
from mm1_ablate.config.yaml_file import FileProblem, in_order
from mm1_ablate.plan.calibration import MeasuredCost, Measurements
from mm1_ablate.plan.cost import Estimate, Machines, TrialCost, does_not_fit, weights_on_host
from mm1_ablate.plan.estimate import estimate, measured_costs, not_reckoned, over_budget
from mm1_ablate.plan.evaluation_memory import evaluation_memory
from mm1_ablate.plan.flops import Flops, preparation_flops, training_flops
from mm1_ablate.plan.memory import training_memory
from mm1_ablate.plan.model_statistics import ModelStatistics
from mm1_ablate.plan.power import Detectable, detectable
from mm1_ablate.plan.row_statistics import RowContent, TrialTokens, trial_tokens
from mm1_ablate.store.predictions import evaluation_to_do
from mm1_ablate.store.store import Store

TO_BE_DONE = ("run", "resume", "evaluate", "rescore")
TRAINED = ("evaluate", "rescore")
"""Of what is to be done, what trains nothing."""


@dataclass(frozen=True)
class PlanRow:
    """One trial and what is to become of it."""

    name: str
    arms: tuple[str, ...]
    """Rows of the comparison that it feeds; with several studies `study: arm`."""
    seed: int
    fingerprint: str
    status: str
    """done, running, run, resume, evaluate (train nothing, ask the kept checkpoint what is new), rescore (ask nothing, score kept
    predictions) or failed (waits for --retry)."""
    reason: str
    parameters: dict[str, int]
    """By part: image_encoder, connector, language_model, total; trained, without_embeddings."""
    tokens: TrialTokens
    flops_by_part: Flops
    """Of training it from start to end."""
    cost: TrialCost
    rows_measured: bool
    """Whether tokens were counted on packed rows of the data itself, or taken as declared."""
    flops_counted: bool = True
    """Whether operations were counted one by one for every part of the model, or estimated from its parameters."""
    flops_not_counted: Mapping[str, str] = field(default_factory=dict)
    """The parts whose operations are estimated, and why."""
    epochs: Mapping[str, float] = field(default_factory=dict)
    """By source, how often it is read, about; empty where the data was not opened."""

    @property
    def flops(self) -> float:
        """Of training it from start to end."""
        return self.flops_by_part.total

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "arms": list(self.arms),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "status": self.status,
            "reason": self.reason,
            "parameters": self.parameters["total"],
            "parameters_by_part": self.parameters,
            "tokens": self.tokens.total,
            "text_tokens": self.tokens.text,
            "image_tokens": self.tokens.image_tokens,
            "images": self.tokens.images,
            "flops": self.flops,
            "flops_by_part": self.flops_by_part.to_json(),
            "flops_counted": self.flops_counted,
            "rows_measured": self.rows_measured,
            "memory_per_worker": self.cost.memory.to_json(),
            "evaluation_memory_per_worker": self.cost.evaluation.to_json(),
            "weights_on_host": self.cost.host,
            "gpu_hours": dict(self.cost.gpu_hours),
            "does_not_fit": list(self.cost.misfits),
            "epochs": dict(self.epochs),
        }


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
    cost: Estimate
    """Of what remains to be done."""
    detectable: dict[str, Detectable]
    """By study."""
    over_budget: tuple[str, ...]
    """Which budgets forbid it, in words."""
    not_reckoned: tuple[str, ...] = ()
    """What the verdict about budgets leaves out, in words."""
    repeats: tuple[str, ...] = ()
    """Which arms read data again that their baselines see once at most, in words."""
    problems: tuple[str, ...] = ()
    """What was wrong with the data when its first rows were packed: trials will fail of it."""
    stages: tuple[PlanRow, ...] = ()
    """Earlier stages that trials start from and that are no arms of their own, each once; run, resume, running, done, failed or not needed.
    Their arms are those of the trials that start from them."""
    measured: tuple[MeasuredCost, ...] = ()
    """What steps that were really run say of the cost, by device."""

    @property
    def warnings(self) -> tuple[FileProblem, ...]:
        """What the files of the studies are warned of, each once."""
        return tuple(in_order(warning for study in self.studies for warning in study.warnings))

    @property
    def provisional(self) -> bool:
        """Whether fingerprints lack the contents of data that nobody looked at: then what the store has of these trials is not known."""
        return any(study.provisional for study in self.studies)

    @property
    def to_do(self) -> tuple[PlanRow, ...]:
        return tuple(row for row in self.rows if row.status in TO_BE_DONE)

    @property
    def failed(self) -> tuple[PlanRow, ...]:
        return tuple(row for row in self.rows if row.status == "failed")

    def to_json(self) -> dict[str, Any]:
        return {
            "trials": [row.to_json() for row in self.rows],
            "rows": self.row_count,
            "distinct_trials": len(self.rows),
            "to_do": len(self.to_do),
            "stages": [row.to_json() for row in self.stages],
            "preparations": [vars(row) for row in self.preparations],
            "cost": vars(self.cost),
            "measured": [cost.to_json() for cost in self.measured],
            "detectable": {name: entry.to_json() for name, entry in self.detectable.items()},
            "over_budget": list(self.over_budget),
            "not_reckoned": list(self.not_reckoned),
            "arms": {study.name: study.differences_json() for study in self.studies},
            "provisional": self.provisional,
            "repeats": list(self.repeats),
            "warnings": [warning.to_json() for warning in self.warnings],
            "problems": list(self.problems),
        }


def plan(study: Study, store: Store, retry: bool = False) -> Plan:
    """The plan of one study."""
    return plan_together([study], store, retry)


def plan_together(studies: Sequence[Study], store: Store, retry: bool = False, machines: Machines | None = None) -> Plan:
    """The plan of several studies that share a store, and with it their trials.

    Args:
        machines: GPUs and utilisation to reckon with; nothing: what the sweeps say.
    """
    machines = machines or Machines()
    sizes = ModelStatistics(store.root, look=not any(study.provisional or study.from_record for study in studies))
    label: Callable[[Study, str], str] = (lambda study, name: name) if len(studies) == 1 else (lambda study, name: f"{study.name}: {name}")
    trials: dict[str, Trial] = {}
    names: dict[str, str] = {}
    arms: dict[str, list[str]] = {}
    resources: dict[str, Resources] = {}
    for study in studies:
        for trial in study.trials:
            trials.setdefault(trial.evaluation_fingerprint, trial)
            names.setdefault(trial.evaluation_fingerprint, label(study, trial.name))
            arms.setdefault(trial.evaluation_fingerprint, []).extend(label(study, arm) for arm in trial.arms)
            resources.setdefault(trial.evaluation_fingerprint, study.sweep.resources)
    some_on_gpus = any(each.gpus for each in resources.values())

    def planned(key: str, trial: Trial, name: str, fed: tuple[str, ...]) -> PlanRow:
        # Beside trials on GPUs those that ask for none stay on cores, whatever GPU is named: each is in one sum.
        to_reckon = machines if resources[key].gpus or not some_on_gpus else Machines()
        return _row(trial, name, fed, store, sizes, retry, resources[key], to_reckon)

    rows = {key: planned(key, trial, names[key], tuple(arms[key])) for key, trial in trials.items()}
    waiting = {key for key, row in rows.items() if row.status in TO_BE_DONE}
    to_be_trained = {key for key in waiting if rows[key].status not in TRAINED}
    earlier, users = _earlier(trials)
    stages = {}
    for key, stage in earlier.items():
        first = users[key][0]
        resources[key] = resources[first]
        name = names[first] + stage.name.removeprefix(trials[first].name)
        row = planned(key, stage, name, ())
        needed = row.status not in TO_BE_DONE or to_be_trained.intersection(users[key])
        others = f"{len(users[key])} trials start from it" if len(users[key]) > 1 else "one trial starts from it"
        fed = tuple(dict.fromkeys(arm for user in users[key] for arm in arms[user]))
        stages[key] = replace(row, arms=fed, status=row.status if needed else "not needed", reason=f"{row.reason}; {others}")
    trials_and_stages, rows_and_stages = {**trials, **earlier}, {**rows, **stages}
    stages_to_do = {key for key, row in stages.items() if row.status in TO_BE_DONE}
    preparations = _preparations(trials_and_stages, waiting | stages_to_do, store, sizes)
    repeats = tuple(line for study in studies for line in _repeats(study, rows, label))
    sizes.save()

    # By training fingerprint: a model that is judged in two ways is trained once. In one order always, so that sums are the same.
    training = {row.fingerprint: key for key, row in rows.items() if key in to_be_trained}
    training |= {row.fingerprint: key for key, row in stages.items() if key in stages_to_do}
    prepared = sum(row.flops for row in preparations if row.status == "run")
    asked = max((resources[key] for key in rows if key in waiting), key=lambda each: each.gpus, default=studies[0].sweep.resources)
    to_train = list(training.values())
    cost = estimate(to_train, prepared, asked, machines.of(asked), rows_and_stages, trials_and_stages, resources, store)
    measured = measured_costs(
        rows_and_stages, trials_and_stages, resources, to_train, prepared, asked, machines.of(asked), Measurements(store.root)
    )
    return Plan(
        studies=tuple(studies),
        rows=tuple(rows.values()),
        row_count=sum(study.row_count for study in studies),
        preparations=preparations,
        cost=cost,
        detectable={study.name: detectable(study, store) for study in studies},
        over_budget=over_budget(studies, cost, measured),
        not_reckoned=not_reckoned(studies, cost),
        repeats=repeats,
        problems=tuple(sizes.problems),
        measured=measured,
        stages=tuple(stages.values()),
    )


def _earlier(trials: Mapping[str, Trial]) -> tuple[dict[str, Trial], dict[str, list[str]]]:
    """Distinct earlier stages that are not arms themselves, and of each the trials that start from it, the one that names it first.

    A stage that an arm is too is trained as its trial is, and counted there.
    """
    own = {trial.fingerprint for trial in trials.values()}
    found: dict[str, Trial] = {}
    users: dict[str, list[str]] = {}
    for key, trial in trials.items():
        for stage in trial.earlier:
            if stage.fingerprint not in own:
                found.setdefault(stage.fingerprint, stage)
                users.setdefault(stage.fingerprint, []).append(key)
    return found, users


def _row(
    trial: Trial,
    name: str,
    arms: tuple[str, ...],
    store: Store,
    sizes: ModelStatistics,
    retry: bool,
    resources: Resources,
    machines: Machines,
) -> PlanRow:
    content: RowContent = sizes.row(trial.experiment)
    parameters, parts = sizes.parameters(trial.experiment), sizes.profile(trial.experiment)
    tokens = trial_tokens(trial.experiment, content)
    status, reason = _status(trial, store, retry)
    if status in ("run", "resume") and (problem := _used_up(trial, content)):
        sizes.problems.setdefault(f"{name}: {problem}")
    if len(arms) > 1:
        reason += f"; same trial as {', '.join(f'{arm}/seed-{trial.seed}' for arm in arms[1:])}"
    flops = training_flops(trial.experiment, parts, content)
    memory = training_memory(trial.experiment, parts, resources.workers, resources.strategy)
    on_gpu = bool(resources.gpus or machines.gpus)
    judging = evaluation_memory(trial.experiment, parts, resources.workers, resources.strategy, on_gpu)
    cost = TrialCost(memory, judging, weights_on_host(parts))
    if on_gpu:
        with_gpus = machines.of(resources)
        misfits = does_not_fit(trial.experiment, parts, resources, with_gpus.gpus)
        hours = with_gpus.hours(flops.total, trial.experiment.training.precision)
        cost = replace(cost, gpu_hours=hours, misfits=tuple(misfits))
    return PlanRow(
        name=name,
        arms=arms,
        seed=trial.seed,
        fingerprint=trial.fingerprint,
        status=status,
        reason=reason,
        parameters=parameters,
        tokens=tokens,
        flops_by_part=flops,
        cost=cost,
        rows_measured=content.measured,
        flops_counted=not parts.not_counted,
        flops_not_counted=parts.not_counted,
        epochs=_epochs(trial, content),
    )


def _epochs(trial: Trial, content: RowContent) -> dict[str, float]:
    sources = trial.experiment.data.sources
    return {name: min(epochs, sources[name].max_epochs or epochs) for name, epochs in _asked_for(trial, content).items()}


def _asked_for(trial: Trial, content: RowContent) -> dict[str, float]:
    """Epochs of each source that the training asks for, whatever `max_epochs` says."""
    training = trial.experiment.training
    return {name: share * training.steps * training.batch_rows for name, share in content.epochs.items()}


def _used_up(trial: Trial, content: RowContent) -> str | None:
    """What to say of data none of which lasts for the training."""
    sources, asked_for = trial.experiment.data.sources, _asked_for(trial, content)
    if not asked_for or any(epochs < (sources[name].max_epochs or inf) for name, epochs in asked_for.items()):
        return None
    return (
        f"the data is used up before step {trial.experiment.training.steps:,}: raise max_epochs of data.sources ({', '.join(asked_for)}),"
        " or train for fewer steps"
    )


def _repeats(study: Study, rows: Mapping[str, PlanRow], label: Callable[[Study, str], str]) -> list[str]:
    """Arms that read a source more than once which their baseline reads once at most; what is read is the same for all seeds, about."""
    epochs = {arm.name: rows[study.trials_of(arm.name)[0].evaluation_fingerprint].epochs for arm in study.arms}
    lines = []
    for arm in study.arms:
        for name, read in epochs[arm.name].items() if arm.name != arm.baseline else ():
            once = epochs[arm.baseline].get(name, 0.0)
            if read > 1 >= once and epochs[arm.baseline]:
                lines.append(f"{label(study, arm.name)} reads source '{name}' about {read:.1f} times, its baseline {once:.1f} times")
    return lines


def _status(trial: Trial, store: Store, retry: bool) -> tuple[str, str]:
    """What is to become of a trial, and why, from what the store says of it."""
    state = store.status(trial)
    if state.status == "failed" and not retry:
        return "failed", f"{state.reason}; --retry tries again"
    reason = f"failed before: {state.reason}" if state.status == "failed" else state.reason
    if state.status in ("done", "running"):
        return state.status, reason
    if state.trained:
        status, why = evaluation_to_do(trial, store)
        return status, why if state.status == "missing" else f"{reason}; {why}"
    resumable = store.has(store.trial_folder(trial.fingerprint) / "last.ckpt")
    return ("resume" if resumable else "run"), reason


def _preparations(trials: dict[str, Trial], waiting: set[str], store: Store, sizes: ModelStatistics) -> tuple[PreparationRow, ...]:
    needed: dict[str, tuple[Preparation, list[str]]] = {}
    for key, trial in trials.items():
        for preparation in preparations_of(trial.experiment, trial.seed):
            needed.setdefault(preparation.fingerprint, (preparation, []))[1].append(key)
    rows = []
    for fingerprint, (preparation, users) in needed.items():
        if store.preparation_status(preparation).status == "done":
            status = "done"
        else:
            status = "run" if waiting.intersection(users) else "not needed"
        parameters = sizes.parameters(trials[users[0]].experiment)
        rows.append(PreparationRow(preparation.name, short(fingerprint), status, len(users), preparation_flops(preparation, parameters)))
    return tuple(rows)
