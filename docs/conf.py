"""The site: `sphinx-build -W docs site`. Its pages are the Markdown files beside this one, which are readable without it too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]

project = "mm1-ablate"
author = "the authors of mm1-ablate"
copyright = f"{author}; Apache-2.0"
release = re.findall(r'^__version__ = "(.*)"', (REPOSITORY / "mm1_ablate" / "version.py").read_text(encoding="utf-8"), re.MULTILINE)[0]

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4  # links such as data.md#formats, as in the repository
root_doc = "index"
source_suffix = {".md": "markdown"}
nitpicky = True

html_theme = "pydata_sphinx_theme"
html_title = f"mm1-ablate {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

OF_THE_REPOSITORY = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md", "security": "SECURITY.md"}
"""Pages of the site that are files at the top of the repository: what stands in `docs/` only leads to them."""


def as_on_the_site(app: Any, page: str, source: list[str]) -> None:
    """Take the text of these pages from their files, and lead links to these files to the pages."""
    text = source[0]
    if page in OF_THE_REPOSITORY:
        text = (REPOSITORY / OF_THE_REPOSITORY[page]).read_text(encoding="utf-8")
        text = re.sub(r"\]\((?!https?:|#)", "](../", text).replace("](../docs/", "](")
    up = "../" * page.count("/")
    for name, file in OF_THE_REPOSITORY.items():
        text = text.replace(f"]({up}../{file}", f"]({up}{name}.md")
    source[0] = text


def setup(app: Any) -> None:
    app.connect("source-read", as_on_the_site)
