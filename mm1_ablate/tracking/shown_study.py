"""What MLflow shows of a comparison. In: numbers and sentences from whoever compares. Out: plain data that this room can write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ComparedScore:
    """An arm on one metric, rounded as tables show it. None: not known, or none (the difference of a baseline)."""

    mean: float | None
    difference: float | None = None
    low: float | None = None
    """Of the interval of the difference."""
    high: float | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class ComparedArm:
    """An arm as the comparison judges it."""

    verdict: str
    seeds: int
    """With a score on the primary metric."""
    scores: Mapping[str, ComparedScore]
    """By the metric's short name, such as '8-shot'."""
    also_changed: str = ""
    """What differs from the baseline besides what was declared, in words."""
    score: str = ""
    """On the primary metric, in words: '44.1'."""
    difference: str = ""
    """Likewise, with its interval: '−13.2 [−15.6, −10.8]'; empty for a baseline."""


@dataclass(frozen=True)
class ComparedStudy:
    """A study as the comparison judges it, and the files of its report."""

    headline: str
    """The verdict in a sentence."""
    primary: str
    """The title of the primary metric."""
    arms: Mapping[str, ComparedArm]
    """By name."""
    note: str = ""
    """The comparison in words, in Markdown."""
    table: pandas.DataFrame | None = None
    """Rounded."""
    report: Path | None = None
    """The folder with report.html."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Further files of the comparison: texts by name."""
