"""Greedy answers to a batch of questions, each after the demonstrations that it shares with others.

Token for token what one gets by encoding every question with its demonstrations alone, without padding or cache (in float32; in
half precision the order of summation can turn a near tie).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mm1_ablate.data.tokenizer import Tokenizer
from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.kv_cache import KVCache, extend_cache
from mm1_ablate.evaluation.prompts import cut


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """Generated tokens, without the end of the document, and their text before the first stop string."""

    tokens: tuple[int, ...]
    text: str


def generate(
    embedder: PromptEmbedder,
    tokenizer: Tokenizer,
    cache: KVCache,
    logits: Tensor,
    stop: Sequence[Sequence[str]],
    max_new_tokens: int,
) -> list[GeneratedAnswer]:
    """Greedy decoding after questions, one row for each. Rows that are done leave the batch.

    Args:
        cache, logits: the questions, read: see `kv_cache.read_questions`.
        stop: of each question, the strings before which its answer ends.
    """
    produced: list[list[int]] = [[] for _ in stop]
    texts = [""] * len(stop)
    rows = list(range(len(stop)))
    for step in range(1, max_new_tokens + 1):
        going: list[int] = []
        for place, token in enumerate(logits.argmax(-1).tolist()):
            row = rows[place]
            if token == tokenizer.end:
                continue
            produced[row].append(token)
            texts[row], stopped = cut(tokenizer.decode(produced[row]), stop[row])
            if not stopped:
                going.append(place)
        if not going or step == max_new_tokens:
            break
        if len(going) < len(rows):
            cache = cache.select(torch.tensor(going, device=embedder.device))
            rows = [rows[place] for place in going]
        embeddings, valid = embedder.tokens([produced[row][-1:] for row in rows])
        cache, logits = extend_cache(embedder.model, cache, embeddings, valid, valid)
    return [GeneratedAnswer(tuple(tokens), text.strip()) for tokens, text in zip(produced, texts, strict=True)]
