"""Drawing at random: numbers from the bands of a split, and things from a shuffled deck.

Every continuous parameter of the corpus (a pitch, a tempo, a loudness ...) is a position in [0, 1] of its range. The
test draws from the middle of each range, training from both sides of it, and the bands do not touch:

    0          0.40 0.42        0.58 0.60          1
    [ training  ]    [   test   ]     [  training  ]

Not here: what the numbers mean (voices.py, sounds.py, music.py, render.py).
"""

from collections.abc import Collection, Sequence
from typing import Generic, TypeVar

import numpy as np

SIDES = ((0.0, 0.4), (0.6, 1.0))
BANDS = {"train": SIDES, "validation": SIDES, "test": ((0.42, 0.58),)}
"""Split -> the parts of [0, 1] from which its parameters are drawn."""

Item = TypeVar("Item")


class Draw:
    """Numbers for one clip. Noise and discrete choices come from `rng`; every continuous parameter from `position`."""

    def __init__(self, rng: np.random.Generator, split: str) -> None:
        self.rng, self.bands = rng, BANDS[split]

    def position(self) -> float:
        """A place in [0, 1], inside the bands of the split."""
        low, high = self.bands[self.rng.integers(len(self.bands))]
        return float(self.rng.uniform(low, high))

    def between(self, low: float, high: float) -> float:
        """A number from a range."""
        return low + (high - low) * self.position()

    def ratio(self, low: float, high: float) -> float:
        """A positive number from a range, on a logarithmic scale: for frequencies, loudness and decay times."""
        return float(low * (high / low) ** self.position())

    def count(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return min(high, int(self.between(low, high + 1)))


class Deck(Generic[Item]):
    """Draws like cards: every item comes once before any comes again, so that all are equally frequent."""

    def __init__(self, items: Sequence[Item], rng: np.random.Generator) -> None:
        self.items, self.rng = tuple(items), rng
        self.cards: list[Item] = []

    def draw(self, exclude: Collection[Item] = ()) -> Item:
        """The next card that is not in `exclude`; those passed over stay in the deck."""
        for index in reversed(range(len(self.cards))):
            if self.cards[index] not in exclude:
                return self.cards.pop(index)
        self.cards = [*self.cards, *(self.items[index] for index in self.rng.permutation(len(self.items)))]
        return self.draw(exclude)

    def several(self, number: int) -> tuple[Item, ...]:
        """So many different cards."""
        drawn: list[Item] = []
        while len(drawn) < number:
            drawn.append(self.draw(exclude=drawn))
        return tuple(drawn)
