"""What children of tests do on a disk without room."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pandas
from study_helpers import score

from mm1_ablate.run.trial import recording_failure
from mm1_ablate.store.files import is_address
from mm1_ablate.store.store import Store

MORE_THAN_IS_LEFT = 200_000
"""Bytes."""


def fill(what: str, folder: str) -> None:
    """Write to a disk without room; torch and pyarrow each have their own way to say so."""
    import torch

    from mm1_ablate.training.checkpoint import save_atomically

    if what == "model":
        (Path(folder) / f".model.pt.{os.getpid()}").symlink_to("/dev/full")
        save_atomically({"weights": torch.zeros(10)}, Path(folder) / "model.pt")
    elif what == "items":
        pandas.DataFrame({"score": range(100_000)}).to_parquet("/dev/full")
    elif what == "log":
        print("said by the child")


def lose_or_fill(folder: str, rank: int) -> int:
    """The first worker ends of having lost the second, which is then on its way out itself."""
    begun, lost = Path(folder) / "begun", Path(folder) / "lost"
    if rank == 1:
        signal.signal(signal.SIGTERM, lambda *_: lost.touch())
        begun.touch()
    while not (begun if rank == 0 else lost).exists():
        time.sleep(0.05)
    with open("/dev/full", "w") as full:
        full.write("a checkpoint" if rank == 1 else "")
    return 1


def filling_trial(store_root: str, fingerprint: str, evaluations: list[str]) -> int:
    """A trial with a checkpoint after which there is no room for its model, while another waits where there is none yet."""
    import torch
    from torch.distributed import checkpoint as shards

    from mm1_ablate.training.checkpoint import save_atomically

    store = Store(store_root)
    folder = store.trial_folder(fingerprint)

    def work() -> None:
        store.start(folder, "train")
        steps = store.read_trial(fingerprint)[0].training.steps
        checkpoint = folder / "last.ckpt"
        store.download(checkpoint)
        with open(folder / "begun", "a") as begun:
            begun.write(f"{checkpoint.exists()}\n")
        save_atomically({"weights": torch.zeros(10)}, checkpoint)
        filler = Path(os.environ["FILLER"])
        while filler.exists() and (steps == 11 or len(list(store.root.glob("trials/*/last.ckpt"))) < 2):
            time.sleep(0.05)
        if not is_address(store.address):
            shards.save({"weights": torch.zeros(MORE_THAN_IS_LEFT // 4)}, checkpoint_id=folder / "last.ckpt.1", no_dist=True)
        save_atomically({"weights": torch.zeros(MORE_THAN_IS_LEFT // 4)}, folder / "model.pt")
        items = pandas.DataFrame({"task": ["miniature_vqa"], "shots": [8], "item": ["a"], "score": [1.0]})
        for evaluation in evaluations:
            store.write_evaluation(fingerprint, evaluation, items, score(steps, 0))

    with store.hold(folder):
        return recording_failure(store, folder, work)
