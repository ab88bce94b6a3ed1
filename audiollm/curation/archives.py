"""An original archive, unpacked in a folder: its tables and lists, for a converter's `read`.

`needs` names the columns that are read, `a|b` one of two: a table without one is refused by name; an object of a list
without one is kept in `bad`, as is all else that cannot be read, and counted with what is left out. A name in a table
never leads out of the folder. Not here: the hub's Parquet files (origins.py), what is made of rows (running.py).
"""

import csv
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from audiollm.conversation import RowError
from audiollm.data.sources import HEAD_BYTES, refuse_binary

Placed = Iterator[tuple[str, dict[str, Any]]]
MOST_CHARS = 1000  # of the names of columns in a message
UNREADABLE = "\ufffd"
"""What stands in a text for bytes that are none in its encoding."""


class NoSuchSplit(ValueError):
    """A source lacks the files of one split; others may be there."""


class UnquotedDialect(csv.excel):
    """Quotes are characters like any other."""

    quoting = csv.QUOTE_NONE


class Archive:
    """A folder with what an archive holds; `original` says in words what is expected there."""

    def __init__(self, folder: Path, original: str) -> None:
        self.folder, self.original = folder, original
        self.bad: list[RowError] = []
        self.place = str(folder)
        """Of what was given last."""

    def find(self, *patterns: str) -> Path:
        """The first file or folder that fits one of the patterns; ValueError says what should be there."""
        for pattern in patterns:
            if found := sorted(self.folder.glob(pattern)):
                return found[0]
        names = ", ".join(sorted(path.name for path in self.folder.iterdir())[:8]) or "nothing"
        raise NoSuchSplit(f"{self.folder} has no {' or '.join(patterns)} (it has {names}); it takes {self.original}")

    def _file(self, path: Path) -> Path:
        """A path that can be read to an end, which is no folder and no pipe."""
        if not path.is_file():
            raise ValueError(f"{path} is no file; it takes {self.original}")
        return path

    def find_all(self, *patterns: str) -> list[Path]:
        """All that fit one of the patterns, in order."""
        self.find(*patterns)
        return sorted({path for pattern in patterns for path in self.folder.glob(pattern)})

    def recording(self, *parts: str) -> Path | None:
        """The path of a recording that a table names; None where the name leads out of the folder."""
        path = self.folder.joinpath(*map(str, parts))
        return path if path.resolve().is_relative_to(self.folder.resolve()) else None

    def is_of(self, split: str, said: str, place: str, splits: Mapping[str, Sequence[str]]) -> bool:
        """Whether a row that says its split is of this one; one that is of none is one of the bad, once."""
        if split == next(iter(splits)) and not any(said in names for names in splits.values()):
            self.bad.append(RowError(place, "split", f"{said!r} is none of the set's"))
        return said in splits[split]

    def has(self, place: str, row: Any, *needs: str) -> bool:
        """Whether a row is an object with all that is needed; else it is one of the bad."""
        if not isinstance(row, Mapping):
            self.bad.append(RowError(place, "", f"is not an object but {type(row).__name__}"))
            return False
        missing = lacking(needs, row)
        if missing:
            self.bad.append(RowError(place, ", ".join(missing), "is missing"))
        return not missing

    def table(
        self,
        *patterns: str,
        needs: Sequence[str] = (),
        encoding: str = "utf-8-sig",
        delimiter: str = ",",
        header: Sequence[str] | None = None,
        quotes: bool = True,
    ) -> Placed:
        """The rows of a table by its header, or by the one given here; ValueError names columns that it lacks."""
        path = self._file(self.find(*patterns))
        with path.open("rb") as beginning:
            refuse_binary(path, beginning.read(HEAD_BYTES))
        with path.open(encoding=encoding, errors="replace", newline="") as file:
            kind = csv.excel if quotes else UnquotedDialect
            reader = csv.DictReader(file, header, delimiter=delimiter, dialect=kind, strict=True)
            if missing := lacking(needs, reader.fieldnames or ()):
                found = names_of(reader.fieldnames or ())
                raise ValueError(
                    f"{path} has no column {', '.join(missing)} (it has {found}); it takes {self.original}"
                )
            for row in self._rows(path, reader):
                self.place = place = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    self.bad.append(RowError(place, "", "has more or fewer cells than the header"))
                elif UNREADABLE in "".join(row.values()):
                    self.bad.append(not_in(encoding, place))
                else:
                    yield place, row

    def _rows(self, path: Path, reader: "csv.DictReader[str]") -> Iterator[dict[str | Any, str | Any]]:
        """The rows that can be read; ValueError for a quote that is opened and takes in all that follows."""
        while True:
            first = reader.reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                if "end of data" in str(error) or "limit" in str(error):
                    cause = f"broken table from here on ({error}); check the quotes"
                    raise ValueError(f"{path}:{first}: {cause}") from None
                last = reader.reader.line_num
                until = f", with all lines up to {last}" if last > first else ""
                self.bad.append(RowError(f"{path}:{first}", "", f"is broken{until} ({error}); check the quotes"))
                continue
            if row is None:
                return
            yield row

    def lines(self, path: Path) -> Iterator[tuple[str, str]]:
        """The lines of a text that have something in them."""
        with self._file(path).open(encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                if UNREADABLE in line:
                    self.bad.append(not_in("utf-8", f"{path}:{number}"))
                elif line.strip():
                    self.place = f"{path}:{number}"
                    yield self.place, line.strip()

    def list(self, *patterns: str, key: str | None = None, needs: Sequence[str] = ()) -> Placed:
        """The objects of a JSON list, of the list under `key`, of the values of one object, or of JSON lines."""
        path = self._file(self.find(*patterns))
        if path.suffix == ".jsonl" or _is_lines(path):
            yield from self.json_lines(path, needs)
            return
        try:
            data = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: broken JSON ({error}); unpack or download it again") from None
        rows = data.get(key) if key and isinstance(data, Mapping) else data
        if isinstance(rows, Mapping):
            rows = [{"key": name, **row} for name, row in rows.items() if isinstance(row, Mapping)]
        if not isinstance(rows, list):
            raise ValueError(f"{path} holds no list{f' under {key!r}' if key else ''}; it takes {self.original}")
        for number, row in enumerate(rows, start=1):
            self.place = place = f"{path}:{number}"
            if self.has(place, row, *needs):
                yield place, dict(row)

    def json_lines(self, path: Path, needs: Sequence[str] = ()) -> Placed:
        """The objects of a file that has one a line."""
        with self._file(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                self.place = place = f"{path}:{number}"
                try:
                    row = json.loads(line)
                except ValueError as error:
                    self.bad.append(RowError(place, "", f"broken JSON ({error})"))
                    continue
                if self.has(place, row, *needs):
                    yield place, dict(row)


def not_in(encoding: str, place: str) -> RowError:
    """What is wrong with a line whose bytes are no text in its encoding."""
    return RowError(place, "", f"is no text in {encoding.removesuffix('-sig').upper()}; save the file in it")


def names_of(columns: Iterable[str]) -> str:
    """Columns in a message, in which no control character of a damaged table reaches a terminal."""
    plain = "".join(char if char.isprintable() else "?" for char in ", ".join(columns))
    return (plain if len(plain) <= MOST_CHARS else f"{plain[:MOST_CHARS]} ...") or "nothing"


def lacking(needs: Sequence[str], found: Container[str]) -> list[str]:
    """What is needed and not found, in words: `a|b` is either."""
    missing = [need.split("|") for need in needs if not any(name in found for name in need.split("|"))]
    return [" or ".join(map(repr, names)) for names in missing]


def _is_lines(path: Path) -> bool:
    """Whether a JSON file holds an object a line, and more than one."""
    with path.open("rb") as file:
        return file.readline().rstrip().endswith(b"}") and file.readline().lstrip().startswith(b"{")
