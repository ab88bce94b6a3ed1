"""Which recordings make a batch: shuffled by epoch, of like length, weighted by source, split over ranks.

The order depends on the seed and the epoch alone, so an interrupted run continues at the right batch by counting.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

Key = tuple[int, int]
"""(epoch, number of the recording)."""

POOL = 16
"""Batches of a pool, in which recordings are sorted by length; small enough to stay well shuffled."""
BUDGET_POOL = 64
"""The same where batches are filled by tokens: the last of a pool has room left, and lengths differ less in a batch."""
LEAST_POOL = 1024
"""Recordings of such a pool at least, so that few pools are counted to find a batch."""


class Order(Protocol):
    """Recordings in an endless order, told position by position, with their lengths."""

    def __len__(self) -> int: ...

    def keys_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epochs and the numbers of the keys at some positions."""
        ...

    def seconds(self, numbers: np.ndarray) -> np.ndarray:
        """Lengths of the sound of some recordings."""
        ...

    def tokens(self, numbers: np.ndarray) -> np.ndarray:
        """Tokens that each of them takes at most."""
        ...


class BatchSampler:
    """Batches of keys for one rank; every rank has the same number of batches.

    What an optimizer step hears depends on the recordings a step, and not on the ranks and micro-batches that share it.
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
        accumulation: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.lengths = lengths
        self.together = batch_size * world_size  # recordings that all ranks hear at once
        self.per_step = self.together * accumulation
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
        return math.ceil(total / self.per_step) * (self.per_step // self.together)

    def __iter__(self) -> Iterator[list[Key]]:
        chosen = self.chosen()
        if self.shuffle:
            missing = -len(chosen) % self.per_step  # the last step is filled from the front
            chosen += [chosen[i % len(chosen)] for i in range(missing)]
        for start in self.starts(len(chosen)):
            step = chosen[start : start + self.per_step]
            for first in range(0, len(step), self.together):
                batch = step[first : first + self.together]
                yield [(self.epoch, number) for number in batch[self.rank :: self.world_size]]

    def chosen(self) -> list[int]:
        """The recordings of this epoch: shuffled, then sorted by length inside pools of some batches."""
        if not self.shuffle:
            return list(range(len(self.lengths)))
        numbers = draw(self.sources, self.seed, self.epoch)
        pool = POOL * self.per_step
        pools = (numbers[start : start + pool] for start in range(0, len(numbers), pool))
        return [number for part in pools for number in sorted(part, key=lambda n: self.lengths[n])]

    def starts(self, count: int) -> list[int]:
        """Where each step begins, in random order, so that long and short ones alternate."""
        starts = list(range(0, count, self.per_step))
        if self.shuffle:
            random.Random(f"{self.seed}/{self.epoch}/batches").shuffle(starts)
        return starts


class ByTokens(ABC):
    """Batches of keys for one rank, each filled up to a budget of tokens; every rank has the same number of batches.

    What takes more than the budget is a batch of its own; the ranks' batches of one step are nearly of one size. How
    many batches hold so many recordings differs from round to round (a pass over all, or a pool of a stream), and a
    training loop needs epochs of one length: they are cut, one after another, from the endless sequence of rounds.
    """

    def __init__(self, budget: int, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.budget = budget
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.counts: list[int] = []  # batches of this rank in each round

    @abstractmethod
    def __len__(self) -> int:
        """Batches of this rank in an epoch."""

    @abstractmethod
    def plan(self, number: int) -> list[list[Key]]:
        """This rank's batches of a round."""

    @abstractmethod
    def size(self, number: int) -> int:
        """Batches of this rank in a round."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Key]]:
        number, start = 0, self.epoch * len(self)
        while start >= self.count(number):
            start -= self.count(number)
            number += 1
        left = len(self)
        while left:
            batches = self.plan(number)[start : start + left]
            yield from batches
            left -= len(batches)
            number, start = number + 1, 0

    def count(self, number: int) -> int:
        """Batches of this rank in a round, which is counted once."""
        while len(self.counts) <= number:
            self.counts.append(self.size(len(self.counts)))
        return self.counts[number]

    def deal(self, batches: list[list[Key]], sizes: dict[Key, int], name: str) -> list[list[Key]]:
        """This rank's of the steps of one batch for each rank, of like sizes, in random order.

        What is missing in the last step comes from halving batches.
        """
        for _ in range(-len(batches) % self.world_size):
            fullest = max(batches, key=len)
            half = len(fullest) // 2
            batches.append(fullest[half:])
            del fullest[half if half else 1 :]  # a recording that is alone is heard on two ranks
        batches.sort(key=lambda batch: sum(sizes[key] for key in batch))
        steps = [batches[start : start + self.world_size] for start in range(0, len(batches), self.world_size)]
        random.Random(f"{self.seed}/{name}/batches").shuffle(steps)
        return [step[self.rank] for step in steps]


class BudgetSampler(ByTokens):
    """Filled with recordings in memory, of which `num_tokens` tells what a key takes.

    An epoch has the length of the first pass; the epoch of a key is its pass.
    """

    def __init__(
        self,
        num_tokens: Callable[[Key], int],
        lengths: Sequence[float],
        budget: int,
        *,
        sources: Sequence[tuple[int, float]] | None = None,
        **shared: int,
    ) -> None:
        super().__init__(budget, **shared)
        self.num_tokens = num_tokens
        self.lengths = lengths
        self.sources = sources or [(len(lengths), 1.0)]
        self.planned: dict[int, list[list[Key]]] = {}  # the pass that was made last
        self.sizes: dict[Key, int] = {}  # tokens of its keys

    def __len__(self) -> int:
        return self.count(0)

    def size(self, number: int) -> int:
        """Batches of this rank in a pass."""
        return len(self.plan(number))

    def plan(self, number: int) -> list[list[Key]]:
        """This rank's batches of a pass."""
        if number not in self.planned:
            keys = [(number, recording) for recording in draw(self.sources, self.seed, number)]
            self.sizes = {key: self.num_tokens(key) for key in keys}
            self.planned = {number: self.deal(self.fill(keys), self.sizes, str(number))}
        return self.planned[number]

    def fill(self, keys: Sequence[Key]) -> list[list[Key]]:
        """Batches within the budget, out of pools of some batches in which the keys are sorted by length."""
        batches: list[list[Key]] = []
        pool: list[Key] = []
        waiting = 0
        for key in keys:
            pool.append(key)
            waiting += self.sizes[key]
            if waiting >= BUDGET_POOL * self.budget * self.world_size:
                *full, pool = self.cut(pool)
                batches += full
                waiting = sum(self.sizes[key] for key in pool)
        return batches + self.cut(pool)

    def cut(self, pool: Sequence[Key]) -> list[list[Key]]:
        """One pool's batches, the last of which may have room left."""
        pool = sorted(pool, key=lambda key: self.lengths[key[1]])
        ends = filled(np.array([self.sizes[key] for key in pool]), self.budget)
        return [list(pool[start:end]) for start, end in pairwise([0, *ends])]


