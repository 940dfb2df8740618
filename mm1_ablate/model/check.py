"""Whether a declared model can be made, before anything is trained: without weights, and without torch where nothing of timm's is named."""

from __future__ import annotations

from mm1_ablate.spec.contents import look, once
from mm1_ablate.spec.experiment import Experiment, TimmEncoder
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
    from mm1_ablate.model.image_encoder import check_named

    try:
        check_named(encoder)
    except Misfit as error:
        return [Finding(("model", "image_encoder", error.at), error.message)]
    return []
