"""Greedy answers to a batch of questions, each after the demonstrations that it shares with others.

Token for token what one gets by encoding every question with its demonstrations alone, without padding or cache (in float32; in
half precision the order of summation can turn a near tie).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.kv_cache import Context, last_of, read_on
from mm1_ablate.evaluation.prompts import TokenisedPrompt, cut

if TYPE_CHECKING:
    from mm1_ablate.data.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Answer:
    """Generated tokens, without the end of the document, and their text before the first stop string."""

    tokens: tuple[int, ...]
    text: str


def generate(
    embedder: PromptEmbedder,
    tokenizer: Tokenizer,
    context: Context,
    questions: Sequence[TokenisedPrompt],
    stop: Sequence[Sequence[str]],
    max_new_tokens: int,
) -> list[Answer]:
    """Greedy decoding after a context, one row for each question. Rows that are done leave the batch.

    Args:
        context: what stands before each question, [B].
        stop: of each question, the strings before which its answer ends.
    """
    embeddings, valid = embedder(questions)
    context, logits = read_on(embedder.model, context, embeddings, valid, last_of(valid))
    produced: list[list[int]] = [[] for _ in questions]
    texts = [""] * len(questions)
    rows = list(range(len(questions)))
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
            context = context.select(torch.tensor(going, device=embedder.device))
            rows = [rows[place] for place in going]
        embeddings, valid = embedder.tokens([produced[row][-1:] for row in rows])
        context, logits = read_on(embedder.model, context, embeddings, valid, valid)
    return [Answer(tuple(tokens), text.strip()) for tokens, text in zip(produced, texts, strict=True)]
