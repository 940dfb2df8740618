"""CIDEr of three arms on 5,000 images with five references each, against pycocoevalcap's Python scorer on the same captions.

`python benchmarks/cider.py` prints CPU seconds of both and their ratio, and fails if any score differs by more than 1e-9. Captions are
made up of a vocabulary with the frequencies of Zipf's law; ours splits and prepares the references within the time that is measured,
once for the three arms as in a study. Needs neither torch nor Java; pycocoevalcap is among the test dependencies.
"""

from __future__ import annotations

import time

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer

from mm1_ablate.evaluation.metrics import Prediction
from mm1_ablate.evaluation.metrics.cider_raw import CiderRaw

IMAGES, REFERENCES, ARMS, WORDS, TOPIC = 5_000, 5, 3, 10_000, 12


def main() -> None:
    random = np.random.default_rng(0)
    chances = 1 / np.arange(1, WORDS + 1)
    chances /= chances.sum()
    topics = random.choice(WORDS, size=(IMAGES, TOPIC), p=chances)

    def caption(image: int) -> str:
        # Most words are of the image's topic, so that captions and references share n-grams as real ones do.
        length = int(random.integers(8, 14))
        start = int(random.integers(0, TOPIC // 2))
        words = np.where(random.random(length) < 0.7, np.resize(topics[image][start:], length), random.choice(WORDS, length, p=chances))
        return " ".join(f"word{word}" for word in words)

    references = [tuple(caption(image) for _ in range(REFERENCES)) for image in range(IMAGES)]
    arms = [[caption(image) for image in range(IMAGES)] for _ in range(ARMS)]

    began = time.process_time()
    ours = [
        CiderRaw().score([Prediction(str(image), text, own) for image, (text, own) in enumerate(zip(arm, references, strict=True))])
        for arm in arms
    ]
    first = time.process_time() - began

    began = time.process_time()
    theirs = []
    for arm in arms:
        scorer = CiderScorer()
        for text, own in zip(arm, references, strict=True):
            scorer += (text, list(own))
        theirs.append(scorer.compute_score()[1])
    second = time.process_time() - began

    difference = float(np.abs(np.array(ours) - np.array(theirs)).max())
    assert difference <= 1e-9, f"scores differ by {difference}"
    print(
        f"{ARMS} arms of {IMAGES} captions with {REFERENCES} references: {first:.2f} s, pycocoevalcap {second:.2f} s,"
        f" {second / first:.1f} times as fast; mean {np.mean(ours):.3f}, largest difference {difference:.1e}"
    )


if __name__ == "__main__":
    main()
