"""Which recordings make a batch: shuffled by epoch, of like length, weighted by source, split over ranks.

The order depends on the seed and the epoch alone, so an interrupted run continues at the right batch by counting.
"""

import math
import random
from collections.abc import Iterator, Sequence

Key = tuple[int, int]
"""(epoch, number of the recording)."""

POOL = 16
"""Batches of a pool, in which recordings are sorted by length; small enough to stay well shuffled."""


class BatchSampler:
    """Batches of keys for one rank; every rank has the same number of batches.

    `sources` holds (number of recordings, weight) in the order of the dataset: with weight 2 each recording of the
    source is heard twice an epoch, with 0.5 half of them, others in each epoch.
    """

    def __init__(
        self,
        lengths: Sequence[float],
        batch_size: int,
        *,
        seed: int = 0,
        sources: Sequence[tuple[int, float]] | None = None,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.sources = sources or [(len(lengths), 1.0)]
        self.rank, self.world_size = rank, world_size
        self.shuffle = shuffle
        self.epoch = 0
        if sum(count for count, _ in self.sources) != len(lengths):
            raise ValueError(f"sources count {sum(c for c, _ in self.sources)} recordings, there are {len(lengths)}")

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        total = sum(share(count, weight) for count, weight in self.sources)
        return math.ceil(total / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[Key]]:
        chosen = self.chosen()
        per_step = self.batch_size * self.world_size
        if self.shuffle:
            missing = -len(chosen) % per_step  # the last batch is filled from the front
            chosen += [chosen[i % len(chosen)] for i in range(missing)]
        for start in self.starts(chosen, per_step):
            step = chosen[start : start + per_step]
            yield [(self.epoch, number) for number in step[self.rank :: self.world_size]]

    def chosen(self) -> list[int]:
        """The recordings of this epoch: shuffled, then sorted by length inside pools of some batches."""
        if not self.shuffle:
            return list(range(len(self.lengths)))
        rng = random.Random(f"{self.seed}/{self.epoch}")
        numbers: list[int] = []
        first = 0
        for count, weight in self.sources:
            every = list(range(first, first + count))
            whole, rest = divmod(share(count, weight), max(count, 1))
            numbers += every * whole + rng.sample(every, rest)
            first += count
        rng.shuffle(numbers)
        pool = POOL * self.batch_size * self.world_size
        pools = (numbers[start : start + pool] for start in range(0, len(numbers), pool))
        return [number for part in pools for number in sorted(part, key=lambda n: self.lengths[n])]

    def starts(self, chosen: Sequence[int], per_step: int) -> list[int]:
        """Where each batch begins, in random order, so that long and short ones alternate."""
        starts = list(range(0, len(chosen), per_step))
        if self.shuffle:
            random.Random(f"{self.seed}/{self.epoch}/batches").shuffle(starts)
        return starts


def share(count: int, weight: float) -> int:
    """How many recordings of a source are heard in an epoch; one at least."""
    return max(round(count * weight), 1) if count else 0
