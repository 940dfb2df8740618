"""The pages under `docs/reference/`, made from the settings classes and the commands: `python docs/reference_pages.py`.

In: the classes that files are checked against, the shipped files for examples, the units and examples in `reference_details.py`. Out: a
page for each kind of file, with a table for each section of it, and one of the commands. A test says where a page is not that of today.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import typer
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the file beside this one, wherever it is started

from reference_details import EXAMPLES, SHIPPED, TITLES, UNITS

from mm1_ablate.cli import app
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.paths import declared, unannotated
from mm1_ablate.config.settings import Component, ComponentOf, Settings, component_types, is_identity
from mm1_ablate.config.sweep.declaration import Sweep
from mm1_ablate.config.task_record import Task
from mm1_ablate.config.yaml_file import read

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "docs" / "reference"
MADE_BY = "<!-- Made by `python docs/reference_pages.py` from the settings classes; do not edit. -->"
NONE = "*None* in a description is `null` in a file; a setting that is left out has its default."
LONGEST_EXAMPLE = 70
"""Characters of what is taken from a shipped file."""
ROOTS = {"sweep": Sweep, "experiment": Experiment, "task": Task}
KIND = {Sweep: "sweep", Experiment: "experiment", Task: "task"}


# ---------------------------------------------------------------- the classes
def mentioned(annotation: Any) -> Iterator[type[Settings] | ComponentOf]:
    """The settings classes and kinds of component that an annotation names, at any depth."""
    base, marks = unannotated(annotation)
    packages = [mark for mark in marks if isinstance(mark, ComponentOf)]
    yield from packages
    if isinstance(base, type) and issubclass(base, Settings) and not packages:
        yield base
    for inner in get_args(base) if get_origin(base) is not None else ():
        yield from mentioned(inner)


def sections(root: type[Settings]) -> list[type[Settings]]:
    """The settings classes of a file, each once: in the order of `TITLES`, the components of a kind behind their base."""
    found: dict[type[Settings], None] = {}

    def visit(settings: type[Settings]) -> None:
        if settings in found:
            return
        found[settings] = None
        for field in settings.model_fields.values():
            for one in mentioned(declared(field)):
                if isinstance(one, ComponentOf):
                    types = list(component_types(one.package).values())
                    for kind in (base_of(types), *types):
                        visit(kind)
                else:
                    visit(one)

    visit(root)
    order = list(TITLES)

    def place(settings: type[Settings]) -> tuple[int, bool]:
        names = [kind.__name__ for kind in settings.__mro__ if kind.__name__ in TITLES]
        return order.index(names[0]) if names else len(order), settings.__name__ not in TITLES

    return sorted(found, key=place)


def base_of(types: Iterable[type[Component]]) -> type[Component]:
    """The class whose settings all components of a package have."""
    first, *others = types
    return next(kind for kind in first.__mro__ if issubclass(kind, Component) and all(issubclass(other, kind) for other in others))


def is_base(settings: type[Settings]) -> bool:
    """Whether it is the base of a kind of component, which a file does not name."""
    return issubclass(settings, Component) and "Literal" not in str(settings.model_fields["type"].annotation)


def own_fields(settings: type[Settings], bases: Iterable[type[Settings]]) -> dict[str, FieldInfo]:
    """The fields of a class without those that the base of its kind has with the same description."""
    inherited: dict[str, FieldInfo] = {}
    for base in bases:
        if base is not settings and issubclass(settings, base):
            inherited |= base.model_fields
    return {
        name: field
        for name, field in settings.model_fields.items()
        if name not in inherited or (name != "type" and field.description != inherited[name].description)
    }


def title_of(settings: type[Settings]) -> str:
    """A heading: where the settings stand in the file, or the type of a component."""
    if issubclass(settings, Component) and not is_base(settings):
        return f"`type: {settings.model_fields['type'].default}`"
    return TITLES.get(settings.__name__, f"`{settings.__name__}`")


def anchor_of(settings: type[Settings]) -> str:
    """The anchor that its heading has, here and wherever Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", title_of(settings).lower()).replace(" ", "-")


