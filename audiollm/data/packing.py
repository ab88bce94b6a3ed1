"""Questions share their audio: rows with the same opening become one sequence of a trunk and branches.

 clip 1, three questions                                     clip 2 ...
 token     S  A  A  A  A │ q1 q1 a1 a1 │ q2 a2 a2 │ q3 q3 a3 │ S  A  A ...
 position  0  1  2  3  4 │ 5  6  7  8  │ 5  6  7  │ 5  6  7  │ 0  1  2 ...
 branch    0  0  0  0  0 │ 1  1  1  1  │ 2  2  2  │ 3  3  3  │ 0  0  0 ...
 token i sees token j  iff  j <= i, same clip, and branch(j) is 0 or branch(i)

The trunk ends before the token that predicts the first supervised one: that token is repeated in each branch, so every
supervised token follows its parent, and a position never has two labels (five captions of one clip).
Not here: the mask itself (models/attention.py), reading and rendering rows (data/dataset.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IGNORE_INDEX = -100


@dataclass(frozen=True)
class Tokens:
    """One tokenised row: ids [S], which of them the loss counts [S], and how many of its recording's clips it holds.

    `teacher`: the same answers after a prompt that tells the sound in words.
    """

    input_ids: Sequence[int]
    supervised: Sequence[bool]
    num_clips: int = 0
    teacher: "Tokens | None" = None

    @property
    def answers(self) -> list[int]:
        """The ids that are supervised."""
        return [token for token, counts in zip(self.input_ids, self.supervised, strict=True) if counts]


@dataclass(frozen=True)
class PackedSequence:
    """One packed sequence; all arrays are [S] int64."""

    input_ids: np.ndarray
    position_ids: np.ndarray
    branch_ids: np.ndarray
    clip_ids: np.ndarray
    shift_labels: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


def pack_branches(rows: Sequence[Tokens]) -> PackedSequence:
    """One trunk with a branch for each row; the rows must begin alike through their audio."""
    trunk = trunk_length(rows)
    first = rows[0]
    ids = [np.asarray(first.input_ids[:trunk])]
    positions, branches = [np.arange(trunk)], [np.zeros(trunk, int)]
    labels = [np.full(trunk, IGNORE_INDEX)]
    for number, row in enumerate(rows, start=1):
        rest = np.asarray(row.input_ids[trunk:])
        ids.append(rest)
        positions.append(np.arange(trunk, trunk + len(rest)))
        branches.append(np.full(len(rest), number))
        labels.append(next_token_labels(rest, np.asarray(row.supervised[trunk:], bool)))
    joined = [np.concatenate(parts).astype(np.int64) for parts in (ids, positions, branches, labels)]
    return PackedSequence(joined[0], joined[1], joined[2], np.zeros(len(joined[0]), np.int64), joined[3])


def trunk_length(rows: Sequence[Tokens]) -> int:
    """Tokens that all rows share, less what predicts the first supervised token of any of them."""
    shortest = min(len(row.input_ids) for row in rows)
    first = np.asarray(rows[0].input_ids[:shortest])
    shared = shortest
    for row in rows[1:]:
        differs = np.nonzero(first[:shared] != np.asarray(row.input_ids[:shared]))[0]
        shared = int(differs[0]) if len(differs) else shared
    for row in rows:
        supervised = np.nonzero(np.asarray(row.supervised))[0]
        if len(supervised):
            shared = min(shared, int(supervised[0]) - 1)
    return max(shared, 0)


def next_token_labels(ids: np.ndarray, supervised: np.ndarray) -> np.ndarray:
    """At each position the token that follows, where that one is supervised."""
    labels = np.full(len(ids), IGNORE_INDEX)
    labels[:-1] = np.where(supervised[1:], ids[1:], IGNORE_INDEX)
    return labels


def ends_of_rows(sequence: PackedSequence) -> np.ndarray:
    """Of the supervised tokens of a sequence of one clip, in their order, those that are the last of their row [K]."""
    branches = sequence.branch_ids[sequence.shift_labels != IGNORE_INDEX]
    return np.append(branches[1:] != branches[:-1], True)[: len(branches)]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of sequences that share a bin of `capacity` tokens: longest first, each where it leaves least room.

    The order inside a bin is that of the indices. A sequence longer than the capacity has a bin of its own.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [b for b in range(len(bins)) if room[b] >= lengths[index]]
        if fitting:
            chosen = min(fitting, key=lambda b: (room[b], b))
            bins[chosen].append(index)
            room[chosen] -= lengths[index]
        else:
            bins.append([index])
            room.append(capacity - lengths[index])
    return [sorted(members) for members in sorted(bins, key=min)]


def join(sequences: Sequence[PackedSequence]) -> PackedSequence:
    """Several packed sequences one after another; clip ids tell them apart."""
    return PackedSequence(
        np.concatenate([s.input_ids for s in sequences]),
        np.concatenate([s.position_ids for s in sequences]),
        np.concatenate([s.branch_ids for s in sequences]),
        np.concatenate([np.full(len(s), number, np.int64) for number, s in enumerate(sequences)]),
        np.concatenate([s.shift_labels for s in sequences]),
    )
