"""How many tokens rows take that stay on disk: found once, by reading every row, and kept beside their index.

    FOLDER/index/HASH-LENGTHS.json    sequences of each block, the rows that are left out
    FOLDER/index/HASH-LENGTHS.bin     for each sequence: recording, tokens, seconds, and which rows (28 bytes)
    FOLDER/index/HASH-LENGTHS.rows    the rows of sequences that do not hold all rows of their recording (4 bytes a row)

A sequence is what the limits let in of a recording, or a part of it where its questions are split. LENGTHS stands for
all that decides it: the words and sizes of the model (not its weights), the limits, which turns are learned, what a
teacher reads.
Not here: how long a row is and which rows go together (`Recordings.fit` in dataset.py), the index (streams.py).
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from audiollm.conversation import Row
from audiollm.data.dataset import Recordings
from audiollm.data.quarantine import BadRow
from audiollm.data.streams import Stream, made_once

SEQUENCE = np.dtype([("recording", "u8"), ("tokens", "u4"), ("seconds", "f4"), ("first", "u8"), ("rows", "u4")])
VERSION = 1  # to be raised when the same rows would take other tokens
CHUNK = 1000  # recordings that a worker measures at once


class Content(NamedTuple):
    """What is said beside the sequences."""

    blocks: list[int]  # sequences of each block
    left_out: list[BadRow]


class Measured:
    """The sequences of a stream that the limits let in: each a list of rows, read when it is asked for."""

    def __init__(self, stream: Stream, blocks: list[int], sequences: np.ndarray, rows: np.ndarray) -> None:
        self.stream = stream
        self.blocks = tuple(blocks)
        self.num_rows = stream.num_rows
        self.sequences = sequences
        self.rows = rows

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, number: int, /) -> list[Row]:
        recording, _, _, first, count = self.sequences[number].item()
        rows = self.stream[recording]
        return [rows[index] for index in self.rows[first : first + count]] if count else rows

    def seconds(self, numbers: np.ndarray) -> np.ndarray:
        """Lengths of their sound."""
        return np.asarray(self.sequences["seconds"][numbers], float)

    def tokens(self, numbers: np.ndarray) -> np.ndarray:
        """Tokens that they take at most."""
        return np.asarray(self.sequences["tokens"][numbers], int)


def measure(stream: Stream, recordings: Recordings) -> tuple[Measured, list[BadRow]]:
    """A stream within the limits of `recordings`, and the rows that they leave out; ValueError where they refuse one.

    One process measures it, where that was not done before, and the others wait.
    """
    identity = json.dumps([VERSION, *recordings.identity()])
    name = f"{stream.about.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    about = stream.about.with_name(f"{name}.json")
    content = Content(*made_once(about, lambda: write(stream, recordings, about)))
    sequences = mapped(about.with_suffix(".bin"), SEQUENCE)
    return Measured(
        stream, content.blocks, sequences, mapped(about.with_suffix(".rows"), np.dtype("u4"))
    ), content.left_out


def write(stream: Stream, recordings: Recordings, about: Path) -> Content:
    """Measure every recording, several processes at a time, and write the sequences down in their order."""
    ends = np.cumsum(stream.blocks)
    content = Content([0] * len(stream.blocks), [])
    written = 0
    print(f"{stream.path}: measuring {len(stream):,} recordings, which is done once", flush=True)
    with (
        about.with_suffix(".bin").open("wb") as sequences_out,
        about.with_suffix(".rows").open("wb") as rows_out,
        tqdm(total=len(stream), desc="measuring", disable=not sys.stderr.isatty()) as bar,
    ):
        for sequences, rows, longer in chunks(stream, recordings):
            recordings.refuse(longer)
            sequences["first"] += written
            sequences.tofile(sequences_out)
            rows.tofile(rows_out)
            written += len(rows)
            for block in np.searchsorted(ends, sequences["recording"], side="right"):
                content.blocks[block] += 1
            content.left_out.extend(longer)
            bar.update(min(CHUNK, len(stream) - bar.n))
    return content


def chunks(stream: Stream, recordings: Recordings) -> Iterator[tuple[np.ndarray, np.ndarray, list[BadRow]]]:
    """Sequences, their rows, and what is left out, of some recordings after others."""
    work = Chunks(stream, recordings)
    workers = min(os.cpu_count() or 1, 8) if len(work) > 8 else 0
    yield from DataLoader(work, batch_size=None, num_workers=workers, collate_fn=unchanged)


class Chunks(Dataset[Any]):
    """The recordings of a stream, so many at a time, measured when they are asked for."""

    def __init__(self, stream: Stream, recordings: Recordings) -> None:
        self.stream = stream
        self.recordings = recordings

    def __len__(self) -> int:
        return -(-len(self.stream) // CHUNK)

    def __getitem__(self, chunk: int) -> tuple[np.ndarray, np.ndarray, list[BadRow]]:
        sequences: list[tuple[Any, ...]] = []
        chosen: list[int] = []
        bad: list[BadRow] = []
        for number in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.stream))):
            rows = self.stream.with_lengths(number)
            parts, longer = self.recordings.fit(rows)
            for indices, length in parts:
                some = indices if len(indices) < len(rows) else []
                tokens = self.recordings.most_read(length)
                sequences.append((number, tokens, length.seconds, len(chosen), len(some)))
                chosen += some
            bad += longer
        return np.array(sequences, SEQUENCE), np.array(chosen, "u4"), bad


def unchanged(chunk: Any) -> Any:
    """A chunk as it is."""
    return chunk


def mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """A file of such values, mapped into memory; an empty one cannot be."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
