"""F1 over the words of a caption that say something: which of the declared slots it fills, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import field_validator

from mm1_ablate.evaluation.metrics import Metric, Prediction, References, best_reference


class SlotF1(Metric):
    """Harmonic mean of precision and recall of a caption's slot words against a reference's, the best reference counting.

    A slot word is a word of one of the lists; all others are ignored, and so is their order. A caption without any scores 0.
    """

    type: Literal["slot_f1"] = "slot_f1"
    ceiling = "best_reference"
    slots: dict[str, list[str]]
    """The words of each slot, such as `colour: [red, blue]`."""

    @field_validator("slots")
    @classmethod
    def _words_are_of_one_slot(cls, slots: dict[str, list[str]]) -> dict[str, list[str]]:
        words = [word for slot in slots.values() for word in slot]
        twice = sorted({word for word in words if words.count(word) > 1})
        if not words or twice:
            raise ValueError(
                f"a word must be of one slot only, these are of several: {', '.join(twice)}" if twice else "expected at least one word"
            )
        return slots

    def score(self, predictions: Sequence[Prediction], split_references: References | None = None) -> list[float]:
        words = {word for slot in self.slots.values() for word in slot}

        def f1(found: set[str], wanted: set[str]) -> float:
            return 2 * len(found & wanted) / (len(found) + len(wanted)) if found and wanted else 0.0

        return [
            best_reference(
                prediction,
                [f1(words & set(prediction.text.split()), words & set(reference.split())) for reference in prediction.references],
            )
            for prediction in predictions
        ]
