"""What a record says of the items of a task: where the rows are, and which expression over a row is what."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, ValidationInfo, WithJsonSchema, model_validator

from mm1_ablate.config.passwords import remember
from mm1_ablate.config.settings import HowItRuns, SettingError, Settings
from mm1_ablate.data.items import ItemSource
from mm1_ablate.data.items._expressions import Expression, NameTemplate

BENCHMARKS = "MM1_ABLATE_BENCHMARKS"
"""The environment variable that names the folder of the user's benchmarks."""


def _from_record(folder: str, info: ValidationInfo) -> str:
    if "://" in folder or folder.startswith("${"):
        return remember(folder)
    return os.path.join(os.path.abspath(str((info.context or {}).get("folder") or os.getcwd())), os.path.expanduser(folder))


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | dict | Settings) else value


Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_as_tuple),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""One name or several, all of them read; braces and globs as for other files. Relative ones start at the record's `folder`."""


class Shape(Settings):
    """What of a row is what: Jinja expressions over its fields, as in lm-evaluation-harness's records."""

    id: Expression | None = None
    """Identifies an item within its file. None: a digest of the row."""
    group: Expression | None = None
    """Demonstrations of a query come from its own group. None: all items are of one group."""
    fields: dict[str, Expression] | None = None
    """What the templates of the task can name."""
    references: Expression | None = None
    """Correct answers: a text or a list of texts. Demonstrations show the first."""
    choices: Expression | None = None
    """A list of texts to choose from."""
    correct: Expression | None = None
    """Index of the correct choice, from 0."""
    image: NameTemplate | None = None
    """The image's file name, with fields in braces: `coco/val2014/COCO_val2014_{image_id:012d}.jpg`. It may be in a .zip or .tar of its
    folder's name."""
    image_key: NameTemplate | None = None
    """Key of the picture, shared by all tasks that show it, so that it is encoded once. None: its file, with the folder."""


class Join(Settings):
    """Rows of another list that belong to a row. A row to which none belongs is bad data."""

    file: Patterns | None = None
    """None: the file of the rows themselves."""
    rows: str = ""
    """Dotted path of the list in a JSON file."""
    on: Expression
    """Over a row of this list: what it belongs to."""
    to: Expression | None = None
    """Over a row that it may belong to; None: the same expression."""


class ItemFiles(Shape):
    """The rows of one purpose, and what is otherwise with them than the source says."""

    file: Patterns
    """Name of the file with the rows, or several, all of them read: relative to `folder`, with braces and globs."""
    rows: str = ""
    """Dotted path of the list of rows in a JSON file; a mapping of ids is one too. None: the file is the list."""
    join: dict[str, Join] = {}
    """Lists of rows that belong to a row, each under a name of its own for expressions."""
    where: Expression | None = None
    """Which rows count."""
    merge: bool = False
    """Rows with one id are one item, with the references of all. If not, only the first counts and the others are bad data."""
    count: PositiveInt | None = None
    """Items at most, drawn. None: all queries, and 2048 candidates for demonstrations."""


Alternatives = Annotated[
    tuple[ItemFiles, ...],
    BeforeValidator(_as_tuple, json_schema_input_type=ItemFiles | list[ItemFiles]),
    Field(min_length=1),
]
"""One, or alternatives in order of preference: the first whose files exist is read."""


class RecordSettings(Shape, ItemSource):
    """What a record declares of its items."""

    folder: Annotated[str, AfterValidator(_from_record), HowItRuns] = f"${{{BENCHMARKS}}}"
    """Where names of files start. Relative to the record, if it is not absolute."""
    published: Annotated[str, HowItRuns] = ""
    """Where the files can be downloaded; named in the message where they are missing."""
    archives: Annotated[Patterns | None, HowItRuns] = None
    """Further .zip or .tar files in which the images are, if they are neither unpacked nor in one of their folder's name."""
    queries: Alternatives
    """Test items, for reports."""
    demonstrations: Alternatives | None = None
    """Candidates for demonstrations. None: the task has no demonstrations."""
    development: Alternatives | None = None
    """Items for tuning a recipe. None: a tenth of the pictures (or rows) of the demonstrations, which are then never shown."""

    @model_validator(mode="after")
    def _says_what_is_right(self) -> RecordSettings:
        for name in ("queries", "demonstrations", "development"):
            alternatives = getattr(self, name) or ()
            for index, files in enumerate(alternatives):
                shape, place = self.shape(files), f"{name}.{index}" if len(alternatives) > 1 else name
                if shape.references is None and (shape.choices is None or shape.correct is None):
                    raise SettingError(place, "has neither 'references' nor 'choices' with 'correct'")
                if (shape.choices is None) != (shape.correct is None):
                    raise SettingError(place, "'choices' and 'correct' go together")
        return self

    def field_names(self) -> Collection[str]:
        every = [files for name in ("queries", "demonstrations", "development") for files in getattr(self, name) or ()]
        return {name for files in every for name in self.shape(files).fields or ()}

    def shape(self, files: ItemFiles) -> Shape:
        """What of a row of these files is what."""
        names = Shape.model_fields
        return Shape.model_construct(
            **{name: getattr(self, name) if getattr(files, name) is None else getattr(files, name) for name in names}
        )

    def base(self) -> str:
        """The folder, its variables replaced.

        Raises:
            SettingError: a variable is not set.
        """

        def value(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                needed = ", ".join(self.queries[0].file)
                published = f" (published at {self.published})" if self.published else ""
                what = f"the environment variable {match[1]} is not set; set it to the folder of your benchmarks, which holds {needed}"
                raise SettingError("folder", what + published)
            return os.environ[match[1]]

        return os.path.expanduser(re.sub(r"\$\{(\w+)\}", value, self.folder)).rstrip("/")
