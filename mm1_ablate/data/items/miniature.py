"""The evaluation items of the miniature world."""

from __future__ import annotations

from typing import ClassVar, Literal

from mm1_ablate.data.documents import ItemSet
from mm1_ablate.data.items import EvaluationSplit, ItemSource


class MiniatureItems(ItemSource):
    """Questions about images and texts drawn by code."""

    version: ClassVar[int] = 2
    type: Literal["miniature"] = "miniature"
    content: Literal["attributes", "vqa", "fine_detail", "captions", "facts", "agreement", "text_qa"]
    """Images: attributes (fields cue, separator), vqa (question), fine_detail (cue), captions (slots).
    Texts, with four choices: facts, agreement, text_qa (context)."""
    world_seed: int = 0
    """Seed of the world, as of the source that is trained on."""

    def open(self, split: EvaluationSplit = "report", count: int | None = None, seed: int = 0) -> ItemSet:
        from mm1_ablate.miniature.episodes import items

        return items(self.content, split, count, seed, self.world_seed)
