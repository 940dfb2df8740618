"""What the package's metadata takes from the repository: the README with links that lead somewhere on a package index, and addresses.

In: `repository` under `[tool.hatch.metadata.hooks.custom]` in pyproject.toml, the one place where the project's address is declared. Out:
the README with absolute links to the files of this version, and the addresses that an index lists. As long as no address is declared, links
to files of the repository become their names, and pictures are left out: on an index they would lead nowhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)]+)\)")


def readme_for_an_index(text: str, repository: str, version: str) -> str:
    """A README whose links to files of the repository are absolute, or are none where the repository has no address.

    Args:
        repository: the address, as of GitHub and those that follow it; empty where there is none.
    """

    def absolute(link: re.Match[str]) -> str:
        picture, name, path = link.groups()
        if repository:
            kind = "raw" if picture else "blob"
            return f"{picture}[{name}]({repository}/{kind}/v{version}/{path})"
        if picture:
            return ""
        return f"`{path}`" if name == path else f"{name} (`{path}`)"

    return _LINK.sub(absolute, text)


def addresses(repository: str, version: str) -> dict[str, str]:
    """The addresses that an index lists."""
    if not repository:
        return {}
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/v{version}/docs/index.md",
        "Changelog": f"{repository}/blob/v{version}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


class CustomMetadataHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        root = Path(self.root)
        version_file = root / "mm1_ablate" / "version.py"
        version = re.findall(r'^__version__ = "(.*)"', version_file.read_text(encoding="utf-8"), re.MULTILINE)[0]
        repository = str(self.config.get("repository", "")).rstrip("/")
        text = readme_for_an_index((root / "README.md").read_text(encoding="utf-8"), repository, version)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = addresses(repository, version)
