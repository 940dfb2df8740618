"""Pages in one file: what an experiment's data holds, and items that two arms answered differently (the report is `html.py`'s).

In: an `Inspection`, or examples and what their items show. Out: HTML that needs nothing from elsewhere: the style, which all pages share,
and the pictures are in it.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from mm1_ablate.config.passwords import without_passwords
from mm1_ablate.evaluation.prompts import IMAGE_MARK
from mm1_ablate.report.cells import amount
from mm1_ablate.report.examples import Count, Example, margin
from mm1_ablate.report.formats import number, signed

if TYPE_CHECKING:
    from mm1_ablate.data.inspection import Inspection, Spread


def page(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: a file of this folder.
        values: what it names.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = files("mm1_ablate.report")
    style = Markup((folder / "style.css").read_text(encoding="utf-8"))
    rendered = environment.from_string((folder / template).read_text(encoding="utf-8")).render(style=style, **values)
    return without_passwords(rendered)


def data_address(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: Any) -> Markup:
    """An image, or uint8 [height, width, 3], as a `data:` address."""
    buffer = BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, format, **options)
    return Markup(f"data:image/{format.lower()};base64," + base64.b64encode(buffer.getvalue()).decode())


# ---------------------------------------------------------------- data
def data_page(inspection: Inspection, name: str, sequence_of_facts: list[str], joined: Mapping[str, str]) -> str:
    """The page.

    Args:
        name: of the experiment or arm.
        sequence_of_facts: sentences on the whole, above the table.
        joined: by source or task, what it joins as tokens.
    """
    return page(
        "data.html.jinja",
        inspection=inspection,
        sub_images=any(not isinstance(part, str) and len(part) > 1 for document in inspection.shown for part in document.parts),
        name=name,
        facts=sequence_of_facts,
        joined=joined,
        amount=amount,
        percent=percent,
        spread=spread,
        picture=data_address,
        is_text=lambda part: isinstance(part, str),
    )


def percent(share: float) -> str:
    """A share as people read it; one above 0 is never shown as 0."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def spread(values: Spread | None) -> str:
    """Median and the 5th to 95th percentile."""
    if values is None:
        return "–"
    if values.low == values.high:
        return f"{values.median:,.0f}"
    return f"{values.median:,.0f} ({values.low:,.0f} to {values.high:,.0f})"


# ---------------------------------------------------------------- examples
LONGEST_SIDE = 420
"""Pixels of an image on the page."""
SMALL_SIDE = 160
"""Images whose longer side is below are enlarged as they are, dot by dot."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the item source says of an item, beside the scores.

    Attributes:
        picture: its image, as a `data:` address; None where it has none.
        small: whether the picture is to be enlarged.
        choices: what could be chosen from.
        correct: the place of the right one.
        problem: why there is no picture though there should be.
    """

    picture: Markup | None = None
    small: bool = False
    choices: tuple[str, ...] = ()
    correct: int | None = None
    problem: str = ""


def picture(pixels: np.ndarray) -> tuple[Markup, bool]:
    """uint8 [height, width, 3] as an image inside the page, made smaller if need be; and whether it is a small one."""
    image = Image.fromarray(pixels)
    small = max(image.size) < SMALL_SIDE
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return data_address(image) if small else data_address(image, "JPEG", quality=85), small


def examples_page(
    arms: tuple[str, str],
    facts: Sequence[str],
    counts: Sequence[Count],
    examples: Sequence[Example],
    shown: Mapping[tuple[str, str], Shown],
) -> str:
    """The page.

    Args:
        facts: sentences above the table.
        shown: by task and item.
    """
    first_better = [example for example in examples if example.first_is_better]
    second_better = [example for example in examples if not example.first_is_better]
    return page(
        "examples.html.jinja",
        arms=arms,
        facts=facts,
        counts=counts,
        halves=[
            (arms[0], "first", first_better, sum(count.first_better for count in counts)),
            (arms[1], "second", second_better, sum(count.second_better for count in counts)),
        ],
        shown=shown,
        several_seeds=len({example.evaluation_seed for example in examples}) > 1,
        missing=Shown(),
        number=number,
        signed=signed,
        margin=margin,
        parts=parts,
        grouped=grouped,
        foldable=foldable,
        title=lambda task: task.replace("_", " "),
    )


def parts(prompt: str) -> list[tuple[bool, str]]:
    """A prompt in pieces: (whether it is where an image stood, text)."""
    found: list[tuple[bool, str]] = []
    for place, text in enumerate(prompt.split(IMAGE_MARK)):
        found += [(True, "image")] if place else []
        found += [(False, text)] if text else []
    return found


def foldable(name: str) -> Markup:
    """An arm's name that may go on in another line where its parts meet."""
    return Markup(re.sub(r"([/.,=_-])", r"\1<wbr>", str(escape(name))))


def grouped(references: Sequence[str]) -> list[str]:
    """'red (8 times)', 'dark red': references of several annotators, the most frequent first."""
    return [f"{text} ({count} times)" if count > 1 else text for text, count in Counter(references).most_common()]
