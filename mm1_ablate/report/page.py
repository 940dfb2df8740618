"""Pages in one file. In: a template of this folder and its values. Out: HTML that needs nothing from elsewhere: the style, which all pages
share, and the pictures are in it."""

from __future__ import annotations

import base64
from importlib.resources import files
from io import BytesIO
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from mm1_ablate.config.passwords import without_passwords


def page(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: a file of this folder.
        values: what it names.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = files("mm1_ablate.report")
    style = Markup((folder / "style.css").read_text(encoding="utf-8"))
    return without_passwords(environment.from_string((folder / template).read_text(encoding="utf-8")).render(style=style, **values))


def data_address(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: Any) -> Markup:
    """An image, or uint8 [height, width, 3], as a `data:` address."""
    buffer = BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, format, **options)
    return Markup(f"data:image/{format.lower()};base64," + base64.b64encode(buffer.getvalue()).decode())
