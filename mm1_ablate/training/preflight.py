"""Whether the data of a training goes with its language model, before anything is trained: whether the longest documents fit into its
context, and whether the miniature tokenizer, which stands where no other is declared, knows the words.

In: an experiment. Out: diagnostics by place in it.

Positions begin anew in every document of a packed row, so it is documents that have to fit, not rows. But a row may be one document: of
data nothing else is known before it is read, so a document is taken to be as long as a row, with as many images as the packing allows.
Beyond its context a model with a table of positions fails, and one with rotary positions learns what it was not made for.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mm1_ablate.config.data import Source
from mm1_ablate.config.errors import Diagnostic, listed
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import identity_of, look, once
from mm1_ablate.config.sweep.preflight import at_every_stage
from mm1_ablate.data.documents import LeftOut, Unreadable
from mm1_ablate.data.files import DataFile, find_files
from mm1_ablate.data.filters import open_source
from mm1_ablate.data.tokenizer import UnknownWords, load_tokenizer
from mm1_ablate.model.context_length import known_context_length

ONE_IMAGE = ("captioned", "synthetic_captioned", "text")
"""Data types whose documents hold no more than one image."""
MINIATURE = "miniature"
NAMED = 5
"""Words that are given as examples."""
FILE_BYTES = 256 << 20
"""Bytes of a file up to which it is opened to read its first texts: opening one may mean reading all of it."""
DOCUMENTS, READ = 16, 64
"""Documents with texts that are enough, and documents that are read at most."""


# ---------------------------------------------------------------- context
def too_long_documents(experiment: Experiment) -> list[Diagnostic]:
    """Rows that are longer than the language model's context, of preparations too. Of models whose context is not known on this machine
    nothing is reported."""
    return at_every_stage(experiment, _too_long)


def longest_document(experiment: Experiment) -> int:
    """Tokens that a document of the training, or one that is held out, takes at most, each image with as many as the connector makes of
    it."""
    packing, types = experiment.data.packing, {name for name, weight in experiment.data.mixture.items() if weight}
    types |= {held.source.data_type for held in experiment.evaluation.losses.values()}
    images = packing.row_tokens // packing.nominal_image_tokens if types - {"text"} else 0
    images = min(images, packing.max_images if packing.max_images is not None else images, 1 if types <= set(ONE_IMAGE) else images)
    more = max(0, experiment.model.image_tokens_at_most - packing.nominal_image_tokens)
    return packing.row_tokens + images * more


def _too_long(experiment: Experiment) -> list[Diagnostic]:
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
        found.append(Diagnostic(("data", "packing", "row_tokens"), message))
    preparation = language_model.preparation
    if preparation is not None and preparation.row_tokens > context:
        message = f"a document may be {preparation.row_tokens:,} tokens long, and the language model has a context of {context:,}"
        found.append(Diagnostic(("model", "language_model", "preparation", "row_tokens"), message))
    return found


# ---------------------------------------------------------------- words
def unknown_words(experiment: Experiment) -> list[Diagnostic]:
    """Sources whose texts the miniature tokenizer cannot read, of preparations too; any other tokenizer reads any text. Where data may not
    be looked at nothing is reported."""
    if look() == "nowhere":
        return []
    return at_every_stage(experiment, lambda stage: list(_unknown_words(stage, latest=stage is experiment)))


def _unknown_words(experiment: Experiment, latest: bool) -> Iterator[Diagnostic]:
    language_model = experiment.model.language_model
    encoder = experiment.model.image_encoder.preparation
    if encoder is not None and encoder.objective == "contrastive" and encoder.tokenizer == MINIATURE:
        instead = f", such as that of the language model, {language_model.tokenizer}" if language_model.tokenizer != MINIATURE else ""
        place = ("model", "image_encoder", "preparation", "tokenizer")
        yield from _told(encoder.source, place, "model.image_encoder.preparation.source", instead)
    if language_model.tokenizer != MINIATURE:
        return
    read = {f"data.sources.{name}": experiment.data.sources[name] for name in experiment.data.shares()}
    if language_model.preparation is not None:
        read["model.language_model.preparation.source"] = language_model.preparation.source
    if latest:
        read |= {f"evaluation.losses.{name}.source": held_out.source for name, held_out in experiment.evaluation.losses.items()}
    for name, source in read.items():
        yield from _told(source, ("model", "language_model", "tokenizer"), name, "")


def _told(source: Source, place: tuple[str, ...], name: str, instead: str) -> Iterator[Diagnostic]:
    of = f"'{MINIATURE}', the default tokenizer, knows only the words of the miniature world"
    declare = f"declare the tokenizer: a name or folder that transformers reads{instead}"
    unknown = once(f"words {identity_of(source)}", lambda: _unknown(source))
    if unknown is None:
        yield Diagnostic(place, f"{of}; the files of {name} are too large to check theirs; {declare}", warning=True)
    elif unknown:
        yield Diagnostic(place, f"{of}, and texts of {name} contain others: {listed(unknown, NAMED)}; {declare}")


def _unknown(source: Source) -> list[str] | None:
    """Words of the first texts that the tokenizer does not know; None where every file is too large to be opened."""
    if source.type == MINIATURE:
        return []
    try:
        texts = first_texts(source)
    except Exception:  # of any type: reported by other checks, or by the run
        return []
    if texts is None:
        return None
    tokenizer = load_tokenizer(MINIATURE)
    found: dict[str, None] = {}
    for word in (word for text in texts for word in text.split()):
        try:
            tokenizer.encode(word)
        except UnknownWords:
            found[word] = None
    return list(found)


def first_texts(source: Source) -> list[str] | None:
    """Texts of the first documents, of one file where there are several; None where every file is too large to be opened.

    Raises:
        Exception: whatever keeps the source from being read.
    """
    captions = getattr(source, "captions", None)  # of recaptioned images, whose own texts do not matter
    patterns = captions or getattr(source, "files", None)
    if patterns is None:
        return list(islice(_texts(open_source(source)), DOCUMENTS))
    file = next((file for file in find_files(patterns) if 0 < file.size <= FILE_BYTES), None)
    if file is None:
        return None
    if captions:
        return list(islice(_column(file, getattr(source, "caption", "caption")), DOCUMENTS))
    return list(islice(_texts(open_source(source.model_copy(update={"files": (file.address,)}))), DOCUMENTS))


def _texts(documents: Any) -> Iterator[str]:
    """The texts of each document, as one."""
    for index in range(min(READ, len(documents))):
        try:
            parts = documents[index].parts
        except (Unreadable, LeftOut):
            continue
        if texts := [part for part in parts if isinstance(part, str)]:
            yield " ".join(texts)


def _column(file: DataFile, name: str) -> Iterator[str]:
    from mm1_ablate.data.readers.open_files import open_rows

    rows = open_rows([file], [name])
    for index in range(min(READ, len(rows))):
        try:
            value = rows[index].get(name)
        except Unreadable:
            continue
        if isinstance(value, str):
            yield value
