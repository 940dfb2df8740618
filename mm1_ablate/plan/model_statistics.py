"""Parameters of models and contents of packed rows, remembered, so that a plan answers at once.

Data whose random access takes a long first reading (an index, a conversion) is not opened for a plan: what is declared has to do.
Counting takes torch, transformers and timm (seconds to import) and packing takes documents; both are pure functions of a section
of the experiment, so their answers are kept in `sizes.json` of the store (of the cache, while there is no store) under that section's
fingerprint. The file is a cache: delete it whenever you like. A store that cannot be written is planned all the same, without
remembering.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mm1_ablate import __version__
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.data_digests import contents_of
from mm1_ablate.config.identity.fingerprint import canonical, fingerprint
from mm1_ablate.config.identity.model_digests import local_identity
from mm1_ablate.data.cache import cache_folder
from mm1_ablate.model.part_cost import Part
from mm1_ablate.plan.flops import Parts, RowContent

Value = TypeVar("Value")
MOST_READ = 200_000_000
"""Bytes that a plan may read to make data ready for counting: some seconds."""
COUNTED = 5
"""How rows are packed and counted: another number where that changes, for what is remembered is no longer right."""
ROWS_COUNTED = 64
"""Rows packed to see what a row holds on average."""


class TooMuchToRead(Exception):
    """Data that would take long to be made ready."""


class ModelNotHere(Exception):
    """A model or tokenizer that is given by name, and of which this machine has nothing; in a sentence."""


class Sizes:
    """Sizes by fingerprint, from memory, from the file, or counted.

    Args:
        root: of the store.
        look: whether data may be opened.
    """

    def __init__(self, root: Path, look: bool = True) -> None:
        # Planning makes no store; what it counted is worth keeping all the same.
        self.path = (Path(root) if Path(root).is_dir() else cache_folder()) / "sizes.json"
        self.look = look
        self.problems: dict[str, None] = {}
        """What was wrong with data that was opened to be counted, in words; in order, each once."""
        self.known: dict[str, Any] = {}
        self._of: dict[tuple[str, int], tuple[Experiment, Any]] = {}
        self.counted = False
        try:
            content = json.loads(self.path.read_text())
        except (OSError, ValueError):
            content = {}
        if content.get("version") == __version__:
            self.known = content["sizes"]

    def parameters(self, experiment: Experiment) -> dict[str, int]:
        """Parameters by part (image_encoder, connector, language_model, total), of the model as it would be built."""
        return self._once("parameters", experiment, self._parameters)

    def parts(self, experiment: Experiment) -> Parts:
        """What the parts of the model take, each rehearsed once for all experiments that share it."""
        return self._once("parts", experiment, self._parts)

    def row(self, experiment: Experiment) -> RowContent:
        """What a packed row holds. Data that cannot be opened here (it may be on the cluster) is taken as declared."""
        return self._once("row", experiment, self._row)

    def _once(self, what: str, experiment: Experiment, find: Callable[[Experiment], Value]) -> Value:
        """Fingerprints take milliseconds, and all seeds of an arm have one experiment."""
        key = (what, id(experiment))
        if key not in self._of:
            # The experiment is kept, so that no later one has its place in memory.
            self._of[key] = (experiment, find(experiment))
        return self._of[key][1]

    def _parameters(self, experiment: Experiment) -> dict[str, int]:
        # What is at a local path may become another.
        key = fingerprint({"parameters": canonical(experiment.model), **local_identity(experiment.model.language_model)})
        if key not in self.known:
            from mm1_ablate.model.size import count_parameters

            with _all_here(experiment.model.image_encoder, experiment.model.language_model):
                self._remember(key, count_parameters(experiment))
        return self.known[key]

    def _parts(self, experiment: Experiment) -> Parts:
        model, precision = experiment.model, experiment.training.precision
        encoder = self._part("image_encoder", model.image_encoder, precision)
        language = self._part("language_model", model.language_model, precision)
        side, trained = model.image_encoder.grid_side, not model.image_encoder.frozen
        between = (encoder.width, side, language.width, precision, trained)
        return Parts(encoder, self._part("connector", model.connector, *between), language)

    def _part(self, name: str, settings: Any, *others: Any) -> Part:
        without = {"preparation": None, "weights": None} if name == "image_encoder" else {"preparation": None}
        known = {key: value for key, value in without.items() if key in type(settings).model_fields}
        form = canonical(settings.model_copy(update=known)) | ({} if name == "image_encoder" else local_identity(settings))
        key = fingerprint({"rehearsed": name, "settings": form, "others": list(others), "as": COUNTED})
        if key not in self.known:
            from mm1_ablate.model import profile

            if name == "language_model":
                from mm1_ablate.model.language_model import token_ids

                with _all_here(settings):
                    others = (*token_ids(settings), *others)
            rehearse = {
                "image_encoder": profile.rehearse_encoder,
                "connector": profile.rehearse_connector,
                "language_model": profile.rehearse_language_model,
            }[name]
            with _all_here(settings):
                self._remember(key, vars(rehearse(settings, *others)))  # type: ignore[operator]
        return Part(**self.known[key])

    def _row(self, experiment: Experiment) -> RowContent:
        language_model = experiment.model.language_model
        tokenizer = local_identity(language_model).get("tokenizer", language_model.tokenizer)
        identity = {"row": canonical(experiment.data), "tokenizer": tokenizer, "counted": COUNTED}
        contents = {name: contents_of(experiment.data.sources[name]) for name in experiment.data.shares()}
        if any(contents.values()):
            identity["contents"] = contents
        key = fingerprint(identity)
        if key not in self.known:
            if any(contents.values()) and not self.look:
                return RowContent.declared(experiment)
            try:
                content = count_rows(experiment)
            except (OSError, ImportError, TooMuchToRead):
                return RowContent.declared(experiment)
            except ValueError as error:
                # A trial would end with the same words; nobody should have to wait for them.
                self.problems.setdefault(str(error))
                return RowContent.declared(experiment)
            self._remember(key, vars(content))
        return RowContent(**self.known[key])

    def _remember(self, key: str, value: Any) -> None:
        self.known[key] = value
        self.counted = True

    def save(self) -> None:
        """Write what was counted since, where there is a place for it."""
        if not self.counted:
            return
        beside = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps({"version": __version__, "sizes": self.known}))
            beside.replace(self.path)
            self.counted = False
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _all_here(*settings: Any) -> Iterator[None]:
    """Make a sentence of what transformers and timm raise for a model or tokenizer that they have not and cannot fetch."""
    try:
        yield
    except OSError as error:
        named = [name for part in settings for name in (getattr(part, "name", None), getattr(part, "tokenizer", None)) if name]
        # What timm knows by heart is not fetched, nor are the miniature's words.
        names = [name for name in dict.fromkeys(named) if ("/" in name or ":" in name) and not name.startswith("local-dir:")]
        what = " and ".join(names or named) or "a part of the model"
        fetch = names[0].removeprefix("hf-hub:").removeprefix("hf_hub:") if names else "NAME"
        raise ModelNotHere(
            f"nothing can be reckoned of {what}: the configuration or tokenizer is not on this machine and cannot be fetched; where there"
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
