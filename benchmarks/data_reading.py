"""Documents per CPU-second from tars as img2dataset writes them: this package against webdataset and Hugging Face datasets, in one run.

`python benchmarks/data_reading.py` makes tars in a temporary folder, reads all of them with each library, and prints a table of rates and
ratios. Raw: key, caption and the encoded image's bytes. Decoded: caption, and the image as uint8 pixels at 224 x 224 (shorter side fitted,
middle cut out). This package reads through its mixture, each epoch a permutation of all documents; webdataset and streaming datasets
shuffle a buffer; datasets in its map style shuffles all documents as well.

Needs `pip install webdataset datasets`. CPU time is that of the process with all of its threads and children; what is done once for a data
set (our index, datasets' conversion) is reported apart. `--help` says what can be changed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import islice
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image as pil

SIZE = 224
BUFFER = 1000
"""Documents of the shuffle buffers of the others."""
BATCH = 64
"""Documents that are decoded at once: about what a micro-batch holds."""


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# ---------------------------------------------------------------- data
def photograph(draws: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG that costs about what a photograph costs: smooth shapes and a little grain."""
    coarse = draws.integers(0, 256, (9, 12, 3), np.uint8)
    smooth = np.asarray(pil.fromarray(coarse).resize((width, height), pil.Resampling.BICUBIC), np.int16)
    grain = draws.integers(-12, 13, (height, width, 1), np.int16)
    buffer = io.BytesIO()
    pil.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_tars(folder: Path, shards: int, samples: int) -> int:
    """Tars in img2dataset's layout, by webdataset's writer, shorter sides of 256 pixels. Returns the bytes of all."""
    import webdataset

    draws = np.random.default_rng(0)
    images = [photograph(draws, *((341, 256) if draws.random() < 0.6 else (256, 384))) for _ in range(200)]
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{shard:05}.tar")) as writer:
            for number in range(samples):
                key = f"{shard:05}{number:04}"
                known = {
                    "caption": f"photograph {key}",
                    "url": f"https://images.example/{key}.jpg",
                    "key": key,
                    "status": "success",
                    "width": 341,
                }
                image = images[draws.integers(len(images))]
                writer.write(
                    {"__key__": key, "jpg": image, "txt": f"photograph {key} of a smooth shape", "json": json.dumps(known).encode()}
                )
    return sum(path.stat().st_size for path in folder.iterdir())


# ---------------------------------------------------------------- readers
Row = tuple[str, str, Any]
"""Key, caption, and the image: bytes or pixels."""


def ours(folder: Path, raw: bool) -> Iterator[Row]:
    from mm1_ablate.data.documents import Document, Image
    from mm1_ablate.data.images import ImagePipeline
    from mm1_ablate.data.mixture import Mixture
    from mm1_ablate.data.sources.webdataset import OpenWebDataset, WebDataset

    settings = WebDataset(files=(str(folder / "*.tar"),))
    if raw:
        source = OpenWebDataset(settings, "photographs", lambda key, read, what: Image(key, read))  # type: ignore[arg-type]
        for document in Mixture({"photographs": Fraction(1)}, {"photographs": source}):
            yield document.key, document.text, document.images[0].load()
    pipeline = ImagePipeline(SIZE)
    mixture = Mixture({"photographs": Fraction(1)}, {"photographs": settings.open()})
    while True:
        documents: list[Document] = list(islice(mixture, BATCH))
        pixels, bad = pipeline.load_readable([document.images[0] for document in documents])
        assert not bad and pixels.shape[1:] == (3, SIZE, SIZE)
        yield from ((document.key, document.text, image) for document, image in zip(documents, pixels, strict=True))


def transform() -> Callable[[pil.Image], torch.Tensor]:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

    return Compose([lambda image: image.convert("RGB"), Resize(SIZE, InterpolationMode.BICUBIC), CenterCrop(SIZE), PILToTensor()])


