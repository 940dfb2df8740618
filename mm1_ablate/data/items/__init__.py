"""Sources of evaluation items: queries to be judged by and demonstrations to show before them, each kind a file here.

An item source is a subclass of `ItemSource` with `open(split, count, seed)`. A newcomer adds a file, or names a class of their own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from mm1_ablate.data.documents import ItemSet
from mm1_ablate.spec.settings import Component, ComponentOf

EvaluationSplit = Literal["report", "development"]


class ItemSource(Component):
    """Where the queries and demonstrations of a task come from."""

    def open(self, split: EvaluationSplit = "report", count: int | None = None, seed: int = 0) -> ItemSet:
        """The items, a pure function of the settings and the arguments.

        Args:
            split: which queries; the two share none. Demonstrations come from training material in both.
            count: queries at most; nothing: as many as the task usually has.
            seed: draws queries and demonstrations.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is opened")


AnyItemSource = Annotated[ItemSource, ComponentOf("mm1_ablate.data.items")]
