"""Checks rows of any format that is read, and the recordings that they name; good ones become rows of ours.

    clean.jsonl                           rows without a fault, `duration` put in where it was missing or wrong
    quarantine.jsonl                      the others: where they stand, and what is wrong
    noticed.jsonl                         good rows whose recording is silent, clipped or not as long as they said
    check-parts/00003.jsonl, 00003.json   what one chunk gave, and a verdict on each of its rows; removed at the end

Rows are read in chunks, and checked in several processes; stopped and started again, chunks that are done are kept. The
ids of all rows stay in memory as hashes of 16 bytes, which takes about 90 bytes a row; of all else, some chunks are.
Not here: what a row means (conversation.py), how files are read (data/sources.py), what sound is (audio.py), bad rows
that are met in training (data/quarantine.py).
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow
from tqdm import tqdm

from audiollm import audio as sound
from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, Message, Part, Row, RowError, parse_row, row_to_dict
from audiollm.curation.levels import CLIPPED_RUN, SILENT_DB, header, is_clipped, loudness_db
from audiollm.curation.processes import alone_in, workers
from audiollm.curation.running import TROUBLE, nothing_left_behind
from audiollm.data.formats import RECORDINGS, Converter, Raw, converter, detect_all
from audiollm.data.hub import identity_of
from audiollm.data.quarantine import Found
from audiollm.data.sources import (
    DETECT_ROWS,
    LISTED,
    fingerprint,
    id_of,
    is_elsewhere,
    open_listed,
    open_source,
    paths_of,
)
from audiollm.files import write_whole
from audiollm.report.figures import counted, duration

CLEAN, QUARANTINE, NOTICED = "clean.jsonl", "quarantine.jsonl", "noticed.jsonl"
PARTS, STATE = "check-parts", "state.json"
VERSION = 3  # to be raised when the same rows would get other verdicts
ROWS_A_CHUNK = 1000
CHUNK_BYTES = 64 * 2**20  # rows that bring their sound with them make smaller chunks
WINDOW_S = 600.0  # a long recording is decoded in windows, so that memory does not follow its length
SAMPLING_RATE = 16_000
MOST_CAUSES = 20  # that a summary shows
DURATION_S, DURATION_SHARE = 0.1, 0.01  # by which a row's duration may be another than that of its recording
WRONG_DURATION = "duration: not that of the recording, which the row has now"
UNREADABLE = (ValueError, OSError, pyarrow.ArrowException)  # what a file raises that cannot be read on

Placed = tuple[str, Raw | RowError]


class Options(NamedTuple):
    """What a worker needs to know beside its rows."""

    out: Path
    question: str | None
    headers: bool
    strict: bool


class Job(NamedTuple):
    """Some rows of one file; relative paths in them count from `folder`."""

    number: int
    format: str
    folder: Path | None
    rows: list[Placed]
    options: Options

    @property
    def part(self) -> Path:
        """The file of its rows without a fault."""
        return self.options.out / PARTS / f"{self.number:05d}.jsonl"

    @property
    def verdicts(self) -> Path:
        """The file that comes last, and says that the chunk is done."""
        return self.part.with_suffix(".json")


class Verdict(NamedTuple):
    """What was found about one row; without a cause it is a good one."""

    origin: str  # file:line
    row: str | None  # its id
    key: str | None  # hash of source and id; none for a bad row
    seconds: float  # of its sound
    found: Found | None = None
    field: str = ""
    cause: str = ""
    noticed: Sequence[tuple[str, str]] = ()  # of a good row, by field

    def error(self) -> RowError:
        """The same as an error."""
        return RowError(self.origin, self.field, self.cause, self.row)


@dataclass
class Checked:
    """What a check gave."""

    clean: Path
    quarantine: Path
    rows: int = 0
    good: int = 0
    hours: float = 0.0
    repeated: int = 0  # good rows with an id that came before, where they are kept
    left_out: Counter[str] = field(default_factory=Counter)
    """Cause without specifics -> rows, or files that could not be read on."""
    noticed: Counter[str] = field(default_factory=Counter)
    """What is to be known of good rows -> their number."""

    def summary(self) -> str:
        """How many rows are good, and how many were left out for which cause."""
        length = f"{self.hours:,.2f} hours" if self.hours >= 0.01 else duration(self.hours * 3600)
        lines = [f"{counted(self.rows, 'row')}: {self.good:,} good, with {length} of sound, each row's counted"]
        if self.repeated:
            lines.append(f"{self.repeated:,} of them {'has' if self.repeated == 1 else 'have'} an id that came before")
        if self.left_out:
            lines.append(f"{self.left_out.total():,} left out:")
            lines += [f"{count:9,}  {cause}" for cause, count in self.left_out.most_common(MOST_CAUSES)]
            others = len(self.left_out) - MOST_CAUSES
            lines += [f"           ... and {counted(others, 'cause')} more"] if others > 0 else []
        files = [self.clean, self.quarantine]
        if self.noticed:
            lines.append("of the good ones, which are kept:")
            lines += [f"{count:9,}  {what}" for what, count in self.noticed.most_common()]
            files.append(self.clean.with_name(NOTICED))
        return "\n".join([*lines, *map(str, files)])


def check(
    rows: str,
    out: str | Path,
    *,
    format: str | None = None,
    question: str | None = None,
    headers: bool = False,
    limit: int | None = None,
    strict: bool = False,
    keep_repeated: bool = False,
    num_proc: int = 1,
) -> Checked:
    """Check the rows of a path, a glob, a folder of recordings or a data set of the hub, and write them to a folder.

    format, question: as in `load_rows`. headers: recordings are opened and not decoded, which misses damage in them.
    limit: the first so many rows. strict: the first bad row is raised. keep_repeated: a row with the id of an earlier
    one of its `source` is counted, and not left out. Hours are those of the rows: a recording counts in each.

    Raises ValueError (RowError) where there is no row at all. A check that was stopped goes on, unless the files of
    rows were changed; recordings that were changed meanwhile are not looked at again.
    """
    out = Path(out).absolute()
    if format is not None:
        converter(format, question)  # a wrong name is told before anything is read
    options = Options(out, question, headers, strict)
    with alone_in(out, "check"), nothing_left_behind(out, PARTS):
        _begin(out, [rows, *options[1:], format, limit, ROWS_A_CHUNK], rows)
        return _checked(rows, format, limit, options, keep_repeated, num_proc)


def _checked(
    rows: str, format: str | None, limit: int | None, options: Options, keep_repeated: bool, num_proc: int
) -> Checked:
    """Check all chunks, and put together what they gave."""
    out = options.out
    checked = Checked(out / CLEAN, out / QUARANTINE)
    parts, broken = out / PARTS, list[RowError]()
    with ExitStack() as stack:
        clean, quarantine, noticed = (
            stack.enter_context((parts / name).open("wb")) for name in (CLEAN, QUARANTINE, NOTICED)
        )
        writer = _Writer(checked, clean, quarantine, noticed, strict=options.strict, keep_repeated=keep_repeated)
        with tqdm(desc="check", unit=" rows", leave=False, mininterval=1, disable=None) as bar:
            for part, verdicts in _results(_jobs(rows, format, limit, options, broken), num_proc):
                writer.add(part, verdicts)
                bar.update(len(verdicts))
        if checked.rows:
            writer.files(broken)
    if not checked.rows:
        shutil.rmtree(parts)
        raise broken[0]
    for name in (CLEAN, QUARANTINE, NOTICED):
        (parts / name).replace(out / name)
    if not checked.noticed:
        (out / NOTICED).unlink()
    shutil.rmtree(parts)
    return checked


class _Writer:
    """Puts the parts together in their order, and takes out rows whose id came before."""

    def __init__(
        self,
        checked: Checked,
        clean: BinaryIO,
        quarantine: BinaryIO,
        noticed: BinaryIO,
        *,
        strict: bool,
        keep_repeated: bool,
    ) -> None:
        self.checked, self.clean, self.quarantine, self.noticed = checked, clean, quarantine, noticed
        self.strict, self.keep_repeated = strict, keep_repeated
        self.seen: set[bytes] = set()

    def add(self, part: Path, verdicts: Iterable[Verdict]) -> None:
        """The rows of one chunk."""
        with part.open("rb") as lines:
            for verdict in verdicts:
                self.checked.rows += 1
                line = b"" if verdict.cause else next(lines)
                verdict = self.repeated(verdict)
                if verdict.cause:
                    self.refuse(verdict)
                    continue
                self.clean.write(line)
                self.checked.good += 1
                self.checked.hours += verdict.seconds / 3600
                self.notice(verdict)

    def notice(self, verdict: Verdict) -> None:
        """Name what is to be known of a good row."""
        for place, what in verdict.noticed:
            told = {"origin": verdict.origin, "row": verdict.row, "field": place, "noticed": what}
            self.noticed.write(_line({"stage": "check", **told}))
        self.checked.noticed.update({what for _, what in verdict.noticed})

    def files(self, broken: Iterable[RowError]) -> None:
        """Files that could not be read on."""
        for error in broken:
            self.refuse(Verdict(error.origin, None, None, 0.0, "reading", error.field, error.cause))

    def repeated(self, verdict: Verdict) -> Verdict:
        """The verdict, or another one if a good row with its id came before."""
        if verdict.key is None:
            return verdict
        key = bytes.fromhex(verdict.key)
        if key not in self.seen:
            self.seen.add(key)
            return verdict
        if self.keep_repeated:
            self.checked.repeated += 1
            return verdict
        cause = f"{verdict.row!r} is the id of an earlier row; give each its own, or keep them with keep_repeated"
        return verdict._replace(found="reading", field="id", cause=cause)

    def refuse(self, verdict: Verdict) -> None:
        """Name a row that is left out; RowError if none may be."""
        if self.strict:
            raise verdict.error()
        told = {name: getattr(verdict, name) for name in ("found", "origin", "row", "field", "cause")}
        self.quarantine.write(_line({"stage": "check", **told}))
        self.checked.left_out[kind_of(verdict.field, verdict.cause)] += 1


def _line(told: Mapping[str, Any]) -> bytes:
    """A line of JSON; half a character becomes its escape."""
    return (json.dumps(told, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def kind_of(field: str, cause: str) -> str:
    """A cause without what is particular to one row: numbers, paths, quoted words, what stands in brackets."""
    cause = re.split(r"; | \(", cause)[0]
    cause = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\d[\d,.]*", "…", cause)
    return ": ".join(part for part in (re.sub(r"\[\d+\]", "[]", field), cause) if part)


# ---- what was begun before -------------------------------------------------------------------------------------------


def _begin(out: Path, options: list[Any], rows: str) -> None:
    """Make the folder for the parts; what another check left in it is removed."""
    found = hashlib.sha256(json.dumps([VERSION, *options]).encode())
    if is_elsewhere(rows):
        found.update(fingerprint(rows).encode())
    else:
        for path in _files_of(rows):
            if path.absolute() in (out / CLEAN, out / QUARANTINE, out / NOTICED):
                raise ValueError(f"{path} would be read and written; give another folder with out=")
            found.update(json.dumps(identity_of(path)).encode())
    parts, state = out / PARTS, out / PARTS / STATE
    if parts.exists() and not (parts.is_dir() and (state.is_file() or not any(parts.iterdir()))):
        raise ValueError(f"{parts} is there, and no check made it; move it, or give another folder with out=")
    if not (state.is_file() and state.read_text(encoding="utf-8") == found.hexdigest()):
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        write_whole(state, found.hexdigest().encode())


def _files_of(rows: str) -> Iterator[Path]:
    """All files in which the rows stand."""
    for path in paths_of(os.path.expanduser(rows)):
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.suffix.lower() in (*RECORDINGS, ".txt"))
        elif path.exists():
            yield path
        if path.name == LISTED:
            with suppress(RowError):  # told when it is read
                yield from [Path(opened.name) for opened in open_listed(path)]


# ---- chunks ----------------------------------------------------------------------------------------------------------


def _jobs(rows: str, format: str | None, limit: int | None, options: Options, broken: list[RowError]) -> Iterator[Job]:
    """The rows in chunks, file by file; a file that cannot be read on goes to `broken`, and the next one is read."""
    paths = [rows] if is_elsewhere(rows) else [str(path) for path in paths_of(os.path.expanduser(rows))]
    number, left = 0, limit
    for path in paths:
        try:
            for opened in open_source(path):
                placed = iter(opened.placed)
                first = _some(placed, DETECT_ROWS, broken)
                if not first:
                    raise RowError(opened.name, "", "holds no row; check how it was written")
                name = format or _format_of(opened.name, [raw for _, raw in first if not isinstance(raw, RowError)])
                converter(name, options.question)
                found = chain(first, placed)
                while chunk := _some(found, ROWS_A_CHUNK if left is None else min(left, ROWS_A_CHUNK), broken):
                    yield Job(number, name, opened.folder, chunk, options)
                    number, left = number + 1, left and left - len(chunk)
                if left == 0 or (broken and options.strict):
                    return
        except UNREADABLE as error:
            broken.append(_as_row_error(error, path))
            if options.strict:
                return


def _some(placed: Iterator[Placed], most: int, broken: list[RowError]) -> list[Placed]:
    """The next rows, up to a number and a size; the error of a file that ends early waits until its rows are given."""
    some: list[Placed] = []
    size = 0
    while len(some) < most and size < CHUNK_BYTES:
        try:
            one = next(placed, None)
        except UNREADABLE as error:
            if not some:
                raise
            broken.append(_as_row_error(error, some[-1][0]))
            break
        if one is None:
            break
        some.append(one)
        size += size_of(one[1])
    return some


def _as_row_error(error: Exception, name: str) -> RowError:
    """Why a file cannot be read."""
    if isinstance(error, RowError):
        return error if error.origin else error.at(name)
    told = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return RowError(name, "", f"cannot be read ({told}); write it again")


def _format_of(name: str, raws: list[Raw]) -> str:
    try:
        return detect_all(raws) if raws else "rows"
    except RowError as error:
        raise error.at(name) from None


def size_of(value: Any) -> int:
    """About how many bytes a raw row takes; the sound in it is what counts."""
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    return sum(map(size_of, value)) if isinstance(value, (list, tuple)) else 8


def _results(jobs: Iterator[Job], num_proc: int) -> Iterator[tuple[Path, list[Verdict]]]:
    """Part and verdicts of each chunk, in the order of the chunks; those that are done are not done again."""
    if num_proc == 1:
        for job in jobs:
            if not job.verdicts.is_file():
                check_chunk(job)
            yield job.part, _verdicts(job.verdicts)
        return
    waiting: deque[tuple[Path, Path, Future[None] | None]] = deque()
    with workers(num_proc) as pool:
        for one in chain(jobs, [None] * (2 * num_proc)):  # each that waits at the end is asked for too
            if one is not None:
                future = None if one.verdicts.is_file() else pool.submit(check_chunk, one)
                waiting.append((one.part, one.verdicts, future))
            if waiting and (one is None or len(waiting) > 2 * num_proc):  # rows that wait are in memory
                part, verdicts, future = waiting.popleft()
                if future is not None:
                    future.result()
                yield part, _verdicts(verdicts)


def _verdicts(path: Path) -> list[Verdict]:
    return [Verdict(*one) for one in json.loads(path.read_bytes())]


# ---- one chunk, in whichever process ---------------------------------------------------------------------------------


def check_chunk(job: Job) -> None:
    """Write the good rows of a chunk and the verdict on each; RowError at the first bad one if none may be."""
    convert = converter(job.format, job.options.question)
    lengths = Lengths(opened if job.options.headers else decoded)
    lines: list[bytes] = []
    verdicts: list[Verdict] = []
    for place, raw in job.rows:
        verdict, line = judged(job, place, raw, convert, lengths)
        if verdict.cause and job.options.strict:
            raise verdict.error()
        verdicts.append(verdict)
        lines.append(line)
    write_whole(job.part, b"".join(lines))
    write_whole(job.verdicts, json.dumps(verdicts).encode())


def judged(job: Job, place: str, raw: Raw | RowError, convert: Converter, lengths: "Lengths") -> tuple[Verdict, bytes]:
    """The verdict on a row, and its line, which is empty for a bad one."""
    found: Found = "reading"
    try:
        row = parsed(place, raw, convert, job.folder)
        found = "hearing"
        row, noticed = heard(row, lengths)
        found = "reading"
        line = written(row, job.options.out)
    except RowError as error:
        return Verdict(place, error.row_id or id_of(raw), None, 0.0, found, error.field, error.cause), b""
    named = json.dumps([row.source, row.id])
    key = None if row.id is None else hashlib.blake2b(named.encode(), digest_size=16).hexdigest()
    return Verdict(place, row.id, key, sum(clip.seconds() for clip in row.clips), noticed=noticed), line


def parsed(place: str, raw: Raw | RowError, convert: Converter, folder: Path | None) -> Row:
    """A row as it was read; RowError where it is none."""
    if isinstance(raw, RowError):
        raise raw
    try:
        return parse_row(convert(raw), origin=place, folder=folder)
    except RowError as error:
        raise error.at(place, id_of(raw)) from None
    except TROUBLE as error:
        cause = f"is not as rows of its format are ({type(error).__name__}: {error}); check how it was written"
        raise RowError(place, "", cause, id_of(raw)) from None


def heard(row: Row, lengths: "Lengths") -> tuple[Row, list[tuple[str, str]]]:
    """A row whose clips can be heard, each with its duration, and what is to be known of their recordings, by field.

    RowError for the first clip that cannot be heard.
    """
    messages: list[Message] = []
    noticed: list[tuple[str, str]] = []
    for number, message in enumerate(row.messages):
        content: list[Part] = []
        for index, part in enumerate(message.content):
            if not isinstance(part, AudioPart):
                content.append(part)
                continue
            where = f"messages[{number}].content[{index}].audio"
            try:
                found = lengths.of(part)
                measured = with_duration(part, found.seconds)
            except AudioError as error:
                raise RowError(row.origin, where, f"{error.cause} ({error.name})", row.id) from None
            wrong = [WRONG_DURATION] if part.duration not in (None, measured.duration) else []
            noticed += [(where, what) for what in (*found.noticed, *wrong)]
            content.append(measured)
        messages.append(replace(message, content=tuple(content)))
    return replace(row, messages=tuple(messages)), noticed


def with_duration(part: AudioPart, length_s: float) -> AudioPart:
    """A clip with its duration, if that was missing or wrong; AudioError for a cut that its recording does not hold."""
    start_s, end_s = part.start or 0.0, part.end or length_s
    if start_s >= length_s or end_s > length_s:
        part.load(SAMPLING_RATE)  # a cut may end a little late; how much, audio.py alone knows
    seconds = round(min(end_s, length_s) - start_s, 3)
    if part.duration is not None and abs(part.duration - seconds) <= max(DURATION_S, DURATION_SHARE * seconds):
        return part
    return replace(part, duration=seconds) if seconds > 0 else part


class Recording(NamedTuple):
    """What opening a recording told."""

    seconds: float
    noticed: tuple[str, ...] = ()


class Lengths:
    """What recordings told, each opened once; those that are broken are remembered too."""

    def __init__(self, measure: Callable[[Any], Recording]) -> None:
        self.measure = measure
        self.found: dict[Any, Recording | AudioError] = {}

    def of(self, part: AudioPart) -> Recording:
        """The recording of which a part is a clip; AudioError where it is missing or broken."""
        key = replace(part, start=None, end=None).key
        if key not in self.found:
            try:
                self.found[key] = self.measure(part.audio)
            except AudioError as error:
                self.found[key] = error
        length = self.found[key]
        if isinstance(length, AudioError):
            raise length
        return length


def opened(source: Any) -> Recording:
    """The length alone, by the header; AudioError like `duration`."""
    return Recording(sound.duration(source))


def decoded(source: Any) -> Recording:
    """A recording all of which was decoded, at its own rate, which keeps clipping flat; AudioError like `load`."""
    length_s = sound.duration(source)
    rate = header(source)[0] or SAMPLING_RATE
    windows = max(1, int(length_s // WINDOW_S))  # the last one is longer: headers may be wrong by some milliseconds
    loudest_db, clips = -math.inf, False
    for window in range(windows):
        end_s = None if window == windows - 1 else (window + 1) * WINDOW_S
        samples = sound.load(source, rate, start=window * WINDOW_S, end=end_s)
        loudest_db = max(loudest_db, loudness_db(samples))
        clips = clips or is_clipped(samples)
    silent = [f"silent: below {SILENT_DB:g} dBFS"] if loudest_db < SILENT_DB else []
    clipped = [f"clipped: {CLIPPED_RUN} samples or more in a row at full scale"] if clips else []
    return Recording(length_s, (*silent, *clipped))


def written(row: Row, folder: Path) -> bytes:
    """The line of a row; RowError for what cannot be written."""
    data = row_to_dict(row, folder)
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        cause = f"cannot be written as JSON ({type(error).__name__}: {error}); leave that field out"
        raise RowError(row.origin, "", cause, row.id) from None
