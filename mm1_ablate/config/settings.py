"""The base of everything that a user declares, and how a component is found by the name of its type.

A *component* (connector, source, metric, ...) is one file: `type: average_pool` is the class of settings in
`mm1_ablate/model/connectors/average_pool.py`; `type: my_lab.connectors.Mixer` is a class of the user's own, in a package that is installed
or lies beside the file that names it. The file holds the
settings and, behind a method that imports torch late, what they build: so a newcomer adds a component in one file, and
reading a sweep never imports torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema


class Settings(BaseModel):
    """Immutable settings that refuse unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def _derive(self, **values: Any) -> None:
        """Set fields that follow from others, in a validator. They do not count as written (`model_fields_set`): whoever alters what they
        follow from alters both."""
        self.__dict__.update(values)


class SettingError(ValueError):
    """Settings that are each fine but do not go together, reported at the one that is to be changed.

    `at` is a dotted path relative to the settings whose validator raises it, empty for the value itself; `line` is, of a text of several
    lines, the one that is wrong, from 1, or 0.
    """

    def __init__(self, at: str, message: str, line: int = 0) -> None:
        super().__init__(f"{at}: {message}" if at else message)
        self.at = at
        self.message = message
        self.line = line


class HowItRuns:
    """Marks a field that is not part of a trial's identity: it says how a trial is run or called, not what it is."""


def is_identity(field: FieldInfo) -> bool:
    """Whether a field belongs to a trial's identity."""
    return not any(mark is HowItRuns or isinstance(mark, HowItRuns) for mark in field.metadata)


class Component(Settings):
    """Settings that say by `type` which file or which class of the user's own they are for."""

    version: ClassVar[int] = 1
    """Part of a trial's identity above 1. Raised where the same settings come to mean other data, so that old scores are not taken for
    those of today."""
    type: str
    """Which component this is: the name of a file of the package, or `module.Class` of your own."""


_imports = True
"""Whether classes of the user's own are imported."""


@contextmanager
def without_imports() -> Iterator[None]:
    """Import no class of the user's own for the length of a block; a `type` that names one is `NotImported`."""
    global _imports
    before, _imports = _imports, False
    try:
        yield
    finally:
        _imports = before


class UnknownType(LookupError):
    """A `type` that names no component. `hint` suggests the nearest, or is empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message = message
        self.hint = hint


NOT_IMPORTED = "is a class of your own that is not imported here: what it declares is not checked, nor what depends on it"


class NotImported(UnknownType):
    """A `type` that names a class of the user's own, where none is imported."""


@cache
def component_names(package: str) -> tuple[str, ...]:
    """The types of a package: the names of its files."""
    folder = importlib.import_module(package)
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_")))


def component_types(package: str) -> dict[str, type[Component]]:
    """The components that live in a package, by type: one public `Component` subclass in each file."""
    return {name: find_component(package, name) for name in component_names(package)}


def find_component(package: str, type_name: str) -> type[Component]:
    """The settings class of a type: a file of the package, or `module.Class` of the user's own.

    Raises:
        UnknownType: with the types that exist, and the nearest one.
    """
    # One's own is looked for each time: in another study the same name may be another's.
    return _own_component(type_name) if "." in type_name else _shipped_component(package, type_name)


@cache
def _shipped_component(package: str, type_name: str) -> type[Component]:
    names = component_names(package)
    if type_name not in names:
        near = get_close_matches(type_name, names, n=1)
        message = f"there is no type '{type_name}'; expected one of {', '.join(names)}, or module.Class of your own"
        raise UnknownType(message, f"did you mean '{near[0]}'?" if near else "")
    module = importlib.import_module(f"{package}.{type_name}")
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, Component) and value.__module__ == module.__name__ and not name.startswith("_"):
            return value
    raise UnknownType(f"{module.__file__} has no subclass of mm1_ablate.config.settings.Component")


_reading: ContextVar[dict[Path, None] | None] = ContextVar("folders of the files that are read", default=None)
_folders: dict[Path, None] = {}
"""Of files that were read on their own."""
_appended: dict[Path, None] = {}
"""Folders in `sys.path` because a module beside a file lies there."""


@contextmanager
def reading_files() -> Iterator[None]:
    """Look for modules of the user's own only beside the files that are read within, whatever was read before."""
    token = _reading.set({})
    try:
        yield
    finally:
        _reading.reset(token)


def look_beside(folder: Path) -> None:
    """Look for modules of the user's own in a folder too, if they are nowhere else."""
    folders = _reading.get()
    (_folders if folders is None else folders)[folder] = None


def _find_beside(module: str) -> None:
    """Make a module that lies beside a file that was read one that can be imported, here and by whoever is given this `sys.path`.

    Raises:
        ImportError: in this process the name stands for a module beside a file of another study.
    """
    if not module:
        return
    folders = _reading.get()
    here = next((folder for folder in (_folders if folders is None else folders) if _lies_in(folder, module)), None)
    there = _folder_of(module)
    if there is None and here is not None:
        # Last, so that it hides nothing.
        sys.path.append(str(here))
        _appended[here] = None
        importlib.invalidate_caches()
    elif folders is not None and here is None and there in _appended:
        raise ImportError(f"there is no module '{module}' beside the files that name it; {there} has one, which another study read")
    if here is not None and (there is None or there in _appended):
        for name in {module, *_loaded_from(_appended)}:
            other = _folder_of(name)
            if other not in (None, here) and other in _appended and _lies_in(here, name) and _text(here, name) != _text(other, name):
                message = f"this process has read module '{name}' in {other}, and {here} has another of that name"
                raise ImportError(f"{message}; rename one of them, or use a process for each")


