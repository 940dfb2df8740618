"""Captioned images in tars, as img2dataset and webdataset write them: of each sample an image, a caption, and metadata in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal

from pydantic import field_validator, model_validator

from mm1_ablate.config.data import Source
from mm1_ablate.config.errors import listed
from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.documents import Document, Image, Unreadable
from mm1_ablate.data.files import DataFile, Files, digest_files
from mm1_ablate.data.lost_documents import Losses
from mm1_ablate.data.readers.image_index import IMAGES, images_of
from mm1_ablate.data.readers.json_lines import kind_of
from mm1_ablate.data.readers.open_files import check_columns, found_files, kept_columns, sampled
from mm1_ablate.data.readers.quick_check import lost_tars, wrong_tar
from mm1_ablate.data.readers.rows import TEXT, texts_of
from mm1_ablate.data.readers.tar import TarSample, first_samples, open_tars
from mm1_ablate.data.readers.tar_headers import DamagedTar
from mm1_ablate.data.sources._captions import caption_of, check_captions

NUMBERED = re.compile(rf"\d+\.({'|'.join(IMAGES)}|txt)")
"""What follows the first dot of names such as dog.2.jpg."""
LOOKED_AT = 20
"""Samples among which a check expects one that is as declared."""


class WebDataset(Source):
    """Tars (.tar, .tgz) of samples: entries whose names agree up to the first dot."""

    type: Literal["webdataset"] = "webdataset"
    data_type: Literal["captioned", "synthetic_captioned"] = "captioned"
    """The data type of the mixture that this source provides."""
    files: Files
    """Patterns of the tars: data/{00000..00331}.tar, s3://bucket/cc3m/*.tar."""
    caption_field: str = "txt"
    """Where the caption is: the extension of an entry, or json.NAME, a field of the JSON entry."""
    image_field: str | None = None
    """Extension of the entry with the image: jpg, or rgb.png for names like 0001.rgb.png. None: the only entry with the extension jpg,
    jpeg, png, webp, gif, bmp, tif, tiff or avif; a sample with several of them is bad data."""

    @field_validator("caption_field")
    @classmethod
    def _names_something(cls, field: str) -> str:
        field = field.removeprefix(".")
        member, _, name = field.partition(".")
        if member.lower() == "json" and name:
            return f"json.{name}"
        if not field or field.lower().removesuffix(".").endswith("json"):
            raise ValueError("expected the extension of an entry of text, such as txt, or json.NAME for a field of the JSON entry")
        return field.lower()

    @field_validator("image_field")
    @classmethod
    def _as_in_the_index(cls, field: str | None) -> str | None:
        if field is not None and not field.removeprefix("."):
            raise ValueError("expected the extension of an entry, such as jpg")
        return None if field is None else field.removeprefix(".").lower()

    @model_validator(mode="after")
    def _two_entries(self) -> WebDataset:
        if self.image_field in (self.caption_field, "json", "txt"):
            raise SettingError("image_field", f"expected the extension of the entry with the image, such as jpg, not '{self.image_field}'")
        return self

    def open(self, seed: int = 0, name: str = "") -> OpenWebDataset:
        """The documents. The seed changes nothing: their order is the mixture's."""
        return OpenWebDataset(self, name or self.type)

    def check(self) -> None:
        files, samples = found_files(self.files), self.check_images()
        fields = _fields(samples)
        if self.caption_field.startswith("json.") and not fields and (kinds := _kinds_of_json(samples)):
            message = f"the JSON beside the images holds {kinds[0]}, not an object with fields; name the extension of the captions"
            raise SettingError("caption_field", message)
        captions = {key: _field_of(sample, self.caption_field) for key, sample in samples.items()}
        if all(caption is None for caption in captions.values()):
            also = f"; fields of the JSON: {', '.join(f'json.{field}' for field in sorted(fields))}" if fields else ""
            raise SettingError("caption_field", f"no '{self.caption_field}': {_has(files, samples)}{also}. Name the one with the caption")
        if self.caption_field.startswith("json.") and not any(isinstance(caption, str) for caption in captions.values()):
            kind = fields[self.caption_field.removeprefix("json.")]
            raise SettingError("caption_field", f"'{self.caption_field}' holds {kind}; expected {TEXT}")
        named = [(caption, f"{files[0].name}/{key}") for key, caption in captions.items()]
        check_captions("caption_field", f"'{self.caption_field}'", named)

    def check_images(self) -> dict[str, dict[str, bytes]]:
        """Whether there are images, and the columns that are asked for; the captions do not matter. Returns the first samples.

        Raises:
            SettingError: as `check` does.
        """
        files = found_files(self.files)
        samples = _first_samples(files)
        if self.image_field is not None and not any(self.image_field in sample for sample in samples.values()):
            raise SettingError("image_field", f"no '{self.image_field}': {_has(files, samples)}. Name the one with the image")
        images = [images_of(sample, self.image_field) for sample in samples.values()]
        if several := next((found for found in images if len(found) > 1), None):
            message = f"samples have several images ({', '.join(several)}); name one of them, as image_field: {several[0]}"
            raise SettingError("image_field", message)
        if not any(images):
            raise SettingError("files", f"no image ({', '.join(IMAGES[:5])}): {_has(files, samples)}{_longer_names(samples)}")
        check_columns(_fields(samples), kept_columns(self.keep))
        return samples

    def losses(self) -> list[Losses]:
        return lost_tars(found_files(self.files))

    def warnings(self) -> list[SettingError]:
        members = {member for sample in _first_samples(found_files(self.files)).values() for member in sample}
        numbered = sorted(member for member in members - {self.image_field} if NUMBERED.fullmatch(member))
        if not numbered:
            return []
        message = f"entries {listed(numbered, 4)} are not read: a name is split at its first dot, and these belong to the key before it"
        return [SettingError("files", f"{message}. Rename the files if they are samples of their own (dog.2.jpg to dog_2.jpg)")]

    def join_columns(self) -> set[str]:
        """What recaptions can be joined by: the key of a sample, and the fields of its JSON."""
        return {"key", *_fields(_first_samples(found_files(self.files)))}

    def texts_after_images(self, most: int) -> list[str]:
        files = sampled(found_files(self.files))
        found: list[str] = []
        for file in files:
            with suppress(SettingError):
                samples = _first_samples([file], max(1, most // len(files)))
                found += texts_of(_field_of(sample, self.caption_field) for sample in samples.values())
        return [text.strip() for text in found]

    def contents(self) -> str:
        return digest_files(found_files(self.files))

    def make_ready(self, report: Any = None) -> None:
        open_tars(found_files(self.files), report)


class OpenWebDataset:
    """Documents by index: of each sample its image, then its caption. What of the tars is damaged comes last, as documents that are bad.

    Args:
        settings: what is read.
        name: that documents carry.
        image: makes an image of its key, what reads its bytes, and what it is called; None: one that is decoded.
    """

    def __init__(self, settings: WebDataset, name: str, image: Callable[[str, Callable[[], bytes], str], Image] | None = None) -> None:
        from mm1_ablate.data.decoding import encoded_image  # late: PIL

        self.settings = settings
        self.name = name
        self.samples = open_tars(found_files(settings.files))
        self._encoded_image = image or encoded_image
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
        text = caption_of(caption, key)
        return Document(key, self.name, self.settings.data_type, (self._image(sample, key), text), metadata if self._with_columns else {})

    @property
    def bad(self) -> list[Unreadable]:
        """What of the tars is damaged."""
        return self.samples.bad

    @property
    def losses(self) -> list[Losses]:
        """About how much is lost with that."""
        return self.samples.losses

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
        found = images_of(sample.members, self.settings.image_field)
        if len(found) != 1:
            raise Unreadable("several images" if found else "no image", key)
        return self._encoded_image(f"{sample.digest}/{sample.key}", sample.members[found[0]], key)


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


# ---------------------------------------------------------------- looking at the beginning
def _first_samples(files: list[DataFile], count: int = LOOKED_AT) -> dict[str, dict[str, bytes]]:
    why = ""
    # Damaged tars are reported by `losses`, as long as there are others.
    for file in files:
        try:
            if samples := first_samples(file, count):
                return samples
        except DamagedTar as error:
            why = why or f"{file.address}: {wrong_tar(file) or error.reason}"
    others = "" if len(files) == 1 else f" (nor samples in any other of the {len(files)} files)"
    expected = "expected tars of samples such as 000000000.jpg, 000000000.txt, 000000000.json"
    raise SettingError("files", f"{why or f'{files[0].address}: no samples in it'}{others}; {expected}")


def _has(files: list[DataFile], samples: dict[str, dict[str, bytes]]) -> str:
    members = sorted({member for sample in samples.values() for member in sample})
    return f"the first samples of {files[0].address} have {', '.join(members)}"


def _longer_names(samples: dict[str, dict[str, bytes]]) -> str:
    """What to do where only the end of an entry's extension is that of an image; empty where there is no such entry."""
    longer = sorted(member for sample in samples.values() for member in sample if member.rpartition(".")[2] in IMAGES)
    if not longer:
        return ""
    which = max(longer, key=longer.count)
    split = f". A name is split at its first dot: what stands before it is the key of the sample, and '{which}' is one of its entries"
    return f"{split}. Rename the files where the dot belongs to the key, or write image_field: {which} if that is each sample's image"


def _fields(samples: dict[str, dict[str, bytes]]) -> dict[str, str]:
    """Fields of the JSON of samples, and what they hold."""
    found: dict[str, str] = {}
    for sample in samples.values():
        for field, value in _metadata_or_nothing(sample).items():
            if value is not None or field not in found:
                found[field] = kind_of(value)
    return found


def _kinds_of_json(samples: dict[str, dict[str, bytes]]) -> list[str]:
    """What the JSON of samples holds where it can be read, whether or not it is an object."""
    kinds = []
    for sample in samples.values():
        with suppress(ValueError, RecursionError):
            kinds.append(kind_of(json.loads(sample.get("json", b""))))
    return kinds


def _field_of(sample: dict[str, bytes], field: str) -> Any:
    if field.startswith("json."):
        return _metadata_or_nothing(sample).get(field.removeprefix("json."))
    return sample.get(field)


def _metadata_or_nothing(sample: dict[str, bytes]) -> dict[str, Any]:
    try:
        return metadata_of({member: lambda data=data: data for member, data in sample.items()}, "")
    except Unreadable:
        return {}
