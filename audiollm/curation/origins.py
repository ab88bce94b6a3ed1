"""Where the rows of a data set come from: Parquet files of the hub or on disk, or an original archive.

Both come as chunks, which workers convert one by one, and machines by turns (`--shard i/n`). What a chunk holds depends
on the source (rows, and sizes of recordings) and on `rows_a_chunk` alone, so that what was converted before a stop is
right after it; running.py refuses to go on where recordings have changed since.
"""

import glob
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow
from pyarrow import parquet

from audiollm.conversation import RowError
from audiollm.curation.archives import Archive, NoSuchSplit, names_of
from audiollm.curation.dataset import DataSet
from audiollm.data.hub import PREFIX, HubDataset, RemoteFile, files_in, is_stored
from audiollm.data.sources import features_of, with_class_names

CHUNK_BYTES = 500 * 2**20
ROWS_AT_ONCE = 32
SUFFIXES = ("csv", "tsv", "jsonl", "json")
"""Of tables; where there are several of one name, the first counts."""
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}

Placed = tuple[str, dict[str, Any]]
Read = Callable[[Archive, str], Iterator[Placed]]


class Chunk(NamedTuple):
    """Rows that one worker converts: themselves, or where they stand in a Parquet file."""

    split: str
    number: int
    first: int  # the number of its first row in the split
    rows: Sequence[Placed] | None = None
    file: Path | RemoteFile | None = None
    groups: Sequence[int] = ()
    first_in_file: int = 0
    together: Mapping[int, list[Any]] | None = None  # number of the row that stays -> what is gathered
    limit: int | None = None


class Origin(Protocol):
    """One split of a source."""

    def chunks(self) -> Iterator[Chunk]:
        """All of it."""

    def bad(self) -> list[RowError]:
        """What could not be read, once all chunks were given."""


def open_origin(
    name: str, dataset: DataSet, read: Read | None, source: str | None, split: str,
    *, config: str | None, revision: str | None, limit: int | None, rows_a_chunk: int,
) -> Origin:  # fmt: skip
    """A split of a source: a folder with an original archive or with Parquet files, or a data set of the hub."""
    folder = Path(source).expanduser() if source else None
    if folder and folder.is_dir() and not any(folder.rglob("*.parquet")):
        if read is None:
            raise ValueError(f"{folder} holds no Parquet file, and {name} reads nothing else; {_where(dataset)}")
        return ArchiveOrigin(name, dataset, read, folder, split, limit, rows_a_chunk)
    if source and is_stored(source):
        stores = [Store(source.rstrip("/"), one) for one in dataset.splits[split]]
        return ParquetOrigin(name, dataset, stores, split, limit)
    if source and folder and folder.is_file():
        raise ValueError(
            f"{source} is a file; give the set's own folder, such as --source {folder.parent}; {_where(dataset)}"
        )
    if source and not (folder and folder.is_dir()) and not _may_be_of_the_hub(source):
        raise ValueError(f"there is no folder {source}; {_where(dataset)}")
    if source is None and dataset.hub is None:
        raise ValueError(f"{name} needs --source: {_where(dataset)}")
    path = str(folder.resolve()) if folder and folder.is_dir() else (source or dataset.hub or "")
    parts = [
        HubDataset(PREFIX + path.removeprefix(PREFIX), config, one, revision, True) for one in dataset.splits[split]
    ]
    return ParquetOrigin(name, dataset, parts, split, limit)


def splits_told(source: str, config: str | None, revision: str | None) -> dict[str, list[str]]:
    """Ours -> the source's, as the names of its files tell; `train` where nothing does."""
    folder = Path(source).expanduser()
    if folder.is_dir() and not any(folder.rglob("*.parquet")):
        return splits_of_tables(folder)
    if is_stored(source):
        return by_split(Store(source.rstrip("/"), "").listed()) or {"train": ["train"]}
    if folder.is_dir() or (not folder.exists() and _may_be_of_the_hub(source)):
        path = str(folder.resolve()) if folder.is_dir() else source.removeprefix(PREFIX)
        return {name: [name] for name in HubDataset(PREFIX + path, config, None, revision, True).splits()}
    return {"train": ["train"]}


def splits_of_tables(folder: Path) -> dict[str, list[str]]:
    """Ours -> tables without suffix; ValueError where no name tells one, and there are several to choose from."""
    tables = sorted(path for path in folder.iterdir() if path.suffix[1:] in SUFFIXES)
    told: dict[str, list[str]] = {}
    for path in tables:
        for name in by_split([path.stem.lower()]):
            stems = told.setdefault(name, [])
            stems += [glob.escape(path.stem)] if glob.escape(path.stem) not in stems else []
    if told:
        rest = [path.name for path in tables if not by_split([path.stem.lower()]) and path.suffix != ".json"]
        if rest:
            print(f"{folder}: not read: {', '.join(rest)}, as other names tell the splits; `splits` says which to read")
        return told
    first = next(([p for p in tables if p.suffix == f".{s}"] for s in SUFFIXES if any(folder.glob(f"*.{s}"))), [])
    if len(first) > 1:
        raise ValueError(
            f"{folder} holds {', '.join(path.name for path in first)}, and no name tells a split; say which to read in "
            f"a YAML file: `splits: {{train: [{first[0].stem}]}}`"
        )
    return {"train": ["train"]}


