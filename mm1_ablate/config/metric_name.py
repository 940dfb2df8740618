"""Names of metrics: as results have them, and as people read and write them.

In: text such as `shot_8/average` or `8-shot`. Out: a `MetricName`, whose `str` is the canonical name and whose `title` is what tables show.

| canonical                  | display                 | what it is                                                              |
|----------------------------|------------------------|-------------------------------------------------------------------------|
| `shot_8/average`           | `8-shot`               | mean of the primary metrics of image tasks at 8 shots                   |
| `shot_8/vqav2`             | `8-shot vqav2`         | an image task's primary metric; or the mean over a group of that name   |
| `shot_8/coco.cider_raw`    | `8-shot coco.cider raw`| another metric of the task                                              |
| `shot_8/average.probability`| `8-shot probability`  | mean of the probability of the right answer over image tasks            |
| `text_core/average`        | `TextCore`             | mean over text tasks; `text_core/arc_easy`: `TextCore arc easy`         |
| `loss/web`                 | `loss web`             | loss per token of held-out documents; `bits_per_byte/web` per byte      |

`parse` takes both spellings, and the second with a slash too, as MLflow has it: `8-shot/vqav2`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

AVERAGE = "average"
PROBABILITY = "probability"
"""The metric that every task has where `evaluation.probability` asks for it, so that it has averages of its own."""
TEXT_CORE = "text_core"
LOSSES = ("loss", "bits_per_byte")
"""Suites of held-out documents."""
_SHOTS = re.compile(r"shot_(0|[1-9][0-9]*)")
_SHOTS_TITLE = re.compile(r"(0|[1-9][0-9]*)-shot")
_TEXT_CORE_TITLE = "TextCore"


@dataclass(frozen=True, slots=True)
class MetricName:
    """The name of a metric, in its two parts.

    Attributes:
        suite: shot_<k>, text_core, loss or bits_per_byte.
        name: average, a task, a group, or <task>.<metric type>; of losses the name of the documents.
    """

    suite: str
    name: str

    @classmethod
    def parse(cls, text: str) -> MetricName:
        """The metric that a text names, in either spelling.

        Raises:
            ValueError: where it names none.
        """
        suite, slash, name = text.partition("/")
        if slash and name and is_suite(suite):
            return cls(suite, name)
        # What people read: a suite by itself is its average, and a space or a slash stands before a name.
        suite, separator, name = re.match(r"([^ /]*)([ /]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        if shots := _SHOTS_TITLE.fullmatch(suite):
            suite = f"shot_{shots[1]}"
        elif suite == _TEXT_CORE_TITLE:
            suite = TEXT_CORE
        elif not (separator and suite in LOSSES):
            raise ValueError(f"'{text}' is not a metric")
        if bool(separator) != bool(name):
            raise ValueError(f"'{text}' is not a metric")
        if separator == " ":
            name = f"{AVERAGE}.{PROBABILITY}" if name == PROBABILITY and suite not in LOSSES else name.replace(" ", "_")
        return cls(suite, name or AVERAGE)

    @classmethod
    def of_task(cls, family: str, shots: int, task: str, rule: str, primary: bool = True) -> MetricName:
        """The metric of a task, or of held-out documents.

        Args:
            family: image, text or loss.
            rule: the type of the metric, such as exact_match; of losses loss or bits_per_byte.
            primary: whether it is the one of the task's metrics that averages are made of.
        """
        return cls(suite_of(family, shots, rule), task if primary or family == "loss" else f"{task}.{rule}")

    @classmethod
    def of_average(cls, suite: str, name: str = AVERAGE, rule: str = "") -> MetricName:
        """The mean over tasks, or over a group of them, of their primary metrics, or of another that all have."""
        return cls(suite, f"{name}.{rule}" if rule else name)

    def __str__(self) -> str:
        return f"{self.suite}/{self.name}"

    @property
    def is_loss(self) -> bool:
        """Whether it is of held-out documents."""
        return self.suite in LOSSES

    @property
    def shots(self) -> int | None:
        """Demonstrations before the question; None for text tasks and losses."""
        match = _SHOTS.fullmatch(self.suite)
        return int(match[1]) if match else None

    @property
    def task(self) -> str:
        """The task, group or documents that are measured; or average."""
        return self.name if self.is_loss else self.name.partition(".")[0]

    @property
    def rule(self) -> str:
        """The metric type behind the task; empty for the task's primary metric, for averages of these and for losses."""
        return "" if self.is_loss else self.name.partition(".")[2]

    @property
    def is_average(self) -> bool:
        """Whether it is over all tasks of the suite."""
        return self.task == AVERAGE and not self.is_loss

    @property
    def suite_title(self) -> str:
        """'8-shot', 'TextCore', 'loss'."""
        return f"{self.shots}-shot" if self.shots is not None else _TEXT_CORE_TITLE if self.suite == TEXT_CORE else self.suite

    @property
    def title(self) -> str:
        """What tables show: '8-shot', '8-shot probability', 'TextCore', '8-shot vqa v2'."""
        if self.is_average and self.rule in ("", PROBABILITY):
            return f"{self.suite_title} {self.rule}".rstrip()
        if self.name == PROBABILITY and not self.is_loss:  # a task of this name
            return f"{self.suite_title}/{self.name}"
        return f"{self.suite_title} {self.name.replace('_', ' ')}"


def is_suite(text: str) -> bool:
    """Whether it is the first part of a canonical name."""
    return text == TEXT_CORE or text in LOSSES or _SHOTS.fullmatch(text) is not None


def suite_of(family: str, shots: int, rule: str) -> str:
    """The suite that a task's metric belongs to; the arguments are those of `MetricName.of_task`."""
    return rule if family == "loss" else TEXT_CORE if family == "text" else f"shot_{shots}"


def metric_title(metric: str) -> str:
    """What tables show for a canonical name."""
    return MetricName.parse(metric).title


def canonical(text: str) -> str:
    """The canonical name of the metric that a text names; the text itself where it names none, for later checks to complain of."""
    try:
        return str(MetricName.parse(text))
    except ValueError:
        return text


DeclaredMetric = Annotated[str, AfterValidator(canonical)]
"""A setting that names a metric in either spelling; its value is the canonical name."""
