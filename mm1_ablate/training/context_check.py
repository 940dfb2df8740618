"""Whether the longest documents that training may see fit into the language model's context, before anything is trained.

Positions begin anew in every document of a packed row, so it is documents that have to fit, not rows. But a row may be one document: of
data nothing else is known before it is read, so a document is taken to be as long as a row, with as many images as the packing allows.
Beyond its context a model with a table of positions fails, and one with rotary positions learns what it was not made for.
"""

from __future__ import annotations

from dataclasses import replace

from mm1_ablate.config.errors import Finding
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.evaluation.fit_check import known_context_length

ONE_IMAGE = ("captioned", "synthetic_captioned", "text")
"""Data types whose documents hold no more than one image."""


def too_long_documents(experiment: Experiment) -> list[Finding]:
    """Rows that are longer than the language model's context, of earlier stages and preparations too. A check for
    `config.sweep.expand.load_study`; of models whose context is not known on this machine there is nothing to say."""
    found = []
    for number, stage in enumerate([experiment, *reversed(experiment.earlier)]):
        below = ("starts_from",) * number
        found += [replace(finding, path=(*below, *finding.path)) for finding in _of_stage(stage)]
    return found


def longest_document(experiment: Experiment) -> int:
    """Tokens that a document of the training, or one that is held out, takes at most, each image with as many as the connector makes of
    it."""
    packing, types = experiment.data.packing, {name for name, weight in experiment.data.mixture.items() if weight}
    types |= {held.source.data_type for held in experiment.evaluation.losses.values()}
    images = packing.row_tokens // packing.nominal_image_tokens if types - {"text"} else 0
    images = min(images, packing.max_images if packing.max_images is not None else images, 1 if types <= set(ONE_IMAGE) else images)
    more = max(0, experiment.model.image_tokens_at_most - packing.nominal_image_tokens)
    return packing.row_tokens + images * more


def _of_stage(experiment: Experiment) -> list[Finding]:
    language_model, packing = experiment.model.language_model, experiment.data.packing
    context = known_context_length(language_model)
    if context is None:
        return []
    found = []
    longest = longest_document(experiment)
    if longest > context:
        beyond = longest - packing.row_tokens
        grown = (
            f" ({packing.row_tokens:,} of the row, and {beyond:,} more because an image takes {experiment.model.image_tokens_at_most:,}"
            f" tokens at most where packing counts {packing.nominal_image_tokens:,})"
            if beyond
            else ""
        )
        helps = f"at most {context - beyond:,} tokens in a row" if context > beyond else "fewer tokens in a row"
        helps += f", nominal_image_tokens: {experiment.model.image_tokens_at_most}, or fewer images," if beyond else ""
        message = (
            f"a document may be {longest:,} tokens long{grown}, and the language model has a context of {context:,};"
            f" declare {helps} or a language model with a longer context"
        )
        found.append(Finding(("data", "packing", "row_tokens"), message))
    preparation = language_model.preparation
    if preparation is not None and preparation.row_tokens > context:
        message = f"a document may be {preparation.row_tokens:,} tokens long, and the language model has a context of {context:,}"
        found.append(Finding(("model", "language_model", "preparation", "row_tokens"), message))
    return found
