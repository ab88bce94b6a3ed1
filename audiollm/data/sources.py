"""Where rows come from: files of several kinds, globs, folders of recordings, data sets in memory.

Not here: what a foreign row means (formats.py), whether a row is right (conversation.py), sound itself (audio.py).
A reader gives raw rows with their places ("file:line"; counted from 1 where there are no lines), and an error in the
place of a row that it cannot read: one bad row is one problem. What is wrong with a whole file is raised at once.
"""

import csv
import difflib
import glob
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow import parquet

from audiollm import audio as sound
from audiollm.conversation import Row, RowError, parse_row
from audiollm.data.formats import RECORDINGS, Converter, Raw, as_usual, converter, detect_all
from audiollm.data.hub import PREFIX, HubDataset, RemoteFile, identity_of, is_stored, stored_files
from audiollm.data.shards import read_keys, refuse_compressed

log = logging.getLogger(__name__)

Placed = Iterator[tuple[str, Raw | RowError]]  # the place of a row and the row, or why it is none


class Opened(NamedTuple):
    """One thing to read rows from, under its name in messages; relative paths in it count from `folder`."""

    name: str
    folder: Path | None
    placed: Placed


LISTED = "dataset_info.json"
WILDCARDS = frozenset("*?[")
NUM_EXAMPLES = 20
DETECT_ROWS = 1000  # rows that tell the format of a file
BATCH_ROWS = 1000  # as many rows of a Parquet file or Dataset are turned into Python objects at once
WHOLE_BYTES = 64 * 2**20  # a larger file is known by its size and its ends
END_BYTES = 2**20
HEAD_BYTES = 1024  # that tell whether a file is text
LIST = re.compile(r'\s*(?:\[|(?P<named>\{\s*"annotation"\s*:\s*\[)(?=\s*[{\]]))')
"""How a file begins that is one JSON list of rows; `named`: in an object, as in SALMONN's `{"annotation": [...]}`."""
MORE_THAN_LIST = "holds more than one list of rows; write a list of objects, or .jsonl"
csv.field_size_limit(2**27)  # of a cell, in characters; what is longer was rather opened by a quote that is none
NOT_TEXT = "is not UTF-8; give rows as text, saved as UTF-8"


class Problems:
    """What could not be used."""

    def __init__(self) -> None:
        self.errors: list[RowError] = []

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.errors)

    @property
    def examples(self) -> list[str]:
        """The first ones in words."""
        return [str(error) for error in self.errors[:NUM_EXAMPLES]]

    def add(self, error: RowError) -> None:
        """Count one more."""
        self.errors.append(error)

    def extend(self, others: "Problems") -> None:
        """Add what somebody else found."""
        self.errors += others.errors

    def summary(self) -> str:
        """One line with the number, then one line for each example."""
        if not self.count:
            return "no problems"
        lines = [
            f"{self.count} problem{'s' if self.count > 1 else ''}:",
            *(f"  {example}" for example in self.examples),
        ]
        left = self.count - NUM_EXAMPLES
        return "\n".join([*lines, f"  ... and {left} more"] if left > 0 else lines)


def load_rows(
    source: Any,
    *,
    format: str | None = None,
    question: str | None = None,
    strict: bool = False,
    problems: Problems | None = None,
    check_files: bool = False,
) -> list[Row]:
    """All rows of a path, a glob, a folder of recordings, a data set, a list of dicts, or a list of these.

    A data set is a `datasets.Dataset`, or one on the hub: `hf://datasets/OWNER/NAME`, or a `HubDataset`. A path may be
    one in an object store (`s3://bucket/folder`), of which Parquet and tar shards are read, where they lie.

    format: a name from FORMATS, for what cannot be told by its shape. question: what tables without such a column and
    folders of recordings ask. strict: the first bad row is raised. problems: collects bad rows, which are otherwise
    told in the log, and raised when there is nothing else. check_files: an audio file that is missing is a bad row.
    """
    found = Problems() if problems is None else problems
    checked: dict[str, bool] = {}
    rows: list[Row] = []
    for opened in open_source(source):
        for row in rows_of(opened, format, question):
            if check_files and isinstance(row, Row):
                row = missing_file(row, checked) or row
            if isinstance(row, Row):
                rows.append(row)
            elif strict:
                raise row
            else:
                found.add(row)
    if problems is None and found.count:
        if not rows:
            raise RowError("", "", f"no row could be read; {found.summary()}")
        log.warning("rows left out: %s", found.summary())
    return rows