def by_split(paths: Sequence[str]) -> dict[str, list[str]]:
    """Ours -> the words for it that stand in some paths."""
    words = {
        ours: [word for word in words if any(says_split(path, word) for path in paths)]
        for ours, words in SPLIT_WORDS.items()
    }
    return {ours: found for ours, found in words.items() if found}


def says_split(path: str, split: str) -> bool:
    """Whether the name of a split stands in a path as a word."""
    return bool(re.search(rf"(?:^|[/_.-]){re.escape(split)}(?:[/_.-]|$)", path))


class ArchiveOrigin:
    """What `read` of a converter gives of a folder."""

    def __init__(
        self, name: str, dataset: DataSet, read: Read, folder: Path, split: str, limit: int | None, rows_a_chunk: int
    ) -> None:
        self.name, self.dataset, self.read, self.split = name, dataset, read, split
        self.archive = Archive(folder, dataset.original)
        self.limit, self.rows_a_chunk = limit, rows_a_chunk

    def chunks(self) -> Iterator[Chunk]:
        """Equal numbers of rows, or fewer where their recordings are large; rows that are gathered are one."""
        placed = islice(self._placed(), self.limit)
        number = 0
        for index, rows in enumerate(cut(placed, self.rows_a_chunk)):
            if not index:
                check_columns(self.archive.folder, self.dataset, rows[0][1], self.name)
            yield Chunk(self.split, index, number, rows=rows)
            number += len(rows)

    def bad(self) -> list[RowError]:
        """Lines of tables that are none."""
        return self.archive.bad

    def _placed(self) -> Iterator[Placed]:
        """What `read` gives; ValueError says where it stopped, and at what."""
        placed = self.read(self.archive, self.split)
        try:
            yield from gathered(placed, self.dataset) if self.dataset.group_by else placed
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            told = f"has no {error}" if isinstance(error, KeyError) else str(error)
            if isinstance(error, ValueError) and str(self.archive.folder) in told:
                raise  # one of ours, which names its file
            takes = f"it takes {self.dataset.original}"
            raise ValueError(f"{self.archive.place}: is not as {self.name} has it ({told}); {takes}") from error


def cut(placed: Iterator[Placed], most: int) -> Iterator[list[Placed]]:
    """Runs of rows: `most` of them, or as many as reach CHUNK_BYTES with the recordings that they name."""
    rows: list[Placed] = []
    size = 0
    for place, row in placed:
        rows.append((place, row))
        size += bytes_of(row)
        if len(rows) == most or size >= CHUNK_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def bytes_of(row: Mapping[str, Any]) -> int:
    """The size of the recordings of a row, in bytes; 0 for one that is not there, or that `convert` looks for."""
    several = (value if isinstance(value, list) else [value] for value in row.values())
    total = 0
    for path in (one for values in several for one in values if isinstance(one, Path)):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def gathered(placed: Iterator[Placed], dataset: DataSet) -> Iterator[Placed]:
    """The first row of each clip, with a list of what all of them hold in the column `together`."""
    first: dict[tuple[Any, ...], Placed] = {}
    for place, row in placed:
        key = key_of(row, dataset)
        if key in first:
            first[key][1][dataset.together].append(row[dataset.together])
        else:
            first[key] = place, row | {dataset.together: [row[dataset.together]]}
    return iter(first.values())


def key_of(row: Mapping[str, Any], dataset: DataSet) -> tuple[Any, ...]:
    """What rows of one clip have in common."""
    return tuple(row[name] for name in dataset.group_by)


class Store(NamedTuple):
    """The Parquet files of a split in a folder of an object store, by an address that fsspec knows: s3://, gs:// ..."""

    name: str
    split: str

    def listed(self) -> list[str]:
        """The paths of all of them, from the folder on; RowError where the store is out of reach."""
        _, folder, found = files_in(self.name, ".parquet")
        return [path.removeprefix(folder) for path in found]

    def files(self) -> list[Path | RemoteFile]:
        """Those whose path says the split; RowError where there is none."""
        filesystem, folder, found = files_in(self.name, ".parquet")
        mine = [path for path in found if says_split(path.removeprefix(folder), self.split)]
        if not mine:
            raise RowError(self.name, "", f"has no split {self.split!r} among its {len(found)} Parquet files")
        return [RemoteFile(filesystem.unstrip_protocol(path), str(filesystem.ukey(path))) for path in mine]


