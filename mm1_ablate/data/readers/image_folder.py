"""Names of images under a folder in, a way to read each out: from files, or from the .zip and .tar files in which they were downloaded.

`coco/val2014/x.jpg` is looked for as a file, then in `coco/val2014.zip` and `coco/val2014.tar`, then in `coco.zip` and `coco.tar`,
under any end of its path that names a member (`coco/val2014/x.jpg`, `val2014/x.jpg`, `x.jpg`). Of further archives, the member that has
most of the path is the image; where several archives have as much of it, it is ambiguous. Nothing is unpacked. Benchmarks name their
images so; for the pictures of a data set, of which there may be many million, see `image_index`.
"""

from __future__ import annotations

import os
import posixpath
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial

from mm1_ablate.data.documents import Unreadable
from mm1_ablate.data.files import DataFile, NoFiles, find_files
from mm1_ablate.data.readers.tar_headers import DamagedTar, tar_entries

MISSING = "image is missing"
"""The reason by which images that are not there are counted."""
ARCHIVES = (".zip", ".tar")
LARGEST_IMAGE = 1 << 30
"""Bytes of a picture in an archive."""
Read = Callable[[], bytes]


class ImageFolder:
    """The images under a folder.

    Args:
        folder: where the names start.
        archives: further .zip and .tar files in which any of them may be.
    """

    def __init__(self, folder: str, archives: Sequence[DataFile] = ()) -> None:
        self.folder = folder
        self._listings: dict[str, dict[str, DataFile]] = {}
        self._archives = {archive.address: archive for archive in archives}

    def find(self, name: str) -> Read:
        """How to read an image.

        Raises:
            Unreadable: there is no such image.
        """
        folder, base = posixpath.split(posixpath.join(self.folder, name))
        file = self._files(folder).get(base)
        if file is not None:
            return partial(_whole, file)
        for archive in self._archives_of(name):
            if (found := archive.find(name)) is not None:
                return found[1]
        further = [found for archive in map(_opened, self._archives.values()) if (found := archive.find(name)) is not None]
        if not further:
            raise Unreadable(MISSING, name)
        most = max(length for length, _ in further)
        best = [member for length, member in further if length == most]
        if len(best) > 1:
            raise Unreadable("several images of one name", name)
        return best[0]

    def _files(self, folder: str) -> dict[str, DataFile]:
        """The files of a folder by name, listed once: benchmarks hold ten thousands of images."""
        if folder not in self._listings:
            self._listings[folder] = _listed(folder)
        return self._listings[folder]

    def _archives_of(self, name: str) -> Iterator[_Archive]:
        """Those that are called as a folder of the path is, the nearest first."""
        part = posixpath.dirname(name)
        while part:
            folder, base = posixpath.split(posixpath.join(self.folder, part))
            for ending in ARCHIVES:
                file = self._files(folder).get(base + ending)
                if file is not None:
                    yield _opened(_as_it_is(file))
            part = posixpath.dirname(part) if part != posixpath.dirname(part) else ""


def _listed(folder: str) -> dict[str, DataFile]:
    if "://" not in folder:
        try:
            # Sizes are asked for when a file is read, not for all of a folder.
            return {name: DataFile(os.path.join(folder, name), name, 0) for name in os.listdir(folder)}
        except (FileNotFoundError, NotADirectoryError):
            return {}
    try:
        return {posixpath.basename(file.address): file for file in find_files([f"{folder}/*"])}
    except NoFiles:
        return {}


def _as_it_is(file: DataFile) -> DataFile:
    """A file of a listing with its size and stamp: another one may lie in its place by now, or later in the same process."""
    if not file.is_local:
        return file
    status = os.stat(file.address)
    return DataFile(file.address, file.name, status.st_size, str(status.st_mtime_ns))


def _whole(file: DataFile) -> bytes:
    try:
        with file.open() as opened:
            return opened.read()
    except OSError as error:
        raise Unreadable("image cannot be read", f"{file.address}: {error}") from error


# ---------------------------------------------------------------- archives
class _Archive:
    """Members by name. Indexed once in a process; read by any number of threads and forked processes."""

    def __init__(self, file: DataFile) -> None:
        self.file = file
        self.members: dict[str, Read] = dict(_zip_members(file) if file.address.endswith(".zip") else _tar_members(file))

    def find(self, name: str) -> tuple[int, Read] | None:
        """How many parts of the path a member has, the last ones, and how to read it."""
        parts = name.split("/")
        ends = ((len(parts) - start, self.members.get("/".join(parts[start:]))) for start in range(len(parts)))
        return next(((length, found) for length, found in ends if found is not None), None)


@lru_cache(maxsize=64)
def _opened(file: DataFile) -> _Archive:
    return _Archive(file)


def _tar_members(file: DataFile) -> Iterator[tuple[str, Read]]:
    size = os.path.getsize(file.address) if file.is_local else file.size
    try:
        for entry in tar_entries(file.read, size):
            if entry.kind == b"0" and entry.offset + entry.size <= size:
                yield entry.name.removeprefix("./"), partial(file.read, entry.offset, entry.size)
    except DamagedTar:
        return  # what was read so far counts; the images behind it are missing, each named when it is asked for


def _zip_members(file: DataFile) -> Iterator[tuple[str, Read]]:
    try:
        names = [entry.filename for entry in _zip(file, os.getpid()).infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError):
        return
    yield from ((name.removeprefix("./"), partial(_zip_member, file, name)) for name in names)


def _zip_member(file: DataFile, name: str) -> bytes:
    try:
        archive = _zip(file, os.getpid())
        if (unpacked := archive.getinfo(name).file_size) > LARGEST_IMAGE:
            raise Unreadable("image cannot be read", f"{file.address}: {name}: {unpacked:,} bytes")
        return archive.read(name)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise Unreadable("image cannot be read", f"{file.address}: {name}: {error}") from error


@lru_cache(maxsize=64)
def _zip(file: DataFile, process: int) -> zipfile.ZipFile:
    """An archive, opened by each process for itself: a forked one would share its place in the file with others."""
    return zipfile.ZipFile(file.open())
