"""Items of annotation files, described in the task's own record: where the rows are, and which expression over a row is what.

One source for every benchmark that comes as JSON, JSON lines, parquet, CSV or lines of text, with or without images: a task of the
user's own is a record in YAML, without Python. `docs/tasks.md` tells how.
"""

from __future__ import annotations

from typing import Literal, get_args

from mm1_ablate.data.documents import ItemSet
from mm1_ablate.data.items import EvaluationSplit
from mm1_ablate.data.items._record import RecordSettings


class RecordItems(RecordSettings):
    """Items from annotation files, as the record describes them."""

    type: Literal["records"] = "records"

    def check(self, split: EvaluationSplit = "report") -> None:
        from mm1_ablate.data.items._drawing import check

        check(self, split)

    def contents(self, split: EvaluationSplit = "report") -> str:
        from mm1_ablate.data.files import digest_files
        from mm1_ablate.data.items._candidates import chosen_files

        chosen = chosen_files(self, split).values()
        return digest_files(list(dict.fromkeys(file for _, files in chosen for found in files.values() for file in found)))

    def open(self, split: EvaluationSplit = "report", count: int | None = None, seed: int = 0) -> ItemSet:
        from mm1_ablate.data.items._drawing import draw

        if split not in get_args(EvaluationSplit):
            raise ValueError(f"no evaluation split '{split}' (there are: {', '.join(get_args(EvaluationSplit))})")
        return draw(self, split, count, seed)
