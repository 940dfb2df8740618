"""Whether a declared model can be made, before anything is trained: without weights, and without torch where nothing of timm's is named.

Making a large encoder, even without values, takes timm and torch, seconds to import. So what was found right is remembered in
`encoders.json` of the cache, for the version of timm that it was found with. Delete the file whenever you like.
"""

from __future__ import annotations

import contextlib
import json
import os
from importlib.metadata import version

from mm1_ablate import __version__
from mm1_ablate.data.cache import cache_folder
from mm1_ablate.spec.contents import look, once
from mm1_ablate.spec.experiment import Experiment, TimmEncoder
from mm1_ablate.spec.fingerprint import canonical, fingerprint
from mm1_ablate.spec.messages import Finding
from mm1_ablate.spec.settings import Misfit


def wrong_encoder(experiment: Experiment) -> list[Finding]:
    """What is wrong with an image encoder that is named: timm has none such, its patches are of another size, it has no such block, or
    the file of its weights is missing. A check for `spec.expansion.load_study`. Where data may not be looked at, neither are weights."""
    encoder = experiment.model.image_encoder
    if not isinstance(encoder, TimmEncoder):
        return []
    settings = encoder.model_copy(update={"preparation": None, **({"weights": None} if look() == "nowhere" else {})})
    return once(f"encoder {settings.model_dump_json()}", lambda: _looked_at(settings))


def _looked_at(encoder: TimmEncoder) -> list[Finding]:
    key = fingerprint({"encoder": canonical(encoder.model_copy(update={"weights": None, "frozen": False}))})
    # A file of weights may be gone by now.
    if encoder.weights_file is None and key in _right_before():
        return []
    from mm1_ablate.model.image_encoder import check_named

    try:
        check_named(encoder)
    except Misfit as error:
        return [Finding(("model", "image_encoder", error.at), error.message)]
    _remember(key)
    return []


def _right_before() -> list[str]:
    try:
        content = json.loads((cache_folder() / "encoders.json").read_text())
    except (OSError, ValueError):
        return []
    return content["right"] if content.get("versions") == _versions() else []


def _remember(key: str) -> None:
    folder = cache_folder()
    beside = folder / f"encoders.{os.getpid()}"
    known = dict.fromkeys([*_right_before(), key])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({"versions": _versions(), "right": list(known)}))
        beside.replace(folder / "encoders.json")
    except OSError:  # a cache that cannot be written costs only time
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _versions() -> list[str]:
    return [version("timm"), __version__]
