"""Names of images in, the images out: pictures that lie beside documents, each a file of its own or a member of a tar.

Of every picture 64 bits of a hash of its name are kept, sorted and memory-mapped, so that one of many million is found at once.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b, sha256
from os.path import expanduser, expandvars
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np

from mm1_ablate.config.settings import SettingError
from mm1_ablate.data.cache import ProgressCallback, build_once, memory_mapped
from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.files import DataFile, digest_files, map_files
from mm1_ablate.data.lost_documents import FileRead, Losses, losses_of
from mm1_ablate.data.readers.file_signatures import NO_BYTES, describe_format, head_and_tail
from mm1_ablate.data.readers.open_files import found_files
from mm1_ablate.data.readers.quick_check import lost_tars
from mm1_ablate.data.readers.tar import TarSamples, open_tars

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


TARS = (".tar", ".tgz", ".tar.gz")
ARCHIVES = {
    ".zip": "a zip archive",
    ".7z": "a 7z archive",
    ".rar": "a rar archive",
    ".xz": "compressed with xz",
    ".bz2": "compressed with bzip2",
}
ARCHIVES |= {".zst": "compressed with zstd", ".txz": "compressed with xz", ".tbz2": "compressed with bzip2"}
"""Endings of what is neither a picture nor a tar that can be read."""
POINTER = 1024
"""Bytes of a picture file at most, for it to be looked into when a plan is made: pointers and error pages are small."""
LOOKED_AT = 500
"""Such files, at most; and of others the first 20."""
VERSION = "2"
"""Changes when an index is made otherwise, so that those in a cache are made anew."""


class ImageIndex:
    """Pictures by name.

    Args:
        patterns: of picture files, of tars, or of both.
        by: what a picture is looked up by: the path that its name has in a tar or from the folder where a pattern's wildcards begin;
            the last part of it; the url that img2dataset wrote into the JSON beside it; or the SHA-256 of the url, as its name.
        report: called with the progress of the index.

    Raises:
        SettingError: at `image_files`, there are none.
    """

    def __init__(self, patterns: Sequence[str], by: ImagesBy, report: ProgressCallback | None = None) -> None:
        from mm1_ablate.data.decoding import encoded_image  # late: PIL

        self._encoded_image = encoded_image
        tars, self._pictures, names = _found(patterns)
        self._by = by
        self._samples: TarSamples | None = open_tars(tars, report) if tars else None
        self.losses = [*_of_pictures(self._samples.losses if self._samples else []), *_lost_files(self._pictures)]
        """What of the files cannot be read."""
        self._digest = contents_of(patterns)[:12]
        folder = build_once(
            "image names",
            f"{VERSION} {by} {self._digest} {sha256(chr(0).join(names).encode(errors='surrogateescape')).hexdigest()}",
            24 * (len(names) + (0 if self._samples is None else len(self._samples))),
            partial(self._write, names),
            report,
        )
        self._hashes, self._places = (memory_mapped(folder / f"{name}.npy") for name in ("hashes", "places"))
        self._members: list[str] = json.loads((folder / "members.json").read_text())

    def find(self, name: str, what: str) -> Image:
        """The picture of a name, a path or a url.

        Args:
            what: names the picture in reports.

        Raises:
            Unreadable: there is none, or there are several. One url has one picture, however often it was downloaded.
        """
        wanted = np.uint64(_hashed(looked_up_by(name, self._by)))
        first = int(self._hashes.searchsorted(wanted))
        if first == len(self._hashes) or self._hashes[first] != wanted:
            raise Unreadable("missing image", what)
        by_name = self._by in ("path", "base_name")
        if by_name and first + 1 < len(self._hashes) and self._hashes[first + 1] == wanted:
            raise Unreadable("several images of one name", what)
        place, member = (int(value) for value in self._places[first])
        if member < 0:
            file = self._pictures[place]
            return self._encoded_image(f"{self._digest}/{file.name}", partial(_whole, file), what)
        assert self._samples is not None
        sample, extension = self._samples[place], self._members[member]
        return self._encoded_image(f"{sample.digest}/{sample.key}.{extension}", sample.members[extension], what)

    def _write(self, names: Sequence[str], folder: Path, report: ProgressCallback) -> None:
        hashes: list[int] = []
        places: list[tuple[int, int]] = []
        members: dict[str, int] = {}
        for place, name in enumerate(names):
            if self._by != "url" and (looked_up := name_in_index(name, self._by)):
                hashes.append(_hashed(looked_up))
                places.append((place, -1))
        for place, extension, name in self._in_tars(report):
            hashes.append(_hashed(name))
            places.append((place, members.setdefault(extension, len(members))))
        order = np.argsort(np.array(hashes, np.uint64), kind="stable")
        np.save(folder / "hashes.npy", np.array(hashes, np.uint64)[order])
        np.save(folder / "places.npy", np.array(places, np.int64).reshape(-1, 2)[order])
        (folder / "members.json").write_text(json.dumps(list(members)))

    def _in_tars(self, report: ProgressCallback) -> Iterator[tuple[int, str, str]]:
        """(number of the sample, extension, what it is looked up by) of every picture in the tars."""
        samples = self._samples
        if samples is None:
            return
        for number in range(len(samples)):
            sample = samples[number]
            if self._by in ("path", "base_name"):
                pictures = [extension for extension in sample.members if extension.rpartition(".")[2] in IMAGES]
                yield from ((number, extension, name_in_index(f"{sample.key}.{extension}", self._by)) for extension in pictures)
            elif pictures := images_of(sample.members):
                looked_up = url_in(sample.members.get("json")) if self._by == "url" else posixpath.basename(sample.key)
                if looked_up:
                    yield number, pictures[0], looked_up
            if number % 1000 == 0:
                report("looking up images", number, len(samples))


def check_pictures(patterns: Sequence[str]) -> None:
    """Whether there are pictures.

    Raises:
        SettingError: at `image_files`, there are no files, or not one of them can be read.
    """
    tars, pictures, _ = _found(patterns)
    if pictures and not tars and not sum(one.there for one in _lost_files(pictures) or [Losses((), 0, 0, 1)]):
        file = pictures[0]
        others = "" if len(pictures) == 1 else f" (nor can any other of the {len(pictures)} files be used)"
        message = f"{file.address}: {_wrong_picture(file)}{others}; expected pictures, or tars (.tar, .tgz) of pictures"
        raise SettingError("image_files", message)


def lost_pictures(patterns: Sequence[str]) -> list[Losses]:
    """What of the files cannot be read, as far as a look at each of them tells."""
    tars, pictures, _ = _found(patterns)
    return [*_of_pictures(lost_tars(tars) if tars else []), *_lost_files(pictures)]


def _of_pictures(losses: Sequence[Losses]) -> list[Losses]:
    return [replace(one, field="image_files", of="pictures") for one in losses]


def _lost_files(pictures: Sequence[DataFile]) -> list[Losses]:
    """Of files that are a picture each. Other files beside them do not count as losses."""
    small = [file for file in pictures if file.size <= POINTER][:LOOKED_AT]
    looked_at = list(dict.fromkeys([*small, *pictures[:20]]))
    wrong = {file.address: why for file, why in zip(looked_at, map_files(looked_at, _wrong_picture), strict=True) if why}
    wrong |= {file.address: why for file in pictures if (why := _wrong_name(file))}
    if not wrong:
        return []
    read = []
    for file in pictures:
        damage = wrong.get(file.address, "")
        known = None if _is_archive(file) else 1  # an archive holds as many as a file of its size
        read.append(FileRead(file.name, file.size, float(not damage), 0 if damage else file.size, damage, known))
    return _of_pictures(losses_of(read))


def _wrong_name(file: DataFile) -> str:
    if file.size == 0:
        return NO_BYTES
    return f"{ARCHIVES[posixpath.splitext(file.name)[1].lower()]}; unpack it" if _is_archive(file) else ""


def _is_archive(file: DataFile) -> bool:
    return posixpath.splitext(file.name)[1].lower() in ARCHIVES


def _wrong_picture(file: DataFile) -> str:
    """What is wrong with a picture file, by its name and its first bytes; empty if all is well."""
    named = _wrong_name(file) or describe_format(head_and_tail(file)[0], file.size)
    return "" if named.endswith("image") else named


def contents_of(patterns: Sequence[str]) -> str:
    """A digest of pictures: of tars as of any file; of single pictures the names and sizes, since there may be millions."""
    tars, pictures, _ = _found(patterns)
    whole = sha256((digest_files(tars) if tars else "").encode())
    for file in pictures:
        whole.update(f"{file.name}\0{file.size}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def _found(patterns: Sequence[str]) -> tuple[list[DataFile], list[DataFile], list[str]]:
    """Tars; pictures; and the paths of pictures from the folder where their pattern's wildcards begin."""
    files = found_files(patterns, "image_files")
    tars = [file for file in files if file.name.lower().endswith(TARS)]
    pictures = [file for file in files if not file.name.lower().endswith(TARS)]
    fixed = [_fixed_folder(pattern) for pattern in patterns]
    return tars, pictures, [_from_folder(file, fixed) for file in pictures]


def _fixed_folder(pattern: str) -> str:
    return re.split(r"[*?\[{]", expandvars(expanduser(pattern.removeprefix("file://"))))[0].rpartition("/")[0] + "/"


def _from_folder(file: DataFile, folders: Sequence[str]) -> str:
    return next((file.address.removeprefix(folder) for folder in folders if file.address.startswith(folder)), file.name)


def _hashed(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _whole(file: DataFile) -> bytes:
    try:
        return file.read(0, file.size)
    except FileNotFoundError:
        raise Unreadable("missing image", file.name) from None
