"""In which single settings two experiments differ, as they are resolved: with every default, whether it is written or not.

In: experiments, and the edits that made one of the other. Out: `Change`s, one for each setting that differs, and the same in words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from mm1_ablate.config.errors import listed
from mm1_ablate.config.experiment import Experiment
from mm1_ablate.config.identity.fingerprint import canonical
from mm1_ablate.config.settings import Settings
from mm1_ablate.config.study import Arm, Change, Study
from mm1_ablate.config.sweep.overrides import Edit

LONGEST_VALUE = 40
"""Characters of a value in a table; what is longer is cut in the middle."""
MOST_ADDED = 12
"""Settings of a section missing in the baseline that are listed one by one."""
NOTHING: tuple[Any, ...] = (None, {})


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every single setting by its dotted path, as plain JSON values, defaults included. A mapping that says nothing is `{}`."""
    if isinstance(value, Settings):
        value = {field.alias or name: getattr(value, name) for name, field in type(value).model_fields.items()}
    if not isinstance(value, dict):
        return {path: _plain(value)}
    below = {inner: leaf for key, entry in value.items() for inner, leaf in leaves(entry, f"{path}.{key}" if path else str(key)).items()}
    return below if any(leaf is not None for leaf in below.values()) else {**below, path: {}}


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def changes_of(old: Mapping[str, Any], new: Mapping[str, Any], edits: Sequence[Edit], consequences: Sequence[str]) -> tuple[Change, ...]:
    """All in which an arm differs from its baseline: what its edits say first, in their order, then what came along.

    Args:
        old: the leaves of the baseline.
        new: the leaves of the arm.
        edits: what was applied (`AlteredExperiment.edits`).
        consequences: paths that changed because of a removal.
    """
    left = dict.fromkeys(_differing(old, new))
    changes = []
    for edit in edits:
        own = [path for path in left if _is_at(path, edit.path) or edit.path.startswith(f"{path}.")]
        for path in own:
            del left[path]
        if edit.removed:
            changes.append(Change(edit.path, _standing_at(old, edit.path), _standing_at(new, edit.path), removed=True))
        else:
            changes += [_change(path, old, new) for path in own]
    changes += [_change(path, old, new, declared=path in consequences) for path in sorted(left, key=lambda path: path not in consequences)]
    return tuple(changes)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for path in dict.fromkeys([*old, *new]):
        if any(tree.get(above) not in NOTHING for above in _above(path) for tree in (old, new)):
            continue  # a value replaces the mapping there, and is listed
        left, right = old.get(path), new.get(path)
        if left is right or (left == right and json.dumps(left) == json.dumps(right)):
            continue
        # An empty mapping is listed where the other has no mapping at all, not where it has one with settings.
        says_nothing = left in NOTHING and right in NOTHING
        if not (says_nothing and any(leaf is not None and inner.startswith(f"{path}.") for inner, leaf in (*old.items(), *new.items()))):
            yield path


def _change(path: str, old: Mapping[str, Any], new: Mapping[str, Any], declared: bool = True) -> Change:
    values = [tree[path] if path in tree else _standing_at(tree, path) for tree in (old, new)]
    gone = path not in new and values[1] is None
    section = _section(path, new if gone else old)
    return Change(path, values[0], values[1], declared=declared, dropped=gone and not declared, section=section)


def _above(path: str) -> Iterator[str]:
    """The places on the way to a path."""
    parts = path.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def _section(path: str, others: Mapping[str, Any]) -> str:
    """The first place on a path at which there is nothing in the other experiment; empty if that is the path itself."""
    parts = path.split(".")
    there = (others.get(place) not in NOTHING or any(other.startswith(f"{place}.") for other in others) for place in _above(path))
    length = next((length for length, known in enumerate(there, 1) if not known), len(parts))
    return "" if length == len(parts) else ".".join(parts[:length])


def _standing_at(tree: Mapping[str, Any], path: str) -> Any:
    """The value or the mapping at a path, without what is nothing in it; None where it is not there or says nothing."""
    if tree.get(path) not in NOTHING:
        return tree[path]
    below: dict[str, Any] = {}
    for inner, leaf in tree.items():
        if leaf not in NOTHING and inner.startswith(f"{path}."):
            *places, name = inner.removeprefix(f"{path}.").split(".")
            at = below
            for place in places:
                at = at.setdefault(place, {})
            at[name] = leaf
    return below or None


