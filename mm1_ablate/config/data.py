"""The data of an experiment: sources, which of their documents are kept, the mixture, and how rows are packed.

Part of `experiment.py`, whose rules on defaults and identity hold here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from mm1_ablate.config.settings import Component, ComponentOf, HowItRuns, SettingError, Settings

DataType = Literal["captioned", "synthetic_captioned", "interleaved", "text"]
Weight = Annotated[float, Field(ge=0)]


class Bounds(Settings):
    """From here to there, both included; a bound that is left out does not bind."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Bounds:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise SettingError("at_most", f"{self.at_most} is less than at_least, {self.at_least}: nothing would be kept")
        return self

    def __contains__(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def binds(self) -> bool:
        """Whether anything lies outside."""
        return self.at_least is not None or self.at_most is not None


class Keep(Settings):
    """Which documents of a source are kept. What is left out is counted, and is not bad data."""

    text_characters: Bounds = Bounds()
    """Characters of all texts of a document."""
    image_side: Bounds = Bounds()
    """Pixels of an image's shorter side. Of interleaved documents the image is left out, of others the whole document."""
    images: Bounds = Bounds()
    """Images of a document."""
    columns: dict[str, Bounds] = {}
    """Numbers that the data itself has of each document, such as a CLIP score; a document without the column is bad data."""


class Source(Component):
    """Where documents of one data type come from. Each format is a file in `mm1_ablate/data/sources/`."""

    data_type: DataType
    """The share of the mixture that this source feeds."""
    weight: PositiveFloat = 1.0
    """Weight among the sources of its data type."""
    keep: Keep = Keep()
    """Which of its documents are kept."""
    max_epochs: PositiveFloat | None = None
    """How often its documents are read at most; after that the other sources share its part. None: as often as need be."""
    max_bad_share: Annotated[float | None, Field(ge=0, le=1), HowItRuns] = None
    """The share of unreadable data above which a run stops. None: that of the whole, `data.max_bad_share`."""

    @property
    def shows_images(self) -> bool:
        """Whether its documents hold images."""
        return self.data_type != "text" and getattr(self, "images", True) is not False

    def open(self, seed: int = 0, name: str = "") -> Any:
        """The documents: an `mm1_ablate.data.sources.OpenSource`, whose documents carry the name of the source."""
        raise TypeError(f"{type(self).__name__} does not say how it is opened")

    def check(self) -> None:
        """Look at the beginning of what it reads.

        Raises:
            SettingError: at the field that is wrong: files that do not exist or hold nothing, a field or column that is not there.
        """

    def warnings(self) -> Sequence[SettingError]:
        """What stops no run and must be said before one, each at its field; asked after `check` found nothing wrong."""
        return ()

    def losses(self) -> Sequence[Any]:
        """What of its files cannot be read, as far as a look at each of them tells that reads none of them whole: a sequence of
        `mm1_ablate.data.lost_documents.Losses`. What is open may know more of it, and says so in an attribute of the same name."""
        return ()

    def texts_after_images(self, most: int) -> Sequence[str] | None:
        """Texts that directly follow an image in its first documents, as training reads them; for the check of prompts.

        Read from the beginning of files, without an index of all. None where that is not possible: then prompts are not compared with it.

        Args:
            most: texts, at most.
        """
        return None

    def contents(self) -> str:
        """A digest of the files that it reads: names, sizes, and a little of each. Empty where documents are made by code.

        Part of a trial's identity: a changed file is another trial, a moved folder is not.
        """
        return ""

    def make_ready(self, report: Any = None) -> None:
        """Do once what random access needs (an index, an unpacked copy), so that opening is quick afterwards.

        Args:
            report: called with (what is done: str, bytes done: int, bytes in all: int).
        """


AnySource = Annotated[Source, ComponentOf("mm1_ablate.data.sources")]


class FillWith(Settings):
    fill_with: DataType
    """The data type that takes over the share of what was removed."""


class Packing(Settings):
    row_tokens: PositiveInt = 4096
    """Nominal length of a packed row, in tokens."""
    nominal_image_tokens: PositiveInt = 144
    """What every image counts when rows are packed, whatever the connector makes of it: so arms with other image token
    counts see identical documents in identical rows."""
    max_images: PositiveInt | None = 16
    """Images in a row at most."""
    buffer_documents: PositiveInt = 256
    """Documents among which the packer looks for those of a row."""
    policy: Literal["best_fit", "balanced"] = "best_fit"
    """best_fit: best-fit-decreasing by length, full rows where images are no matter. balanced: each row is filled so that what is left of
    it matches what is left of the window in tokens and images; for data that `max_images` binds, and never less full than best_fit."""
    long_documents: Literal["split", "drop"] = "split"
    """What becomes of a document that no row can hold: pieces, cut between images or inside a text, or left out. Both are counted."""


class Data(Settings):
    mixture: dict[DataType, Weight]
    """Weights of the data types: 45/45/10, 5:5:1 and 66/33 are all fine."""
    sources: dict[str, AnySource]
    count: Literal["documents", "tokens", "text_tokens"] = "documents"
    """What the weights count. tokens: an image counts `packing.nominal_image_tokens` of them; text_tokens: images count nothing."""
    packing: Packing = Packing()
    when_removed: Annotated[Literal["renormalise", "shrink"] | FillWith, HowItRuns] = "renormalise"
    """What becomes of the share of a removed data type. Acts when a sweep is expanded; the resolved mixture and number of
    steps are what a trial is."""
    max_bad_share: Annotated[float, Field(ge=0, le=1), HowItRuns] = 0.01
    """The share of unreadable data of a source above which a run stops. Below it, bad data is skipped, counted and named."""

    @model_validator(mode="after")
    def _sources_feed_the_mixture(self) -> Data:
        if not any(self.mixture.values()):
            raise SettingError(
                "mixture", "every weight is zero, so nothing is left to train on; give at least one data type a positive weight"
            )
        fed = {source.data_type for source in self.sources.values()}
        for data_type, weight in self.mixture.items():
            if weight and data_type not in fed:
                raise SettingError(
                    f"mixture.{data_type}",
                    f"no source feeds it; add a source with data_type: {data_type}, or remove data.mixture.{data_type}",
                )
        return self

    def shares(self) -> dict[str, Fraction]:
        """Exact share of each source in the mixture: across data types first, then among the sources of a type."""
        total = sum(Fraction(str(weight)) for weight in self.mixture.values())
        shares: dict[str, Fraction] = {}
        for name, source in self.sources.items():
            weight = Fraction(str(self.mixture.get(source.data_type, 0)))
            siblings = sum(Fraction(str(other.weight)) for other in self.sources.values() if other.data_type == source.data_type)
            if weight:
                shares[name] = weight / total * Fraction(str(source.weight)) / siblings
        return shares
