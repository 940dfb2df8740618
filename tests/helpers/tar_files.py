"""Tars of captioned images, as people's tools write them, and what is read from them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import webdataset
from PIL import Image as pil

from mm1_ablate.data.documents import Document, Unreadable
from mm1_ablate.data.sources.webdataset import OpenWebDataset, WebDataset


def picture(shade: int) -> bytes:
    """A PNG of 6 x 4 pixels of one shade."""
    buffer = io.BytesIO()
    pil.new("RGB", (6, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    """An entry of a tar."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for field, value in fields.items():
        setattr(entry, field, value)
    tar.addfile(entry, io.BytesIO(content))


def plain_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of files in the standard library's format."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            add(tar, name, content)
    return path


def as_img2dataset_writes(path: Path, first: int, count: int) -> Path:
    """Its layout: 000000012.jpg, .txt and .json, by webdataset's own writer."""
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(first, first + count):
            buffer = io.BytesIO()
            pil.new("RGB", (64, 48), (number % 256, 0, 0)).save(buffer, "JPEG", quality=95)
            known = {"url": f"https://images/{number}", "caption": f"image {number}", "similarity": number / 100, "status": "success"}
            writer.write(
                {"__key__": f"{number:09}", "jpg": buffer.getvalue(), "json": json.dumps(known).encode(), "txt": f"image {number}\n"}
            )
    return path


def source(files: object, **settings: object) -> OpenWebDataset:
    return WebDataset.model_validate({"files": str(files), **settings}).open(name="web")


def documents(opened: OpenWebDataset) -> tuple[list[Document], list[str]]:
    """The documents that can be read, and the reasons of those that cannot."""
    good, bad = [], []
    for index in range(len(opened)):
        try:
            good.append(opened[index])
        except Unreadable as error:
            bad.append(error.reason)
    return good, bad
