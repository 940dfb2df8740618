"""The record of a task: about twenty lines of YAML that say which items, how they are asked, and how answers are scored.

In: the plain values of a record, which stands in `evaluation/tasks/` or in a file of the user's own. Out: `Task`. Everything in a record
defines a score, so all of it is part of the evaluation's identity. The components that a record names are found in the rooms above;
their base classes are here. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mm1_ablate.config.evaluation import Wording
from mm1_ablate.config.metric import Kind, Metric
from mm1_ablate.config.metric_name import PROBABILITY
from mm1_ablate.config.settings import Component, ComponentOf, SettingError, Settings

EvaluationSplit = Literal["report", "development"]


# ---------------------------------------------------------------- components
class ItemSource(Component):
    """Where the queries and demonstrations of a task come from."""

    def open(self, split: EvaluationSplit = "report", count: int | None = None, seed: int = 0) -> Any:
        """The items, an `mm1_ablate.data.documents.ItemSet`: a pure function of the settings and the arguments.

        Args:
            split: which queries; the two share none. Demonstrations come from training material in both.
            count: queries at most; None: as many as the task usually has.
            seed: draws queries and demonstrations.
        """
        raise TypeError(f"{type(self).__name__} does not implement `open`")

    def field_names(self) -> Collection[str] | None:
        """What templates can name of the items, besides image, answer and choice. None: it is not known before they are opened."""
        return None

    def check(self, split: EvaluationSplit = "report") -> None:
        """Look whether what `open` reads is there, and at the beginning of it.

        Raises:
            SettingError: at the field that is wrong: files that do not exist, a field that no row has.
        """

    def contents(self, split: EvaluationSplit = "report") -> str:
        """A digest of the annotation files that `open` reads: names, sizes, and a little of each. Empty where items are made by code.

        Part of an evaluation's identity: other annotations are another evaluation, a moved folder is not. Images do not count.

        Raises:
            SettingError: as `check`.
        """
        return ""


AnyItemSource = Annotated[ItemSource, ComponentOf("mm1_ablate.data.items")]


# ---------------------------------------------------------------- templates
IMAGE, ANSWER, CHOICE = "image", "answer", "choice"
_BRACES = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")


class WrongTemplate(ValueError):
    """A text that is not a template. `line` is the one that is wrong, from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def template_pieces(template: str) -> list[tuple[str, str | None]]:
    """(text, the field after it) in order; the last field may be None.

    Raises:
        WrongTemplate: for anything but plain `{field}` and doubled braces.
    """
    pieces: list[tuple[str, str | None]] = []
    text, end = "", 0
    for brace in _BRACES.finditer(template):
        text += template[end : brace.start()]
        end, found = brace.end(), brace[0]
        if found in ("{{", "}}"):
            text += found[0]
            continue
        line = template.count("\n", 0, brace.start()) + 1
        if found in "{}":
            other = "}" if found == "{" else "{"
            raise WrongTemplate(f"template {template!r}: a '{found}' without its '{other}'; in texts, braces are doubled", line)
        if not found[1:-1].isidentifier():
            raise WrongTemplate(f"template {template!r}: expected a plain field such as {{answer}}, found {found}", line)
        pieces.append((text, found[1:-1]))
        text = ""
    text += template[end:]
    return [*pieces, (text, None)] if text else pieces


def template_fields(template: str) -> list[str]:
    """The fields that a template names, in order, repeated where it repeats them."""
    return [field for _, field in template_pieces(template) if field is not None]


