"""Images in, one tensor of a batch out: uint8 pixels of the encoder's size, or features that a frozen encoder made of them before.

Resizing is deterministic: area averaging where the size divides the picture's, antialiased bicubic otherwise; the shorter side is
fitted and the middle is cut out (timm's crop 1.0). Normalisation is the encoder's, on its device.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mm1_ablate.data.documents import Image


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, height, width, 3] to uint8 [N, size, size, 3]."""
    count, height, width, channels = pixels.shape
    if height == width == size:
        return pixels
    if height == width and height % size == 0:
        factor = height // size
        blocks = pixels.reshape(count, size, factor, size, factor, channels)
        return (blocks.sum(axis=(2, 4), dtype=np.uint32) + factor * factor // 2).__floordiv__(factor * factor).astype(np.uint8)
    scale = size / min(height, width)
    fitted = (max(size, round(height * scale)), max(size, round(width * scale)))
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(images, size=fitted, mode="bicubic", antialias=True, align_corners=False)
    top, left = (fitted[0] - size) // 2, (fitted[1] - size) // 2
    middle = resized[:, :, top : top + size, left : left + size]
    return middle.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


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
    def write(folder: Path | str, keys: Sequence[str], arrays: Iterable[np.ndarray]) -> None:
        """Write the features of `keys`, given in order as arrays [any number, patches, width].

        Raises:
            ValueError: if the arrays do not hold one row for each key.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "features.npy.partial"
        target: np.memmap | None = None
        row = 0
        for array in arrays:
            if target is None:
                target = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(len(keys), *array.shape[1:]))
            if row + len(array) > len(keys):
                raise ValueError(f"more features than the {len(keys)} keys")
            target[row : row + len(array)] = array
            row += len(array)
        if target is None or row != len(keys):
            raise ValueError(f"{row} features for {len(keys)} keys")
        target.flush()
        os.replace(partial, folder / "features.npy")
        # The keys come last: a folder with keys is complete.
        names = folder / "keys.json.partial"
        names.write_text(json.dumps(list(keys)))
        os.replace(names, folder / "keys.json")


class ImagePipeline:
    """Loads the images of a batch at the encoder's size.

    Args:
        image_size: pixels a side that the encoder takes.
        features: what a frozen encoder made of images before. Batches of images that it knows all of are handed out as features.
    """

    def __init__(self, image_size: int, features: FeatureCache | None = None) -> None:
        self.image_size = image_size
        self.features = features

    def load(self, images: Sequence[Image]) -> Tensor:
        """uint8 [I, 3, size, size], or float32 [I, patches, width] if all are cached. No images: I = 0."""
        keys = [image.key for image in images]
        if self.features is not None and self.features.has(keys):
            return torch.from_numpy(self.features.get(keys))
        return torch.from_numpy(self.pixels(images)).permute(0, 3, 1, 2).contiguous()

    def pixels(self, images: Sequence[Image]) -> np.ndarray:
        """uint8 [I, size, size, 3]."""
        out = np.empty((len(images), self.image_size, self.image_size, 3), np.uint8)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        loaded = [image.load() for image in images]
        for place, picture in enumerate(loaded):
            by_shape.setdefault(picture.shape, []).append(place)
        for places in by_shape.values():
            out[places] = resize(np.stack([loaded[place] for place in places]), self.image_size)
        return out
