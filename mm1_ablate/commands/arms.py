"""What each arm of a study changes, for the terminal. In: studies. Out: lines of text that fit a width."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mm1_ablate.config.study import Study


def terminal_width() -> int:
    """Columns of the terminal, or of COLUMNS; 160 where the output goes to a file or a pipe."""
    return shutil.get_terminal_size((160, 24)).columns


def arms_in_words(studies: Sequence[Study], width: int) -> list[str]:
    """For each arm a line with all settings in which it differs from its baseline, and for each baseline with what the sweep sets
    everywhere; folded where it is too long."""
    from mm1_ablate.config.sweep.differences import in_words

    lines = []
    for study in studies:
        of_study = f"{study.name}: " if len(studies) > 1 else ""
        for baseline in dict.fromkeys(arm.baseline for arm in study.arms):
            arms = [arm for arm in study.arms if arm.baseline == baseline and arm.name != baseline]
            lines.append(f"{of_study}what each arm changes in '{baseline}':" if arms else f"{of_study}no arm changes '{baseline}'")
            told = {arm.name: in_words(arm) for arm in (study.arm(baseline), *arms)}
            lines += [line for name, words in told.items() if words for line in _folded(f"{name}: {words}", width)]
    return lines


def _folded(line: str, width: int) -> list[str]:
    # An arrow stays with the values on both its sides.
    whole = line.replace(" → ", "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(whole, width, initial_indent="  ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False)
    return [part.replace("\N{NO-BREAK SPACE}", " ") for part in lines]