# ---------------------------------------------------------------- cells
@cache
def type_in_words(settings: type[Settings], name: str) -> str:
    """What a setting takes."""
    field = settings.model_fields[name]
    key = field.alias or name
    schema = settings.model_json_schema(by_alias=True)
    whole = schema["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    annotation = declared(field)
    classes = list(mentioned(annotation))
    if classes:
        return _of_settings(annotation)
    return _in_words(whole["properties"][key], schema.get("$defs", {}))


def _of_settings(annotation: Any) -> str:
    """What an annotation takes that names settings classes."""
    base, marks = unannotated(annotation)
    for mark in marks:
        if isinstance(mark, ComponentOf):
            kind = base_of(component_types(mark.package).values())
            return f"[{TITLES[kind.__name__].lower()}](#{anchor_of(kind)}): a mapping with `type`, or the type alone"
    if isinstance(base, type) and issubclass(base, Settings):
        return f"[mapping](#{anchor_of(base)})"
    origin, arguments = get_origin(base), get_args(base)
    if origin is dict:
        return f"mapping from names to: {_of_settings(arguments[1])}"
    if origin in (list, tuple):
        inner = _of_settings(arguments[0])
        return f"list of: {inner}"
    if arguments and str(origin) != "typing.Literal":
        return " or ".join(dict.fromkeys(_of_settings(argument) for argument in arguments))
    return _in_words(TypeAdapter(annotation).json_schema(), {})


def _in_words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON Schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "any value" if name == "JsonValue" else _in_words(definitions[name], definitions)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_in_words(one, definitions) for one in schema[key]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return _number(schema, "whole number" if kind == "integer" else "number")
    if kind == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}: {_in_words(schema['prefixItems'][0], definitions)}"
        return f"list of: {_in_words(schema.get('items', {}), definitions)}"
    if kind == "object":
        names = schema.get("propertyNames", {}).get("enum")
        keys = "from " + ", ".join(f"`{name}`" for name in names) if names else "from names"
        return f"mapping {keys} to: {_in_words(schema.get('additionalProperties') or {}, definitions)}"
    return {"string": "text", "boolean": "`true`, `false`", "null": "`null`"}.get(str(kind), "any value")


def _number(schema: dict[str, Any], kind: str) -> str:
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([kind, " and ".join(bounds)]).strip()


def default_in_words(settings: type[Settings], name: str) -> str:
    field = settings.model_fields[name]
    if field.is_required():
        return "required"
    if any(True for _ in mentioned(declared(field))) and isinstance(field.default, BaseModel):
        written = field.default.model_dump(mode="json", exclude_unset=True)
        return _code(written) if written else "its defaults"
    return _code(field.get_default(call_default_factory=True))


def _code(value: Any) -> str:
    """A value as YAML on one line."""
    plain = json.loads(json.dumps(value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value))
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False).strip()
    if "\n" in text.removesuffix("...").strip():  # a line break in a text
        text = json.dumps(plain, ensure_ascii=False)
        text = re.sub(r'^\{"(\w+)": ', r"{\1: ", text)
    return f"`{text.removesuffix('...').strip()}`".replace("|", "\\|")


def unit_of(settings: type[Settings], name: str) -> str:
    """The unit of a setting that is a number, or bounds on one."""
    takes = type_in_words(settings, name)
    return UNITS.get(name, "") if "number" in takes or "(#bounds)" in takes else ""


def example_of(settings: type[Settings], name: str, shipped: dict[tuple[str, str], Any]) -> str:
    """How the setting is written: as this table says, as in a shipped file, or as its types allow."""
    field = settings.model_fields[name]
    key = field.alias or name
    declaring = next((kind for kind in settings.__mro__ if (kind.__name__, name) in EXAMPLES), None)
    if declaring is not None:
        example = EXAMPLES[declaring.__name__, name]
    elif (settings.__name__, name) in shipped:
        example = shipped[settings.__name__, name]
    elif name == "type" or (get_origin(field.annotation) is not None and str(get_origin(field.annotation)) == "typing.Literal"):
        example = get_args(field.annotation)[-1] if get_args(field.annotation) else "my_lab.Mine"
    elif field.annotation is bool:
        example = not field.default
    else:
        return ""
    return _code({key: example}).replace("`{", "`", 1).removesuffix("}`") + "`"


