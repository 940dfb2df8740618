"""What sources of captioned images share: what is a caption, and whether a field or column holds captions at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.readers.rows import text_of

NOT_A_CAPTION = "JSON in place of a caption"


def caption_of(value: Any, what: str) -> str:
    """A caption without white space around it.

    Args:
        value: as it was found.
        what: names it in reports.

    Raises:
        Unreadable: it is not text, or empty, or a text that is a JSON object or list.
    """
    text = text_of(value, what, "caption").strip()
    if _is_json(text):
        raise Unreadable(NOT_A_CAPTION, what)
    return text


def _is_json(text: str) -> bool:
    """Whether a text is an object or a list of texts or objects. '[1]' may well be a caption."""
    if (text[0], text[-1]) not in (("{", "}"), ("[", "]")):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or (bool(value) and all(isinstance(entry, str | dict) for entry in value))


def check_captions(setting: str, named: str, values: Iterable[tuple[Any, str]]) -> None:
    """Whether the first values of a field or column are captions, as far as there are any.

    Args:
        setting: that names the field.
        named: the field, for display.
        values: each with what names it in reports.

    Raises:
        SettingError: at the setting, not one of them is a caption.
    """
    why: Unreadable | None = None
    for value, what in values:
        if value is None:
            continue
        try:
            caption_of(value, what)
        except Unreadable as error:
            why = why or error
        else:
            return
    if why is not None:
        raise SettingError(setting, f"{named} holds no captions: {why.reason} in {why.what}")
