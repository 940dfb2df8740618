"""Demonstrations read once: contexts that questions continue from, kept while a coming question needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.kv_cache import Context, read_on
from mm1_ablate.evaluation.prompts import TokenisedPrompt
from mm1_ablate.evaluation.requests import Question

Key = tuple[bool, tuple[str, ...]]
"""Whether demonstrations have their images, and their ids."""


class Contexts:
    """Contexts of demonstration sets. A set of more shots reads on from the same set of fewer."""

    def __init__(self, embedder: PromptEmbedder, shots: Sequence[int]) -> None:
        self.embedder = embedder
        self.shots = shots
        self._kept: dict[Key, Context] = {}

    def before(self, batch: Sequence[Question], shots: int) -> Context:
        """The demonstrations of each question, [B]."""
        if not any(one.before(shots) for one in batch):
            return Context.nothing(len(batch), self.embedder.device)
        missing = {key: one for one in batch if (key := _key(one, shots)) not in self._kept}
        if missing:
            fewer = max((other for other in self.shots if 0 < other < shots), default=0)
            start = self.before(list(missing.values()), fewer) if fewer else Context.nothing(len(missing), self.embedder.device)
            further = [TokenisedPrompt(tuple(_segments(one.before(shots)[fewer:]))) for one in missing.values()]
            embeddings, valid = self.embedder(further)
            scored = torch.zeros_like(valid)
            scored[0, 0] = True  # one position, as no logits are wanted
            read, _ = read_on(self.embedder.model, start, embeddings, valid, scored)
            self._kept.update(zip(missing, read.separate(), strict=True))
        keys = [_key(one, shots) for one in batch]
        distinct = list(dict.fromkeys(keys))
        place = {key: number for number, key in enumerate(distinct)}
        return Context.after([self._kept[key] for key in distinct], [place[key] for key in keys])

    def keep_only(self, coming: Sequence[Question]) -> None:
        """Forget what no coming question needs."""
        needed = {_key(one, shots) for one in coming for shots in self.shots}
        self._kept = {key: context for key, context in self._kept.items() if key in needed}


def _key(one: Question, shots: int) -> Key:
    return bool(shots), one.set_at(shots)


def _segments(prompts: Sequence[TokenisedPrompt]) -> Iterator[Any]:
    for prompt in prompts:
        yield from prompt.segments