def of_tasks(rows: Sequence[Row], tasks: Sequence[str], name: str) -> list[Row]:
    """The rows of some tasks; ValueError for a task of which there is no row, with the nearest one."""
    known = dict.fromkeys(row.task or "" for row in rows)
    for task in tasks:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(known) or 'no rows'}"
            raise ValueError(f"{name} has no rows of task {task!r}; {hint}")
    return [row for row in rows if row.task in tasks]


def fingerprint(source: str | HubDataset) -> str:
    """Stands for the rows of a path, a glob, a folder or a data set of the hub: another one means that they changed.

    Files of rows and texts are read, above 64 MiB only the first and the last MiB; recordings are known by their size.
    """
    if hub := hub_dataset(source):
        return hub.fingerprint()
    assert isinstance(source, str)
    if is_stored(source):
        names = [str(identity_of(file)) for file in stored_files(source)]
        return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
    found = hashlib.sha256()
    for path in paths_of(os.path.expanduser(source)):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if not file.is_file():
                continue
            size = file.stat().st_size
            found.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
            if file.suffix.lower() in RECORDINGS:
                continue
            with file.open("rb") as opened:
                found.update(opened.read(WHOLE_BYTES if size <= WHOLE_BYTES else END_BYTES))
                if size > WHOLE_BYTES:
                    opened.seek(-END_BYTES, os.SEEK_END)
                    found.update(opened.read())
    return found.hexdigest()[:16]


def rows_of(opened: Opened, format: str | None, question: str | None) -> Iterator[Row | RowError]:
    """The rows of one file in its one format, which is told by looking at the first of them."""
    first = list(islice(opened.placed, DETECT_ROWS))
    if not first:
        yield RowError(opened.name, "", "holds no row; check how it was written")
        return
    convert = _converter(opened.name, [raw for _, raw in first if not isinstance(raw, RowError)], format, question)
    for place, raw in chain(first, opened.placed):
        try:
            yield raw if isinstance(raw, RowError) else parse_row(convert(raw), origin=place, folder=opened.folder)
        except RowError as error:
            yield error.at(place, id_of(raw))


def _converter(name: str, raws: Sequence[Raw], format: str | None, question: str | None) -> Converter:
    try:
        format = format or (detect_all(raws) if raws else "rows")
        log.info("%s: rows of format %s", name, format)
        return converter(format, question)
    except RowError as error:
        raise error.at(name) from None


def missing_file(row: Row, checked: dict[str, bool]) -> RowError | None:
    """The error for the first audio file of the row that is not there, or no file; `checked` remembers the others."""
    for clip in row.clips:
        if isinstance(clip.audio, str):
            if clip.audio not in checked:
                checked[clip.audio] = os.path.isfile(clip.audio)
            if not checked[clip.audio]:
                other = sound.other_than_file(clip.audio)
                missing = f"there is no file {clip.audio}; paths count from the folder of the rows"
                return RowError(row.origin, "audio", f"{clip.audio} {other}" if other else missing, row.id)
    return None


def id_of(raw: Raw | RowError) -> str | None:
    """The id that a raw row has, if any."""
    return str(raw["id"]) if isinstance(raw, Mapping) and raw.get("id") is not None else None


def hub_dataset(source: Any) -> HubDataset | None:
    """The data set of the hub that is meant, if one is."""
    if isinstance(source, str) and source.startswith(PREFIX):
        return HubDataset(source)
    return source if isinstance(source, HubDataset) else None


def is_elsewhere(source: Any) -> bool:
    """Whether it is on the hub or in an object store, and no path of this machine."""
    return hub_dataset(source) is not None or is_stored(source)


def refuse_overwriting(rows: str, written: Iterable[Path]) -> None:
    """ValueError where rows would be written over by files that are made of them."""
    if is_elsewhere(rows):
        return
    targets = {path.resolve() for path in written}
    for path in paths_of(os.path.expanduser(rows)):
        if path.resolve() in targets:
            raise ValueError(f"{path} is rows and would be written anew; say another place with --out")