class StreamBudgetSampler(ByTokens):
    """Filled with recordings out of an endless order, of which a round is the next pool of so many positions.

    An epoch has as many batches as the first `num_samples` recordings; it goes on where the one before ended. Which
    pool holds a batch is found from the lengths alone, so that no row is read for it.
    """

    def __init__(
        self, order: Order, budget: int, num_samples: int, *, group_by_length: bool = True, **shared: int
    ) -> None:
        super().__init__(budget, **shared)
        self.order = order
        self.num_samples = num_samples
        self.group_by_length = group_by_length
        _, numbers = order.keys_at(np.arange(LEAST_POOL))
        wanted = BUDGET_POOL * self.world_size * budget / order.tokens(numbers).mean()
        self.pool = min(max(round(wanted), LEAST_POOL), len(order))
        self.length = 0

    def __len__(self) -> int:
        if not self.length:
            pools, rest = divmod(self.num_samples, self.pool)
            self.length = sum(map(self.count, range(pools))) + (self.steps(pools * self.pool, rest) if rest else 0)
        return self.length

    def size(self, number: int) -> int:
        """Batches of this rank in a pool."""
        return self.steps(number * self.pool, self.pool)

    def steps(self, first: int, count: int) -> int:
        """Steps that so many positions fill."""
        _, _, sizes = self.sorted(first, count)
        return math.ceil(len(filled(sizes, self.budget)) / self.world_size)

    def plan(self, number: int) -> list[list[Key]]:
        """This rank's batches of a pool."""
        epochs, numbers, sizes = self.sorted(number * self.pool, self.pool)
        keys = list(zip(epochs.tolist(), numbers.tolist(), strict=True))
        batches = [keys[start:end] for start, end in pairwise([0, *filled(sizes, self.budget)])]
        return self.deal(batches, dict(zip(keys, sizes.tolist(), strict=True)), str(number))

    def sorted(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Epochs, numbers and tokens of the recordings from a position on, by length."""
        epochs, numbers = by_length(self.order, first, count, self.group_by_length)
        return epochs, numbers, self.order.tokens(numbers)


class StreamSampler:
    """Batches of keys for one rank out of an endless order, of which an epoch is the next `num_samples` recordings.

    The order tells the keys at some positions, so that nothing is kept in memory and any step is found at once.
    Positions are dealt step by step: what a step hears depends on the recordings a step, and not on what shares them.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        num_samples: int,
        *,
        group_by_length: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
    ) -> None:
        self.order = order
        self.group_by_length = group_by_length
        self.together = batch_size * world_size  # recordings that all ranks hear at once
        self.per_step = self.together * accumulation
        self.num_samples = num_samples
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps * (self.per_step // self.together)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(self.num_samples / self.per_step)

    def __iter__(self) -> Iterator[list[Key]]:
        number, steps, size = -1, [], min(POOL, self.num_steps)
        for step in range(self.epoch * self.num_steps, (self.epoch + 1) * self.num_steps):
            if step // size != number:
                number = step // size
                steps = self.pool(number, size)
            for first in range(0, self.per_step, self.together):
                yield steps[step % size][first : first + self.together][self.rank :: self.world_size]

    def pool(self, number: int, size: int) -> list[list[Key]]:
        """The steps of a pool, in each of which recordings are of like length; none comes twice in a step."""
        count = size * self.per_step
        epochs, numbers = by_length(self.order, number * count, count, self.group_by_length)
        keys = list(zip(epochs.tolist(), numbers.tolist(), strict=True))
        steps = [keys[start : start + self.per_step] for start in range(0, count, self.per_step)]
        random.Random(f"{self.seed}/{number}/batches").shuffle(steps)
        return steps


def by_length(order: Order, first: int, count: int, grouped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and numbers of the keys from a position on, sorted by length.

    Where there are few recordings they come several times: all of them first, then all that come again.
    """
    epochs, numbers = order.keys_at(np.arange(first, first + count))
    seconds = order.seconds(numbers) if grouped else np.zeros(count)
    chosen = np.lexsort((numbers, epochs, seconds, times_before(numbers)))
    return epochs[chosen], numbers[chosen]


def times_before(numbers: np.ndarray) -> np.ndarray:
    """How often each number came before in the array."""
    order = np.argsort(numbers, kind="stable")
    places = np.arange(len(numbers))
    begins = np.diff(numbers[order], prepend=-1) != 0
    found = np.empty_like(places)
    found[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return found


def filled(sizes: np.ndarray, budget: int) -> list[int]:
    """Where batches of neighbours end that are within a budget; what is larger is a batch of its own."""
    sums = np.cumsum(sizes)
    ends: list[int] = []
    while (start := ends[-1] if ends else 0) < len(sizes):
        before = int(sums[start - 1]) if start else 0
        ends.append(max(int(np.searchsorted(sums, before + budget, side="right")), start + 1))
    return ends


def tempered(sources: Sequence[tuple[int, float]], temperature: float | None) -> list[tuple[int, float]]:
    """(number, weight) of each source, the weights changed so that shares are powers of what they were.

    The share of a source is then proportional to (number * weight) ** (1 / temperature); all of them together are
    heard as often as before. Without a temperature nothing changes.
    """
    wanted = [count * weight for count, weight in sources]
    if temperature is None or not any(wanted):
        return list(sources)
    powers = [(one / max(wanted)) ** (1 / temperature) for one in wanted]
    factor = sum(wanted) / sum(powers)
    return [
        (count, factor * power / count if count else weight)
        for (count, weight), power in zip(sources, powers, strict=True)
    ]


def draw(sources: Sequence[tuple[int, float]], seed: int, epoch: int) -> list[int]:
    """The recordings of an epoch by the weights of their sources, shuffled."""
    rng = random.Random(f"{seed}/{epoch}")
    numbers: list[int] = []
    first = 0
    for count, weight in sources:
        every = list(range(first, first + count))
        whole, rest = divmod(share(count, weight), max(count, 1))
        numbers += every * whole + rng.sample(every, rest)
        first += count
    rng.shuffle(numbers)
    return numbers


def share(count: int, weight: float) -> int:
    """How many recordings of a source are heard in an epoch; one at least."""
    return max(round(count * weight), 1) if count else 0
