"""Random numbers that are pure functions of integers: the same on every machine, in every version, from any position.

Keys come in (integers and names), draws go out. `Draws` is a small stream for one document; `hashed` draws for a whole array of
indices at once; `permuted` is a permutation that is never written down, so a source of any size is shuffled in no memory and
resumed at any place. All are SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from math import isqrt
from typing import TypeVar

import numpy as np

T = TypeVar("T")
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """SplitMix64's finaliser: a bijection of 64-bit integers that leaves no visible pattern."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


@lru_cache(maxsize=4096)
def key(*parts: int | str) -> int:
    """A 64-bit key of integers and names."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


class Draws:
    """A stream of draws that belongs to one (key, index)."""

    __slots__ = ("state",)

    def __init__(self, key: int, index: int) -> None:
        self.state = mix((key + GOLDEN * (index + 1)) & MASK)

    def below(self, bound: int) -> int:
        """An integer from 0 to bound - 1."""
        self.state = state = (self.state + GOLDEN) & MASK
        return (mix(state) >> 11) * bound >> 53

    def chance(self, probability: float) -> bool:
        return self.below(1 << 32) < probability * (1 << 32)

    def choice(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def sample(self, values: Sequence[T], count: int) -> list[T]:
        """`count` different values in random order (at most as many as there are)."""
        left = list(values)
        count = min(count, len(left))
        for place in range(count):
            other = place + self.below(len(left) - place)
            left[place], left[other] = left[other], left[place]
        return left[:count]


def hashed(key: int, index: np.ndarray, field: int) -> np.ndarray:
    """uint64 draws for an array of indices; draws of different fields are independent."""
    value = (np.asarray(index).astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN) + np.uint64(key)
    value = mix_array(value) + np.uint64(GOLDEN * (field + 1) & MASK)
    return mix_array(value)


def mix_array(value: np.ndarray) -> np.ndarray:
    """`mix` for an array."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed


def below(draws: np.ndarray, bound: int) -> np.ndarray:
    """int64 values from 0 to bound - 1 out of uint64 draws."""
    return ((draws >> np.uint64(33)) * np.uint64(bound) >> np.uint64(31)).astype(np.int64)


def permuted(key: int, index: int, length: int) -> int:
    """Where a seeded permutation of range(length) sends `index`.

    A Feistel network over a grid a little larger than the range, walked until it lands inside (Black and Rogaway, Ciphers with
    arbitrary finite domains, 2002): a bijection without a table.
    """
    columns = isqrt(max(length - 1, 0)) + 1
    rows = -(-length // columns)
    while True:
        row, column = divmod(index, columns)
        for turn in range(3):
            row = (row + mix((key ^ (column * 8 + turn)) & MASK)) % rows
            column = (column + mix((key ^ (row * 8 + 4 + turn)) & MASK)) % columns
        index = row * columns + column
        if index < length:
            return index
