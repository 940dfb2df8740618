"""Studies whose trials have scores without any training: answers are made up, and all else is what evaluation makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas

from mm1_ablate.config.study import Study, Trial
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.config.task_record import Task
from mm1_ablate.data.documents import Item
from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.prompts import question, shown
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.evaluation.scores import ItemOutcome, predictions_table, scored, summarise
from mm1_ablate.store.store import Store

Said = str | Sequence[float] | Exception
"""An answer, the log-likelihood of each choice, or why the item could not be asked."""
Answer = Callable[[Trial, Task, int, int, Item], Said]
"""What a trial says to an item: (trial, task, shots, place of the item, item)."""


def write_scores(sweep: Path, folder: Path, answer: Answer, arms: Sequence[str] | None = None) -> tuple[Study, Store]:
    """A store in which the trials of a sweep, or of some of its arms, have been evaluated."""
    study, store = load_study(sweep), Store(folder)
    for trial in study.trials:
        if arms is None or set(arms) & set(trial.arms):
            items = item_scores(trial, answer)
            store.write_trial(trial)
            store.write_evaluation(trial.fingerprint, trial.evaluation_fingerprint, items, summarise(items))
    return study, store


def item_scores(trial: Trial, answer: Answer) -> pandas.DataFrame:
    evaluation = trial.experiment.evaluation
    tasks, tables = load_tasks(evaluation), []
    for task in tasks:
        items = task.items.open(split=evaluation.split, count=evaluation.items, seed=evaluation.seed)
        asked = []
        for shots in evaluation.shots if task.family == "image" else [0]:
            before = " ".join(item.id for item in items.demonstrations[:shots])
            for place, item in enumerate(items.queries):
                said = answer(trial, task, shots, place, item)
                problem = str(said) if isinstance(said, Exception) else ""
                prompt = shown(question(task.prompt, item)[0])
                prediction = None if isinstance(said, Exception) else _prediction(item, said)
                asked += [
                    ItemOutcome(shots, seed, place, item.id, item.group, before, 0, "", prompt, problem, prediction)
                    for seed in evaluation.evaluation_seeds
                ]
        tables.append(predictions_table(task, asked))
    return scored(pandas.concat(tables, ignore_index=True), tasks, evaluation)


def _prediction(item: Item, said: str | Sequence[float]) -> Prediction:
    if isinstance(said, str):
        return Prediction(item.id, said, item.references)
    nats = tuple(said)
    best = item.choices[nats.index(max(nats))]
    return Prediction(item.id, best, item.references, item.choices, item.correct, nats, (False,) * len(nats), (1,) * len(nats))
