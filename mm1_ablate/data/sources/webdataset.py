"""Captioned images in tars, as img2dataset and webdataset write them: of each sample an image, a caption, and metadata in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from mm1_ablate.data.documents import Document, Image, Unreadable
from mm1_ablate.data.files import DataFile, Files, digest_files
from mm1_ablate.spec.data import Source
from mm1_ablate.spec.settings import Misfit

if TYPE_CHECKING:
    from mm1_ablate.data.records.tar import TarSample

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
"""Extensions of what is an image; of several in one sample the first of these."""
LOOKED_AT = 20
"""Samples among which a check expects one that is as declared."""


class WebDataset(Source):
    """Tars (.tar, .tgz) of samples: entries whose names agree up to the first dot."""

    type: Literal["webdataset"] = "webdataset"
    data_type: Literal["captioned", "synthetic_captioned"] = "captioned"
    files: Files
    """Patterns of the tars: data/{00000..00331}.tar, s3://bucket/cc3m/*.tar."""
    caption_field: str = "txt"
    """Where the caption is: the extension of an entry, or json.NAME, a field of the JSON entry."""

    @field_validator("caption_field")
    @classmethod
    def _names_something(cls, field: str) -> str:
        field = field.removeprefix(".")
        if not field or field in ("json", "json."):
            raise ValueError("expected the extension of an entry, such as txt, or json.NAME for a field of the JSON entry")
        return field if field.startswith("json.") else field.lower()

    def open(self, seed: int = 0, name: str = "") -> OpenWebDataset:
        """The documents. The seed orders nothing here: order is the mixture's."""
        return OpenWebDataset(self, name or self.type)

    def check(self) -> None:
        from mm1_ablate.data.records.opening import found_files

        samples = self.check_images()
        if not any(_caption_of(sample, self.caption_field) is not None for sample in samples.values()):
            fields = sorted(_fields(samples))
            also = f"; fields of the JSON: {', '.join(f'json.{field}' for field in fields)}" if fields else ""
            has = _has(found_files(self.files), samples)
            raise Misfit("caption_field", f"no '{self.caption_field}': {has}{also}. Name the one with the caption")

    def check_images(self) -> dict[str, dict[str, bytes]]:
        """Whether there are images, and the columns that are asked for; the captions do not matter. Returns the first samples.

        Raises:
            Misfit: as `check` does.
        """
        from mm1_ablate.data.records.opening import check_columns, found_files, kept_columns

        files = found_files(self.files)
        samples = _first_samples(files)
        if not any(_image_member(sample) for sample in samples.values()):
            raise Misfit("files", f"no image ({', '.join(IMAGES[:5])}): {_has(files, samples)}")
        check_columns(_fields(samples), kept_columns(self.keep))
        return samples

    def join_columns(self) -> set[str]:
        """What recaptions can be joined by: the key of a sample, and the fields of its JSON."""
        from mm1_ablate.data.records.opening import found_files

        return {"key", *_fields(_first_samples(found_files(self.files)))}

    def texts_after_images(self, most: int) -> list[str]:
        from mm1_ablate.data.records.opening import found_files, sampled
        from mm1_ablate.data.records.rows import texts_of

        files = sampled(found_files(self.files))
        found: list[str] = []
        for file in files:
            with suppress(Misfit):
                samples = _first_samples([file], max(1, most // len(files)))
                found += texts_of(_caption_of(sample, self.caption_field) for sample in samples.values())
        return [text.strip() for text in found]

    def contents(self) -> str:
        from mm1_ablate.data.records.opening import found_files

        return digest_files(found_files(self.files))

    def make_ready(self, report: Any = None) -> None:
        from mm1_ablate.data.records.opening import found_files
        from mm1_ablate.data.records.tar import open_tars

        open_tars(found_files(self.files), report)


class OpenWebDataset:
    """Documents by index: of each sample its image, then its caption. What of the tars is damaged comes last, as documents that are bad.

    Args:
        settings: what is read.
        name: that documents carry.
        image: makes an image of its key, what reads its bytes, and what it is called; nothing: one that is decoded.
    """

    def __init__(self, settings: WebDataset, name: str, image: Callable[[str, Callable[[], bytes], str], Image] | None = None) -> None:
        from mm1_ablate.data.decoding import encoded_image
        from mm1_ablate.data.records.opening import found_files
        from mm1_ablate.data.records.rows import text_of
        from mm1_ablate.data.records.tar import open_tars

        self.settings = settings
        self.name = name
        self.samples = open_tars(found_files(settings.files))
        self._encoded_image, self._text_of = image or encoded_image, text_of
        member, _, field = settings.caption_field.partition(".")
        self._json_field = field if member == "json" else None
        self._with_columns = bool(settings.keep.columns)

    def __len__(self) -> int:
        return len(self.samples) + len(self.samples.bad)

    def __getitem__(self, index: int) -> Document:
        sample = self._sample(index)
        key = f"{sample.file}/{sample.key}"
        metadata = metadata_of(sample.members, key) if self._with_columns or self._json_field else {}
        if self._json_field:
            caption = metadata.get(self._json_field)
        else:
            read = sample.members.get(self.settings.caption_field)
            caption = read() if read else None
        text = self._text_of(caption, key, "caption").strip()
        return Document(key, self.name, self.settings.data_type, (self._image(sample, key), text), metadata if self._with_columns else {})

    @property
    def bad(self) -> list[Unreadable]:
        """What of the tars is damaged."""
        return self.samples.bad

    def with_caption(self, index: int, caption: str) -> Document:
        """The document of an index with another caption; its own is not looked at."""
        sample = self._sample(index)
        key = f"{sample.file}/{sample.key}"
        columns = metadata_of(sample.members, key) if self._with_columns else {}
        return Document(key, self.name, self.settings.data_type, (self._image(sample, key), caption), columns)

    def values(self, column: str) -> Iterator[Any]:
        """Of each document in order what a join can match: its key in the tar ('key') or a field of its JSON; None where it has none."""
        for index in range(len(self.samples)):
            if column == "key":
                yield self.samples.key(index)
            else:
                try:
                    yield metadata_of(self.samples[index].members, "").get(column)
                except Unreadable:
                    yield None

    def _sample(self, index: int) -> TarSample:
        if index >= len(self.samples) and index < len(self):
            raise self.samples.bad[index - len(self.samples)]
        return self.samples[index]

    def _image(self, sample: TarSample, key: str) -> Image:
        member = _image_member(sample.members)
        if member is None:
            raise Unreadable("no image", key)
        return self._encoded_image(f"{sample.digest}/{sample.key}", sample.members[member], key)


def metadata_of(members: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The fields of a sample's JSON entry.

    Raises:
        Unreadable: there is none, or it cannot be read.
    """
    if "json" not in members:
        raise Unreadable("no JSON", what)
    try:
        found = json.loads(members["json"]())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unreadable("not JSON", what)
    return found


def _image_member(members: Mapping[str, Any]) -> str | None:
    """The entry that is the image; also one such as 'photo.jpg', of which only the end says so."""
    for extension in IMAGES:
        if extension in members:
            return extension
    return next((member for member in members if member.rpartition(".")[2] in IMAGES), None)


# ---------------------------------------------------------------- looking at the beginning
def _first_samples(files: list[DataFile], count: int = LOOKED_AT) -> dict[str, dict[str, bytes]]:
    from mm1_ablate.data.records.tar import first_samples
    from mm1_ablate.data.records.tar_headers import DamagedTar

    why = ""
    # Damaged tars are counted when their time comes, as long as there are others.
    for file in files:
        try:
            if samples := first_samples(file, count):
                return samples
        except DamagedTar as error:
            why = why or error.reason
    others = "" if len(files) == 1 else f" (nor any in the other {len(files) - 1} files)"
    expected = "expected tars of samples such as 000000000.jpg, 000000000.txt, 000000000.json"
    raise Misfit("files", f"{files[0].address}: {why or 'no samples in it'}{others}; {expected}")


def _has(files: list[DataFile], samples: dict[str, dict[str, bytes]]) -> str:
    members = sorted({member for sample in samples.values() for member in sample})
    return f"the first samples of {files[0].address} have {', '.join(members)}"


def _fields(samples: dict[str, dict[str, bytes]]) -> dict[str, str]:
    """Fields of the JSON of samples, and what they hold."""
    from mm1_ablate.data.records.json_lines import kind_of

    found: dict[str, str] = {}
    for sample in samples.values():
        for field, value in _metadata_or_nothing(sample).items():
            if value is not None or field not in found:
                found[field] = kind_of(value)
    return found


def _caption_of(sample: dict[str, bytes], field: str) -> Any:
    if field.startswith("json."):
        return _metadata_or_nothing(sample).get(field.removeprefix("json."))
    return sample.get(field)


def _metadata_or_nothing(sample: dict[str, bytes]) -> dict[str, Any]:
    try:
        return metadata_of({member: lambda data=data: data for member, data in sample.items()}, "")
    except Unreadable:
        return {}
