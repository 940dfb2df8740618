"""How likely a model finds each choice of a question: all choices of a batch of questions in one pass after what they share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mm1_ablate.evaluation.context import Context, last_of, read_on
from mm1_ablate.evaluation.embedding import PromptEmbedder
from mm1_ablate.evaluation.prompts import TokenisedPrompt


def choice_log_likelihoods(
    embedder: PromptEmbedder,
    context: Context,
    questions: Sequence[TokenisedPrompt],
    choices: Sequence[Sequence[Sequence[int]]],
) -> list[list[float]]:
    """Log-likelihood in nats of every choice of every question, summed over the choice's tokens.

    Args:
        context: what stands before each question, [B].
        choices: of each question, the tokens of each choice; none is empty.
    """
    embeddings, valid = embedder(questions)
    context, logits = read_on(embedder.model, context, embeddings, valid, last_of(valid))
    # The question's last position predicts every choice's first token, so a choice of one token costs nothing more.
    first = logits.double().log_softmax(-1)
    scores = [[first[row, tokens[0]].item() for tokens in own] for row, own in enumerate(choices)]
    longer = [(row, number, tokens) for row, own in enumerate(choices) for number, tokens in enumerate(own) if len(tokens) > 1]
    if longer:
        rows = torch.tensor([row for row, _, _ in longer], device=embedder.device)
        embeddings, valid = embedder.tokens([tokens[:-1] for _, _, tokens in longer])
        _, logits = read_on(embedder.model, context.select(rows), embeddings, valid, valid)
        targets = torch.tensor([token for _, _, tokens in longer for token in tokens[1:]], device=embedder.device)
        chosen = logits.double().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        parts = chosen.split([len(tokens) - 1 for _, _, tokens in longer])
        for (row, number, _), part in zip(longer, parts, strict=True):
            scores[row][number] += part.sum().item()
    return scores
