"""Pages of text and pictures as OBELICS and MMC4 write them, their pictures inside or beside; and documents read back as pages."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image as pil

from mm1_ablate.data.documents import Document, Image
from mm1_ablate.data.sources._interleaved import InterleavedSource

PAGES = [
    ["I0", "one", "two", "I1", "I2", "three"],
    ["four", "I3", "five"],
    ["six"],
    ["I4", "seven", "I5"],
]
"""Pages as their parts: I0 is picture 0."""


def png(shade: int) -> bytes:
    data = io.BytesIO()
    pil.new("RGB", (6, 4), (shade, 0, 0)).save(data, "PNG")
    return data.getvalue()


def url(picture: int) -> str:
    return f"https://a.example/pictures/{picture}.png?width=6&from={picture}"


def written(document: Document) -> list[str]:
    return [f"I{part.load()[0, 0, 0]}" if isinstance(part, Image) else part for part in document.parts]


def read(source: InterleavedSource) -> list[list[str]]:
    opened = source.open(name="pages")
    return [written(opened[index]) for index in range(len(opened))]


def switched(source: InterleavedSource, **switches: bool) -> InterleavedSource:
    return type(source).model_validate({**source.model_dump(), **switches})


def number(part: str) -> int | None:
    return int(part[1:]) if part.startswith("I") else None


def write_obelics(path: Path, pages: Sequence[Sequence[str]] = PAGES, images: str = "bytes", **more: Sequence[Any]) -> Path:
    """OBELICS' layout, its images in one of the ways that people have them."""
    kinds = {"bytes": pa.binary(), "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "url": pa.string()}
    value = {"bytes": png, "struct": lambda picture: {"bytes": png(picture), "path": None}, "url": url}[images]
    columns = {
        "images": pa.array([[None if (n := number(p)) is None else value(n) for p in page] for page in pages], pa.list_(kinds[images])),
        "texts": pa.array([[p if number(p) is None else None for p in page] for page in pages], pa.list_(pa.string())),
        "general_metadata": [json.dumps({"url": f"https://a.example/{place}"}) for place in range(len(pages))],
    }
    pq.write_table(pa.table({**columns, **more}), path, row_group_size=2)
    return path


def write_mmc4(path: Path, pages: Sequence[Sequence[str]] = PAGES, **more: Sequence[Any]) -> Path:
    """MMC4's layout: sentences, and images that match one each."""
    rows = []
    for place, page in enumerate(pages):
        sentences = [part for part in page if number(part) is None]
        infos = []
        for position, part in enumerate(page):
            if (picture := number(part)) is not None:
                following = sum(number(other) is None for other in page[:position])
                infos.append(
                    {
                        "image_name": f"{picture}.png",
                        "raw_url": url(picture),
                        "matched_text_index": min(following, len(sentences) - 1),
                        "matched_sim": 0.2 + picture / 100,
                    }
                )
        row = {"url": f"https://a.example/{place}", "text_list": sentences, "image_info": infos, "similarity_matrix": [[0.1]]}
        rows.append({**row, **{name: values[place] for name, values in more.items()}})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_pictures(folder: Path, how: str, pictures: Sequence[int] = range(6)) -> tuple[str, str]:
    """Pictures beside documents, in one of the layouts that people have: (pattern, what they are looked up by)."""
    folder.mkdir(exist_ok=True)
    if how == "img2dataset":
        with webdataset.TarWriter(str(folder / "00000.tar")) as tar:
            for place, picture in enumerate(reversed(pictures)):
                tar.write({"__key__": f"{place:09}", "png": png(picture), "json": {"url": url(picture), "status": "success"}})
        return f"{folder}/*.tar", "url"
    if how == "tar of sha256":
        with webdataset.TarWriter(str(folder / "all.tar")) as tar:
            for picture in pictures:
                tar.write({"__key__": f"some/{sha256(url(picture).encode()).hexdigest()}", "png": png(picture)})
        return f"{folder}/all.tar", "url_sha256"
    for picture in pictures:
        name = {"sha256": sha256(url(picture).encode()).hexdigest(), "base name": f"{picture}.PNG", "path": f"{picture}.png"}[how]
        path = folder / ("pictures" if how == "path" else f"part-{picture % 2}") / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(picture))
    return f"{folder}/**/*", {"sha256": "url_sha256", "base name": "base_name", "path": "path"}[how]


LAYOUTS = ["img2dataset", "tar of sha256", "sha256", "base name", "path"]
