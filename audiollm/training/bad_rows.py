"""What a stage could not use: counted, listed in the quarantine, and too much of it stops the stage.

Every process notes what it meets; at each line of the log, each save and each epoch's end they tell one another, and
the first one writes.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import TrainerCallback

from audiollm.data.quarantine import BadRow, Quarantine
from audiollm.training.ranks import gathered

FIRST_LOOK = 100
"""Recordings heard before their share of broken ones can stop a stage; an epoch is enough where there are fewer."""


class TooManyBadRows(ValueError):
    """Most of the rows cannot be used: training on what is left would not be what was asked for."""


class BadRows(TrainerCallback):
    """The bad rows of a stage."""

    def __init__(self, quarantine: Quarantine, max_fraction: float) -> None:
        self.quarantine = quarantine
        self.max_fraction = max_fraction
        self.accelerator: Any = None  # the trainer's
        self.waiting: dict[str, BadRow] = {}  # by origin
        self.heard = self.broken = 0  # recordings, by this process since it was last asked
        self.all_heard = self.all_broken = 0

    def note(self, batch: Mapping[str, Any]) -> None:
        """What is wrong with some rows of a batch."""
        self.waiting |= {row["origin"]: row for row in batch["problems"]}

    def add(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Count the micro-batches of one step."""
        for batch in batches:
            self.note(batch)
            self.heard += batch["num_recordings"]
            self.broken += sum(row["found"] == "hearing" for row in batch["problems"])

    def settle(self) -> int:
        """List what all processes met since the last time; the number of bad rows of the stage. All must call it."""
        mine = [(list(self.waiting.values()), self.heard, self.broken)]
        self.waiting, self.heard, self.broken = {}, 0, 0
        for rows, heard, broken in gathered(mine, self.accelerator):
            self.quarantine.add(rows)
            self.all_heard += heard
            self.all_broken += broken
        return len(self.quarantine.rows)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look whether too many were broken."""
        if self.all_heard >= FIRST_LOOK:
            self.check()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look whether too many were broken."""
        self.settle()
        self.check()

    def check(self) -> None:
        """TooManyBadRows if more recordings were broken than the stage may do without."""
        if self.all_broken > self.max_fraction * self.all_heard:
            what = "times that a recording was to be heard it"
            raise too_many(self.quarantine, self.all_broken, self.all_heard, what, self.max_fraction)


def too_many(quarantine: Quarantine, bad: int, total: int, what: str, max_fraction: float) -> TooManyBadRows:
    """The sentence that stops a stage."""
    first = f"; the first: {sentence(quarantine.rows[0])}" if quarantine.rows else ""
    return TooManyBadRows(
        f"stage {quarantine.stage}: {bad:,} of {total:,} {what} could not be used, more than "
        f"data.max_bad_fraction={max_fraction:g} allows; {quarantine.path} lists them with their causes{first}"
    )


def sentence(row: BadRow) -> str:
    """A bad row in words."""
    return row["cause"] if row["cause"].startswith(f"{row['origin']}: ") else f"{row['origin']}: {row['cause']}"
