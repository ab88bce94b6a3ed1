"""The file of what could not be used in training: RUN/quarantine.jsonl, one object a line.

    {"stage": "align", "found": "reading", "origin": "rows.jsonl:17", "row": "clotho-17-2", "cause": "messages: ..."}

`found` is "reading" for a row that was refused when the rows were read, "hearing" for one whose recording is broken,
"measuring" for one that is too long, "rendering" for one without the words that a teacher reads. A row is listed once
a stage, however often it is met. One process writes.
Not here: what is counted and when a stage stops for it (training/bad_rows.py).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict

from audiollm.conversation import RowError
from audiollm.files import write_whole

Found = Literal["reading", "measuring", "hearing", "rendering"]


class BadRow(TypedDict):
    """A row that could not be used."""

    found: Found
    origin: str  # file:line
    row: str | None  # its id
    cause: str


def bad_row(found: Found, error: RowError) -> BadRow:
    """The row that an error is about."""
    cause = f"{error.field}: {error.cause}" if error.field else error.cause
    return {"found": found, "origin": error.origin, "row": error.row_id, "cause": cause}


class Quarantine:
    """The bad rows of one stage, those of an earlier start included; `writes` is False for all processes but one."""

    def __init__(self, path: str | Path, stage: str, *, writes: bool = True) -> None:
        self.path = Path(path)
        self.stage = stage
        self.writes = writes
        self.rows: list[BadRow] = []
        self.seen: set[tuple[str, str | None]] = set()
        for line in self.lines():
            if line.pop("stage") == stage:
                self.keep(line)

    def lines(self) -> Iterator[Any]:
        """What the file holds; a last line that was cut off is left out, and its row will be met again."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def clear(self) -> None:
        """Forget what was found when the stage was trained before."""
        if self.writes and self.path.is_file():
            others = [(line.pop("stage"), line) for line in self.lines()]
            write_whole(self.path, "".join(as_line(stage, row) for stage, row in others if stage != self.stage))
        self.rows, self.seen = [], set()

    def add(self, rows: Iterable[BadRow]) -> list[BadRow]:
        """List those that are not listed yet, and return them."""
        new = [row for row in rows if self.keep(row)]
        if new and self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(as_line(self.stage, row) for row in new)
            with self.path.open("ab+") as file:
                if file.tell() and ends_within_a_line(self.path):
                    text = "\n" + text
                file.write(text.encode())
        return new

    def keep(self, row: BadRow) -> bool:
        """Whether a row was not known."""
        key = (row["origin"], row["row"])
        if key in self.seen:
            return False
        self.seen.add(key)
        self.rows.append(row)
        return True


def ends_within_a_line(path: Path) -> bool:
    """Whether a file was cut off before the end of its last line."""
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"


def as_line(stage: str, row: BadRow) -> str:
    """One line of the file."""
    return json.dumps({"stage": stage, **row}, ensure_ascii=False) + "\n"
