"""Whether the miniature tokenizer, which stands where no other is declared, knows the words of the data, before anything is trained.

In: an experiment. Out: findings by place in it. Any other tokenizer reads any text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mm1_ablate.config.data import Source
from mm1_ablate.config.errors import Finding, listed
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import identity_of, look, once
from mm1_ablate.data.first_texts import first_texts
from mm1_ablate.data.tokenizer import UnknownWords, load_tokenizer

MINIATURE = "miniature"
NAMED = 5
"""Words that are given as examples."""


def unknown_words(experiment: Experiment) -> list[Finding]:
    """Sources whose texts the miniature tokenizer cannot read, of earlier stages and preparations too. A check for
    `config.sweep.expand.load_study`; where data may not be looked at there is nothing to say."""
    if look() == "nowhere":
        return []
    stages = enumerate([experiment, *reversed(experiment.earlier)])
    return [
        replace(finding, path=("starts_from",) * number + finding.path)
        for number, stage in stages
        for finding in _of_stage(stage, latest=number == 0)
    ]


def _of_stage(experiment: Experiment, latest: bool) -> Iterator[Finding]:
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


def _told(source: Source, place: tuple[str, ...], name: str, instead: str) -> Iterator[Finding]:
    of = f"'{MINIATURE}', which stands here where no tokenizer is declared, knows the words of the miniature world only"
    declare = f"declare the tokenizer: a name or folder that transformers reads{instead}"
    unknown = once(f"words {identity_of(source)}", lambda: _unknown(source))
    if unknown is None:
        yield Finding(place, f"{of}; the files of {name} are too large to look whether it knows theirs; {declare}", warning=True)
    elif unknown:
        yield Finding(place, f"{of}, and texts of {name} have others: {listed(unknown, NAMED)}; {declare}")


def _unknown(source: Source) -> list[str] | None:
    """Words of the first texts that the tokenizer does not know; nothing where nobody looked."""
    if source.type == MINIATURE:
        return []
    try:
        texts = first_texts(source)
    except Exception:  # whatever a source fails at: other checks tell of it, or the run does
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