def open_source(source: Any) -> Iterator[Opened]:
    """The files, folders and data sets that a source means."""
    if hub := hub_dataset(source):
        yield Opened(str(hub), None, read_dataset(hub.load(), hub.path))
    elif is_stored(source):
        for file in stored_files(source):
            yield Opened(str(file), None, read_parquet(file) if file.suffix == ".parquet" else read_shard(file))
    elif isinstance(source, (str, os.PathLike)):
        for path in files_of_rows(os.path.expanduser(source)):
            yield from open_listed(path) if path.name == LISTED else [_open_path(path)]
    elif isinstance(source, Mapping):
        raise RowError(
            "", "", "one object is not a list of rows; take a split of it (dataset['train']) or put it in a list"
        )
    elif hasattr(source, "with_format") and not hasattr(source, "__len__"):
        cause = (
            "an IterableDataset cannot go back to where a run was stopped; give a recipe the path "
            "hf://datasets/OWNER/NAME with `stream: true`, or load it without `streaming=True`"
        )
        raise RowError("dataset", "", cause)
    elif hasattr(source, "with_format"):  # a datasets.Dataset, told by what we use of it: importing datasets is slow
        yield Opened("dataset", None, read_dataset(source))
    elif isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        yield Opened("list", None, _numbered("list", source))
    elif isinstance(source, Sequence):
        for one in source:
            yield from open_source(one)
    else:
        raise RowError(
            "", "", f"rows cannot come from {type(source).__name__}; give a path, a list of dicts or a Dataset"
        )


def paths_of(pattern: str) -> list[Path]:
    """The files and folders that a path or a glob means; RowError where there is none, and for a pipe or a device."""
    if os.path.exists(pattern):
        return [_no_pipe(pattern)]
    if not WILDCARDS & set(pattern):
        raise RowError(pattern, "", "there is no such file or folder; the path counts from the working folder")
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise RowError(pattern, "", "no file matches; the pattern counts from the working folder")
    return [_no_pipe(path) for path in found]


def _no_pipe(path: str) -> Path:
    """A path that can be opened without waiting for ever; RowError otherwise."""
    if not os.path.isdir(path) and (other := sound.other_than_file(path)):
        raise RowError(path, "", f"{other}; write the rows to a file, and give that")
    return Path(path)


def files_of_rows(pattern: str) -> list[Path]:
    """The files to read rows from: those of the pattern, without what a dataset_info.json among them lists."""
    paths = paths_of(pattern)
    listed = {file for info in paths if info.name == LISTED for file in _listed_in(info)}
    return [path for path in paths if path.resolve() not in listed] if listed else paths


def _listed_in(info: Path) -> set[Path]:
    """The files of a dataset_info.json; none where it is broken, of which `open_listed` tells."""
    try:
        entries = dict(json.loads(info.read_bytes())).values()
    except (ValueError, TypeError, OSError):
        return set()
    names = [entry.get("file_name") for entry in entries if isinstance(entry, Mapping)]
    return {(info.parent / name).resolve() for name in names if isinstance(name, str)}


def open_listed(info: Path) -> Iterator[Opened]:
    """The files of LLaMA-Factory's dataset_info.json, their rows with its usual names of columns, roles and tags."""
    if other := sound.other_than_file(info):
        raise RowError(str(info), "", f"{other}; write an object with an entry for each data set")
    try:
        listed = json.loads(info.read_bytes())
    except ValueError as error:
        raise RowError(
            str(info), "", f"broken JSON ({error}); write an object with an entry for each data set"
        ) from None
    if not isinstance(listed, Mapping) or not listed:
        raise RowError(str(info), "", "lists no data set; write an object with an entry for each")
    for name, entry in listed.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("file_name"), str):
            cause = "has no `file_name`; download what it names, and write its file there"
            raise RowError(str(info), name, cause)
        path = info.parent / entry["file_name"]
        if not path.resolve().is_relative_to(info.parent.resolve()):
            raise RowError(str(info), name, f"{entry['file_name']} leads out of the folder; put the file into it")
        if not path.is_file():
            raise RowError(str(info), name, f"there is no file {path}")
        opened = _open_path(path)
        placed = ((at, raw if isinstance(raw, RowError) else as_usual(raw, entry)) for at, raw in opened.placed)
        yield opened._replace(placed=placed)


