"""Several sources as one, heard by their weights, in an endless order that is told position by position.

Not here: rows that stay on disk (streams.py), their lengths in tokens (measured.py), batches (sampling.py).
"""

import random
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from audiollm.conversation import Row
from audiollm.data.dataset import Recordings
from audiollm.data.measured import Measured, measure
from audiollm.data.order import numbers_at
from audiollm.data.quarantine import BadRow
from audiollm.data.sampling import tempered
from audiollm.data.streams import Stream

PERIOD = 1000
"""Positions after which every source had its share."""


class Loaded:
    """Recordings whose rows are in memory, beside streams in one mixture; `sizes` are their tokens, once measured."""

    def __init__(
        self, groups: Sequence[list[Row]], sizes: Sequence[int] | None = None, num_rows: int | None = None
    ) -> None:
        self.groups = groups
        self.blocks = (len(groups),)
        self.num_rows = sum(map(len, groups)) if num_rows is None else num_rows
        self._seconds = np.array([sum(clip.duration or 0.0 for clip in group[0].clips) for group in groups])
        self._tokens = None if sizes is None else np.array(sizes, int)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int, /) -> list[Row]:
        return self.groups[number]

    def seconds(self, numbers: np.ndarray) -> np.ndarray:
        """Lengths of recordings, where their rows tell them."""
        return self._seconds[numbers]

    def tokens(self, numbers: np.ndarray) -> np.ndarray:
        """Tokens that recordings take at most."""
        assert self._tokens is not None, "measured first"
        return self._tokens[numbers]

    def measured(self, recordings: Recordings) -> tuple["Loaded", list[BadRow]]:
        """What the limits let in, and the rows that they leave out."""
        groups, lengths, bad = recordings.fitting(self.groups)
        return Loaded(groups, [recordings.most_read(length) for length in lengths], self.num_rows), bad


Part = Stream | Measured | Loaded


class Mixture:
    """The recordings of several sources, numbered one source after another."""

    def __init__(
        self, parts: Sequence[Part], weights: Sequence[float], seed: int, temperature: float | None = None
    ) -> None:
        self.parts = parts
        self.weights = weights
        self.seed = seed
        self.temperature = temperature
        self.starts = np.cumsum([0, *map(len, parts)])
        mixed = tempered([(len(part), weight) for part, weight in zip(parts, weights, strict=True)], temperature)
        wanted = [count * weight for count, weight in mixed]
        self.period = tuple(max(round(PERIOD * share / sum(wanted)), 1) if share else 0 for share in wanted)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, number: int, /) -> list[Row]:
        part = int(self.part_of(number))
        return self.parts[part][number - int(self.starts[part])]

    @property
    def num_rows(self) -> int:
        """Rows of all sources, those that are left out for their length included."""
        return sum(part.num_rows for part in self.parts)

    def part_of(self, numbers: int | np.ndarray) -> np.ndarray:
        """Which source recordings are of."""
        return np.asarray(np.searchsorted(self.starts, numbers, side="right") - 1)

    def seconds(self, numbers: np.ndarray) -> np.ndarray:
        """Lengths of recordings, where their rows tell them."""
        found = np.empty(len(numbers))
        of = self.part_of(numbers)
        for part in np.unique(of):
            found[of == part] = self.parts[part].seconds(numbers[of == part] - self.starts[part])
        return found

    def tokens(self, numbers: np.ndarray) -> np.ndarray:
        """Tokens that recordings take at most; for a mixture that was measured."""
        found = np.empty(len(numbers), int)
        of = self.part_of(numbers)
        for part in np.unique(of):
            one = self.parts[part]
            assert not isinstance(one, Stream), "measured first"
            found[of == part] = one.tokens(numbers[of == part] - self.starts[part])
        return found

    def keys_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The passes of their sources, and the numbers, of the recordings at positions of the endless order."""
        came, rests = np.divmod(positions, sum(self.period))
        parts, heard = np.empty_like(rests), np.empty_like(rests)
        for turn in np.unique(came):
            here = came == turn
            order, earlier = turns(self.period, f"{self.seed}/{turn}")
            parts[here] = order[rests[here]]
            heard[here] = turn * np.array(self.period)[parts[here]] + earlier[rests[here]]
        passes, numbers = np.empty_like(rests), np.empty_like(rests)
        for part in np.unique(parts):
            here = parts == part
            found = numbers_at(self.parts[part].blocks, heard[here], f"{self.seed}/{part}")
            passes[here], numbers[here] = found[0], self.starts[part] + found[1]
        return passes, numbers

    def measured(self, recordings: Recordings) -> tuple["Mixture", list[BadRow]]:
        """The mixture of what the limits let in, and the rows that they leave out."""
        parts: list[Part] = []
        bad: list[BadRow] = []
        for part in self.parts:
            assert not isinstance(part, Measured), "measured once"
            found, longer = measure(part, recordings) if isinstance(part, Stream) else part.measured(recordings)
            parts.append(found)
            bad += longer
        return Mixture(parts, self.weights, self.seed, self.temperature), bad


@lru_cache(maxsize=64)
def turns(period: tuple[int, ...], seed: str) -> tuple[np.ndarray, np.ndarray]:
    """The order in which sources come within a period, and how often each came before in it."""
    order = [part for part, count in enumerate(period) for _ in range(count)]
    random.Random(seed).shuffle(order)
    came = [0] * len(period)
    earlier = []
    for part in order:
        earlier.append(came[part])
        came[part] += 1
    return np.array(order), np.array(earlier)