def _lies_in(folder: Path, module: str) -> bool:
    return (folder / f"{module}.py").is_file() or (folder / module).is_dir()


def _folder_of(module: str) -> Path | None:
    """The folder in which a module or package is found; None where it cannot be imported."""
    loaded = sys.modules.get(module)
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(module)
    if spec is None:
        return Path() if loaded is not None else None
    places = list(spec.submodule_search_locations or ())
    return Path(places[0]).parent if places else Path(spec.origin or "").parent


def _loaded_from(folders: Iterable[Path]) -> set[str]:
    """Names of the modules and packages of these folders that have been imported."""
    inside = {str(folder) for folder in folders}
    return {name for name in list(sys.modules) if "." not in name and name != "__main__" and str(_folder_of(name)) in inside}


def _text(folder: Path, module: str) -> dict[str, bytes]:
    """What the files of a module or package say."""
    files = [folder / f"{module}.py", *sorted((folder / module).rglob("*.py"))]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files if file.is_file()}


def _own_component(type_name: str) -> type[Component]:
    if not _imports:
        raise NotImported(f"'{type_name}' {NOT_IMPORTED}")
    module_name, _, class_name = type_name.rpartition(".")
    try:
        _find_beside(module_name.partition(".")[0])
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # whatever the user's own module raises while it is imported
        raise UnknownType(f"cannot import '{type_name}': {error}") from error
    if not (isinstance(found, type) and issubclass(found, Component)):
        raise UnknownType(f"'{type_name}' is not a subclass of mm1_ablate.config.settings.Component")
    return found


def own_classes(value: Any) -> dict[str, str]:
    """The classes of the user's own in settings, at any depth: `module.Class` to the file that it was imported from."""
    found: dict[str, str] = {}
    if isinstance(value, Settings):
        kind = type(value)
        if isinstance(value, Component) and not kind.__module__.startswith("mm1_ablate."):
            file = getattr(sys.modules.get(kind.__module__), "__file__", None)
            found[f"{kind.__module__}.{kind.__qualname__}"] = file or "no file"
        value = [getattr(value, name) for name in kind.model_fields]
    if isinstance(value, dict):
        value = list(value.values())
    for entry in value if isinstance(value, list | tuple) else ():
        found |= own_classes(entry)
    return found


class ComponentOf:
    """Annotates a field as "a component of this package": `Annotated[Connector, ComponentOf("mm1_ablate.model.connectors")]`.

    A component is written as a mapping with a `type`, or as its type alone. Errors inside it carry its own path, and the JSON
    Schema lists every type of the package.
    """

    _being_described: ClassVar[set[type[Component]]] = set()
    """Components whose JSON Schema is being made."""

    def __init__(self, package: str) -> None:
        self.package = package

    def validate(self, value: Any, base: type[Component] = Component, context: Any = None) -> Component:
        """The component that a value declares; errors inside it are merged into those of the settings around it.

        Args:
            context: of the validation around it, such as the folder that relative paths start from.
        """
        if isinstance(value, str):
            value = {"type": value}
        if isinstance(value, Component):
            found = value
        elif isinstance(value, dict) and isinstance(value.get("type"), str):
            try:
                settings = find_component(self.package, value["type"])
            except UnknownType as error:
                raise PydanticCustomError("component_type", "{message}", {"message": error.message, "hint": error.hint}) from None
            found = settings.model_validate(value, context=context)
        else:
            message = "expected a mapping with a 'type': {types}, or module.Class of your own"
            raise PydanticCustomError("component_type", message, {"types": ", ".join(component_names(self.package))})
        if not isinstance(found, base):
            message = "'{type}' is not a subclass of {module}.{base}"
            raise PydanticCustomError("component_type", message, {"type": found.type, "module": base.__module__, "base": base.__name__})
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(value: Any, info: core_schema.ValidationInfo) -> Component:
            return self.validate(value, source, info.context)

        def dump(value: Component, info: core_schema.SerializationInfo) -> dict[str, Any]:
            return value.model_dump(
                mode=info.mode, by_alias=info.by_alias, exclude_unset=info.exclude_unset, exclude_defaults=info.exclude_defaults
            )

        return core_schema.with_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(dump, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names = component_names(self.package)
        alternatives = []
        for name, settings in component_types(self.package).items():
            if settings in self._being_described:
                # A component that holds another of its kind (recaptions hold the source of their images), itself for instance.
                its_type = {"const": name, "description": inspect.getdoc(settings) or name}
                alternatives.append({"type": "object", "properties": {"type": its_type}, "required": ["type"]})
                continue
            self._being_described.add(settings)
            try:
                alternative = handler(settings.__pydantic_core_schema__)
            finally:
                self._being_described.discard(settings)
            described = handler.resolve_ref_schema(alternative)
            # What a type is shows where it is named.
            described["properties"]["type"] = {"const": name, "title": "Type", "description": inspect.getdoc(settings) or name}
            described["required"] = sorted({"type", *described.get("required", [])})
            alternatives.append(alternative)
        its_type = {"type": "string", "pattern": r"\.", "description": "A class of your own: module.Class."}
        own = {"type": "object", "properties": {"type": its_type}, "required": ["type"]}
        return {"anyOf": [*alternatives, {"type": "string", "enum": list(names)}, {"type": "string", "pattern": r"\."}, own]}