def _open_path(path: Path) -> Opened:
    if path.is_dir():
        return Opened(str(path), path, read_recordings(path))
    refuse_compressed(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        cause = f"cannot tell what it holds; rows are read from {', '.join(READERS)} or a folder"
        if path.suffix.lower() in RECORDINGS:
            cause = "is a recording, and not rows about it; write a table with columns audio, question and answer"
        raise RowError(str(path), "", cause)
    return Opened(str(path), path.parent, reader(path))


def read_jsonl(path: Path) -> Placed:
    """One object a line; empty lines count, but are no rows."""
    with path.open("rb") as file:
        refuse_binary(path, file.peek(HEAD_BYTES))
        yield from _read_lines(path, file)


def read_json(path: Path) -> Placed:
    """A list of objects, alone or as `annotation`, or one object a line, which some tools also name .json."""
    data = path.read_bytes()
    refuse_binary(path, data)
    opening = LIST.match(data[:HEAD_BYTES].decode("utf-8-sig", "replace"))
    if opening is None:
        yield from _read_lines(path, data.splitlines())
        return
    try:
        rows = json.loads(data)
    except UnicodeDecodeError:
        raise RowError(str(path), "", NOT_TEXT) from None
    except (ValueError, RecursionError) as error:
        raise RowError(str(path), "", f"broken JSON ({error}); write a list of objects, or .jsonl") from None
    if opening["named"] and len(rows) > 1:
        raise RowError(str(path), "", MORE_THAN_LIST)
    yield from _numbered(str(path), rows["annotation"] if opening["named"] else rows)


def read_table(path: Path) -> Placed:
    """CSV with commas, semicolons or tabs, whichever the header has most of; TSV has tabs, and quotes mean nothing."""
    with path.open("rb") as beginning:
        refuse_binary(path, beginning.read(HEAD_BYTES))
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            header = file.readline()
            file.seek(0)
            for row in (reader := csv.DictReader(file, dialect=_dialect(path, header))):
                place = f"{path}:{reader.line_num}"
                cause = "has more cells than the header; put quotes around what holds a comma"
                yield place, RowError(place, "", cause) if None in row else row
        except UnicodeDecodeError:
            raise RowError(str(path), "", "is not UTF-8; save it as UTF-8") from None
        except csv.Error as error:
            raise RowError(f"{path}:{reader.line_num + 1}", "", f"broken table ({error}); check the quotes") from None


def read_parquet(path: Path | RemoteFile) -> Placed:
    """Rows of a Parquet file, with the names of class labels where Hugging Face's metadata tells them."""
    try:
        file = (
            parquet.ParquetFile(path) if isinstance(path, Path) else parquet.ParquetFile(path.open(), pre_buffer=True)
        )
    except (pyarrow.ArrowException, OSError) as error:
        raise RowError(str(path), "", f"is not a Parquet file ({error}); write it again") from None
    features = features_of(file.schema_arrow)
    batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=BATCH_ROWS))
    yield from with_class_names(str(path), batches, features)


