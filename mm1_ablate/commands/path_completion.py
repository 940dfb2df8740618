"""Paths into experiments, for the schema of sweep files: an editor completes them, says what they are, and checks what is given to them.

In: the JSON Schema of experiments. Out: the one of sweeps, with every path that all experiments have. Names that a user gives (of sources,
groups, losses) are not known here, so paths through them are typed by hand. A value is marked where an experiment file would be; a setting
of a component may be that of a user's own class, so any value of it passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

OF_STAGES = ("starts_from",)
"""Holds a whole experiment again."""
NAMES = ("experiment", "description")
"""What an experiment is called is not altered."""
DEEPEST = 6
"""Parts of the longest path that is listed."""


def settings_by_path(experiment: Schema) -> dict[str, Schema]:
    """The settings of an experiment by dotted path, each with its description and, of those that hold no others, the values they take."""
    found: dict[str, list[Schema]] = {}
    for path, setting in _below(experiment, experiment, ""):
        others = found.setdefault(path, [])
        if setting not in others:
            others.append(setting)
    return {path: _one_of(settings) for path, settings in found.items()}


def with_paths(sweep: Schema, experiment: Schema) -> Schema:
    """The schema of sweeps, with the paths of experiments wherever it takes some."""
    paths = settings_by_path(experiment)
    group, whole = sweep["$defs"]["AblationGroup"]["properties"], sweep["properties"]
    definitions = {
        "SettingsByPath": {"description": "Settings of an experiment by dotted path.", "properties": paths},
        "AxesByPath": {
            "description": "Axes of a grid by dotted path.",
            "properties": {
                path: {"description": setting["description"], "items": {"$ref": f"#/$defs/SettingsByPath/properties/{path}"}}
                for path, setting in paths.items()
            },
        },
        "Path": {"description": "A dotted path into an experiment.", "anyOf": [{"enum": list(paths)}, {"type": "string"}]},
    }
    changed = {
        "alter": _also(group["alter"], "object", "SettingsByPath"),
        "replace": _also(group["replace"], "object", "SettingsByPath"),
        "grid": _also(group["grid"], "object", "AxesByPath"),
        "except": {**group["except"], "items": _also(group["except"]["items"], "object", "SettingsByPath")},
        **{name: _with_path(group[name]) for name in ("remove", "remove_each")},
    }
    ablations = {**sweep["$defs"]["AblationGroup"], "properties": {**group, **changed}}
    return {
        **sweep,
        "$defs": {**sweep["$defs"], **definitions, "AblationGroup": ablations},
        "properties": {**whole, "everywhere": _also(whole["everywhere"], "object", "SettingsByPath")},
    }


def _also(schema: Schema, kind: str, name: str) -> Schema:
    """A schema whose alternatives of a kind refer to a definition as well."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_also(one, kind, name) for one in schema["anyOf"]]}
    return {**schema, "allOf": [{"$ref": f"#/$defs/{name}"}]} if schema.get("type") == kind else schema


def _with_path(schema: Schema) -> Schema:
    """A schema of one path or several."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_with_path(one) for one in schema["anyOf"]]}
    if schema.get("type") == "array":
        return {**schema, "items": {"$ref": "#/$defs/Path"}}
    return {"$ref": "#/$defs/Path"} if schema.get("type") == "string" else schema


def _below(whole: Schema, node: Schema, place: str) -> Iterator[tuple[str, Schema]]:
    """The settings below a place, by path; of one that several components have, each."""
    # A class of a user's own may declare a setting of the same name otherwise.
    open_ended = any("pattern" in one.get("properties", {}).get("type", {}) for one in _alternatives(whole, node))
    for settings in _alternatives(whole, node):
        named = settings.get("properties", {})
        if "enum" in (names := settings.get("propertyNames", {})):  # a mapping whose keys are known, such as the mixture
            of = f"{node['description'][:1].lower()}{node['description'][1:]}"
            named = {name: {**settings["additionalProperties"], "description": f"{name}, of the {of}"} for name in names["enum"]}
        for name, setting in named.items():
            path = f"{place}.{name}" if place else name
            if path in (*OF_STAGES, *NAMES) or path.count(".") >= DEEPEST:
                continue
            inside = list(_below(whole, setting, path))
            is_mapping = any(one.get("type") == "object" for one in _alternatives(whole, setting))
            values = {} if inside or is_mapping else _resolved(whole, setting)
            if values and open_ended and name != "type":
                values = {"anyOf": [values, {}]}
            yield path, {**values, "description": setting["description"]}
            yield from inside


def _alternatives(whole: Schema, node: Schema) -> Iterator[Schema]:
    """What a schema comes to, its references followed and each of its alternatives by itself."""
    if "$ref" in node:
        yield from _alternatives(whole, whole["$defs"][node["$ref"].rpartition("/")[2]])
    inner = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    for one in inner:
        yield from _alternatives(whole, one)
    if not inner and "$ref" not in node:
        yield node


def _resolved(whole: Schema, node: Any) -> Any:
    """A schema without references, titles and defaults, which belong to where it stood."""
    if isinstance(node, list):
        return [_resolved(whole, entry) for entry in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**whole["$defs"][node["$ref"].rpartition("/")[2]], **{key: value for key, value in node.items() if key != "$ref"}}
    return {key: _resolved(whole, value) for key, value in node.items() if key not in ("title", "default")}


def _one_of(settings: list[Schema]) -> Schema:
    """Settings of one path, as one schema."""
    if len(settings) == 1:
        return settings[0]
    descriptions = list(dict.fromkeys(setting["description"] for setting in settings))
    description = "\n\n".join(descriptions)
    if any(len(setting) == 1 for setting in settings):  # one that takes anything
        return {"description": description}
    return {"description": description, "anyOf": settings}
