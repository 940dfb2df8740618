"""What an arm does to its baseline: paths that get other values, and paths that are removed.

In: the plain values of a valid experiment and a list of edits. Out: the plain values of the arm, not yet validated, and what
went wrong, each with the place in the sweep file that it comes from. Paths that begin with `starts_from.` alter an earlier stage.

What is replaced goes first, then what is altered, a component's `type` before its settings; then what is removed is removed, its share
dealt with as `data.when_removed` says. A mapping that alters is merged into what is there: `training: {steps: 300}` does what
`training.steps: 300` does. A component of another type keeps the settings that the other type has too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from mm1_ablate.config.data import Data
from mm1_ablate.config.errors import Diagnostic, did_you_mean, listed, validated
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.paths import ABSENT, Node, PathError, plain
from mm1_ablate.config.settings import Settings

Keys = tuple[str | int, ...]
EARLIER = "starts_from."
"""What paths into the earlier stage begin with."""


@dataclass(frozen=True)
class Edit:
    """One path that is altered or removed."""

    path: str
    value: Any = None
    removed: bool = False
    whole: bool = False
    """Whether the value replaces everything at the path, instead of being merged into it."""
    where: Keys = ()
    """Its place in the sweep file."""
    stage: str = ""
    """What leads to the earlier stage that the path is in, with a dot at its end; empty for the last one."""


@dataclass
class AlteredExperiment:
    """The plain values of an arm."""

    tree: dict[str, Any]
    consequences: list[str] = field(default_factory=list)
    """Paths that changed because of a removal, such as training.steps when the data shrinks."""
    edits: list[Edit] = field(default_factory=list)
    """What was applied: of a mapping that was merged, an edit for each setting in it, with its own path and place."""
    diagnostics: list[Diagnostic] = field(default_factory=list)
    """Problems; their paths are places in the sweep file."""
    untyped: list[str] = field(default_factory=list)
    """Places whose `type` is unknown, and with it their settings."""
    kept: Fraction = Fraction(1)
    """The share of the training that is left, where removed data shrinks it."""


def altered(tree: dict[str, Any], edits: Sequence[Edit]) -> AlteredExperiment:
    """Apply the edits of one arm to the plain values of a valid experiment, each to the stage that its path leads to."""
    deeper = [edit for edit in edits if edit.path.startswith(EARLIER)]
    result = _altered(tree, [edit for edit in edits if edit not in deeper])
    if not deeper or result.diagnostics:
        result.diagnostics += _set_twice(result.edits)
        return result
    earlier = result.tree.get(EARLIER[:-1])
    if not isinstance(earlier, dict):
        replacing = next((edit for edit in edits if edit.path == EARLIER[:-1]), None)
        message = f"'{result.tree.get('experiment')}' has no earlier stage (starts_from)"
        if replacing is not None:
            message = f"the same arm {'removes' if replacing.removed else 'replaces'} {replacing.stage}starts_from"
        result.diagnostics += [Diagnostic(edit.where, _named(edit, message), at_key=True) for edit in deeper]
        return result
    inside = [replace(edit, path=edit.path.removeprefix(EARLIER), stage=edit.stage + EARLIER) for edit in deeper]
    below = altered(earlier, inside)
    result.edits += [replace(edit, path=EARLIER + edit.path, stage=edit.stage.removesuffix(EARLIER)) for edit in below.edits]
    result.diagnostics += below.diagnostics or _set_twice(result.edits)
    result.consequences += [EARLIER + path for path in below.consequences]
    result.tree = {**result.tree, EARLIER[:-1]: below.tree}
    return result


def _altered(tree: dict[str, Any], edits: Sequence[Edit]) -> AlteredExperiment:
    """The edits of the last stage alone."""
    result = AlteredExperiment(tree)
    altering = sorted((edit for edit in edits if not edit.removed), key=_order)
    applied = _apply(result, [edit for edit in altering if edit.whole])
    merging = [edit for edit in altering if not edit.whole]
    result.tree = _retyped_everywhere(result.tree, merging)
    applied |= _apply(result, merging)
    result.edits = [own for edit in edits for own in applied.get(id(edit), ())]  # in the order of the file
    result.diagnostics += [
        diagnostic for place in dict.fromkeys(result.untyped) for diagnostic in _wrong_type(result.tree, place, result.edits)
    ]
    removals = [edit for edit in edits if edit.removed]
    if conflicts := _conflicts(tree, [*result.edits, *removals]):
        result.diagnostics = conflicts
    result.edits += removals
    does_both = 0 < len(removals) < len(result.edits)
    if result.diagnostics or (does_both and validated(Data, result.tree.get("data"))[0] is None):
        return result  # what is not valid has no shares to compute with; whoever validates the tree says why
    # Shares of whole data types first, so that what remains of a source's share is known when the source is removed.
    for edit in sorted(removals, key=lambda edit: not edit.path.startswith("data.mixture.")):
        try:
            _remove(result, edit)
        except PathError as error:
            result.diagnostics.append(Diagnostic(edit.where, _named(edit, error.message), _hint(edit, error)))
    if result.kept != 1 and not result.diagnostics:
        _shrink(result)
    return result


def _apply(result: AlteredExperiment, edits: Sequence[Edit]) -> dict[int, list[Edit]]:
    """Apply edits that remove nothing; returns by the `id` of each the edits of single settings that it comes to."""
    applied = {}
    for edit in edits:
        try:
            result.tree, applied[id(edit)] = _alter(Node(Experiment, result.tree), edit)
        except PathError as error:
            if error.untyped:
                result.untyped.append(error.untyped)
                continue
            applied[id(edit)] = [edit]
            at = error.edit if isinstance(error, _WrongInside) else edit
            result.diagnostics.append(Diagnostic(at.where, _named(at, error.message), _hint(at, error), at_key=True))
    return applied


def _retyped_everywhere(tree: dict[str, Any], edits: Sequence[Edit]) -> dict[str, Any]:
    """The types of components that edits change, wherever in a mapping: before their settings are checked. What cannot be found yet
    is reported, or made, when the edits are applied."""
    types = {path: value for edit in edits for path, value in leaf_values(edit).items() if isinstance(value, str)}
    for path, value in sorted(types.items(), key=lambda entry: entry[0].count(".")):
        root = Node(Experiment, tree)
        place = path.removesuffix(".type")
        with contextlib.suppress(PathError):
            node = root.find(place)
            known = Node(node.annotation, {"type": value}).settings is not None
            if known and node.has_types and isinstance(node.value, dict):
                tree = root.replaced(place, _retyped(node, value))
    return tree


def _wrong_type(tree: dict[str, Any], place: str, edits: Sequence[Edit]) -> list[Diagnostic]:
    """What is wrong with the type of a component, at the edit that gave it."""
    edit = max((edit for edit in edits if f"{place}.type.".startswith(edit.path + ".")), key=lambda edit: len(edit.path))
    parts = tuple(place.split("."))
    found = [diagnostic for diagnostic in validated(Experiment, tree)[1] if diagnostic.path[: len(parts)] == parts]
    inside = len(edit.path.split("."))
    return [replace(one, path=(*edit.where, *one.path[inside:]), message=_named(edit, one.message)) for one in found]


def _named(edit: Edit, message: str) -> str:
    """Messages name the path, unless the place in the file already ends with it."""
    path = edit.stage + edit.path
    return message if ends_with(edit.where, path) else f"{path}: {message}"


def ends_with(where: Keys, path: str) -> bool:
    """Whether a place in a sweep file names a path, be it as one key or as keys inside one another."""
    return f".{'.'.join(map(str, where))}".endswith(f".{path}")


def _hint(edit: Edit, error: PathError) -> str:
    return error.hint.replace("did you mean '", f"did you mean '{edit.stage}")


def _order(edit: Edit) -> tuple[bool, bool, int]:
    return not edit.whole, not edit.path.endswith(".type"), edit.path.count(".")


def _conflicts(tree: dict[str, Any], edits: Sequence[Edit]) -> list[Diagnostic]:
    """Things that are removed and altered, at or below themselves, in one arm."""
    removed = [edit.path for edit in edits if edit.removed]
    sources = tree["data"]["sources"]
    found = {}
    altering = [edit for edit in edits if removed and not edit.removed]
    for edit, own in ((one, path) for one in altering for path in leaf_values(one)):
        parts = own.split(".")
        feeds = sources.get(parts[2], {}).get("data_type") if parts[:2] == ["data", "sources"] and len(parts) > 2 else None
        for path in removed:
            message = ""
            if own == path or own.startswith(path + "."):
                message = f"is altered, but the same arm removes {path}"
            elif path == f"data.mixture.{feeds}":
                message = f"is altered, but provides only '{feeds}', which the same arm removes with {path}"
            if message:
                found[id(edit)] = Diagnostic(edit.where, _named(edit, message), "keep one of the two", at_key=True)
    return list(found.values())


def _set_twice(edits: Sequence[Edit]) -> list[Diagnostic]:
    """Settings that one arm gives two values, by a mapping and by a path into it for instance."""
    first: dict[str, Edit] = {}
    found = {}
    for edit in edits:
        for path in () if edit.removed else leaf_values(edit):
            other = first.setdefault(path, edit)
            if other is not edit:
                places = [".".join(f"'{part}'" if "." in str(part) else str(part) for part in one.where) for one in (other, edit)]
                message = f"{edit.stage}{path} is set twice: by {places[0]} and by {places[1]}"
                found[id(edit)] = Diagnostic(edit.where, message, "keep one of the two", at_key=True)
    return list(found.values())


def leaf_values(edit: Edit) -> dict[str, Any]:
    """All single settings that an edit gives a value, by their paths."""

    def below(path: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict) and value:
            return {inner: leaf for key, entry in value.items() for inner, leaf in below(f"{path}.{key}", entry).items()}
        return {path: value}

    return below(edit.path, edit.value)


class _WrongInside(PathError):
    """What is wrong with an entry of a mapping that alters."""

    def __init__(self, edit: Edit, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.edit = edit


def _alter(root: Node, edit: Edit) -> tuple[dict[str, Any], list[Edit]]:
    """The plain values of an experiment after an edit, and the edits of single settings that it comes to."""
    place, _, name = edit.path.rpartition(".")
    try:
        parent = root.find(place) if place else root
    except PathError:
        if _can_be_begun(root, place):
            return _alter(Node(Experiment, root.replaced(place, {})), edit)
        root.find(edit.path)  # raises too, with a suggestion for the whole path
        raise
    if parent.value is None and isinstance(standing := _resolved(root.value, place), Settings):
        return _alter(Node(Experiment, root.replaced(place, plain(standing))), edit)
    here = parent.child(name)
    value, applied = edit.value, [edit]
    if here is None:
        if not _can_be_added(parent, name, edit.value):
            root.find(edit.path)
    elif name == "type" and parent.has_types:
        return root.replaced(place, _retyped(parent, edit.value)), applied
    elif not edit.whole:
        value, applied = _merged(here, edit)
    return root.replaced(edit.path, value), applied


def _can_be_added(mapping: Node, name: str, value: Any) -> bool:
    """Whether a mapping may get an entry that it lacks: where a misspelt key cannot pass, for it is a listed key, or has settings of its
    own."""
    if mapping.settings is not None or not isinstance(mapping.value, dict) or mapping.item is ABSENT:
        return False
    return name in mapping.keys or Node(mapping.item, value).settings is not None


def _merged(node: Node, edit: Edit) -> tuple[Any, list[Edit]]:
    """The value of a node after an edit that is not a replacement, and the edits of single settings that it amounts to."""
    if node.has_types and isinstance(edit.value, str):
        return _retyped(node, edit.value), [replace(edit, path=f"{edit.path}.type")]
    if not isinstance(edit.value, dict) or not isinstance(node.value, dict):
        return edit.value, [edit]
    if not edit.value:
        message = "an empty mapping changes nothing: it is merged into what is there"
        raise _WrongInside(edit, message, "to replace it, write it under `replace`")
    if node.has_types and "type" in edit.value:
        node = Node(node.annotation, _retyped(node, edit.value["type"]))
    merged, applied = dict(node.value), []
    for key, value in edit.value.items():
        inner = replace(edit, path=f"{edit.path}.{key}", value=value, where=(*edit.where, key))
        below = node.child(key)
        if below is None and node.settings is None and node.value and node.item is not ABSENT and not _can_be_added(node, key, value):
            hint = did_you_mean(key, node.names()) or f"to add an entry, write all of {edit.path} under `replace`"
            raise _WrongInside(inner, f"there is no such entry; {edit.path} has {listed(node.names(), 12)}", hint)
        if (key == "type" and node.has_types) or below is None:
            merged[key] = value
            applied.append(inner)
        else:
            merged[key], own = _merged(below, inner)
            applied += own
    return merged, applied


def _can_be_begun(root: Node, place: str) -> bool:
    """Whether a path is an entry that a mapping lacks and that needs nothing: a bound on a column that has none yet."""
    above, _, _ = place.rpartition(".")
    try:
        mapping = root.find(above)
    except PathError:
        return False
    entry = Node(mapping.item, {}) if mapping.settings is None and isinstance(mapping.value, dict) else None
    return entry is not None and entry.settings is not None and _is_empty(entry)


def _is_empty(node: Node) -> bool:
    """Whether settings say nothing at all: every field is there by default, and is nothing, off or empty."""
    if node.settings is None:
        return node.value in (None, False) or node.value == {} or node.value == []
    return all(below is not None and _is_empty(below) for below in map(node.child, node.names()))


def _resolved(tree: dict[str, Any], path: str) -> Any:
    """The resolved value at a path that is not written: settings may follow from others, as those of a protocol do. None where
    nothing does, or the tree is not valid."""
    at: Any = validated(Experiment, tree)[0]
    for name in path.split("."):
        at = getattr(at, name, None) if isinstance(at, Settings) else at.get(name) if isinstance(at, dict) else None
    return at


def _retyped(node: Node, type_name: Any) -> dict[str, Any]:
    """A component of another type, with those of the written settings that the other type has too. What has this type already stays."""
    if isinstance(node.value, dict) and node.value.get("type") == type_name:
        return node.value
    other = Node(node.annotation, {"type": type_name})
    kept = {name: value for name, value in (node.value or {}).items() if other.settings is None or name in other.names()}
    return {**kept, "type": type_name}


def _remove(result: AlteredExperiment, edit: Edit) -> None:
    root = Node(Experiment, result.tree)
    place, _, name = edit.path.rpartition(".")
    node = root.find(edit.path)
    parent = root.find(place) if place else root
    if parent.settings is None and isinstance(parent.value, dict):
        result.tree = root.without(edit.path)
        if place == "data.mixture":
            _reassign(result, name, Fraction(str(node.value)), sum(_weights(root).values(), Fraction(0)))
        elif place == "data.sources":
            _remove_source(result, root, name)
    elif (node.value is None or node.value is False) and _resolved(result.tree, edit.path) in (None, False):
        raise PathError(f"cannot be removed: it is already {'None' if node.value is None else 'off'}")
    elif node.nullable and parent.settings is not None:
        result.tree = root.replaced(edit.path, None)
    elif Node(node.annotation, {}).settings is not None and _is_empty(Node(node.annotation, {})):
        # Bounds, say: removing them means returning to their defaults.
        if _is_empty(node):
            raise PathError("cannot be removed: it is already None")
        result.tree = root.replaced(edit.path, {})
    elif node.value is True:
        result.tree = root.replaced(edit.path, False)
    else:
        raise PathError("cannot be removed; alter it instead")


def _weights(root: Node) -> dict[str, Fraction]:
    return {name: Fraction(str(weight)) for name, weight in root.find("data.mixture").value.items()}


def _remove_source(result: AlteredExperiment, before: Node, name: str) -> None:
    """The share of one of several sources of a data type, after the source is gone."""
    sources = before.find("data.sources")
    weights = {key: Fraction(str(before.find(f"data.sources.{key}.weight").value)) for key in sources.value}
    types = {key: before.find(f"data.sources.{key}.data_type").value for key in sources.value}
    data_type = types[name]
    mixture = _weights(before)
    if not mixture.get(data_type):
        return
    siblings = sum((weights[key] for key in sources.value if types[key] == data_type), Fraction(0))
    if siblings == weights[name]:
        message = f"cannot be removed: no other source feeds data.mixture.{data_type}, which has weight {_number(mixture[data_type])}"
        raise PathError(message, f"remove data.mixture.{data_type} instead")
    if before.find("data.when_removed").value != "renormalise":
        lost = mixture[data_type] * weights[name] / siblings
        _set(result, f"data.mixture.{data_type}", _number(mixture[data_type] - lost))
        _reassign(result, None, lost, sum(mixture.values(), Fraction(0)))


def _reassign(result: AlteredExperiment, removed_type: str | None, lost: Fraction, total: Fraction) -> None:
    """Reassign a removed share by `data.when_removed`. Weights renormalise by themselves."""
    root = Node(Experiment, result.tree)
    when_removed = root.find("data.when_removed").value
    if when_removed == "shrink" and total:
        result.kept *= 1 - lost / total
    elif isinstance(when_removed, dict) and lost:
        filling = str(when_removed.get("fill_with"))
        if filling == removed_type:
            raise PathError(f"data.when_removed fills with '{filling}', which was removed", "fill with another data type")
        _set(result, f"data.mixture.{filling}", _number(_weights(root).get(filling, Fraction(0)) + lost))


def _shrink(result: AlteredExperiment) -> None:
    """Fewer steps, so that the data that stays is seen as often as in the baseline."""
    root = Node(Experiment, result.tree)
    steps = max(1, round(root.find("training.steps").value * result.kept))
    warmup = min(steps - 1, round(root.find("training.warmup_steps").value * result.kept))
    _set(result, "training.steps", steps)
    _set(result, "training.warmup_steps", warmup)


def _set(result: AlteredExperiment, path: str, value: Any) -> None:
    result.tree = Node(Experiment, result.tree).replaced(path, value)
    result.consequences.append(path)


def _number(exact: Fraction) -> int | float:
    return exact.numerator if exact.denominator == 1 else float(exact)
