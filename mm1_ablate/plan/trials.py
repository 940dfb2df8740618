"""What a plan does with each trial, and why, how large it is and what it costs.

In: studies and their store. Out: `collect`: the distinct trials, and the earlier stages that they start from; `Pricing.row`: a `PlanRow`
of each, with its status, parameters, tokens, operations and cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mm1_ablate.config.study import Study, Trial
from mm1_ablate.config.sweep.declaration import Resources
from mm1_ablate.plan.cost import GpuAssumptions, TrialCost, cost_of
from mm1_ablate.plan.flops import Flops, RowContent, TrialTokens, epochs_read, training_flops, trial_tokens, used_up
from mm1_ablate.plan.model_statistics import ModelStatistics
from mm1_ablate.store.predictions import evaluation_to_do
from mm1_ablate.store.store import Store

TO_DO = ("run", "resume", "evaluate", "rescore")
"""Statuses of trials that have something to be done."""
WITHOUT_TRAINING = ("evaluate", "rescore")
"""Those of them that train nothing."""


@dataclass
class PlannedTrial:
    """A distinct trial of the studies, or an earlier stage that trials start from."""

    trial: Trial
    name: str
    """With several studies `study: trial`."""
    resources: Resources
    arms: list[str] = field(default_factory=list)
    """Rows of the comparison that it feeds; with several studies `study: arm`."""
    users: list[PlannedTrial] = field(default_factory=list)
    """Of an earlier stage: the trials that start from it."""


@dataclass(frozen=True)
class PlanRow:
    """One trial and what is to become of it."""

    name: str
    arms: tuple[str, ...]
    """Rows of the comparison that it feeds; with several studies `study: arm`."""
    trial: Trial
    resources: Resources
    status: str
    """done, running, run, resume, evaluate (no training: evaluate the saved model on what is new), rescore (no model: score saved
    predictions) or failed (waits for --retry); of an earlier stage also: not needed."""
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
    """The parts of the model whose operations are estimated, and why."""
    epochs: Mapping[str, float] = field(default_factory=dict)
    """By source, about how often it is read; empty where the data was not opened."""

    @property
    def fingerprint(self) -> str:
        return self.trial.fingerprint

    @property
    def seed(self) -> int:
        return self.trial.seed

    @property
    def to_do(self) -> bool:
        """Whether anything is to be done."""
        return self.status in TO_DO

    @property
    def to_train(self) -> bool:
        """Whether it is to be trained, from the start or from a checkpoint."""
        return self.to_do and self.status not in WITHOUT_TRAINING

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


# ---------------------------------------------------------------- collect
def collect(studies: Sequence[Study]) -> tuple[list[PlannedTrial], list[PlannedTrial]]:
    """The distinct trials of studies, and the distinct earlier stages that trials start from and that are not trials themselves.

    A trial that feeds arms of several studies is counted once, with the resources of the first. A stage that is a trial too is trained as
    that trial is, and counted there.
    """
    trials: dict[str, PlannedTrial] = {}
    for study in studies:
        for trial in study.trials:
            new = PlannedTrial(trial, labelled(studies, study, trial.name), study.sweep.resources)
            known = trials.setdefault(trial.evaluation_fingerprint, new)
            known.arms.extend(labelled(studies, study, arm) for arm in trial.arms)
    own = {planned.trial.fingerprint for planned in trials.values()}
    stages: dict[str, PlannedTrial] = {}
    for user in trials.values():
        for stage in user.trial.earlier:
            if stage.fingerprint not in own:
                name = user.name + stage.name.removeprefix(user.trial.name)
                stages.setdefault(stage.fingerprint, PlannedTrial(stage, name, user.resources)).users.append(user)
    return list(trials.values()), list(stages.values())


def labelled(studies: Sequence[Study], study: Study, name: str) -> str:
    """A name of a study; where several are planned together, with the study's own."""
    return name if len(studies) == 1 else f"{study.name}: {name}"


# ---------------------------------------------------------------- price
@dataclass(frozen=True)
class Pricing:
    """What candidates are looked up in and priced by."""

    store: Store
    sizes: ModelStatistics
    gpus: GpuAssumptions
    """Of trials on GPUs; of all trials where none asks for any."""
    some_on_gpus: bool
    retry: bool = False
    """Whether failed trials are tried again."""

    def row(self, planned: PlannedTrial) -> PlanRow:
        """What is to be done with a trial, its size and cost."""
        trial, resources = planned.trial, planned.resources
        # Beside trials on GPUs those that ask for none stay on cores, whatever GPU is named: each is in one sum.
        gpus = self.gpus if resources.gpus or not self.some_on_gpus else GpuAssumptions()
        status, reason = _status(trial, self.store, self.retry)
        if len(planned.arms) > 1:
            reason += f"; same trial as {', '.join(f'{arm}/seed-{trial.seed}' for arm in planned.arms[1:])}"
        with trial.snapshot.active():
            content: RowContent = self.sizes.row(trial.experiment)
            parameters, parts = self.sizes.parameters(trial.experiment), self.sizes.profile(trial.experiment)
        if status in ("run", "resume") and (problem := used_up(trial.experiment, content)):
            self.sizes.problems.setdefault(f"{planned.name}: {problem}")
        flops = training_flops(trial.experiment, parts, content)
        return PlanRow(
            name=planned.name,
            arms=tuple(planned.arms),
            trial=trial,
            resources=resources,
            status=status,
            reason=reason,
            parameters=parameters,
            tokens=trial_tokens(trial.experiment, content),
            flops_by_part=flops,
            rows_measured=content.measured,
            flops_counted=not parts.not_counted,
            flops_not_counted=parts.not_counted,
            epochs=epochs_read(trial.experiment, content),
            cost=cost_of(trial.experiment, parts, flops, resources, gpus),
        )

    def stage_row(self, stage: PlannedTrial, trials: Mapping[str, PlanRow]) -> PlanRow:
        """The row of an earlier stage, with the arms of the trials that start from it; needed only where one of them is to be trained.

        Args:
            trials: rows by evaluation fingerprint.
        """
        row = self.row(stage)
        needed = not row.to_do or any(trials[user.trial.evaluation_fingerprint].to_train for user in stage.users)
        users = f"{len(stage.users)} trials start from it" if len(stage.users) > 1 else "one trial starts from it"
        arms = tuple(dict.fromkeys(arm for user in stage.users for arm in user.arms))
        return replace(row, arms=arms, status=row.status if needed else "not needed", reason=f"{row.reason}; {users}")


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
