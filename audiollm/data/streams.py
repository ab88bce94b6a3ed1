"""Rows that stay on disk: an index of where the rows of each recording are.

    FOLDER/index/HASH.json      the files, their blocks, the rows that were refused
    FOLDER/index/HASH.bin       for each recording: file, place, line, rows, seconds (28 bytes)

The index is made once, by reading every row; then the rows of a recording are read where they are needed, in whichever
worker. Neighbouring rows about one recording are brought together; in a tar shard each key is a recording, whose sound
is not read for the index. JSONL and shards are shuffled as a whole; Parquet by row groups, whose order is shuffled and
within which rows are, since a row group is read at once. Parquet on the hub and in object stores is read where it lies;
its sound is not read for the index where it is a column of `bytes`, so each of its rows is a recording. Shards in
object stores pass by once while the index is made.
Not here: what a row means (sources.py, conversation.py), its tokens (measured.py), in which order they come (order.py).
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from filelock import FileLock
from pyarrow import parquet

from audiollm.conversation import Row, RowError, parse_row
from audiollm.data.dataset import Sound, with_sound
from audiollm.data.formats import Raw, converter, detect_all
from audiollm.data.hub import HubDataset, RemoteFile, identity_of, is_stored, stored_files
from audiollm.data.shards import read_keys, refuse_compressed
from audiollm.data.sources import (
    DETECT_ROWS,
    Problems,
    features_of,
    id_of,
    line_of,
    missing_file,
    paths_of,
    with_class_names,
)
from audiollm.files import write_whole

File = Path | RemoteFile
ENTRY = np.dtype([("file", "u4"), ("place", "u8"), ("line", "u8"), ("rows", "u4"), ("seconds", "f4")])
VERSION = 3  # to be raised when another index would be made of the same files
ROW_GROUP_BYTES = 2**29  # row groups that a process keeps in memory
WAITING = 10_000  # entries that are kept in memory while an index is made


class Found(NamedTuple):
    """A row in a file: its byte (JSONL, tar) or row (Parquet), its line, its block, what it holds, its key in a tar."""

    place: int
    line: int
    block: int
    raw: Raw | RowError
    key: str | None = None


class Content(NamedTuple):
    """What an index says beside its entries."""

    formats: list[str]  # of each file
    blocks: list[int]  # recordings of each block
    num_rows: int
    refused: list[tuple[str, str, str, str | None]]
    licences: list[tuple[str | None, str | None, int]]  # licence, source, rows


class Stream:
    """The recordings of files or tar shards: each a list of its neighbouring rows, read when it is asked for."""

    def __init__(
        self,
        path: str,
        files: Sequence[File],
        about: Path,
        content: Content,
        tasks: Sequence[str] | None,
        audio: Sound,
    ) -> None:
        self.path = path
        self.files = files
        self.about = about
        self.content = content
        self.blocks = tuple(content.blocks)
        self.num_rows = content.num_rows
        self.entries = np.memmap(about.with_suffix(".bin"), ENTRY, "r") if sum(self.blocks) else np.empty(0, ENTRY)
        self.tasks = tasks
        self.audio = audio

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int, /) -> list[Row]:
        return self.read(number, READERS)

    def read(self, number: int, readers: Mapping[str, "Reader"]) -> list[Row]:
        """The rows of a recording; ValueError where its file is no longer what it was."""
        file, place, line, count, _ = self.entries[number].item()
        path = self.files[file]
        found = islice(readers[path.suffix](path, place, line), count)
        rows = [row for one in found if isinstance(row := parsed(path, one, self.content.formats[file]), Row)]
        if not rows:
            raise ValueError(f"{path} was changed while it was read; give the same command again when it is as it was")
        rows = [row for row in rows if row.group_key == rows[0].group_key and is_chosen(row, self.tasks)]
        return with_sound(rows, self.audio)

    def with_lengths(self, number: int) -> list[Row]:
        """The rows of a recording, whose sound is not read where they tell how long it is."""
        rows = self.read(number, INDEX_READERS)
        told = all(clip.end is not None or clip.duration is not None for clip in rows[0].clips)
        return rows if told else self[number]

    def seconds(self, numbers: np.ndarray) -> np.ndarray:
        """Lengths of recordings, where their rows tell them."""
        return np.asarray(self.entries["seconds"][numbers], float)


def open_stream(
    path: str | HubDataset,
    folder: Path,
    *,
    format: str | None = None,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    audio: Sound = "sound",
) -> tuple[Stream, Problems]:
    """The recordings of files, and the rows that were refused; ValueError for files of other kinds, or without rows."""
    files = files_of(path)
    for file in files:
        if isinstance(file, Path):
            refuse_compressed(file)
        if file.suffix not in READERS:
            raise ValueError(f"{file} cannot be read row by row; `stream: true` is for {', '.join(READERS)}")
    known = [identity_of(file) for file in files]
    identity = [VERSION, known, format, tasks, limit, audio == "sound"]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    about = folder / "index" / f"{name}.json"

    def make() -> Content:
        with about.with_suffix(".bin").open("wb") as out:
            return index(files, out, format, tasks, limit, audio == "sound")

    content = Content(*made_once(about, make))
    stream, problems = Stream(str(path), files, about, content, tasks, audio), Problems()
    for refused in stream.content.refused:
        problems.add(RowError(*refused))
    if not len(stream):
        raise ValueError(f"{path} has no rows to train on; {problems.summary()}")
    return stream, problems


def files_of(path: str | HubDataset) -> Sequence[File]:
    """The files that are meant, here or elsewhere."""
    if isinstance(path, HubDataset):
        return path.files()
    return stored_files(path) if is_stored(path) else paths_of(os.path.expanduser(path))


def made_once(about: Path, make: Callable[[], Any]) -> Any:
    """What a file says, in JSON; where it is not there, one process makes it, and the others wait."""
    about.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(about.with_suffix(".lock")):
        if not about.is_file():
            write_whole(about, json.dumps(make()))
    return json.loads(about.read_text())


def index(
    files: Sequence[File], out: Any, format: str | None, tasks: Sequence[str] | None, limit: int | None, listens: bool
) -> Content:
    """Read every row once, and write where the neighbouring rows of each recording are."""
    content = Content([], [], 0, [], [])
    licences = Counter[tuple[str | None, str | None]]()
    entries: list[list[Any]] = []
    num_rows, checked = 0, dict[str, bool]()
    block: Any = None
    for number, path in enumerate(files):
        found = INDEX_READERS[path.suffix](path, 0, 1)
        first = list(islice(found, DETECT_ROWS))
        content.formats.append(format or format_of(path, first))
        last, begun = None, 0
        for ordinal, one in enumerate(chain(first, found)):
            row = parsed(path, one, content.formats[-1])
            if isinstance(row, Row) and listens:
                row = missing_file(row, checked) or row
            if isinstance(row, RowError):
                content.refused.append((row.origin, row.field, row.cause, row.row_id))
                continue
            if not is_chosen(row, tasks):
                continue
            if num_rows == limit:
                break
            num_rows += 1
            licences[row.license, row.source] += 1
            where = (number, one.block) if path.suffix == ".parquet" else "whole"
            key = row.group_key
            if key == last and where == block:
                entries[-1][3] = ordinal - begun + 1
                continue
            if where != block:
                content.blocks.append(0)
            content.blocks[-1] += 1
            last, block, begun = key, where, ordinal
            if len(entries) == WAITING:
                np.array([tuple(entry) for entry in entries], ENTRY).tofile(out)
                entries, checked = [], {}
            entries.append([number, one.place, one.line, 1, sum(clip.duration or 0.0 for clip in row.clips)])
    np.array([tuple(entry) for entry in entries], ENTRY).tofile(out)
    listed = [(license, source, rows) for (license, source), rows in licences.items()]
    return content._replace(num_rows=num_rows, licences=listed)


def parsed(path: File, found: Found, format: str) -> Row | RowError:
    """A row, or why it is none."""
    place = f"{path}:{found.line if found.key is None else found.key}"
    if isinstance(found.raw, RowError):
        return found.raw
    try:
        return parse_row(converter(format)(found.raw), origin=place, folder=path.parent)
    except RowError as error:
        return error.at(place, id_of(found.raw))


def is_chosen(row: Row, tasks: Sequence[str] | None) -> bool:
    """Whether it is of one of the tasks."""
    return tasks is None or row.task in tasks


def format_of(path: File, found: Sequence[Found]) -> str:
    """The format of a file, by its first rows."""
    raws = [one.raw for one in found if not isinstance(one.raw, RowError)]
    try:
        return detect_all(raws) if raws else "rows"
    except RowError as error:
        raise error.at(str(path)) from None


def read_lines(path: Path, place: int, line: int) -> Iterator[Found]:
    """Rows of a JSONL file from a byte on; every line counts, and empty ones are no rows."""
    with path.open("rb") as file:
        file.seek(place)
        for number, content in enumerate(file, start=line):
            if not content.isspace():
                yield Found(place, number, 0, line_of(f"{path}:{number}", content))
            place += len(content)


def read_row_groups(path: File, place: int, line: int, *, listens: bool = True) -> Iterator[Found]:
    """Rows of a Parquet file from a row on; a row group is a block."""
    version = path.stat().st_mtime_ns if isinstance(path, Path) else path.version
    _, ends = contents(path, version)
    for group in range(bisect_right(ends, place), len(ends)):
        table, features = row_groups.get(path, version, group, listens or isinstance(path, Path))
        start = ends[group] - len(table)
        batches = (batch.to_pylist() for batch in table.slice(max(place - start, 0)).to_batches(8))
        for _, raw in with_class_names(str(path), batches, features):
            yield Found(place, line, group, raw)
            place, line = place + 1, line + 1


def read_shard(path: File, place: int, line: int, *, listens: bool = True) -> Iterator[Found]:
    """Rows of a tar shard from the byte of a header on."""
    for number, keyed in enumerate(read_keys(path, place, listens=listens), start=line):
        yield Found(keyed.place, number, 0, keyed.raw, keyed.key)


Reader = Callable[[Any, int, int], Iterator[Found]]
READERS: dict[str, Reader] = {".jsonl": read_lines, ".parquet": read_row_groups, ".tar": read_shard}
INDEX_READERS: dict[str, Reader] = READERS | {
    ".parquet": partial(read_row_groups, listens=False),
    ".tar": partial(read_shard, listens=False),
}


@contextmanager
def parquet_file(path: File, about: Any = None) -> Iterator[parquet.ParquetFile]:
    """A Parquet file, here or elsewhere, of whose contents `about` may be known; RowError where it cannot be read."""
    try:
        with path.open("rb") if isinstance(path, Path) else path.open() as file:
            yield parquet.ParquetFile(file, metadata=about, pre_buffer=True)
    except (pyarrow.ArrowException, OSError) as error:
        way_out = "write it again" if isinstance(path, Path) else "check the network, and give the same command again"
        raise RowError(str(path), "", f"cannot be read as a Parquet file ({error}); {way_out}") from None


@lru_cache(maxsize=64)
def contents(path: File, version: Any) -> tuple[Any, list[int]]:
    """What a Parquet file says about itself, and the row at which each of its row groups ends."""
    with parquet_file(path) as file:
        about = file.metadata
        return about, list(accumulate(about.row_group(group).num_rows for group in range(about.num_row_groups)))


class RowGroups:
    """The row groups that were read last, up to so many bytes: batches of like length take rows of several in turn."""

    def __init__(self) -> None:
        self.kept: dict[Any, tuple[pyarrow.Table, Any]] = {}

    def get(self, *key: Any) -> tuple[pyarrow.Table, Any]:
        """As `read_row_group`."""
        found = self.kept.pop(key, None) or read_row_group(*key)
        while self.kept and found[0].nbytes + sum(table.nbytes for table, _ in self.kept.values()) > ROW_GROUP_BYTES:
            del self.kept[next(iter(self.kept))]
        self.kept[key] = found
        return found


row_groups = RowGroups()


def read_row_group(path: File, version: Any, group: int, listens: bool) -> tuple[pyarrow.Table, Any]:
    """The rows of a row group as they are stored, and what is known about their columns.

    Without `listens`, sound that is stored in the rows is not read, and names stand for it.
    """
    about, _ = contents(path, version)
    with parquet_file(path, about) as file:
        features = features_of(file.schema_arrow)
        silent = [] if listens else sounds_in(file, group)
        if not silent:
            return file.read_row_group(group), features
        leaves = [file.schema.column(number).path for number in range(len(file.schema))]
        table = file.read_row_group(group, columns=[leaf for leaf in leaves if leaf not in silent])
        for column in (leaf.removesuffix(".bytes") for leaf in silent):
            names = pyarrow.array([f"{path}:{group}:{row}".encode() for row in range(len(table))])
            sound = pyarrow.StructArray.from_arrays([names], ["bytes"])
            where = table.schema.get_field_index(column)
            table = table.append_column(column, sound) if where < 0 else table.set_column(where, column, sound)
        return table, features


def sounds_in(file: parquet.ParquetFile, group: int) -> list[str]:
    """The leaves of a row group that are sound for certain: `COLUMN.bytes`, and none of them empty."""
    about = file.metadata.row_group(group)
    columns = (about.column(number) for number in range(about.num_columns))
    return [
        column.path_in_schema
        for column in columns
        if column.path_in_schema.count(".") == 1
        and column.path_in_schema.endswith(".bytes")
        and column.statistics is not None
        and column.statistics.null_count == 0
    ]
