"""Threads that work ahead, ranks that share a step, and resuming with others of them: the same batches bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from threading import enumerate as enumerate_threads

import pytest
from flawed import FLAWS, flawed, of, pictures, same
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_ablate.data.loader import Batch

NEVER_CLOSED = """
from flawed import flawed
from mm1_ablate.data.images import ImagePipeline
from mm1_ablate.data.loader import BatchLoader
from mm1_ablate.data.tokenizer import load_tokenizer
batches = iter(BatchLoader(flawed(), load_tokenizer(), 3, ImagePipeline(12), 0, steps=10**6, batch_rows=4, threads=3))
next(batches)
print("done")
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_ranks_share_out_the_batch_of_one_process_and_stand_at_the_same_place():
    declared = flawed(**{**FLAWS, "unreadable_images": 0})
    for ranks in (2, 3, 4):
        loaders = [of(declared, rank=rank, ranks=ranks) for rank in range(ranks)]
        for (whole,), *parts in zip(of(declared), *loaders, strict=True):
            assert Counter(whole.documents) == Counter(key for (part,) in parts for key in part.documents)
            assert Counter(pictures(whole)) == Counter(picture for (part,) in parts for picture in pictures(part))
            assert len(whole.targets) == sum(len(part.targets) for (part,) in parts)
            assert all(part.documents for (part,) in parts)
        places = [{name: value for name, value in each.state_dict().items() if name != "loaded"} for each in loaders]
        assert all(place == places[0] for place in places)


def test_ranks_count_together_what_one_process_counts():
    declared = flawed(**FLAWS)
    whole, parts = of(declared), [of(declared, rank=rank, ranks=2) for rank in range(2)]
    for each in (whole, *parts):
        assert list(each)
    for name, counts in whole.accounting.sources.items():
        assert counts.unreadable_images == sum(part.accounting[name].unreadable_images for part in parts)
        assert counts.documents == parts[0].accounting[name].documents == parts[1].accounting[name].documents


def test_more_ranks_than_rows_are_an_error():
    with pytest.raises(ValueError, match="rank 4 of 5 has no rows of the 4 of a step; use at most 4 ranks"):
        of(flawed(), rank=4, ranks=5)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_nothing_but_who_does_the_work(threads: int):
    declared = flawed(max_epochs=9, **FLAWS)
    alone, beside = of(declared, micro_batch_rows=3), of(declared, micro_batch_rows=3, threads=threads)
    for expected, found in zip(alone, beside, strict=True):
        assert len(expected) == len(found) == 2
        assert all(same(first, second) for first, second in zip(expected, found, strict=True))
        # What was prepared ahead does not show.
        assert beside.state_dict() == alone.state_dict() and beside.step == alone.step
        assert beside.account() == alone.account()
    assert not [thread.name for thread in enumerate_threads() if thread.name.startswith("mm1-ablate")]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_loader_resumed_anywhere_on_any_ranks_threads_and_micro_batches_continues_bit_for_bit(choose: st.DataObject):
    steps = 7
    declared = flawed(max_epochs=5, **FLAWS)
    expected = [batch for (batch,) in of(declared, steps=steps)]
    state, given_out = None, 0
    while given_out < steps:
        ranks = choose.draw(st.integers(1, 4), label="ranks")
        take = choose.draw(st.integers(1, steps - given_out), label="steps until interrupted")
        options = [{"rank": rank, "ranks": ranks, "threads": choose.draw(st.integers(0, 3), label="threads")} for rank in range(ranks)]
        micro = choose.draw(st.sampled_from([None, 1, 2]), label="micro-batch rows")
        loaders = [of(declared, steps=steps, micro_batch_rows=micro, **each) for each in options]
        for each in loaders:
            if state is not None:
                each.load_state_dict(json.loads(json.dumps(state)))
        for _, *dealt in zip(range(take), *loaders, strict=False):
            found = [batch for micro_batches in dealt for batch in micro_batches]
            if ranks == 1 and micro is None:
                assert same(found[0], expected[given_out])
            assert Counter(key for batch in found for key in batch.documents) == Counter(expected[given_out].documents)
            assert Counter(picture for batch in found for picture in pictures(batch)) == Counter(pictures(expected[given_out]))
            given_out += 1
        state = loaders[0].state_dict()
        assert state["step"] == given_out


def test_a_loader_left_and_taken_up_again_goes_on_after_the_last_step():
    expected = [batch for (batch,) in of(flawed(**FLAWS))]
    loaded = of(flawed(**FLAWS), threads=2)
    found: list[Batch] = []
    while len(found) < len(expected):
        for (batch,) in loaded:
            found.append(batch)
            if len(found) % 3 == 0:
                break
    assert all(same(first, second) for first, second in zip(found, expected, strict=True))


def test_an_older_iterator_ends_when_another_begins():
    expected = [batch for (batch,) in of(flawed())]
    loaded = of(flawed(), threads=1)
    older = iter(loaded)
    assert same(next(older)[0], expected[0])
    newer = iter(loaded)
    assert same(next(newer)[0], expected[1])
    assert list(older) == []
    assert same(next(newer)[0], expected[2])


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_end_when_the_iterator_is_closed(threads: int):
    batches = iter(of(flawed(), steps=100, threads=threads))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [thread.name for thread in enumerate_threads() if thread.name.startswith("mm1-ablate")]


def test_a_process_that_never_closes_its_loader_ends():
    ended = subprocess.run(
        [sys.executable, "-c", NEVER_CLOSED], cwd=Path(__file__).parent, env=ENVIRONMENT, timeout=120, capture_output=True
    )
    assert ended.returncode == 0 and ended.stdout == b"done\n"


def test_the_caller_can_see_how_long_it_waited():
    loaded = of(flawed(), threads=1)
    assert loaded.waiting_seconds == 0
    began = time.perf_counter()
    assert list(loaded)
    assert 0 < loaded.waiting_seconds <= time.perf_counter() - began
