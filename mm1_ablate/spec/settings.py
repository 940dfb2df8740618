"""The base of everything that a user declares, and how a component is found by the name of its type.

A *component* (connector, source, metric, ...) is one file: `type: average_pool` is the class of settings in
`mm1_ablate/model/connectors/average_pool.py`; `type: my_lab.connectors.Mixer` is a class of the user's own. The file holds the
settings and, behind a method that imports torch late, what they build: so a newcomer adds a component in one file, and
reading a sweep never imports torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema


class Settings(BaseModel):
    """Immutable settings that refuse unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Misfit(ValueError):
    """Settings that are each fine but do not go together, reported at the one that is to be changed.

    `at` is a dotted path relative to the settings whose validator raises it.
    """

    def __init__(self, at: str, message: str) -> None:
        super().__init__(f"{at}: {message}")
        self.at = at
        self.message = message


class HowItRuns:
    """Marks a field that is not part of a trial's identity: it says how a trial is run or called, not what it is."""


def is_identity(field: FieldInfo) -> bool:
    """Whether a field belongs to a trial's identity."""
    return not any(mark is HowItRuns or isinstance(mark, HowItRuns) for mark in field.metadata)


class Component(Settings):
    """Settings that say by `type` which file or which class of the user's own they are for."""

    type: str


def component_types(package: str) -> dict[str, type[Component]]:
    """The components that live in a package, by type: one public `Component` subclass in each file."""
    folder = importlib.import_module(package)
    names = [module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_")]
    return {name: find_component(package, name) for name in names}


def find_component(package: str, type_name: str) -> type[Component]:
    """The settings class of a type: a file of the package, or `module.Class` of the user's own.

    Raises:
        LookupError: with the types that exist, and the nearest one.
    """
    if "." in type_name:
        module_name, _, class_name = type_name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise LookupError(f"cannot import '{type_name}': {error}") from error
        if not (isinstance(found, type) and issubclass(found, Component)):
            raise LookupError(f"'{type_name}' is not a subclass of mm1_ablate.spec.settings.Component")
        return found
    folder = importlib.import_module(package)
    names = [module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_")]
    if type_name not in names:
        near = get_close_matches(type_name, names, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise LookupError(f"no type '{type_name}' (there are: {', '.join(sorted(names))}, or module.Class of your own){hint}")
    module = importlib.import_module(f"{package}.{type_name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Component) and value.__module__ == module.__name__ and not value.__name__.startswith("_")
    )


class ComponentOf:
    """Annotates a field as "a component of this package": `Annotated[Connector, ComponentOf("mm1_ablate.model.connectors")]`.

    Errors inside a component carry its own path, and the JSON Schema lists every type of the package.
    """

    def __init__(self, package: str) -> None:
        self.package = package

    def validate(self, value: Any) -> Any:
        if isinstance(value, Component):
            return value
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise PydanticCustomError("component_type", "expected a mapping with a 'type'")
        try:
            settings = find_component(self.package, value["type"])
        except LookupError as error:
            raise PydanticCustomError("component_type", "{message}", {"message": str(error)}) from None
        return settings.model_validate(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump(mode="json"))
        )

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        own = {"type": "object", "properties": {"type": {"type": "string", "pattern": r"\."}}, "required": ["type"]}
        return {"anyOf": [handler(settings.__pydantic_core_schema__) for settings in component_types(self.package).values()] + [own]}


def annotated_base(annotation: Any) -> Any:
    """The type inside an `Annotated`."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
