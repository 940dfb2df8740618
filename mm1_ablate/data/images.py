"""Images in, one tensor of a batch out: uint8 pixels of the encoder's size, or features that a frozen encoder made of them before.

The shorter side is fitted and the middle is cut out, as timm does at crop 1.0 (`resizing`); or, where sub-images are declared, an image
becomes several (`sub_images`). Normalisation is the encoder's, on its device.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mm1_ablate.config.image_encoder import TimmEncoder, VisionTransformer
from mm1_ablate.config.model import Model, SubImages
from mm1_ablate.data.atomic_files import write_atomically
from mm1_ablate.data.documents import Image, Unreadable
from mm1_ablate.data.resizing import resize
from mm1_ablate.data.sub_images import views_of


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
        write_atomically(folder / "keys.json", json.dumps(written).encode())


class Views(NamedTuple):
    """What an encoder sees of several images."""

    pixels: Tensor
    """uint8 [V, 3, size, size], or float32 [V, patches, width] where features are kept: the views of the readable images, in order."""
    counts: list[int]
    """Views of each readable image; 1 without sub-images."""
    unreadable: dict[int, Unreadable]
    """Why the others are unavailable, by place, in order."""


class ImagePipeline:
    """Loads the images of a batch at the encoder's size.

    Args:
        image_size: pixels a side that the encoder takes.
        features: what a frozen encoder made of images before. Batches of images that it knows all of are handed out as features.
        threads: that decode and resize beside the caller, who waits for them; 0: the caller does it. Does not change what comes out.
        sub_images: how images become several.

    Raises:
        ValueError: features are of whole images, so they do not go with sub-images.
    """

    def __init__(
        self, image_size: int, features: FeatureCache | None = None, threads: int = 0, sub_images: SubImages | None = None
    ) -> None:
        if features is not None and sub_images is not None:
            raise ValueError("kept features are of whole images, not of sub-images")
        self.sub_images = sub_images
        self.image_size = image_size
        self.features = features
        self.threads = threads
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    @classmethod
    def of(
        cls, model: Model | VisionTransformer | TimmEncoder | None, encoder_folder: Path | None = None, threads: int = 0
    ) -> ImagePipeline:
        """The one path of images to a model: for training, evaluation, preparation, measurements and `mm1-ablate data`.

        Args:
            model: the whole model; an encoder that is prepared, which sees whole images; None: a language model that is prepared, which
                sees none.
            encoder_folder: of the prepared encoder. Where it is frozen and features of whole images were kept there, these are handed out;
                with sub-images they stay pixels.
            threads: as above.
        """
        if not isinstance(model, Model):
            return cls(1 if model is None else model.image_size, threads=threads)
        encoder = model.image_encoder
        if model.sub_images is not None:
            return cls(encoder.image_size, threads=threads, sub_images=model.sub_images)
        features = encoder_folder / f"features{encoder.feature_layer}" if encoder.frozen and encoder_folder is not None else None
        cache = FeatureCache(features) if features is not None and features.exists() else None
        return cls(encoder.image_size, cache, threads)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def load(self, images: Sequence[Image]) -> Tensor:
        """uint8 [V, 3, size, size], or float32 [V, patches, width] if all are cached; without sub-images V is the number of images.

        Raises:
            Unreadable: the first unavailable image.
        """
        loaded, unreadable = self.load_readable(images)
        for error in unreadable.values():
            raise error
        return loaded

    def load_readable(self, images: Sequence[Image]) -> tuple[Tensor, dict[int, Unreadable]]:
        """The available images, in order, as `load` gives them; and why the others are unavailable, by place, in order."""
        pixels, _, unreadable = self.load_views(images)
        return pixels, unreadable

    def load_views(self, images: Sequence[Image]) -> Views:
        """The available images, and the number of views of each."""
        pictures: dict[int, np.ndarray | Unreadable] = {}
        places: Sequence[int] = range(len(images))
        if self.features is not None:
            # What the cache does not know may be what could not be read when it was written: it does not stand in the way.
            places = [place for place in places if not self.features.has([images[place].key])]
            pictures = dict(zip(places, self._load_all([images[place] for place in places]), strict=True))
            if all(isinstance(picture, Unreadable) for picture in pictures.values()):
                known = [image.key for place, image in enumerate(images) if place not in pictures]
                return Views(torch.from_numpy(self.features.get(known)), [1] * len(known), _unreadable(pictures))
            places = [place for place in range(len(images)) if place not in pictures]
        pictures.update(zip(places, self._load_all([images[place] for place in places]), strict=True))
        readable = [picture for _, picture in sorted(pictures.items()) if isinstance(picture, np.ndarray)]
        counts = [len(picture) for picture in readable]
        pixels = np.empty((sum(counts), self.image_size, self.image_size, 3), np.uint8)
        place = 0
        for picture in readable:
            pixels[place : place + len(picture)] = picture
            place += len(picture)
        return Views(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), counts, _unreadable(pictures))

    def _load_all(self, images: Sequence[Image]) -> list[np.ndarray | Unreadable]:
        if not self.threads or len(images) < 2:
            return self._load_run(images)
        # Several at a time, as handing over takes a while; but enough runs for the threads to end together.
        length = max(1, min(8, len(images) // (4 * self.threads)))
        runs = [images[start : start + length] for start in range(0, len(images), length)]
        return [picture for run in self._executor().map(self._load_run, runs) for picture in run]

    def _load_run(self, images: Sequence[Image]) -> list[np.ndarray | Unreadable]:
        """The views of each picture: uint8 [views, size, size, 3]."""
        pictures: list[np.ndarray | Unreadable] = []
        for image in images:
            try:
                pictures.append(self._views(image.load()))
            except Unreadable as error:
                pictures.append(error)
        return pictures

    def _views(self, picture: np.ndarray) -> np.ndarray:
        if self.sub_images is None:
            return resize(picture[None], self.image_size)
        return views_of(picture, self.image_size, self.sub_images)

    def _executor(self) -> ThreadPoolExecutor:
        # Threads do not come along when a process forks.
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self.threads, thread_name_prefix="images")
        return self._pool[1]


def _unreadable(pictures: dict[int, np.ndarray | Unreadable]) -> dict[int, Unreadable]:
    return {place: picture for place, picture in sorted(pictures.items()) if isinstance(picture, Unreadable)}