# ---------------------------------------------------------------- the record
class Task(Settings):
    """How one benchmark is asked and scored."""

    task: str
    """Name of the task in tables."""
    family: Literal["image", "text"]
    """image: evaluated with demonstrations, averaged in `shot_k`; text: evaluated without them, averaged in `text_core`."""
    kind: Kind
    """generate: greedy decoding; choose: the choice with the highest likelihood; likelihood: how likely the first reference is."""
    items: AnyItemSource
    """Where questions and demonstrations come from."""
    prompt: str
    """A template over the item's fields, `{image}` and `{answer}`. The text before `{answer}` is the question. A
    template with `{choice}` is evaluated for each choice, and its answer is the first reference."""
    separator: str = ""
    """Ends a demonstration; a template over the item's fields."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """An answer ends before the first of these (templates over the item's fields), or at the end of a document."""
    max_new_tokens: PositiveInt = 16
    """The longest answer that is generated, in tokens."""
    fewest_shots: NonNegativeInt = 0
    """Numbers of shots below this are not asked of it: for a task of the image family whose question only its demonstrations tell."""
    protocols: dict[Literal["openflamingo"], Wording] = {}
    """Prompt, separator, stop strings and token limit under a protocol other than MM1's. Default: the protocol's usual ones
    (`protocols.py`)."""
    metrics: list[Annotated[Metric, ComponentOf("mm1_ablate.evaluation.metrics")]] = Field(min_length=1)
    """The first one enters averages."""

    @model_validator(mode="after")
    def _templates_fit(self) -> Task:
        self._check_prompt("prompt", self.prompt)
        self._check_endings("", self)
        for protocol, wording in self.protocols.items():
            if wording.prompt is not None:
                self._check_prompt(f"protocols.{protocol}.prompt", wording.prompt)
            self._check_endings(f"protocols.{protocol}.", wording)
        return self

    def _check_prompt(self, place: str, template: str) -> None:
        fields = self._fields_of(place, template)
        if fields.count(ANSWER) != 1:
            raise SettingError(place, f"expected {{answer}} once, found it {fields.count(ANSWER)} times")
        if (IMAGE in fields) != (self.family == "image"):
            raise SettingError(place, "expected {image} in a task of the image family, and none in one of the text family")

    def _check_endings(self, place: str, wording: Task | Wording) -> None:
        templates = {"separator": wording.separator, **{f"stop.{index}": text for index, text in enumerate(wording.stop or [])}}
        for name, template in templates.items():
            if template is not None and {IMAGE, ANSWER} & set(self._fields_of(place + name, template)):
                raise SettingError(place + name, f"{template!r} may name the item's own fields only")

    def _fields_of(self, place: str, template: str) -> list[str]:
        """The fields that a template names, all of which items have.

        Raises:
            SettingError: at the line of the template that is wrong.
        """
        try:
            pieces = template_pieces(template)
        except WrongTemplate as error:
            raise SettingError(place, str(error), error.line) from None
        names, line = self.items.field_names(), 1
        expected = [IMAGE, ANSWER, *([CHOICE] if self.kind == "choose" else []), *sorted(names or ())]
        for text, field in pieces:
            line += text.count("\n")
            if field == CHOICE and self.kind != "choose" and field not in (names or ()):
                raise SettingError(place, f"only a task of kind choose can name {{choice}}, this is one of kind {self.kind}", line)
            if names is not None and field is not None and field not in expected:
                raise SettingError(
                    place, f"no item has a field '{field}'; expected {' or '.join(', '.join(expected).rsplit(', ', 1))}", line
                )
        return [field for _, field in pieces if field is not None]

    @model_validator(mode="after")
    def _texts_have_no_demonstrations(self) -> Task:
        if self.family == "text" and self.fewest_shots:
            raise SettingError("fewest_shots", "tasks of the text family are asked without demonstrations; leave it out")
        return self

    @model_validator(mode="after")
    def _metrics_fit(self) -> Task:
        types = [metric.type for metric in self.metrics]
        for index, metric in enumerate(self.metrics):
            if metric.type in types[:index]:
                raise SettingError(f"metrics.{index}", f"the type '{metric.type}' occurs twice")
            if metric.type == PROBABILITY:
                message = "every task has it where an experiment says `evaluation.probability: true`; a record does not list it"
                raise SettingError(f"metrics.{index}", message)
            if metric.kind != ("choose" if self.kind == "likelihood" else self.kind):
                raise SettingError(f"metrics.{index}", f"{metric.type} scores tasks of kind {metric.kind}, this is one of kind {self.kind}")
            if metric.type == "choice_accuracy_normalised" and CHOICE in template_fields(self.prompt):
                raise SettingError(
                    f"metrics.{index}",
                    "choice_accuracy_normalised divides by the length of each choice, but with {choice} in the prompt the same answer is"
                    " scored after each; use choice_accuracy",
                )
        return self

    def shots_of(self, shots: Iterable[int]) -> tuple[int, ...]:
        """The numbers of shots among these at which it is asked, in rising order."""
        return tuple(sorted(number for number in shots if number >= self.fewest_shots)) if self.family == "image" else (0,)

    @property
    def primary(self) -> str:
        """The type of the metric that enters averages."""
        return self.metrics[0].type