@cache
def shipped_values() -> dict[tuple[str, str], Any]:
    """The first value of each setting in the shipped files, by class and field; a mapping only where it is short."""
    found: dict[tuple[str, str], Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Settings):
            for name in sorted(value.model_fields_set):
                inner = getattr(value, name)
                plain = _plain(inner)
                if len(json.dumps(plain)) <= LONGEST_EXAMPLE:
                    # A setting that a base declares is shown with the base, whoever wrote it.
                    for kind in type(value).__mro__:
                        if issubclass(kind, Settings) and name in kind.model_fields:
                            found.setdefault((kind.__name__, name), plain)
                visit(inner)
        elif isinstance(value, dict | list | tuple):
            for inner in value.values() if isinstance(value, dict) else value:
                visit(inner)

    for kind, paths in SHIPPED.items():
        for path in paths:
            visit(read(REPOSITORY / path, ROOTS[kind])[0])
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True, by_alias=True)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------- pages
@cache
def page_of(kind: str) -> str:
    """The page of a kind of file."""
    root, shipped = ROOTS[kind], shipped_values()
    every = sections(root)
    bases = [settings for settings in every if is_base(settings)]
    lines = [MADE_BY, "", f"# {kind.capitalize()} files", "", _introduction(kind), "", NONE]
    for settings in every:
        lines += ["", f"## {title_of(settings)}", "", _text(settings)]
        base = next((base for base in bases if base is not settings and issubclass(settings, base)), None)
        if base is not None:
            lines += ["", f"Besides the settings of every [{TITLES[base.__name__].lower()}](#{anchor_of(base)})" + ":"]
        fields = own_fields(settings, bases)
        if not fields:
            lines[-1] = lines[-1].removesuffix(":") + ", it has none."
            continue
        lines += ["", "| setting | meaning, and an example | takes | unit | default |", "|---|---|---|---|---|"]
        for name, field in fields.items():
            meaning = _cell(field.description or "") + ("" if is_identity(field) else " *Not part of a trial's identity.*")
            cells = (
                f"`{field.alias or name}`",
                f"{meaning} Example: {example_of(settings, name, shipped)}",
                type_in_words(settings, name),
                unit_of(settings, name),
                default_in_words(settings, name),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _introduction(kind: str) -> str:
    return {
        "sweep": "What a study declares: one baseline, and what is removed from it or altered in it. Paths into the experiment, such as\n"
        "`data.mixture.text`, are made of the settings of [experiment files](experiment.md).",
        "experiment": "One whole system that can be trained and scored: the baseline of a sweep, or run alone. Settings that say how\n"
        "a trial is run, and not what it is, are no part of its identity: changing them trains nothing again.",
        "task": "The record of a benchmark: which items, how they are asked, how answers are scored. How to write one:\n"
        "[tasks](../tasks.md#one-of-your-own).",
    }[kind]


def _text(settings: type[Settings]) -> str:
    return inspect.getdoc(settings) or ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def commands_page() -> str:
    """The page of the commands: usage, what they do, arguments and options."""
    whole = typer.main.get_command(app)
    lines = [MADE_BY, "", "# Commands", "", f"{whole.help} {whole.epilog}", ""]
    lines += ["`mm1-ablate COMMAND --help` prints the same in the terminal."]
    for name, command in whole.commands.items():  # type: ignore[attr-defined]
        if command.hidden:
            continue
        context = click.Context(command, info_name=f"mm1-ablate {name}")
        usage = " ".join([context.info_name or "", *command.collect_usage_pieces(context)])
        lines += ["", f"## {name}", "", f"```sh\n{usage}\n```", "", inspect.cleandoc(command.help or "")]
        lines += ["", "| argument or option | takes | meaning |", "|---|---|---|"]
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                lines.append(f"| {' | '.join(_parameter(parameter, context))} |")
    return "\n".join(lines) + "\n"


def _parameter(parameter: Any, context: click.Context) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    takes = "" if getattr(parameter, "is_flag", False) else (parameter.metavar or parameter.type.name).strip("[]")
    notes = [str(parameter.help or "").strip()]
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if isinstance(default, str | int | float | Path) and not isinstance(default, bool) and str(default):
        notes.append(f"Default: `{default}`.")
    if parameter.envvar:
        notes.append(f"Also read from `{parameter.envvar}`.")
    if getattr(parameter, "required", False) and parameter.param_type_name == "argument":
        notes.append("Required.")
    return names, f"`{takes}`" if takes else "", _cell(" ".join(note for note in notes if note))


def pages() -> dict[str, str]:
    """The text of every page by its file's name."""
    return {**{f"{kind}.md": page_of(kind) for kind in ROOTS}, "commands.md": commands_page()}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()
