"""Sources of evaluation items: queries to be judged by and demonstrations to show before them, each kind a file here.

An item source is a subclass of `ItemSource` with `open(split, count, seed)`. `records` reads annotation files of any common shape as a
task's record describes them; a newcomer needs a file here, or a class of their own, for items that are made or found in another way.
Files whose names begin with an underscore are what `records` is made of.
"""

from __future__ import annotations

from mm1_ablate.config.task_record import AnyItemSource, EvaluationSplit, ItemSource

__all__ = ["AnyItemSource", "EvaluationSplit", "ItemSource"]
