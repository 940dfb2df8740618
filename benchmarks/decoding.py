"""Decoding and resizing of photographs, against PIL, in one process: CPU time as a ratio, and how far pixels are apart.

In: nothing; the photographs are drawn here. Out: a table. Run: `python benchmarks/decoding.py`. `draft` is PIL with libjpeg's decoding at
an eighth, a quarter or half of the size: the alternative that was not taken.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from PIL import Image as pil

from mm1_ablate.data.decoding import decode
from mm1_ablate.data.resizing import resize

REPEATS = 7


def photograph(width: int, height: int, seed: int) -> bytes:
    """A JPEG of noise at all scales, the coarse ones stronger, as natural images have it."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3))
    for octave in range(9):
        cells = random.normal(size=(min(height, 2**octave) + 1, min(width, 2**octave) + 1, 3)).astype(np.float32)
        layers = [pil.fromarray(cells[:, :, channel]).resize((width, height), pil.Resampling.BICUBIC) for channel in range(3)]
        pixels += np.stack([np.asarray(layer) for layer in layers], axis=-1) * 0.75**octave
    pixels = (pixels - pixels.mean()) / pixels.std() * 55 + 128
    file = io.BytesIO()
    pil.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def by_pil(data: bytes, size: int, draft: bool = False) -> np.ndarray:
    image = pil.open(io.BytesIO(data))
    width, height = image.size
    fitted = (size * width // min(width, height), size * height // min(width, height))
    if draft:
        image.draft("RGB", fitted)
    left, top = (round((side - size) / 2) for side in fitted)
    resized = image.convert("RGB").resize(fitted, pil.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


WAYS: dict[str, Callable[[bytes, int], np.ndarray]] = {
    "PIL": by_pil,
    "PIL, draft": lambda data, size: by_pil(data, size, draft=True),
    "mm1-ablate": lambda data, size: resize(decode(data)[None], size)[0],
}


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'photographs':>12} {'to':>4} {'way':>11} {'ms':>7} {'times PIL':>10} {'levels apart: most':>19} {'mean':>6}")
    for width, height, count in ((640, 480, 12), (2048, 1536, 4)):
        photographs = [photograph(width, height, seed) for seed in range(count)]
        for size in (224, 336):
            exact = [by_pil(data, size).astype(int) for data in photographs]
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(REPEATS):
                # In turn, so that what else the machine does falls on all alike.
                for way, load in WAYS.items():
                    start = time.process_time()
                    for data in photographs:
                        load(data, size)
                    seconds[way].append((time.process_time() - start) / count)
            for way, load in WAYS.items():
                apart = [np.abs(load(data, size) - pixels) for data, pixels in zip(photographs, exact, strict=True)]
                own, ratio = median(seconds[way]), median(seconds["PIL"]) / median(seconds[way])
                most, mean = max(one.max() for one in apart), np.mean([one.mean() for one in apart])
                print(f"{width:>7} x {height} {size:>4} {way:>11} {own * 1000:>7.2f} {ratio:>10.2f} {most:>19} {mean:>6.3f}")


if __name__ == "__main__":
    main()
