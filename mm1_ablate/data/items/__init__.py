"""Sources of evaluation items: queries to be judged by and demonstrations to show before them, each kind a file here.

An item source is a subclass of `ItemSource` with `open(split, count, seed)`. `records` reads annotation files of any common shape as a
task's record describes them; a newcomer needs a file here, or a class of their own, for items that are made or found in another way.
Files whose names begin with an underscore are what `records` is made of.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from mm1_ablate.config.settings import Component, ComponentOf
from mm1_ablate.data.documents import ItemSet

EvaluationSplit = Literal["report", "development"]


class ItemSource(Component):
    """Where the queries and demonstrations of a task come from."""

    def open(self, split: EvaluationSplit = "report", count: int | None = None, seed: int = 0) -> ItemSet:
        """The items, a pure function of the settings and the arguments.

        Args:
            split: which queries; the two share none. Demonstrations come from training material in both.
            count: queries at most; None: as many as the task usually has.
            seed: draws queries and demonstrations.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is opened")

    def field_names(self) -> Collection[str] | None:
        """What templates can name of the items, besides image, answer and choice. None: it is not known before they are opened."""
        return None

    def check(self, split: EvaluationSplit = "report") -> None:
        """Look whether what `open` reads is there, and at the beginning of it.

        Raises:
            Misfit: at the field that is wrong: files that do not exist, a field that no row has.
        """

    def contents(self, split: EvaluationSplit = "report") -> str:
        """A digest of the annotation files that `open` reads: names, sizes, and a little of each. Empty where items are made by code.

        Part of an evaluation's identity: other annotations are another evaluation, a moved folder is not. Images do not count.

        Raises:
            Misfit: as `check`.
        """
        return ""


AnyItemSource = Annotated[ItemSource, ComponentOf("mm1_ablate.data.items")]
