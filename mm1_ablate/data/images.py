"""Images in, one tensor of a batch out: uint8 pixels of the encoder's size, or features that a frozen encoder made of them before.

The shorter side is fitted and the middle is cut out, as timm does at crop 1.0. Resizing is deterministic: area averaging of squares
whose side divides, antialiased bicubic otherwise, in torch's integer arithmetic: within two levels of PIL's bicubic, at about a third
of the time of decoding and resizing. Normalisation is the encoder's, on its device.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mm1_ablate.data.documents import Image, Unreadable

LONGEST = 4
"""Times the shorter side that the longer one may be before its ends are cut off ahead of resizing: only the middle square is seen, and a
banner of 10000 x 3 pixels would be drawn 746666 pixels wide to be 224 high."""


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, height, width, 3] to uint8 [N, size, size, 3]."""
    height, width = pixels.shape[1:3]
    if height == width == size:
        return pixels
    if height == width and height % size == 0:
        return _averaged(pixels, height // size)
    return np.stack([_bicubic(picture, size) for picture in pixels])


def _averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each square of `factor` pixels a side, rounded."""
    # Adding strides is ten times as quick as numpy's sum over short axes.
    rows = np.zeros(pixels[:, ::factor].shape, np.uint32)
    for offset in range(factor):
        rows += pixels[:, offset::factor]
    squares = np.zeros(rows[:, :, ::factor].shape, np.uint32)
    for offset in range(factor):
        squares += rows[:, :, offset::factor]
    squares += factor * factor // 2
    squares //= factor * factor
    return squares.astype(np.uint8)


def _bicubic(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [height, width, 3] to uint8 [size, size, 3]."""
    picture = picture[_middle(picture.shape[0], LONGEST * picture.shape[1]), _middle(picture.shape[1], LONGEST * picture.shape[0])]
    height, width = picture.shape[:2]
    shorter = min(height, width)
    # Rounded as torchvision's Resize and CenterCrop do, so that no picture is half a pixel off.
    fitted = (size * height // shorter, size * width // shorter)
    top, left = (round((side - size) / 2) for side in fitted)
    # Torch's integer kernel takes the channels last, as they lie in the picture.
    image = torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1)[None]
    resized = interpolate(image, size=fitted, mode="bicubic", antialias=True, align_corners=False)
    return resized[0, :, top : top + size, left : left + size].permute(1, 2, 0).numpy()


def _middle(side: int, most: int) -> slice:
    """The middle `most` of a side, or one fewer, so that it stays the middle."""
    cut = max(0, side - most + 1) // 2
    return slice(cut, side - cut)


class FeatureCache:
    """Patch features by image key: float32 [images, patches, width], memory-mapped, so that workers share one copy.

    Raises:
        FileNotFoundError: if there is no complete cache in the folder.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        keys = json.loads((folder / "keys.json").read_text())
        self.features: np.ndarray = np.load(folder / "features.npy", mmap_mode="r")
        self._row = {key: row for row, key in enumerate(keys)}

    def __len__(self) -> int:
        return len(self._row)

    def has(self, keys: Iterable[str]) -> bool:
        """Whether all of these images are there."""
        return all(key in self._row for key in keys)

    def get(self, keys: Sequence[str]) -> np.ndarray:
        """float32 [len(keys), patches, width]. Raises KeyError for an image that is not there."""
        return self.features[[self._row[key] for key in keys]]

    @staticmethod
    def write(folder: Path | str, batches: Iterable[tuple[Sequence[str], np.ndarray]], rows: int) -> None:
        """Write features by image key.

        Args:
            batches: keys, and their features as an array [as many, patches, width].
            rows: how many there may be in all.

        Raises:
            ValueError: if a batch has not one row for each key, or there are none, or more than `rows` in all.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "features.npy.partial"
        target: np.memmap | None = None
        written: list[str] = []
        for keys, array in batches:
            if len(array) != len(keys):
                raise ValueError(f"{len(array)} features for {len(keys)} keys")
            if target is None:
                target = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(rows, *array.shape[1:]))
            if len(written) + len(keys) > rows:
                raise ValueError(f"features of more than {rows} images")
            target[len(written) : len(written) + len(keys)] = array
            written += keys
        if target is None:
            raise ValueError("no features")
        target.flush()
        os.replace(partial, folder / "features.npy")
        # The keys come last: a folder with keys is complete.
        names = folder / "keys.json.partial"
        names.write_text(json.dumps(written))
        os.replace(names, folder / "keys.json")