class ParquetOrigin:
    """Parquet files, on disk or on the hub, read where they lie: row groups in a row until they are 500 MB."""

    def __init__(
        self, name: str, dataset: DataSet, parts: Sequence[HubDataset | Store], split: str, limit: int | None
    ) -> None:
        self.name, self.dataset, self.parts, self.split, self.limit = name, dataset, parts, split, limit

    def files(self) -> list[Path | RemoteFile]:
        """Those of all parts that the source has; NoSuchSplit where it has none."""
        found: list[Path | RemoteFile] = []
        lacking: RowError | None = None
        for part in self.parts:
            try:
                found += part.files()
            except RowError as error:
                if "does not lie in Parquet files" in error.cause and self.dataset.original:
                    raise ValueError(in_files(part.name, self.dataset)) from None
                if "has no split" not in error.cause:
                    raise
                lacking = error
        if not found:
            raise NoSuchSplit(str(lacking))
        return found

    def chunks(self) -> Iterator[Chunk]:
        """Runs of row groups of one file."""
        files = self.files()
        together = self._together(files) if self.dataset.group_by else None
        index, number = 0, 0
        for file in files:
            before = number
            with opened(file) as source:
                check_columns(self.parts[0].name, self.dataset, source.schema_arrow.names, self.name)
                for groups, rows in runs(source):
                    left = None if self.limit is None else self.limit - number
                    if left is not None and left <= 0:
                        return
                    mine = together and {at: kept for at, kept in together.items() if number <= at < number + rows}
                    yield Chunk(self.split, index, number, None, file, groups, number - before, mine, left)
                    index, number = index + 1, number + rows

    def bad(self) -> list[RowError]:
        """Nothing: a Parquet file is whole or not at all."""
        return []

    def _together(self, files: Sequence[Path | RemoteFile]) -> dict[int, list[Any]]:
        """The number of the first row of each clip -> what all rows of it hold; sound is not read for it."""
        first: dict[tuple[Any, ...], int] = {}
        found: dict[int, list[Any]] = {}
        assert self.dataset.together
        number = 0
        for file in files:
            with opened(file) as source:
                check_columns(self.parts[0].name, self.dataset, source.schema_arrow.names, self.name)
                for batch in source.iter_batches(columns=[*self.dataset.group_by, self.dataset.together]):
                    for row in batch.to_pylist():
                        at = first.setdefault(key_of(row, self.dataset), number)
                        found.setdefault(at, []).append(row[self.dataset.together])
                        number += 1
        return found


def rows_of(chunk: Chunk, dataset: DataSet) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The rows of a chunk: number in the split, place, row; sound as path or bytes, class labels by name."""
    if chunk.rows is not None:
        for number, (place, row) in enumerate(chunk.rows, start=chunk.first):
            yield number, place, row
        return
    assert chunk.file is not None
    with opened(chunk.file) as source:
        names = source.schema_arrow.names
        columns = [name for name in (*dataset.columns, *dataset.needs) if name in names]
        batches = source.iter_batches(ROWS_AT_ONCE, list(chunk.groups), columns)
        lists = (batch.to_pylist() for batch in batches)
        placed = with_class_names(str(chunk.file), lists, features_of(source.schema_arrow))
        for offset, (_, raw) in enumerate(islice(placed, chunk.limit)):
            assert isinstance(raw, Mapping)  # a table has no line that is none
            number, place = chunk.first + offset, f"{chunk.file}:{chunk.first_in_file + offset + 1}"
            if chunk.together is None:
                yield number, place, dict(raw)
            elif number in chunk.together:
                yield number, place, {**raw, dataset.together: chunk.together[number]}


def opened(file: Path | RemoteFile) -> parquet.ParquetFile:
    """A Parquet file, of which nothing is read yet but its end."""
    try:
        return parquet.ParquetFile(file.open() if isinstance(file, RemoteFile) else file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a Parquet file ({error}); download it again") from None


def runs(source: parquet.ParquetFile) -> Iterator[tuple[list[int], int]]:
    """Row groups in a row until they are large enough, and the number of rows in them."""
    groups: list[int] = []
    size = rows = 0
    for index in range(source.num_row_groups):
        group = source.metadata.row_group(index)
        groups.append(index)
        size, rows = size + group.total_byte_size, rows + group.num_rows
        if size >= CHUNK_BYTES:
            yield groups, rows
            groups, size, rows = [], 0, 0
    if groups:
        yield groups, rows


def check_columns(source: Any, dataset: DataSet, found: Mapping[str, Any] | Sequence[str], name: str) -> None:
    """ValueError names the columns that a converter needs and a source lacks."""
    missing = [column for column in dataset.columns if column not in found]
    if missing:
        raise ValueError(
            f"{source} has no column {', '.join(map(repr, missing))} (it has {names_of(found)}); {name} reads "
            f"{', '.join(dataset.columns)}: give another `config`, `revision` or source"
        )


def _may_be_of_the_hub(source: str) -> bool:
    return source.startswith(PREFIX) or (source.count("/") == 1 and not source.startswith((".", "/", "~")))


def in_files(name: str, dataset: DataSet) -> str:
    """What to do about a repository of the hub that holds the original archive."""
    return (
        f"{name} does not lie in Parquet files; `hf download {name} --repo-type dataset --local-dir DIR`, unpack what "
        f"is packed in DIR, and give --source DIR: it takes {dataset.original}"
    )


def _where(dataset: DataSet) -> str:
    ways = [f"`{dataset.hub}` of the hub, or a folder with its Parquet files"] if dataset.hub else []
    ways += [f"a folder with {dataset.original}"] if dataset.original else []
    return "it takes " + "; or ".join(ways)