def _is_at(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")


# ---------------------------------------------------------------- in words
def declared_in_words(arm: Arm) -> tuple[str, ...]:
    """What an arm's ablation says: 'removed data.mixture.text', 'model.connector.image_tokens 4 → 16'; of a baseline, what the sweep sets
    everywhere."""
    if arm.seeds:
        return (f"only its seeds: {', '.join(map(str, arm.seeds))}",)
    told = _in_words([change for change in arm.changes or arm.everywhere if change.declared])
    return (f"everywhere: {told[0]}", *told[1:]) if arm.everywhere and told else told


def undeclared_in_words(arm: Arm) -> tuple[str, ...]:
    """Which settings differ though the ablation did not name them: what another type does not have, and what it brings."""
    changes = arm.changes or arm.everywhere
    return (*_dropped_in_words(changes), *_along_in_words(changes))


def since_in_words(old: Experiment, new: Experiment) -> list[str]:
    """In what an experiment is trained otherwise than it was: 'training.steps 100, now 200'; how it is evaluated is left out."""
    forms = [leaves({name: part for name, part in canonical(one).items() if name != "evaluation"}) for one in (old, new)]
    before, now = leaves(old), leaves(new)
    changes = [_change(path, before, now) for path in _differing(*forms)]
    return [f"{change.path} {', now '.join(_beside(change.old, change.new))}" for change in changes if change.old != change.new]


def in_words(arm: Arm) -> str:
    """All in which an arm differs from its baseline, or a baseline from its file, in one line; empty where there is nothing."""
    changes = arm.changes or arm.everywhere
    along = ", ".join(_along_in_words(changes))
    return "; ".join([*declared_in_words(arm), *_dropped_in_words(changes), *([f"also changed: {along}"] if along else [])])


def _along_in_words(changes: Sequence[Change]) -> tuple[str, ...]:
    return _in_words([change for change in changes if not change.declared and not change.dropped])


def _dropped_in_words(changes: Sequence[Change]) -> list[str]:
    dropped = dict.fromkeys(change.section or f"{change.path} {_shown(change.old)}" for change in changes if change.dropped)
    return [f"dropped with the type: {', '.join(dropped)}"] if dropped else []


def _in_words(changes: Sequence[Change]) -> tuple[str, ...]:
    told: list[str] = []
    for (section, gone), together in groupby(changes, key=lambda change: (change.section, change.new in NOTHING)):
        if section and gone:
            told.append(f"without {section}")
        elif section:
            own = [f"{change.path.removeprefix(f'{section}.')} {_shown(change.new)}" for change in together]
            told.append(f"added {section}: {listed(own, MOST_ADDED)}")
        else:
            told += [_one_in_words(change) for change in together]
    return tuple(told)


def _one_in_words(change: Change) -> str:
    if change.removed:
        return f"removed {change.path}"
    return f"{change.path} {' → '.join(_beside(change.old, change.new))}"


def _beside(old: Any, new: Any) -> tuple[str, str]:
    """Two values that differ, so that the difference is seen."""
    whole = _text(old), _text(new)
    cut = _cut(whole[0]), _cut(whole[1])
    if cut[0] != cut[1]:
        return cut
    same = next(place for place, (left, right) in enumerate(zip(*whole, strict=False)) if left != right)
    start = max(0, same - LONGEST_VALUE // 4)
    left, right = (("…" if start else "") + text[start:][: LONGEST_VALUE - 2] for text in whole)
    return left, right


def _shown(value: Any) -> str:
    return _cut(_text(value))


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    """A text, cut in the middle where it is long."""
    half = LONGEST_VALUE // 2
    return text if len(text) <= LONGEST_VALUE else f"{text[: half - 1]}…{text[-half:]}"


def arms_in_words(studies: Sequence[Study]) -> list[tuple[str | None, str]]:
    """For each arm its name and a line with all settings in which it differs from its baseline, and for each baseline one with what the
    sweep sets everywhere; before them a heading, without a name."""
    lines: list[tuple[str | None, str]] = []
    for study in studies:
        of_study = f"{study.name}: " if len(studies) > 1 else ""
        for baseline in dict.fromkeys(arm.baseline for arm in study.arms):
            arms = [arm for arm in study.arms if arm.baseline == baseline and arm.name != baseline]
            lines.append((None, f"{of_study}what each arm changes in '{baseline}':" if arms else f"{of_study}no arm changes '{baseline}'"))
            told = {arm.name: in_words(arm) for arm in (study.arm(baseline), *arms)}
            lines += [(name, f"{name}: {words}") for name, words in told.items() if words]
    return lines
