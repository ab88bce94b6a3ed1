"""How well right candidates stand in a ranking, and how well they would stand by chance: pure functions of numbers.

A wrong candidate of the same score stands before a right one, so that a model that tells nothing apart earns nothing.
Shapes: M candidates.
"""

from collections.abc import Collection, Sequence
from math import comb

import numpy as np


def places_of(scores_M: np.ndarray, right: Collection[int]) -> list[int]:
    """The places, from 1, of the right candidates; those whose score is NaN were never found, and stand nowhere."""
    is_right_M = np.zeros(len(scores_M), bool)
    is_right_M[list(right)] = True
    found = -np.sort(-scores_M[is_right_M & ~np.isnan(scores_M)])
    wrong = np.sort(scores_M[~is_right_M & ~np.isnan(scores_M)])
    before = len(wrong) - np.searchsorted(wrong, found, side="left")
    return [number + int(count) for number, count in enumerate(before, 1)]


def recall(places: Sequence[int], k: int) -> float:
    """R@k of one query: 1 where any right candidate is among the first k."""
    return float(any(place <= k for place in places))


def average_precision(places: Sequence[int], num_right: int, k: int) -> float:
    """AP@k of one query: the mean precision at the right candidates among the first k, as DCASE counts it."""
    precisions = [number / place for number, place in enumerate(places, 1) if place <= k]
    return sum(precisions) / min(num_right, k)


def chance_recall(num_right: int, num_candidates: int, k: int) -> float:
    """R@k of a random order."""
    k = min(k, num_candidates)
    return 1 - comb(num_candidates - num_right, k) / comb(num_candidates, k)


def chance_average_precision(num_right: int, num_candidates: int, k: int) -> float:
    """AP@k of a random order: at each place, the chance of a right one times the precision that is then expected."""
    share = num_right / num_candidates
    others = (num_right - 1) / max(num_candidates - 1, 1)
    places = range(1, min(k, num_candidates) + 1)
    return sum(share * (1 + (place - 1) * others) / place for place in places) / min(num_right, k)