def by_webdataset(folder: Path, raw: bool) -> Iterator[Row]:
    import webdataset

    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(BUFFER)
    if raw:
        yield from ((sample["__key__"], sample["txt"].decode(), sample["jpg"]) for sample in samples)
    else:
        yield from (samples.decode("pil").to_tuple("__key__", "txt", "jpg").map_tuple(lambda key: key, lambda text: text, transform()))


def by_datasets(folder: Path, raw: bool, streaming: bool) -> Iterator[Row]:
    import datasets

    datasets.disable_progress_bars()
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    rows = datasets.load_dataset(
        "webdataset", data_files={"train": tars}, split="train", streaming=streaming, cache_dir=str(folder / "datasets")
    )
    rows = rows.select_columns(["__key__", "txt", "jpg"])
    rows = rows.shuffle(seed=0, buffer_size=BUFFER) if streaming else rows.shuffle(seed=0)
    if raw:
        rows = rows.cast_column("jpg", datasets.Image(decode=False))
        yield from ((row["__key__"], row["txt"], row["jpg"]["bytes"]) for row in rows)
    else:
        fit = transform()
        yield from ((row["__key__"], row["txt"], fit(row["jpg"])) for row in rows)


READERS: dict[str, Callable[[Path, bool], Iterable[Row]]] = {
    "mm1-ablate": ours,
    "webdataset": by_webdataset,
    "datasets, streaming": lambda folder, raw: by_datasets(folder, raw, streaming=True),
    "datasets, map style": lambda folder, raw: by_datasets(folder, raw, streaming=False),
}


# ---------------------------------------------------------------- measuring
def rate(reader: Callable[[Path, bool], Iterable[Row]], folder: Path, raw: bool, documents: int) -> float:
    """Documents per CPU-second, after a first one that opens what has to be opened."""
    rows = iter(reader(folder, raw))
    next(rows)
    began, seen = cpu_seconds(), 0
    for key, text, image in islice(rows, documents - 1):
        assert key and text and len(image)
        seen += 1
    assert seen == documents - 1, f"{seen} documents of {documents}"
    return seen / (cpu_seconds() - began)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shards", type=int, default=4)
    arguments.add_argument("--samples", type=int, default=2500, help="of a shard")
    arguments.add_argument("--decoded", type=int, default=2000, help="documents that are decoded")
    arguments.add_argument("--repeats", type=int, default=5)
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tars"
        folder.mkdir()
        os.environ["MM1_ABLATE_CACHE"] = str(Path(temporary) / "cache")
        size = write_tars(folder, asked.shards, asked.samples)
        documents = asked.shards * asked.samples
        print(f"{documents:,} documents in {asked.shards} tars of {size / asked.shards / 1e6:.0f} MB; one thread")
        print("done once, microseconds of CPU per document:", end=" ")
        for name in ("mm1-ablate", "datasets, map style"):
            began = cpu_seconds()
            next(iter(READERS[name](folder, True)))
            print(f"{name} {1e6 * (cpu_seconds() - began) / documents:.0f}", end="; " if name == "mm1-ablate" else "\n")
        rates: dict[tuple[str, bool], list[float]] = {}
        # In turns, so that whatever else the machine does falls on all alike.
        for _ in range(asked.repeats):
            for raw in (True, False):
                for name, reader in READERS.items():
                    rates.setdefault((name, raw), []).append(rate(reader, folder, raw, documents if raw else min(asked.decoded, documents)))
        print(f"\n{'documents per CPU-second':24}{'raw':>12}{'ours is':>10}{'decoded':>12}{'ours is':>10}")
        for name in READERS:
            values = [median(rates[name, raw]) for raw in (True, False)]
            # The ratio within each turn, as the machine may be faster in one turn than in another.
            ratios = [median(map(truediv, rates["mm1-ablate", raw], rates[name, raw])) for raw in (True, False)]
            print(f"{name:24}{values[0]:>12,.0f}{ratios[0]:>9.1f}x{values[1]:>12,.0f}{ratios[1]:>9.1f}x")


if __name__ == "__main__":
    main()
