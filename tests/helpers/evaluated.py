"""A model asked and scored in one step, in memory: what a trial does part by part, with a store between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas
from torch import distributed

from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.training import Progress
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.evaluation.evaluate import predict
from mm1_ablate.evaluation.evaluation_mode import evaluating
from mm1_ablate.evaluation.held_out_loss import measure, prepare_documents
from mm1_ablate.evaluation.protocols import load_tasks
from mm1_ablate.evaluation.scores import item_scores, merged
from mm1_ablate.model.multimodal import MultimodalModel


def evaluate(
    model: MultimodalModel,
    experiment: Experiment,
    tokenizer: Tokenizer,
    pipeline: ImagePipeline,
    report: Callable[[Progress], None] = lambda progress: None,
    rank: int = 0,
    ranks: int = 1,
) -> pandas.DataFrame:
    """Item scores on all tasks and held-out documents of an experiment: see `scores.item_scores`.

    Args:
        rank, ranks: of this process among those that share the work; all of them get the whole table.
    """
    evaluation = experiment.evaluation
    tasks = load_tasks(evaluation)
    held_out = prepare_documents(model, experiment, tokenizer)
    predictions = predict(model, experiment, tokenizer, pipeline, report, rank, ranks)
    with evaluating(model, evaluation.precision):
        documents = measure(model, held_out, tokenizer, pipeline, rank, ranks)
    if ranks > 1:
        predictions, documents = merged(_of_all(predictions, ranks), tasks), pandas.concat(_of_all(documents, ranks))
    return item_scores(predictions, documents, tasks, evaluation)


def _of_all(table: pandas.DataFrame, ranks: int) -> list[pandas.DataFrame]:
    tables: list[Any] = [None] * ranks
    distributed.all_gather_object(tables, table)
    return tables
