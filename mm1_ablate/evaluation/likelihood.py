"""How likely a model finds answers that it is given: all choices of a batch of questions in one pass after what they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.kv_cache import KVCache, extend_cache

LOGITS_AT_ONCE = 1 << 24
"""Logits whose logarithms are taken together: bounds the memory beside the logits themselves."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of one answer.

    Attributes:
        nats: log-likelihood, summed over its tokens.
        greedy: whether greedy decoding would give it: each token is the likeliest after those before it.
        tokens: how many it has.
    """

    nats: float
    greedy: bool
    tokens: int


def token_log_likelihoods(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood in nats of each target [N], float64, and whether it is the likeliest [N], from logits [N, V]."""
    nats, greedy = [], []
    rows = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    for part, own in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True):
        chosen = part.gather(1, own[:, None])[:, 0].double()
        nats.append(chosen - part.float().logsumexp(-1).double())
        greedy.append(part.argmax(-1) == own)
    return torch.cat(nats), torch.cat(greedy)


def answer_likelihoods(
    embedder: PromptEmbedder,
    cache: KVCache,
    logits: Tensor,
    answers: Sequence[Sequence[Sequence[int]]],
) -> list[list[Likelihood]]:
    """The likelihood of every answer to every question.

    Args:
        cache, logits: the questions, read: see `kv_cache.read_questions`.
        answers: of each question, the tokens of each answer; none is empty. Some question has one.
    """
    # The question's last position predicts every answer's first token, so an answer of one token costs nothing more.
    rows = torch.tensor([row for row, own in enumerate(answers) for _ in own], device=embedder.device)
    flat = [tokens for own in answers for tokens in own]
    first = torch.tensor([tokens[0] for tokens in flat], device=embedder.device)
    nats, greedy = (part.tolist() for part in token_log_likelihoods(logits.index_select(0, rows), first))
    longer = [number for number, tokens in enumerate(flat) if len(tokens) > 1]
    if longer:
        embeddings, valid = embedder.tokens([flat[number][:-1] for number in longer])
        _, logits = extend_cache(embedder.model, cache.branch(rows[longer]), embeddings, valid, valid)
        targets = torch.tensor([token for number in longer for token in flat[number][1:]], device=embedder.device)
        more, likeliest = token_log_likelihoods(logits, targets)
        lengths = [len(flat[number]) - 1 for number in longer]
        for number, own, own_greedy in zip(longer, torch.split(more, lengths), torch.split(likeliest, lengths), strict=True):
            nats[number] += own.sum().item()
            greedy[number] = greedy[number] and bool(own_greedy.all())
    found = iter([Likelihood(*one) for one in zip(nats, greedy, map(len, flat), strict=True)])
    return [list(_taken(found, len(own))) for own in answers]


def _taken(found: Iterator[Likelihood], count: int) -> Iterator[Likelihood]:
    for _ in range(count):
        yield next(found)
