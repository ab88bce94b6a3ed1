"""Which recordings make a batch: shuffled by epoch, of like length, weighted by source, split over ranks.

The order depends on the seed and the epoch alone, so an interrupted run continues at the right batch by counting.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

Key = tuple[int, int]
"""(epoch, number of the recording)."""

POOL = 16
"""Batches of a pool, in which recordings are sorted by length; small enough to stay well shuffled."""


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


class BudgetSampler:
    """Batches of keys for one rank, each filled up to a budget of tokens; every rank has the same number of batches.

    `num_tokens` tells what a key takes; one that takes more than the budget is a batch of its own. The ranks' batches
    of one step are nearly of one size. How many batches hold all recordings differs from pass to pass, and a training
    loop needs epochs of one length: its epochs are cut, one after another, from the passes, and each has the length of
    the first pass. The epoch of a key is its pass.
    """

    def __init__(
        self,
        num_tokens: Callable[[Key], int],
        lengths: Sequence[float],
        budget: int,
        *,
        seed: int = 0,
        sources: Sequence[tuple[int, float]] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_tokens = num_tokens
        self.lengths = lengths
        self.budget = budget
        self.seed = seed
        self.sources = sources or [(len(lengths), 1.0)]
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.planned: dict[int, list[list[Key]]] = {}  # the pass that was made last
        self.sizes: dict[Key, int] = {}  # tokens of its keys
        self.counts: list[int] = []  # batches of this rank in each pass

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count(0)

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
        """Batches of this rank in a pass."""
        while len(self.counts) <= number:
            self.counts.append(len(self.plan(len(self.counts))))
        return self.counts[number]

    def plan(self, number: int) -> list[list[Key]]:
        """This rank's batches of a pass."""
        if number not in self.planned:
            keys = [(number, recording) for recording in draw(self.sources, self.seed, number)]
            self.sizes = {key: self.num_tokens(key) for key in keys}
            steps = self.deal(self.fill(keys))
            random.Random(f"{self.seed}/{number}/batches").shuffle(steps)
            self.planned = {number: [step[self.rank] for step in steps]}
        return self.planned[number]

    def fill(self, keys: Sequence[Key]) -> list[list[Key]]:
        """Batches within the budget, out of pools of some batches in which the keys are sorted by length."""
        batches: list[list[Key]] = []
        pool: list[Key] = []
        waiting = 0
        for key in keys:
            pool.append(key)
            waiting += self.sizes[key]
            if waiting >= POOL * self.budget * self.world_size:
                *full, pool = self.cut(pool)
                batches += full
                waiting = self.tokens(pool)
        return batches + self.cut(pool)

    def cut(self, pool: Sequence[Key]) -> list[list[Key]]:
        """One pool's batches, the last of which may have room left."""
        batches: list[list[Key]] = [[]]
        room = self.budget
        for key in sorted(pool, key=lambda key: self.lengths[key[1]]):
            size = self.sizes[key]
            if batches[-1] and size > room:
                batches.append([])
                room = self.budget
            batches[-1].append(key)
            room -= size
        return batches

    def deal(self, batches: list[list[Key]]) -> list[list[list[Key]]]:
        """Steps of one batch for each rank, of like sizes; what is missing in the last comes from halving batches."""
        for _ in range(-len(batches) % self.world_size):
            fullest = max(batches, key=len)
            half = len(fullest) // 2
            batches.append(fullest[half:])
            del fullest[half if half else 1 :]  # a recording that is alone is heard on two ranks
        batches.sort(key=self.tokens)
        return [batches[start : start + self.world_size] for start in range(0, len(batches), self.world_size)]

    def tokens(self, batch: Sequence[Key]) -> int:
        """Tokens of a batch."""
        return sum(self.sizes[key] for key in batch)


class StreamSampler:
    """Batches of keys for one rank out of an endless order, of which an epoch is the next `num_samples` recordings.

    `key_at` tells the key at a position, so that nothing is kept in memory and any step is found at once. Positions are
    dealt step by step: what a step hears depends on the recordings a step, and not on what shares them.
    """

    def __init__(
        self,
        key_at: Callable[[int], Key],
        seconds: Callable[[int], float],
        batch_size: int,
        num_samples: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
    ) -> None:
        self.key_at = key_at
        self.seconds = seconds
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
        first = number * size * self.per_step
        keys = [self.key_at(position) for position in range(first, first + size * self.per_step)]
        came: Counter[int] = Counter()
        ordered = []
        for key in keys:  # where there are few recordings, a pool holds them several times
            came[key[1]] += 1
            ordered.append((came[key[1]], self.seconds(key[1]), key))
        keys = [key for _, _, key in sorted(ordered)]
        steps = [keys[start : start + self.per_step] for start in range(0, len(keys), self.per_step)]
        random.Random(f"{self.seed}/{number}/batches").shuffle(steps)
        return steps


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
