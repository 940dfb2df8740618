"""All checks of a study before anything is started. In: a sweep file. Out: its study, or all errors.

The rooms below have the checks: each takes an experiment and gives diagnostics by place in it. A check runs once for all arms that share
what it looks at, and only on experiments whose files and data are valid (`config/sweep/preflight.py`, which also finds the line of a sweep
or experiment file that a diagnostic is about). A new check is a function beside those of its room and a name in `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mm1_ablate.config.identity.data_digests import Look, RecordedDigests
from mm1_ablate.config.study import Study
from mm1_ablate.config.sweep.expand import DECLARED, load_study
from mm1_ablate.config.sweep.preflight import Check
from mm1_ablate.config.sweep.tried import Try
from mm1_ablate.data.lost_documents import lost_files
from mm1_ablate.evaluation.preflight import prompts_unlike_training, unaskable_models, unaskable_tasks, unplaced_begin_tokens
from mm1_ablate.evaluation.preflight_items import wrong_items
from mm1_ablate.model.preflight import missing_models, wrong_encoders, wrong_parts
from mm1_ablate.training.preflight import too_long_documents, unknown_words

CHECKS: tuple[Check, ...] = (
    lost_files,
    unaskable_tasks,
    wrong_items,
    prompts_unlike_training,
    unplaced_begin_tokens,
    missing_models,
    wrong_encoders,
    wrong_parts,
    unaskable_models,
    too_long_documents,
    unknown_words,
)
"""In the order in which their diagnostics are reported."""


def preflight(path: Path, look: Look = "check", recorded: Callable[[str], RecordedDigests] | None = None, tried: Try = DECLARED) -> Study:
    """The study of a sweep file, once all checks have passed. Warnings are with the study.

    Args:
        look: how far to look at the data.
        recorded, tried: see `load_study`.

    Raises:
        FileErrors: with every problem of the sweep, of the experiments that it names, of their data, tasks and models.
    """
    return load_study(path, look, CHECKS, recorded, tried)
