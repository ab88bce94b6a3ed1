"""An endless order of numbers that needs no memory: what comes at some positions is a function of the seed alone.

Numbers are in blocks of neighbours. Every pass takes the blocks in another order, and the numbers of a block in another
one, each number once.
Not here: what the numbers stand for (streams.py), how several sources are mixed (mixture.py), batches (sampling.py).
"""

import random
from functools import lru_cache

import numpy as np


def numbers_at(blocks: tuple[int, ...], positions: np.ndarray, seed: str) -> tuple[np.ndarray, np.ndarray]:
    """The passes, and the numbers that come in them, at some positions of the endless order of blocks of such sizes."""
    passes, rests = np.divmod(positions, sum(blocks))
    numbers = np.empty_like(rests)
    for one in np.unique(passes):
        here = np.flatnonzero(passes == one)
        order, ends, starts = block_order(blocks, f"{seed}/{one}")
        found = np.searchsorted(ends, rests[here], side="right")
        for index in np.unique(found):
            block, places = int(order[index]), here[found == index]
            within = rests[places] - (ends[index] - blocks[block])
            numbers[places] = starts[block] + permuted(within, blocks[block], f"{seed}/{one}/{block}")
    return passes, numbers


@lru_cache(maxsize=8)
def block_order(sizes: tuple[int, ...], seed: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks in random order, where each ends in that order, and the first number of each."""
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    blocks = np.array(sizes)
    return np.array(order), np.cumsum(blocks[order]), np.cumsum(blocks) - blocks


def permuted(numbers: np.ndarray, size: int, seed: str) -> np.ndarray:
    """Where a permutation of range(size) takes numbers: a Feistel network, walked until they are within the range."""
    half = max((size - 1).bit_length() + 1, 2) // 2
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    found = numbers.astype(np.uint64)
    walking = np.arange(len(found))
    while len(walking):
        left, right = found[walking] >> bits, found[walking] & mask
        for key in round_keys(seed):
            mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ (mixed >> np.uint64(32) & mask)
        found[walking] = left << bits | right
        walking = walking[found[walking] >= size]
    return found.astype(np.int64)


@lru_cache(maxsize=64)
def round_keys(seed: str) -> np.ndarray:
    """The keys of a permutation's rounds."""
    rng = random.Random(seed)
    return np.array([rng.getrandbits(64) for _ in range(6)], np.uint64)