class ImagePipeline:
    """Loads the images of a batch at the encoder's size.

    Args:
        image_size: pixels a side that the encoder takes.
        features: what a frozen encoder made of images before. Batches of images that it knows all of are handed out as features.
        threads: that decode and resize beside the caller, who waits for them; 0: the caller does it. Does not change what comes out.
    """

    def __init__(self, image_size: int, features: FeatureCache | None = None, threads: int = 0) -> None:
        self.image_size = image_size
        self.features = features
        self.threads = threads
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def load(self, images: Sequence[Image]) -> Tensor:
        """uint8 [I, 3, size, size], or float32 [I, patches, width] if all are cached. No images: I = 0.

        Raises:
            Unreadable: the first image that cannot be had.
        """
        loaded, unreadable = self.load_readable(images)
        for error in unreadable.values():
            raise error
        return loaded

    def load_readable(self, images: Sequence[Image]) -> tuple[Tensor, dict[int, Unreadable]]:
        """The images that can be had, in order, as `load` gives them; and why the others cannot, by place, in order."""
        pictures: dict[int, np.ndarray | Unreadable] = {}
        places: Sequence[int] = range(len(images))
        if self.features is not None:
            # What the cache does not know may be what could not be read when it was written: it does not stand in the way.
            places = [place for place in places if not self.features.has([images[place].key])]
            pictures = dict(zip(places, self._load_all([images[place] for place in places]), strict=True))
            if all(isinstance(picture, Unreadable) for picture in pictures.values()):
                known = [image.key for place, image in enumerate(images) if place not in pictures]
                return torch.from_numpy(self.features.get(known)), _unreadable(pictures)
            places = [place for place in range(len(images)) if place not in pictures]
        pictures.update(zip(places, self._load_all([images[place] for place in places]), strict=True))
        readable = [picture for _, picture in sorted(pictures.items()) if isinstance(picture, np.ndarray)]
        pixels = np.empty((len(readable), self.image_size, self.image_size, 3), np.uint8)
        for place, picture in enumerate(readable):
            pixels[place] = picture
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), _unreadable(pictures)

    def _load_all(self, images: Sequence[Image]) -> list[np.ndarray | Unreadable]:
        if not self.threads or len(images) < 2:
            return self._load_run(images)
        # Several at a time, as handing over takes a while; but enough runs for the threads to end together.
        length = max(1, min(8, len(images) // (4 * self.threads)))
        runs = [images[start : start + length] for start in range(0, len(images), length)]
        return [picture for run in self._executor().map(self._load_run, runs) for picture in run]

    def _load_run(self, images: Sequence[Image]) -> list[np.ndarray | Unreadable]:
        """Each picture at the encoder's size: uint8 [size, size, 3]."""
        pictures: list[np.ndarray | Unreadable] = []
        for image in images:
            try:
                pictures.append(resize(image.load()[None], self.image_size)[0])
            except Unreadable as error:
                pictures.append(error)
        return pictures

    def _executor(self) -> ThreadPoolExecutor:
        # Threads do not come along when a process forks.
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self.threads, thread_name_prefix="images")
        return self._pool[1]


def _unreadable(pictures: dict[int, np.ndarray | Unreadable]) -> dict[int, Unreadable]:
    return {place: picture for place, picture in sorted(pictures.items()) if isinstance(picture, Unreadable)}
