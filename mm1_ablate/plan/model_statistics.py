"""What is known of the models and packed rows of a study, remembered, so that a plan answers at once.

Profiling a model takes torch, transformers and timm (seconds to import) and counting rows takes documents; both are pure functions of a
section of the experiment, so their answers are kept (`data/cache.py`) under that section's fingerprint. Data whose random access
takes a long first reading (an index, a conversion) is not opened for a plan: what is declared has to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from mm1_ablate.config.connector import Connector
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import contents_of
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.config.identity.model_digests import local_identity
from mm1_ablate.config.image_encoder import ImageEncoder
from mm1_ablate.config.model import LanguageModel
from mm1_ablate.data.cache import known, remembered
from mm1_ablate.model.profile import ModelProfile, PartProfile
from mm1_ablate.plan.flops import RowContent

PROFILED = 6
"""Version of how models are profiled: increased when that changes, as cached results then no longer hold."""
COUNTED = 5
"""Version of how rows are packed and counted, likewise."""

MOST_READ = 200_000_000
"""Bytes that a plan may read to make data ready for counting: some seconds."""
ROWS_COUNTED = 64
"""Rows packed to see what a row holds on average."""


class TooMuchToRead(Exception):
    """Data that would take long to be made ready."""


class ModelUnavailable(Exception):
    """A model or tokenizer that is given by name, and that this machine lacks; in a sentence."""


class ModelStatistics:
    """Profiles of models and contents of their packed rows, each found out once.

    Args:
        look: whether data may be opened.
    """

    def __init__(self, look: bool = True) -> None:
        self.look = look
        self.problems: dict[str, None] = {}
        """What was wrong with data that was opened to be counted, in words; in order, each once."""
        self._profiles: dict[int, tuple[Experiment, ModelProfile]] = {}
        self._rows: dict[int, tuple[Experiment, RowContent]] = {}

    # Fingerprints take milliseconds, and all seeds of an arm have one experiment. It is kept, so that no later one has its place in memory.
    def profile(self, experiment: Experiment) -> ModelProfile:
        """What the parts of the model take, each profiled once for all experiments that share it.

        Raises:
            ModelUnavailable: this machine lacks a configuration or a tokenizer.
        """
        if id(experiment) not in self._profiles:
            self._profiles[id(experiment)] = (experiment, self._profile(experiment))
        return self._profiles[id(experiment)][1]

    def parameters(self, experiment: Experiment) -> dict[str, int]:
        """Parameters by part, as `ModelProfile.parameters` names them, of the model as it would be built."""
        return self.profile(experiment).parameters(experiment.model)

    def row(self, experiment: Experiment) -> RowContent:
        """What a packed row holds. Data that cannot be opened here (it may be on the cluster) is taken as declared."""
        if id(experiment) not in self._rows:
            self._rows[id(experiment)] = (experiment, self._row(experiment))
        return self._rows[id(experiment)][1]

    def _profile(self, experiment: Experiment) -> ModelProfile:
        model, precision = experiment.model, experiment.training.precision
        encoder = self._part("image_encoder", model.image_encoder, precision)
        language_model = self._part("language_model", model.language_model, precision)
        side, trained = model.image_encoder.grid_side, not model.image_encoder.frozen
        connector = self._part("connector", model.connector, encoder.width, side, language_model.width, precision, trained)
        return ModelProfile(encoder, connector, language_model)

    def _part(self, name: str, settings: ImageEncoder | Connector | LanguageModel, *others: Any) -> PartProfile:
        without = {"preparation": None, "weights": None} if name == "image_encoder" else {"preparation": None}
        changes = {key: value for key, value in without.items() if key in type(settings).model_fields}
        # What is at a local path may become another.
        form = canonical(settings.model_copy(update=changes)) | ({} if name == "image_encoder" else local_identity(settings))
        key = fingerprint({"profile": name, "settings": form, "others": list(others), "as": PROFILED})
        with _available(settings):
            return PartProfile(**remembered(key, lambda: vars(_profiled(settings, *others))))

    def _row(self, experiment: Experiment) -> RowContent:
        language_model = experiment.model.language_model
        tokenizer = local_identity(language_model).get("tokenizer", language_model.tokenizer)
        identity = {"row": canonical(experiment.data), "tokenizer": tokenizer, "counted": COUNTED}
        contents = {name: contents_of(experiment.data.sources[name]) for name in experiment.data.shares()}
        if any(contents.values()):
            identity["contents"] = contents
        key = fingerprint(identity)
        if any(contents.values()) and not self.look and known(key) is None:
            return RowContent.declared(experiment)
        try:
            return RowContent(**remembered(key, lambda: vars(count_rows(experiment))))
        except (OSError, ImportError, TooMuchToRead):
            return RowContent.declared(experiment)
        except ValueError as error:
            # A trial would fail with the same message; it is shown now.
            self.problems.setdefault(str(error))
            return RowContent.declared(experiment)


def _profiled(settings: ImageEncoder | Connector | LanguageModel, *others: Any) -> PartProfile:
    from mm1_ablate.model import profiler
    from mm1_ablate.model.language_model import token_ids

    if isinstance(settings, LanguageModel):
        return profiler.profile_language_model(settings, *token_ids(settings), *others)
    if isinstance(settings, Connector):
        return profiler.profile_connector(settings, *others)
    return profiler.profile_encoder(settings, *others)


@contextlib.contextmanager
def _available(*settings: Any) -> Iterator[None]:
    """Make a sentence of what transformers and timm raise for a model or tokenizer that they lack and cannot fetch."""
    try:
        yield
    except OSError as error:
        named = [name for part in settings for name in (getattr(part, "name", None), getattr(part, "tokenizer", None)) if name]
        # What timm knows by heart is not fetched, nor are the miniature's words.
        names = [name for name in dict.fromkeys(named) if ("/" in name or ":" in name) and not name.startswith("local-dir:")]
        what = " and ".join(names or named) or "a part of the model"
        fetch = names[0].removeprefix("hf-hub:").removeprefix("hf_hub:") if names else "NAME"
        raise ModelUnavailable(
            f"{what} cannot be profiled: the configuration or tokenizer is not on this machine and cannot be fetched; where there"
            f" is a network, fetch them once (hf download {fetch} --include '*.json'), or name a folder that has them, or train from"
            " scratch: give model_type and a configuration with vocab_size"
        ) from error


def count_rows(experiment: Experiment) -> RowContent:
    """What a packed row holds on average, from the first rows that a trial of seed 0 would see; no image is rendered or decoded.

    Raises:
        ValueError: there is no row, or too much of a source is unreadable.
        TooMuchToRead: it would take long to make the data ready.
    """
    from mm1_ablate.data.documents import Image
    from mm1_ablate.data.packing import open_packed_rows
    from mm1_ablate.data.tokenizer import load_tokenizer

    data = experiment.data
    for name in data.shares():
        data.sources[name].make_ready(_not_too_much)
    rows = open_packed_rows(data, load_tokenizer(experiment.model.language_model.tokenizer), 0)
    packed = list(islice(rows, ROWS_COUNTED))
    if not packed:
        raise ValueError("no row can be made of the data")
    documents = [document for row in packed for document in row]
    nominal = data.packing.nominal_image_tokens
    images = [len(document.images) for document in documents]
    texts = [document.nominal_length - count * nominal for document, count in zip(documents, images, strict=True)]
    text = sum(texts)
    # Nothing in a document comes before its first token, so nothing predicts it.
    unpredicted = sum(1 for document in documents if document.segments and not isinstance(document.segments[0], Image))
    # The packer reads ahead: of what was read, only so much is in these rows.
    read = sum(account["tokens"] for account in rows.accounting.account().values())
    part = sum(document.nominal_length for document in documents) / read / len(packed) if read else 0.0
    return RowContent(
        text_tokens=text / len(packed),
        images=sum(images) / len(packed),
        supervised=(text - unpredicted) / len(packed),
        text_text=sum(length * length for length in texts) / len(packed),
        text_images=sum(length * count for length, count in zip(texts, images, strict=True)) / len(packed),
        images_images=sum(count * count for count in images) / len(packed),
        measured=True,
        epochs={name: epochs * part for name, epochs in rows.mixture.epochs.items()},
    )


def _not_too_much(what: str, done: int, in_all: int) -> None:
    if in_all > MOST_READ:
        raise TooMuchToRead(what)
