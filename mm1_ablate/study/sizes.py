"""Parameters of models and contents of packed rows, remembered, so that a plan answers at once.

Counting takes torch, transformers and timm (seconds to import) and packing takes documents; both are pure functions of a section
of the experiment, so their answers are kept in `sizes.json` of the store under that section's fingerprint. The file is a cache:
delete it whenever you like. A store that cannot be written is planned all the same, without remembering.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mm1_ablate import __version__
from mm1_ablate.spec.experiment import Experiment
from mm1_ablate.spec.fingerprint import canonical, fingerprint
from mm1_ablate.study.cost import RowContent

ROWS_COUNTED = 64
"""Rows packed to see what a row holds on average."""


class Sizes:
    """Sizes by fingerprint, from memory, from the file, or counted."""

    def __init__(self, root: Path) -> None:
        self.path = Path(root) / "sizes.json"
        self.known: dict[str, Any] = {}
        self.counted = False
        try:
            content = json.loads(self.path.read_text())
        except (OSError, ValueError):
            content = {}
        if content.get("version") == __version__:
            self.known = content["sizes"]

    def parameters(self, experiment: Experiment) -> dict[str, int]:
        """Parameters by part (image_encoder, connector, language_model, total), of the model as it would be built."""
        key = fingerprint({"parameters": canonical(experiment.model)})
        if key not in self.known:
            from mm1_ablate.model.size import count_parameters

            self._remember(key, count_parameters(experiment))
        return self.known[key]

    def row(self, experiment: Experiment) -> RowContent:
        """What a packed row holds. Data that cannot be opened here (it may be on the cluster) is taken as declared."""
        key = fingerprint({"row": canonical(experiment.data), "tokenizer": experiment.model.language_model.tokenizer})
        if key not in self.known:
            try:
                content = count_rows(experiment)
            except (OSError, ImportError):
                return RowContent.declared(experiment)
            self._remember(key, vars(content))
        return RowContent(**self.known[key])

    def _remember(self, key: str, value: Any) -> None:
        self.known[key] = value
        self.counted = True

    def save(self) -> None:
        """Write what was counted since; a store that does not exist yet is not made for it."""
        if not self.counted or not self.path.parent.is_dir():
            return
        beside = self.path.with_suffix(f".{os.getpid()}")
        try:
            beside.write_text(json.dumps({"version": __version__, "sizes": self.known}))
            beside.replace(self.path)
            self.counted = False
        except OSError:
            beside.unlink(missing_ok=True)


def count_rows(experiment: Experiment) -> RowContent:
    """What a packed row holds on average, from the first rows that a trial of seed 0 would see; no image is rendered or read."""
    from mm1_ablate.data.mixture import Mixture
    from mm1_ablate.data.packing import PackedRows, tokenise
    from mm1_ablate.data.tokenizer import load_tokenizer

    data, shares = experiment.data, experiment.data.shares()
    tokenizer = load_tokenizer(experiment.model.language_model.tokenizer)
    nominal = data.packing.nominal_image_tokens
    sources = {name: data.sources[name].open(0, name) for name in shares}
    mixture = Mixture(shares, sources, data.count, 0, lambda document: tokenise(document, tokenizer, nominal).nominal_length)
    rows = PackedRows(mixture, tokenizer, data.packing, 0)
    documents = [document for _ in range(ROWS_COUNTED) for document in next(rows)]
    images = [len(document.images) for document in documents]
    texts = [document.nominal_length - count * nominal for document, count in zip(documents, images, strict=True)]
    text = sum(texts)
    return RowContent(
        text_tokens=text / ROWS_COUNTED,
        images=sum(images) / ROWS_COUNTED,
        document_tokens=sum(length * length for length in texts) / text,
        measured=True,
    )
