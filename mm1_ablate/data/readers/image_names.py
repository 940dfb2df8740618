"""By what name an image is known: as an entry of a sample, and among the pictures that lie beside documents."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Literal
from urllib.parse import urlsplit

from mm1_ablate.data.documents import Unreadable

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
"""Extensions of what is an image."""
ImagesBy = Literal["path", "base_name", "url", "url_sha256"]
"""What a picture is looked up by: the path that its name has in a tar or from the folder where a pattern's wildcards begin; the last part
of it; the url that img2dataset wrote into the JSON beside it; or the SHA-256 of the url, as its name."""


def images_of(members: Iterable[str], declared: str | None = None) -> list[str]:
    """The entries of a sample that may be its image: the declared one, or all whose whole extension is that of an image.

    Not '1.seg.png' nor '1.2.png': as webdataset splits names, these are other things of sample 1, such as masks.
    """
    there = set(members)
    return [extension for extension in ((declared,) if declared is not None else IMAGES) if extension in there]


def name_in_index(path: str, by: ImagesBy) -> str:
    """What a picture is looked up by, given its path; empty for a file that is none: what lies beside a picture under the same hash."""
    folder, base = posixpath.split(posixpath.normpath(path))
    stem, dot, extension = base.partition(".")
    if by == "url_sha256":
        return stem if not dot or extension.lower() in IMAGES else ""
    base = f"{stem}{dot}{extension.lower()}"  # as in the index of a tar
    return posixpath.join(folder, base) if by == "path" else base


def looked_up_by(name: str, by: ImagesBy) -> str:
    """What a picture is looked up by, given what a document says of it: a path or a url."""
    if by == "url":
        return name
    if by == "url_sha256":
        return sha256(name.encode(errors="surrogatepass")).hexdigest()
    if "://" in name:
        name = urlsplit(name).path
    return name_in_index(name.lstrip("/"), by)


def url_in(read: Callable[[], bytes] | None) -> str:
    """The url in the JSON beside a picture; empty if there is none."""
    try:
        found = json.loads(read()) if read is not None else None
    except (ValueError, Unreadable):
        return ""
    url = found.get("url") if isinstance(found, dict) else None
    return url if isinstance(url, str) else ""