def features_of(schema: pyarrow.Schema) -> Mapping[str, Any]:
    """What Hugging Face's metadata tells about the columns of a Parquet file."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import Features  # slow to import

    return Features.from_arrow_schema(schema)


def read_dataset(dataset: Any, name: str = "dataset") -> Placed:
    """Rows of a `datasets.Dataset` as they are stored: nothing is decoded, so audio stays path or bytes."""
    batches = (table.to_pylist() for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS))
    yield from with_class_names(name, batches, dataset.features)


def read_recordings(folder: Path) -> Placed:
    """A folder of recordings, each with a .txt file of the same name that holds the answer; folders in it count too."""
    recordings = sorted(path for path in folder.rglob("*") if path.suffix.lower() in RECORDINGS)
    tables = _tables_in(folder)
    if not recordings:
        named = tables or f"{folder}/*.jsonl"
        raise RowError(str(folder), "", f"holds no recording; for files of rows name them, as in {named}")
    if tables and not any(path.with_suffix(".txt").is_file() for path in recordings):
        cause = f"holds files of rows, and recordings without texts beside them; name the rows: {tables}"
        raise RowError(str(folder), "", cause)
    if tables:
        log.warning("%s: is read as recordings with texts; to read its files of rows name them: %s", folder, tables)
    heard = {path.with_suffix("") for path in recordings}
    alone = sorted(path for path in folder.rglob("*.txt") if path.with_suffix("") not in heard)
    if alone:
        log.warning("%s: %d texts have no recording of their name, such as %s", folder, len(alone), alone[0])
    for path in recordings:
        name = path.relative_to(folder).as_posix()
        answer = _answer_beside(path)
        row = {"id": name, "source": folder.name, "source_id": name, "audio": name, "answer": answer}
        yield str(path), answer if isinstance(answer, RowError) else row


def read_shard(path: Path | RemoteFile) -> Placed:
    """Rows of a WebDataset shard, a key each, with their sound as bytes."""
    for keyed in read_keys(path):
        yield f"{path}:{keyed.key}", keyed.raw


READERS: dict[str, Callable[[Path], Placed]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".csv": read_table,
    ".tsv": read_table,
    ".tar": read_shard,
}


def _tables_in(folder: Path) -> str | None:
    """The pattern that names the files of rows in a folder; none where it holds none."""
    there = {path.suffix.lower() for path in folder.iterdir() if path.is_file()}
    kinds = sorted(READERS, key=".json".__eq__)  # .json last: it may be anything
    return next((f"{folder}/*{kind}" for kind in kinds if kind in there), None)


def _answer_beside(recording: Path) -> str | RowError:
    text = recording.with_suffix(".txt")
    if other := sound.other_than_file(text):
        return RowError(str(text), "", f"{other}; write the answer to {text.name}")
    try:
        return text.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        return RowError(str(recording), "", f"has no text beside it; write its answer to {text.name}")
    except UnicodeDecodeError:
        return RowError(str(text), "", "is not UTF-8; save it as UTF-8")


def separator_of(header: str) -> str:
    """What stands between the columns of a table: a comma, a semicolon or a tab, whichever its header has most of."""
    return max(",;\t", key=header.count)


def _dialect(path: Path, header: str) -> type[csv.Dialect]:
    class Dialect(csv.excel):
        strict = True
        delimiter = separator_of(header)

    class TabDialect(csv.excel_tab):
        quoting = csv.QUOTE_NONE

    return TabDialect if path.suffix.lower() == ".tsv" else Dialect


def refuse_binary(path: Path, beginning: bytes) -> None:
    """RowError for what is no text at all, once and not for each of its lines."""
    if b"\0" in beginning[:HEAD_BYTES]:
        raise RowError(str(path), "", f"is no text file: it {NOT_TEXT}")


def _read_lines(path: Path, lines: Iterable[bytes]) -> Placed:
    for number, line in enumerate(lines, start=1):
        if line and not line.isspace():
            place = f"{path}:{number}"
            yield place, line_of(place, line)


def line_of(place: str, line: bytes) -> Raw | RowError:
    """The object on a line, or why it is none."""
    try:
        return object_of(place, json.loads(line))
    except UnicodeDecodeError:
        return RowError(place, "", NOT_TEXT)
    except (ValueError, RecursionError) as error:
        return RowError(place, "", f"broken JSON ({error}); write one object a line")


def _numbered(name: str, rows: Iterable[Any]) -> Placed:
    for number, row in enumerate(rows, start=1):
        yield f"{name}:{number}", object_of(f"{name}:{number}", row)


def object_of(place: str, row: Any) -> Raw | RowError:
    """A row as it stands, or why it is none."""
    if isinstance(row, Mapping):
        return row
    return RowError(place, "", f"a row is an object, not {type(row).__name__}; check how it was written")


def with_class_names(name: str, batches: Iterable[list[dict[str, Any]]], features: Mapping[str, Any]) -> Placed:
    """The rows of batches, numbered from 1, with class labels by their names."""
    labels = {column: feature.names for column, feature in features.items() if hasattr(feature, "int2str")}
    number = 0
    for batch in batches:
        for row in batch:
            number += 1
            for column, names in labels.items():
                row[column] = None if row[column] in (None, -1) else names[row[column]]
            yield f"{name}:{number}", row
