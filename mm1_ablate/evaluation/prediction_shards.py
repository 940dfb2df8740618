"""An evaluation in the parts that are predicted apart: a task at a number of shots under an evaluation seed, or held-out documents.

In: an experiment and the fingerprint of its trained weights. Out: parts, each with an identity of all that its predictions depend on and
of nothing else: not the metrics, groups, other tasks or other numbers of shots. So whatever an evaluation has in common with an earlier
one need not be predicted again. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mm1_ablate.config.evaluation import Evaluation
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import contents_of
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint, source_identity
from mm1_ablate.config.task_record import Task
from mm1_ablate.config.tasks import task_settings
from mm1_ablate.evaluation.protocols import as_asked

if TYPE_CHECKING:
    import pandas

NOT_ASKED = ("metrics", "protocols", "fewest_shots")
"""Fields of a record that do not affect predictions: metrics score them later, a protocol's wording is already in the fields, and at
which numbers of shots a task is asked changes none of its answers."""


@dataclass(frozen=True)
class PredictionShard:
    """What is predicted together.

    Attributes:
        kind: a task, or held-out documents.
        name: of the task, or of the loss.
        seeds: evaluation seeds whose predictions they are: one, or all of the experiment's where no demonstrations make a difference.
        identity: what the predictions depend on, as plain JSON values.
    """

    kind: Literal["task", "loss"]
    name: str
    shots: int
    seeds: tuple[int, ...]
    fingerprint: str
    identity: Mapping[str, Any] = field(compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "seeds": list(self.seeds), "identity": dict(self.identity)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> PredictionShard:
        return cls(plain["kind"], plain["name"], plain["shots"], tuple(plain["seeds"]), plain["fingerprint"], plain["identity"])


def shards_of(experiment: Experiment, training: str) -> list[PredictionShard]:
    """All parts of an experiment's evaluation, in the order in which they are asked.

    Args:
        training: fingerprint of the weights.

    Raises:
        FileErrors, ValueError: a task's record is wrong.
        Exception: whatever keeps a task's files from being looked at.
    """
    evaluation = experiment.evaluation
    found = [part for task in evaluation.tasks for part in _of_task(task, evaluation, training)]
    for name, held_out in evaluation.losses.items():
        form = canonical(held_out)
        form["source"] = source_identity(held_out.source, form["source"])
        identity = {"training": training, "loss": name, "documents": form, **_computed(evaluation)}
        found.append(PredictionShard("loss", name, 0, evaluation.evaluation_seeds, fingerprint(identity), identity))
    return found


def asked_identity(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    """Which items a task asks and how, whatever stands before them."""
    form = {name: value for name, value in canonical(task).items() if name not in NOT_ASKED}
    contents = contents_of(task.items, evaluation.split)
    if contents:
        form["items"] = {**form["items"], "contents": contents}
    asked = {"task": form, "items": evaluation.items_of(task.task), "seed": evaluation.seed, "split": evaluation.split}
    # Of choices the likelihoods are there in any case.
    return {**asked, "probability": True} if evaluation.probability and task.kind == "generate" else asked


def _computed(evaluation: Evaluation) -> dict[str, str]:
    """In which precision, where it is not the usual one."""
    form = canonical(evaluation)
    return {"precision": form["precision"]} if "precision" in form else {}


def _of_task(task: str, evaluation: Evaluation, training: str) -> Iterator[PredictionShard]:
    asked = as_asked(task_settings(task), evaluation)
    common = {"training": training, **asked_identity(asked, evaluation), **_computed(evaluation)}
    text_only = evaluation.zero_shot.text_only if evaluation.zero_shot else 0
    for shots in asked.shots_of(evaluation.shots):
        before = {"text_only": text_only} if asked.family == "image" and not shots and text_only else {"shots": shots}
        if before == {"shots": 0}:
            identity: dict[str, Any] = {**common, "before": before}
            yield PredictionShard("task", asked.task, shots, evaluation.evaluation_seeds, fingerprint(identity), identity)
            continue
        for seed in evaluation.evaluation_seeds:
            identity = {**common, "before": {**before, "policy": canonical(evaluation.demonstrations), "seed": seed}}
            yield PredictionShard("task", asked.task, shots, (seed,), fingerprint(identity), identity)


# ---------------------------------------------------------------- tables
def shard_rows(part: PredictionShard, predictions: pandas.DataFrame) -> pandas.DataFrame:
    """The predictions of a part among those of its task, under one evaluation seed, for they are alike under all."""
    own = (predictions["task"] == part.name) & (predictions["shots"] == part.shots) & (predictions["evaluation_seed"] == part.seeds[0])
    return predictions[own].reset_index(drop=True)


def join_shards(kept: Iterable[tuple[PredictionShard, pandas.DataFrame]]) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Predictions of tasks (to be brought in order by `scores.merged`) and measured documents, each in one table."""
    import pandas

    predictions, documents = [], []
    for part, table in kept:
        if part.kind == "loss":
            documents.append(table)
        else:
            predictions += [table.assign(task=part.name, evaluation_seed=seed) for seed in part.seeds]
    return pandas.concat(predictions, ignore_index=True), pandas.concat(documents, ignore_index=True) if documents else pandas.DataFrame()
