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
    """The smallest value that is kept, in the unit of what is bounded. None: no lower bound."""
    at_most: float | None = None
    """The largest value that is kept, in the unit of what is bounded. None: no upper bound."""

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
    """Number of characters in all texts of a document."""
    image_side: Bounds = Bounds()
    """Shorter side of an image, in pixels. Outside of it, an interleaved document loses the image; other documents are skipped."""
    images: Bounds = Bounds()
    """Number of images in a document."""
    columns: dict[str, Bounds] = {}
    """Numeric columns of the data, such as a CLIP score. A document without the column counts as bad data."""


class Source(Component):
    """Where documents of one data type come from. Each format is a file in `mm1_ablate/data/sources/`."""

    data_type: DataType
    """The data type of the mixture that this source provides."""
    weight: PositiveFloat = 1.0
    """Weight among the sources of its data type."""
    keep: Keep = Keep()
    """Filters: documents outside of them are skipped and counted."""
    max_epochs: PositiveFloat | None = None
    """Maximum number of epochs. After that, the other sources take over its share. None: no limit."""
    max_bad_share: Annotated[float | None, Field(ge=0, le=1), HowItRuns] = None
    """The share of unreadable data above which a run stops. None: `data.max_bad_share`."""

    @property
    def shows_images(self) -> bool:
        """Whether its documents hold images."""
        return self.data_type != "text" and getattr(self, "images", True) is not False

    def open(self, seed: int = 0, name: str = "") -> Any:
        """The documents: an `mm1_ablate.data.sources.OpenSource`, whose documents carry the name of the source."""
        raise TypeError(f"{type(self).__name__} does not implement `open`")

    def check(self) -> None:
        """Look at the beginning of what it reads.

        Raises:
            SettingError: at the field that is wrong: files that do not exist or hold nothing, a field or column that is not there.
        """

    def warnings(self) -> Sequence[SettingError]:
        """Warnings to show before a run, each at its field; called after `check` has passed."""
        return ()

    def losses(self) -> Sequence[Any]:
        """What of its files cannot be read, as far as a look at each of them tells that reads none of them whole: a sequence of
        `mm1_ablate.data.lost_documents.Losses`. An open source may know more, in an attribute of the same name."""
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
    """The share of what was removed goes to one data type."""

    fill_with: DataType
    """The data type that takes over the share of what was removed."""


class Packing(Settings):
    """How documents are packed into rows: the rows of a batch hold several documents each, none of which attends to another."""

    row_tokens: PositiveInt = 4096
    """Nominal length of a packed row, in tokens."""
    nominal_image_tokens: PositiveInt = 144
    """Tokens that every image counts for when rows are packed, whatever the connector produces: arms with different image
    token counts then see identical documents in identical rows."""
    max_images: PositiveInt | None = 16
    """Maximum number of images in a row."""
    buffer_documents: PositiveInt = 256
    """Size of the packing window: number of documents from which the packer fills a row."""
    policy: Literal["best_fit", "balanced"] = "best_fit"
    """best_fit: best-fit-decreasing by length; rows are full unless `max_images` is the limit. balanced: also balances images against
    tokens in each row, for data where `max_images` is the limit; rows are never less full than with best_fit."""
    long_documents: Literal["split", "drop"] = "split"
    """What to do with a document that does not fit in a row. split: cut it between images or inside a text; drop: skip it. Both are
    counted."""


class Data(Settings):
    """What is trained on: which documents, in which mixture, packed how."""

    mixture: dict[DataType, Weight]
    """Weights of the data types; they need not add up to 1 or 100."""
    sources: dict[str, AnySource]
    """Sources of documents, each under a name of your own. A data type with a weight in the mixture needs at least one."""
    count: Literal["documents", "tokens", "text_tokens"] = "documents"
    """Unit of the weights. tokens: text tokens, and `packing.nominal_image_tokens` per image; text_tokens: images count as zero."""
    packing: Packing = Packing()
    """How documents are packed into rows of equal length."""
    when_removed: Annotated[Literal["renormalise", "shrink"] | FillWith, HowItRuns] = "renormalise"
    """What happens to the share of a removed data type. Applied when a sweep is expanded; a trial is identified by the
    resulting mixture and number of steps."""
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
