"""Dotted paths into settings that are still plain values, such as data.mixture.text in the mapping of an experiment file.

In: a settings class and the mapping that it will be made of. Out: nodes that know what is declared at a path, whether or not
the mapping names it: so a path can be checked, altered or removed before the whole is validated again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import JsonValue
from pydantic.fields import FieldInfo

from mm1_ablate.config.settings import ComponentOf, Settings, find_component

ABSENT: Any = object()
_POSITION = re.compile("0|[1-9][0-9]{0,8}")


class PathError(LookupError):
    """A path that does not exist, or on which the operation is not possible. `hint` is a suggestion, or empty.

    `untyped` is the place above it, if any, whose `type` is unknown, and with it its settings.
    """

    def __init__(self, message: str, hint: str = "", untyped: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.untyped = untyped


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, each with the union's marks, or the one annotation."""
    base, marks = unannotated(annotation)
    if get_origin(base) not in (Union, UnionType):
        return (annotation,)
    return tuple(
        Annotated[(inner, *marks)] if marks and inner is not NoneType else inner for member in get_args(base) for inner in members(member)
    )


def unannotated(annotation: Any) -> tuple[Any, list[Any]]:
    """The type inside an `Annotated`, and its marks (those within a `Field(...)` laid open)."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    base, *marks = get_args(annotation)
    return base, [inner for mark in marks for inner in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]


def declared(field: FieldInfo) -> Any:
    """The annotation of a field as it was written, marks included."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def plain(value: Any) -> Any:
    """Settings as the plain values that they were made of: what was written, and every `type`, without defaults."""
    if isinstance(value, Settings):
        fields = type(value).model_fields.items()
        written = {field.alias or name: name for name, field in fields if name in value.model_fields_set or name == "type"}
        return {key: plain(getattr(value, name)) for key, name in written.items()}
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Node:
    """What is declared at a path, and the plain value that stands there (`ABSENT`: none, and no default)."""

    annotation: Any
    value: Any

    def __post_init__(self) -> None:
        if isinstance(self.value, str) and self._component:
            object.__setattr__(self, "value", {"type": self.value})

    @cached_property
    def _component(self) -> ComponentOf | None:
        marks = (mark for member in members(self.annotation) for mark in unannotated(member)[1])
        return next((mark for mark in marks if isinstance(mark, ComponentOf)), None)

    @property
    def nullable(self) -> bool:
        return NoneType in members(self.annotation)

    @cached_property
    def settings(self) -> type[Settings] | None:
        """The class of the settings that stand here: by their `type`, where there are several."""
        type_name = self.value.get("type") if isinstance(self.value, dict) else None
        if isinstance(self.value, list) and self._arguments[0] is list:
            return None
        if self._component and isinstance(type_name, str):
            try:
                return find_component(self._component.package, type_name)
            except LookupError:
                return None
        bases = [unannotated(member)[0] for member in members(self.annotation)]
        candidates = [base for base in bases if isinstance(base, type) and issubclass(base, Settings)]
        if len(candidates) > 1:
            types = {base: get_args(base.model_fields["type"].annotation) for base in candidates if "type" in base.model_fields}
            candidates = [base for base, names in types.items() if type_name in names]
        return candidates[0] if candidates else None

    @property
    def has_types(self) -> bool:
        """Whether different settings can stand here, told apart by `type`."""
        bases = [unannotated(member)[0] for member in members(self.annotation)]
        return self._component is not None or sum(isinstance(base, type) and issubclass(base, Settings) for base in bases) > 1

    @cached_property
    def _arguments(self) -> tuple[Any, tuple[Any, ...]]:
        bases = [unannotated(member)[0] for member in members(self.annotation)]
        several: list[tuple[Any, tuple[Any, ...]]] = [
            (get_origin(base), get_args(base)) for base in bases if get_origin(base) in (dict, list, tuple)
        ]
        # Where a list or a mapping may stand, what does stand there says which is meant.
        several.sort(key=lambda one: isinstance(self.value, dict) != (one[0] is dict))
        return several[0] if several else (None, ())

    @property
    def item(self) -> Any:
        """Annotation of the entries of a mapping or list; JsonValue where anything may stand; else `ABSENT`."""
        origin, arguments = self._arguments
        if origin is dict:
            return arguments[1]
        if origin in (list, tuple):
            return arguments[0]
        return JsonValue if JsonValue in members(self.annotation) else ABSENT

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that a mapping may have, where they are listed."""
        origin, arguments = self._arguments
        if origin is dict and get_origin(unannotated(arguments[0])[0]) is Literal:
            return get_args(unannotated(arguments[0])[0])
        return ()

    def names(self) -> list[str]:
        """What can stand behind a dot: fields whether written or not, keys of a mapping, positions in a list."""
        if self.settings:
            return [field.alias or name for name, field in self.settings.model_fields.items()]
        if isinstance(self.value, dict):
            return list(self.value)
        if isinstance(self.value, list) and self.item is not ABSENT:
            return [str(index) for index in range(len(self.value))]
        return []

    def child(self, name: str) -> Node | None:
        """One step down, defaults filled in; None where the name does not exist."""
        if self.settings:
            field = next((field for key, field in self.settings.model_fields.items() if name == (field.alias or key)), None)
            if field is None or self.value is None:
                return None
            default = ABSENT if field.is_required() else plain(field.get_default(call_default_factory=True, validated_data={}))
            return Node(declared(field), self.value.get(name, default) if isinstance(self.value, dict) else default)
        if isinstance(self.value, dict) and name in self.value and self.item is not ABSENT:
            return Node(self.item, self.value[name])
        # As one of names(), which are very many in a long list.
        if isinstance(self.value, list) and self.item is not ABSENT and _POSITION.fullmatch(name) and int(name) < len(self.value):
            return Node(self.item, self.value[int(name)])
        return None

    def find(self, path: str) -> Node:
        """The node at a path.

        Raises:
            PathError: it does not exist; with the nearest path that does.
        """
        node = self
        parts = path.split(".")
        for position, name in enumerate(parts):
            below = node.child(name)
            if below is None:
                raise self._lost(path, parts[:position], node)
            node = below
        return node

    def _lost(self, path: str, before: list[str], node: Node) -> PathError:
        place = ".".join(before)
        if node.has_types and node.settings is None and isinstance(node.value, dict):
            return PathError(f"no such path; the type of {place} is unknown", untyped=place)
        if node.value is None and before:
            return PathError(f"no such path: {place} is None here, so it has no settings", f"alter {place} as a whole")
        near = self._meant(path.split("."))
        names = ", ".join(node.names())
        message = f"no such path; {place or 'an experiment'} has {names}" if names else f"no such path; {place} is a single value"
        return PathError(message, f"did you mean '{near}'?" if near else "")

    def _meant(self, parts: list[str]) -> str:
        """The path that was probably meant: misspelt, without its beginning, or in the wrong place."""
        node: Node | None = self
        right: list[str] = []
        for part in parts:
            near = [part] if node and node.child(part) else get_close_matches(part, node.names() if node else [], n=1)
            node = node.child(near[0]) if node and near else None
            right += near
        if node:
            return ".".join(right)
        known = list(self.paths())
        tails = [path for path in known if path.endswith("." + ".".join(parts))]
        near = get_close_matches(".".join(parts), tails or [path for path in known if path.split(".")[-1] == parts[-1]], n=1, cutoff=0.0)
        return near[0] if near else ""

    def paths(self, prefix: str = "") -> Iterator[str]:
        """Every path below this node, defaults included."""
        for name in self.names():
            yield prefix + name
            below = self.child(name)
            if below is not None:
                yield from below.paths(f"{prefix}{name}.")

    def replaced(self, path: str, value: Any) -> Any:
        """A copy of the plain value with another value at a path; shares all that is not on the path."""
        if not path:
            return value
        name, _, rest = path.partition(".")
        below = self.child(name)
        new = below.replaced(rest, value) if below else value
        if isinstance(self.value, list):
            return [new if str(index) == name else old for index, old in enumerate(self.value)]
        return {**(self.value if isinstance(self.value, dict) else {}), name: new}

    def without(self, path: str) -> Any:
        """A copy of the plain value without the entry of a mapping at a path."""
        place, _, name = path.rpartition(".")
        parent = self.find(place) if place else self
        return self.replaced(place, {key: value for key, value in parent.value.items() if key != name})
