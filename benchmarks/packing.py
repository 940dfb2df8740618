"""How full packed rows are, and what packing costs, against a first-fit packer on the same windows of the same documents.

`python benchmarks/packing.py` prints, for the miniature's mixture and for a long-tailed one as real data has it (captions; pages of up to
30 images; texts of up to tens of thousands of tokens), by the length of a row and the cap on its images: the fill and CPU microseconds a
document of first-fit and of both policies, and a fill that no packer can pass on these documents. Needs neither Ray nor MLflow.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mm1_ablate.config.data import Data, Packing
from mm1_ablate.config.sweep.expand import load_study
from mm1_ablate.data.documents import Image
from mm1_ablate.data.packing import PackedRow, TokenisedDocument, open_packed_rows, pack, pack_balanced, pieces, tokenise
from mm1_ablate.data.tokenizer import load_tokenizer

EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "miniature.yaml"
PICTURE = Image("picture", lambda: np.zeros((1, 1, 3), np.uint8))
Packer = Callable[[Sequence[TokenisedDocument], int, int | None], list[PackedRow]]


def first_fit(documents: Sequence[TokenisedDocument], row_tokens: int, max_images: int | None) -> list[PackedRow]:
    """Each document, as it comes, into the first row that takes it."""
    rows: list[list[TokenisedDocument]] = []
    space: list[int] = []
    room: list[float] = []
    for document in documents:
        length, images = document.nominal_length, len(document.images)
        for row in range(len(rows)):
            if space[row] >= length and room[row] >= images:
                break
        else:
            row = len(rows)
            rows.append([])
            space.append(row_tokens)
            room.append(math.inf if max_images is None else max_images)
        rows[row].append(document)
        space[row] -= length
        room[row] -= images
    return [tuple(row) for row in rows]


def miniature(count: int) -> list[TokenisedDocument]:
    """The first documents of the shipped mixture."""
    data: Data = load_study(EXPERIMENT).arms[0].experiment.data
    tokenizer = load_tokenizer()
    mixture = open_packed_rows(data, tokenizer, seed=0).mixture
    return [tokenise(next(mixture), tokenizer, data.packing.nominal_image_tokens) for _ in range(count)]


def long_tailed(count: int, nominal_image_tokens: int, shares: tuple[int, int, int]) -> list[TokenisedDocument]:
    """Captions, pages and texts, so many of each; lengths are log-normal."""
    draws = random.Random(0)
    documents = []
    for place in range(count):
        kind = draws.choices(("captioned", "interleaved", "text"), shares)[0]
        middle, spread = {"captioned": (18, 0.7), "interleaved": (500, 1.0), "text": (500, 1.1)}[kind]
        images = {"captioned": 1, "text": 0}.get(kind, min(30, math.ceil(draws.lognormvariate(math.log(3), 0.9))))
        text = (7,) * max(3, int(draws.lognormvariate(math.log(middle), spread)))
        # Images spread over the text, as pages have them.
        part = len(text) // max(images, 1) + 1
        segments = [other for start in range(0, len(text), part) for other in (PICTURE, text[start : start + part])]
        segments = [text] if not images else segments + [PICTURE] * (images - len(segments) // 2)
        length = len(text) + images * nominal_image_tokens
        documents.append(TokenisedDocument(f"{kind}/{place}", kind, tuple(segments), (PICTURE,) * images, length, kind))
    return documents


def packed(documents: Sequence[TokenisedDocument], packing: Packing, packer: Packer) -> tuple[float, float]:
    """Fill, and CPU microseconds a document, window by window as training packs."""
    tokens = rows = 0
    began = time.process_time()
    for start in range(0, len(documents), packing.buffer_documents):
        window = [piece for document in documents[start : start + packing.buffer_documents] for piece in pieces(document, packing)]
        made = packer(window, packing.row_tokens, packing.max_images)
        tokens += sum(piece.nominal_length for piece in window)
        rows += len(made)
    return tokens / rows / packing.row_tokens, (time.process_time() - began) / len(documents) * 1e6


def most(documents: Sequence[TokenisedDocument], packing: Packing) -> float:
    """The fill that no packer can pass: the images of all documents take a number of rows, however they are dealt out."""
    tokens = sum(document.nominal_length for document in documents)
    images = sum(len(document.images) for document in documents)
    return min(1.0, tokens / packing.row_tokens / (images / packing.max_images)) if packing.max_images and images else 1.0


def show(name: str, documents: Sequence[TokenisedDocument], packing: Packing) -> None:
    cap = f"at most {packing.max_images:2} images" if packing.max_images else "no cap on images "
    print(f"{name}, rows of {packing.row_tokens}, {packing.nominal_image_tokens} an image, {cap}", end="")
    for policy, packer in {"first-fit": first_fit, "best-fit": pack, "balanced": pack_balanced}.items():
        fill, cost = packed(documents, packing, packer)
        print(f" | {policy} {fill:.3f} {cost:2.0f} us", end="")
    print(f" | at most {most(documents, packing):.3f}")


def main() -> None:
    shipped = load_study(EXPERIMENT).arms[0].experiment.data.packing
    documents = miniature(8192)
    for max_images in (None, 16):
        show("miniature", documents, shipped.model_copy(update={"max_images": max_images}))
    for row_tokens, nominal in ((4096, 144), (128, 4)):
        # By documents, as MM1's weights are often read; and so that each type has about that share of the tokens.
        for shares, name in (((45, 45, 10), "by documents"), ((85, 10, 5), "by tokens")):
            documents = long_tailed(4096, nominal, shares)
            for max_images in (None, 16):
                packing = Packing(row_tokens=row_tokens, nominal_image_tokens=nominal, max_images=max_images)
                show(f"long-tailed, 45/45/10 {name}", documents, packing)


if __name__ == "__main__":
    main()
