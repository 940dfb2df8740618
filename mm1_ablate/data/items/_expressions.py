"""How a record says where a value is: Jinja expressions (as in lm-evaluation-harness's records) and templates of names of files.

An expression such as `answers | map(attribute="answer") | list` is evaluated over the fields of one row, in Jinja's sandbox. Besides
Jinja's own filters there are `regex_replace`, `regex_findall`, `one_line`, `most_common_first` and `without_longer`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, wraps
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Unreadable

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment


# ---------------------------------------------------------------- filters
def regex_replace(text: Any, pattern: str, replacement: str = "") -> str:
    """Every match of a regular expression replaced."""
    return re.sub(pattern, replacement, str(text))


def regex_findall(text: Any, pattern: str) -> list[str]:
    """Every match of a regular expression: what its groups hold, or all of it where it has none."""
    return ["".join(match.groups(default="")) if match.re.groups else match[0] for match in re.finditer(pattern, str(text))]


def one_line(text: Any) -> str:
    """Every run of white space, line breaks too, as one space; none at the ends. A line break in an answer would end it early."""
    return " ".join(str(text).split())


def most_common_first(values: Iterable[Any]) -> list[Any]:
    """All values, repeated ones too, those that occur most often first; of equally frequent ones that which comes first."""
    values = list(values)
    counts = Counter(values)
    return sorted(values, key=lambda value: (-counts[value], values.index(value)))


def without_longer(values: Iterable[str]) -> list[str]:
    """In alphabetical order, without those that begin with another of them (lm-evaluation-harness's rule for WebQS)."""
    kept: list[str] = []
    for value in sorted(values):
        if not kept or not value.startswith(kept[-1]):
            kept.append(value)
    return kept


# ---------------------------------------------------------------- expressions
LONGEST = 1_000_000
"""Characters of a text, values of a list and bits of a number that an expression may make, and the greatest number that it may pass on."""
WIDEST = 255
"""Characters of a field in a name: no file system takes longer names."""
_LONG_NUMBER = re.compile(r"[0-9]{7,}|\*")


class AnnotationRow(dict[str, Any]):
    """One row: its fields. Expressions see them, and besides the whole as `row` and its place in the file, from 0, as `number`."""

    __slots__ = ("number",)

    def __init__(self, fields: Mapping[str, Any], number: int) -> None:
        super().__init__(fields)
        self.number = number


@lru_cache(maxsize=1)
def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    class Bounded(SandboxedEnvironment):
        """Refuses to make texts, lists and numbers of more than `LONGEST`: a few characters could ask for more than the memory."""

        intercepted_binops = frozenset(("*", "**", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            for one, other in ((left, right), (right, left)):
                if operator == "*" and isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
                    _refuse_above(len(one) * other)
            if operator == "**" and isinstance(left, int) and isinstance(right, int):
                _refuse_above(left.bit_length() * right)
            if operator == "%" and isinstance(left, str):
                _refuse_widths(left, *(right if isinstance(right, tuple) else (right,)))
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
            text = getattr(getattr(function, "__wrapped__", function), "__self__", None)
            _refuse_widths(text if isinstance(text, str) else "", *arguments, *named.values())
            if isinstance(text, str) and getattr(function, "__name__", "") in ("replace", "join", "translate"):
                _refuse_above(len(text) * max((len(one) for one in arguments if isinstance(one, str | list | tuple)), default=0))
            return super().call(context, function, *arguments, **named)

    environment = Bounded(undefined=StrictUndefined)
    environment.globals.clear()  # a field that is missing must not be taken for one of Jinja's functions
    for function in (regex_replace, regex_findall, one_line, most_common_first, without_longer):
        environment.filters[function.__name__] = function
    environment.filters = {name: _bounded(function) for name, function in environment.filters.items()}
    return environment


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is not asked for what is too long, such as `center(1000000000)`."""

    @wraps(function)  # with what Jinja marks functions by
    def bounded(*arguments: Any, **named: Any) -> Any:
        _refuse_widths("", *(one for one in (*arguments, *named.values()) if isinstance(one, int)))
        if function.__name__ == "do_format":
            _refuse_widths(arguments[0])
        return function(*arguments, **named)

    return bounded


def _refuse_widths(text: str, *values: Any) -> None:
    """Refuse numbers that are taken for widths and counts, as arguments or within a text that is filled in."""
    for value in values:
        _refuse_above(value if isinstance(value, int) else 0)
    if "%" in text or "{" in text:
        _refuse_above(max(map(len, _LONG_NUMBER.findall(text)), default=0) and LONGEST + 1)


def _refuse_above(count: int) -> None:
    from jinja2.exceptions import SecurityError

    if count > LONGEST:
        raise SecurityError(f"more than {LONGEST:,} characters or values")


@lru_cache(maxsize=256)
def _compiled(source: str) -> Callable[..., Any]:
    return _environment().compile_expression(source, undefined_to_none=False)


def evaluate(source: str, row: AnnotationRow, field: str) -> Any:
    """The value of an expression over a row.

    Args:
        field: what is being looked for, for messages.

    Raises:
        Unreadable: the row has no such value.
    """
    if source in row:  # the most common expression, and half a million rows may be asked for it
        return row[source]
    from jinja2 import Undefined, UndefinedError

    try:
        value = _compiled(source)({"row": row, "number": row.number, **row})
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()  # so that a missing field gives the message of one further inside
    except UndefinedError as error:
        raise Unreadable(f"no {field}: {error.message}") from None
    except Exception as error:  # whatever an expression does to a value that it was not written for
        raise Unreadable(f"no {field}: {type(error).__name__} in {source}", str(error)) from error
    # Filters such as `map` are lazy; they are evaluated here, so that they fail here.
    if not isinstance(value, str | bytes | Mapping) and isinstance(value, Iterable):
        try:
            return list(value)
        except UndefinedError as error:
            raise Unreadable(f"no {field}: {error.message}") from None
        except Exception as error:
            raise Unreadable(f"no {field}: {type(error).__name__} in {source}", str(error)) from error
    return value


def _is_expression(source: str) -> str:
    from jinja2 import TemplateError

    try:
        _compiled(source)
    except TemplateError as error:
        message = f"expected a Jinja expression over the fields of a row, such as answers[0]; {source!r}: {error.message}"
        raise SettingError("", message, getattr(error, "lineno", 0)) from None
    return source


Expression = Annotated[str, AfterValidator(_is_expression)]


# ---------------------------------------------------------------- names of files
class _NameFormatter(Formatter):
    """`{image_id:012d}` for numbers that are written as text, too; a field may not lead out of the folder."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if any(int(width[:9]) > WIDEST for width in re.findall("[0-9]+", format_spec)):
            raise ValueError(f"a field of more than {WIDEST} characters")
        if format_spec.endswith("d") and isinstance(value, str):
            value = int(value)
        text = str(super().format_field(value, format_spec))
        if text.startswith("/") or ".." in text.split("/"):
            raise ValueError(f"{text!r} is outside of the folder")
        return text


def file_name(template: str, row: Mapping[str, Any], field: str) -> str:
    """A template such as `val2014/COCO_val2014_{image_id:012d}.jpg` filled in with the fields of a row.

    Raises:
        Unreadable: the row has no such field.
    """
    try:
        return _NameFormatter().vformat(template, (), row)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        missing = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise Unreadable(f"no {field}: {template} cannot be filled in", missing) from None


def _is_template(template: str) -> str:
    try:
        parsed = [(field, spec or "") for _, field, spec, _ in Formatter().parse(template) if field is not None]
        fields = [field for field, _ in parsed]
        if wide := [spec for _, spec in parsed if any(int(width[:9]) > WIDEST for width in re.findall("[0-9]+", spec))]:
            raise ValueError(f"{{...:{wide[0][:40]}}} asks for more than {WIDEST} characters")
        if unnamed := [field for field in fields if not re.match(r"[^\W\d]", field)]:
            raise ValueError(f"{{{unnamed[0]}}} names no field of a row")
    except ValueError as error:
        raise ValueError(f"expected a name with fields in braces, such as images/{{name}}.jpg; {template!r}: {error}") from None
    return template


NameTemplate = Annotated[str, AfterValidator(_is_template)]
