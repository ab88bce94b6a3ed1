"""What a converter says of its data set, and what it makes of one row of the source.

    SET = DataSet(title="ESC-50", hub="ashraq/esc50", ...)                  what it is
    def read(folder, split): yield {"filename": ..., "audio": path}         the original archive, as rows like the hub's
    def convert(row, draw): return Item(row["audio"], name, asks=[...])     one recording, and what is asked about it

Not here: running converters (running.py), ways of asking (prompts.py), questions out of labels (instructions.py).
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from audiollm.audio import AudioSource
from audiollm.curation.prompts import pool


@dataclass(frozen=True)
class Converted:
    """What a converter did: rows written to each file, and items left out, by reason."""

    written: Mapping[str, int]
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """A public data set: where it lies, what its rows hold, and what it may be used for."""

    title: str
    license: str
    """Of the rows, as on the hub's cards: cc-by-4.0 ...; what is in the recordings may have another."""
    tasks: tuple[str, ...]
    columns: tuple[str, ...]
    """What `convert` reads; a source without one of these is refused by name."""
    splits: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"train": ["train"]})
    """Ours (train, validation, test) -> those of the hub; of several, all that a configuration has."""
    hub: str | None = None
    """OWNER/NAME of its Parquet files with sound; None where the hub has none."""
    config: str | None = None
    """Of the hub, if nothing is said."""
    revision: str | None = None
    """Of the hub, if nothing is said; the newest where there is none."""
    original: str = ""
    """What lies in a folder that `read` reads."""
    language: str | None = None
    citation: str = ""
    group_by: tuple[str, ...] = ()
    """Rows of the source that are alike in these columns are about one clip."""
    together: str = ""
    """The column that is gathered over such rows; `convert` finds the list in its place."""
    needs: tuple[str, ...] = ()
    """Columns that tell how long a clip is and the like: used where they are there."""


@dataclass(frozen=True)
class Ask:
    """One question about a recording, and its right answer. Where there is no question, the recording asks."""

    task: str
    question: str
    answer: str
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    language: str | None = None


@dataclass(frozen=True)
class Item:
    """One recording, or the part of it from `start` to `end` (seconds), with what is asked about it."""

    audio: AudioSource | None
    source_id: str
    """The recording's name in its set: for grouping, and to find it again in other sets."""
    asks: Sequence[Ask]
    start: float | None = None
    end: float | None = None
    transcript: str | None = None
    description: str | None = None
    split: str | None = None
    """Where it does not follow from the source's split (folds)."""
    license: str | None = None
    """Where it is another one than the set's."""


class Dropped(Exception):
    """A row of the source of which nothing is made, and why."""


class Draw(random.Random):
    """Random choices for one row of a source: the same for a seed, whoever converts it, and in whichever order."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Draw":
        return super().__new__(cls)  # which takes them for seeds

    def __init__(self, *about: str | int, held_out: bool = False, config: str | None = None) -> None:
        digest = hashlib.blake2b("\0".join(map(str, about)).encode(), digest_size=8).digest()
        super().__init__(int.from_bytes(digest, "big"))
        self.held_out = held_out
        self.config = config  # of the hub, from which the row is

    def phrase(self, task: str, **fields: str) -> str:
        """A way of asking for a task, with its fields filled in; of those for testing, where these are wanted."""
        return self.choice(pool(task).held_out if self.held_out else pool(task).training).format(**fields)

    def ask(self, task: str, answer: str, *, phrasings: str | None = None, **fields: str) -> Ask:
        """A question in one of the task's phrasings (or of another pool's), and its answer."""
        return Ask(task, self.phrase(phrasings or task, **fields), answer)
