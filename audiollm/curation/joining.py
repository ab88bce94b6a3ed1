"""Recordings that rows name and their set does not bring: found by name in folders and archives of the user's.

    joined.jsonl      rows whose recordings are all there, in our own form
    recordings/       those of them that lay in archives, by archive
    missing.jsonl     origin, id, source, and the names to which no recording fits
    ambiguous.jsonl   the same, with the recordings that fit equally well
    broken.jsonl      rows that cannot be read, and why; written where there are any

A path that exists stays. For every other the rules of RULES are tried in their order; the first to which a recording
fits decides, and where several fit it, none is taken. Names are looked up in a list of what the folders and archives
hold, so that a name in a row is never opened. Rows pass by; the list stays in memory. Out of archives come only the
recordings that rows need. Not here: decoding the recordings (check.py), reading archives (packed.py).
Converters use the folder of one set directly: `recording_of`, `of_youtube`, `stems_of`.
"""

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow
from tqdm import tqdm

from audiollm.conversation import AudioPart, Message, Part, Row, RowError, row_to_dict
from audiollm.curation.dataset import Dropped
from audiollm.curation.packed import ARCHIVES, Unpacked, folders_for, is_archive, members_of, unpack
from audiollm.data.formats import RECORDINGS
from audiollm.data.sources import (
    HEAD_BYTES,
    LIST,
    LISTED,
    MORE_THAN_LIST,
    Opened,
    Placed,
    files_of_rows,
    is_elsewhere,
    object_of,
    open_source,
    read_jsonl,
    refuse_overwriting,
    rows_of,
)
from audiollm.files import whole
from audiollm.report.figures import counted

JOINED, MISSING, AMBIGUOUS, BROKEN = "joined.jsonl", "missing.jsonl", "ambiguous.jsonl", "broken.jsonl"
UNPACKED = "recordings"
AS_IT_IS = "as it is"
"""What stands for the rule where the row's own path exists, its sound is in the row, or it has none."""
MOST_CANDIDATES = 20  # that are listed for a name; the others are counted
MOST_SOURCES = 100  # that are counted apart
MOST_LEFT_OUT = 3  # members of archives that are named for each cause
OTHER_SOURCES = "(other sources)"
CHUNK_CHARS = 2**20
MOST_CHARS = 2**26  # of one row in a JSON list; what is longer is taken for broken
UNREADABLE = (ValueError, OSError, pyarrow.ArrowException)  # what a file raises that cannot be read on

# Eleven characters, and among them a letter: MLS names its utterances 10010_10087_000003.
_VIDEO = r"(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{11}"
_TIME = r"\d+(?:\.\d+)?"
YOUTUBE = re.compile(rf"Y?({_VIDEO})(?:_({_TIME})(?:_({_TIME}))?)?|\[({_VIDEO})\]-\[({_TIME})-({_TIME})\]", re.ASCII)
# 17_cat, 17__user__cat, 17_204-hq; but MLS has speaker_book_utterance. Short numbers are rather those of a list.
FREESOUND_FILE = re.compile(r"(\d{3,})_(?!\d+_\d+$).*", re.ASCII)
# What a row names is looser than what a file is called: only the site's own names are taken for an id with a tail.
FREESOUND_NAME = re.compile(r"(\d{3,})(?:__.*|_\d+-[hl]q)?", re.ASCII)
UTTERANCE = re.compile(r"(?<![\d-])\d+-\d+-\d{4}(?![\d-])", re.ASCII)
SAME_TIME_S = 0.001


# ---- the folder of one set, for converters ---------------------------------------------------------------------------


def recording_of(folder: Path, *names: str) -> Path:
    """The recording of the first name that there is; Dropped where there is none, or several of one name."""
    stems = stems_of(folder)
    for name in names:
        found = stems.get(name, ())
        if len(found) > 1:
            raise Dropped("several recordings of its name")
        if found:
            return found[0]
    raise Dropped("its recording is not there")


def of_youtube(folder: Path, video: str, start_s: float | None = None, end_s: float | None = None) -> Path:
    """The recording of a video, or of the part of it from one second to another, as the usual downloaders name it."""
    names = [video, f"Y{video}"]
    if start_s is not None:
        starts = [f"{start_s:g}", f"{round(start_s)}", f"{round(start_s * 1000)}", f"{round(start_s):06d}"]
        ends = [] if end_s is None else [f"{end_s:g}", f"{round(end_s)}", f"{round(end_s * 1000)}"]
        parts = [f"{video}_{start}" for start in starts]
        parts += [f"{video}_{start}_{end}" for start, end in zip(starts, ends, strict=False)]
        parts += [f"[{video}]-[{start}-{end}]" for start, end in zip(starts, ends, strict=False)]
        names = [*parts, *(f"Y{part}" for part in parts if not part.startswith("[")), *names]
    return recording_of(folder, *names)


@lru_cache(maxsize=4)
def stems_of(folder: Path) -> dict[str, list[Path]]:
    """The recordings in a folder and those in it, by name without suffix; ValueError where there is none."""
    found: dict[str, list[Path]] = {}
    for path in sorted(map(Path, files_of(folder))):
        found.setdefault(path.stem, []).append(path)
    return found


def files_of(folder: Path) -> Iterator[str]:
    """The paths of the recordings in a folder and those in it, in any order; ValueError where there is none."""
    if is_archive(folder) and folder.is_file():
        raise ValueError(f"recordings={folder} is an archive; unpack it, and give the folder")
    is_empty = True
    for path in files_in(folder):
        if not is_archive(path):
            is_empty = False
            yield path
    if is_empty:
        raise ValueError(f"recordings={folder} holds no recording")


def files_in(folder: Path) -> Iterator[str]:
    """The paths of the recordings and archives in a folder and those in it, in any order."""
    if not folder.is_dir():
        known = ", ".join(ARCHIVES)
        raise ValueError(f"recordings={folder} is no folder, and none of {known}; give what holds the recordings")
    for within, _, names in os.walk(folder, onerror=_refuse_closed):
        for name in names:
            if os.path.splitext(name)[1].lower() in RECORDINGS or is_archive(name):
                yield os.path.join(within, name)


def _refuse_closed(error: OSError) -> None:
    """Recordings in a folder that cannot be listed would be missing without a word."""
    raise ValueError(f"recordings={error.filename} cannot be listed ({error.strerror}); open it, or move it away")


# ---- names and the rules by which recordings fit them ----------------------------------------------------------------


class Video(NamedTuple):
    """What a name says of a video: its id, and from when to when (as written) it was cut."""

    id: str
    start: str | None
    end: str | None


class Wanted(NamedTuple):
    """What a row says of one recording; times of the clip in seconds."""

    name: str  # as in the row, with slashes
    stem: str
    start: float | None = None
    end: float | None = None
    id: str | None = None  # that SIFT gives it


class Match(NamedTuple):
    """The rule to which recordings fit, and these: one, or several that fit equally well; none without a rule."""

    rule: str
    paths: tuple[str, ...]


def video_of(stem: str) -> Video | None:
    """Reads `<id>`, `Y<id>`, `<id>_<start>`, `<id>_<start>_<end>` and `[<id>]-[<start>-<end>]`."""
    found = YOUTUBE.fullmatch(stem)
    if found is None:
        return None
    return Video(*found.groups()[:3]) if found[1] else Video(*found.groups()[3:])


def seconds_of(time: str | float | None) -> tuple[float, ...]:
    """The seconds that a time may mean: written as a whole number, it may count seconds or milliseconds."""
    if time is None:
        return ()
    if isinstance(time, float) or "." in time:
        return (float(time),)
    return (int(time), int(time) / 1000)


def is_same_time(one: str | float | None, other: str | float | None) -> bool:
    """Whether two times may be the same."""
    return any(abs(a - b) < SAME_TIME_S for a in seconds_of(one) for b in seconds_of(other))


def wanted_of(clip: AudioPart, sift_id: str | None = None) -> Wanted:
    """What is looked for, by the path in the row."""
    name = os.fspath(clip.audio).replace("\\", "/")  # type: ignore[arg-type]
    base = posixpath.basename(name)
    stem, suffix = posixpath.splitext(base)
    return Wanted(name, stem if suffix.lower() in RECORDINGS else base, clip.start, clip.end, sift_id)


class Recordings:
    """What some folders and archives hold, by name: about 0.5 kB of memory for a recording.

    A recording in an archive has the path that it would have if the archive were a folder. `unpacked`: the folder for
    those that rows need; what is there from an earlier run is not looked at.
    """

    def __init__(self, places: Sequence[Path], unpacked: Path) -> None:
        self.folders = [os.path.abspath(place) for place in places]
        self.paths: set[str] = set()
        self.stems: dict[str, list[str]] = {}
        self.cuts: dict[str, list[str]] = {}  # of YouTube
        self.freesound: dict[str, list[str]] = {}  # with more than the id in their names
        self.utterances: dict[str, list[str]] = {}  # of LibriSpeech, the same
        self.packed: dict[str, str] = {}  # path -> archive
        self.in_archives: dict[str, list[str]] = {}  # by the path in their archive
        self.archives: dict[str, int] = {}  # recordings in each
        self.left_out: Counter[str] = Counter()
        self.named: dict[str, list[str]] = {}  # the first ones that were left out, by cause
        own = os.path.join(os.path.abspath(unpacked), "")
        for place in self.folders:
            found = [place] if is_archive(place) and os.path.isfile(place) else sorted(files_in(Path(place)))
            if not sum(self._enter_file(path) for path in found if not path.startswith(own)):
                raise ValueError(f"recordings={place} holds no recording")
        self.targets = folders_for(list(self.archives), unpacked)
        self.needed: dict[str, set[str]] = {path: set() for path in self.archives}

    def _enter_file(self, path: str) -> bool:
        """Enter a recording, or those of an archive; whether there is any. Folders may lie in each other."""
        if not is_archive(path):
            if path not in self.paths:
                self._enter(path)
            return True
        if path not in self.archives:
            self.archives[path] = 0
            for member in members_of(path):
                inside = os.path.join(path, member.name)
                if member.cause:
                    self.left_out[member.cause] += 1
                    _put(self.named, member.cause, inside)
                    del self.named[member.cause][MOST_LEFT_OUT:]
                elif os.path.splitext(member.name)[1].lower() in RECORDINGS:
                    self.archives[path] += 1
                    self.packed[inside] = path
                    _put(self.in_archives, member.name, inside)
                    self._enter(inside)
        return self.archives[path] > 0

    def as_file(self, path: str) -> str:
        """Where a recording is, or will be once it is unpacked."""
        return str(self.targets[self.packed[path]] / self._name_in_archive(path)) if path in self.packed else path

    def need(self, path: str) -> None:
        """Note that a row has this recording."""
        if path in self.packed:
            self.needed[self.packed[path]].add(self._name_in_archive(path))

    def _name_in_archive(self, path: str) -> str:
        return path[len(self.packed[path]) + 1 :]

    def unpack(self) -> Unpacked:
        """Write what was noted, archive by archive."""
        done = [unpack(path, names, self.targets[path]) for path, names in self.needed.items() if names]
        return Unpacked(sum(one.written for one in done), sum(one.kept for one in done))

    def _enter(self, path: str) -> None:
        self.paths.add(path)
        stem = stem_of(path)
        _put(self.stems, stem, path)
        if (video := video_of(stem)) and video.start is not None:
            _put(self.cuts, video.id, path)
        if sound := FREESOUND_FILE.fullmatch(stem):
            _put(self.freesound, sound[1], path)
        if (utterance := UTTERANCE.search(stem)) and utterance[0] != stem:
            _put(self.utterances, utterance[0], path)

    def find(self, wanted: Wanted) -> Match:
        """The recordings that fit the first rule to which any fits."""
        for rule, fitting in RULES.items():
            if found := dict.fromkeys(fitting(self, wanted)):
                return Match(rule, tuple(sorted(found)))
        return Match("", ())


def stem_of(path: str) -> str:
    """The name of a file without folder and suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def _put(index: dict[str, list[str]], key: str, path: str) -> None:
    index.setdefault(key, []).append(path)


def by_path(recordings: Recordings, wanted: Wanted) -> Iterable[str]:
    """The same path, counted from a folder or in an archive; a path that leads out of it is in no list."""
    name = posixpath.normpath(wanted.name)
    if posixpath.isabs(name):
        return ()
    paths = (os.path.join(folder, *name.split("/")) for folder in recordings.folders)
    return [*(path for path in paths if path in recordings.paths), *recordings.in_archives.get(name, ())]


def by_stem(recordings: Recordings, wanted: Wanted) -> Iterable[str]:
    """The same name, whatever the folder and the suffix."""
    return recordings.stems.get(wanted.stem, ())


def by_youtube_start(recordings: Recordings, wanted: Wanted) -> Iterable[str]:
    """The same video, cut at the same time: the one in the name or else the clip's start."""
    video = video_of(wanted.stem)
    if video is None:
        return ()
    start, end = (wanted.start, wanted.end) if video.start is None else (video.start, video.end)
    cuts = ((path, video_of(stem_of(path))) for path in recordings.cuts.get(video.id, ()))
    return [path for path, cut in cuts if cut and is_same_time(cut.start, start) and _may_end(cut.end, end)]


def _may_end(one: str | None, other: str | float | None) -> bool:
    return one is None or other is None or is_same_time(one, other)


def by_youtube_id(recordings: Recordings, wanted: Wanted) -> Iterable[str]:
    """The same video: one without a time in its name, or any where the row says no time."""
    video = video_of(wanted.stem)
    if video is None:
        return ()
    found = [path for stem in (video.id, f"Y{video.id}") for path in recordings.stems.get(stem, ())]
    is_any = video.start is None and wanted.start is None
    return [*found, *(recordings.cuts.get(video.id, ()) if is_any else ())]


def by_freesound_id(recordings: Recordings, wanted: Wanted) -> Iterable[str]:
    """The same number at the site: the whole name, or what stands before an underscore."""
    sound = FREESOUND_NAME.fullmatch(wanted.stem)
    return () if sound is None else (*recordings.stems.get(sound[1], ()), *recordings.freesound.get(sound[1], ()))


def by_utterance(recordings: Recordings, wanted: Wanted) -> Iterable[str]:
    """The same speaker, chapter and number of LibriSpeech, within whichever names."""
    found = UTTERANCE.search(wanted.stem)
    return () if found is None else (*recordings.stems.get(found[0], ()), *recordings.utterances.get(found[0], ()))


def by_sift_id(recordings: Recordings, wanted: Wanted) -> Iterable[str]:
    """The name that SIFT's row has as its id, or in it."""
    return () if wanted.id is None else recordings.stems.get(wanted.id, ())


RULES: dict[str, Callable[[Recordings, Wanted], Iterable[str]]] = {
    "path": by_path,
    "stem": by_stem,
    "youtube start": by_youtube_start,
    "youtube id": by_youtube_id,
    "freesound id": by_freesound_id,
    "librispeech id": by_utterance,
    "sift id": by_sift_id,
}
"""In their order: a rule is asked only where no recording fits those before it."""


# ---- rows ------------------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What became of the rows of one source; `rules` counts the found ones by the last rule that a clip needed."""

    rows: int = 0
    found: int = 0
    missing: int = 0
    ambiguous: int = 0
    broken: int = 0
    rules: Counter[str] = field(default_factory=Counter)


@dataclass
class Joined:
    """What became of the rows, by source; rows that cannot be read count under the name of their file."""

    recordings: int
    archives: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Cause -> members of archives."""
    named: dict[str, list[str]] = field(default_factory=dict)
    """The first ones of them."""
    unpacked: Unpacked = field(default_factory=lambda: Unpacked(0, 0))
    sources: dict[str, Counts] = field(default_factory=dict)

    def of(self, source: str) -> Counts:
        """The counts to which a row of a source is added."""
        name = source if source in self.sources or len(self.sources) < MOST_SOURCES else OTHER_SOURCES
        return self.sources.setdefault(name, Counts())

    @property
    def total(self) -> Counts:
        """All sources together."""
        total = Counts()
        for counts in self.sources.values():
            total.rows += counts.rows
            total.found += counts.found
            total.missing += counts.missing
            total.ambiguous += counts.ambiguous
            total.broken += counts.broken
            total.rules += counts.rules
        return total

    def summary(self) -> str:
        """A line for each source and one for all, with the rules by which rows were found; before them, archives."""
        named = sorted(self.sources.items()) + ([("all", self.total)] if len(self.sources) != 1 else [])
        lines = [
            f"recordings: {self.recordings:,}"
            + (f" ({counted(self.archives, 'archive')} looked into)" * bool(self.archives))
        ]
        for cause, number in self.left_out.most_common():
            more = ", ..." if number > len(self.named[cause]) else ""
            lines.append(f"left out of archives, {cause}: {number:,} ({', '.join(map(repr, self.named[cause]))}{more})")
        if any(self.unpacked):
            lines.append(f"unpacked: {self.unpacked.written:,}, and {self.unpacked.kept:,} that were there")
        return "\n".join([*lines, *(_line(name, counts) for name, counts in named)])


def _line(name: str, counts: Counts) -> str:
    order = (AS_IT_IS, *RULES)
    rules = ", ".join(f"{rule} {counts.rules[rule]:,}" for rule in order if counts.rules[rule])
    figures = f"{name}: {counted(counts.rows, 'row')}, {counts.found:,} found" + (f" ({rules})" if rules else "")
    return f"{figures}, {counts.missing:,} missing, {counts.ambiguous:,} ambiguous, {counts.broken:,} broken"


def join(
    rows: str, recordings: Sequence[Path], out: Path, *, format: str | None = None, question: str | None = None
) -> Joined:
    """Find the recordings that rows name in folders and archives, and write the rows into the folder `out`.

    format: where it cannot be told. question: what tables without such a column ask. ValueError where the folders hold
    no recording, an archive is damaged, or nothing can be read.
    """
    names = (JOINED, MISSING, AMBIGUOUS, BROKEN)
    refuse_overwriting(rows, [out / name for name in names])
    index = Recordings(recordings, out / UNPACKED)
    joined = Joined(len(index.paths), len(index.archives), index.left_out, index.named)
    with written_together(out, names) as files:
        found = tqdm(_rows(rows, format, question), desc="join", unit=" rows", mininterval=1, disable=None)
        error: RowError | None = None
        for name, folder, row in found:
            if isinstance(row, Row):
                _join_row(row, row.source or name, folder, index, files, joined, out)
            else:
                error = error or row
                _count_broken(row, joined.of(name), files)
        if error is not None and joined.total.broken == joined.total.rows:
            raise ValueError(f"no row could be read; the first: {error}")
        joined.unpacked = index.unpack()
    if not joined.total.broken:
        (out / BROKEN).unlink()
    return joined


@contextmanager
def written_together(folder: Path, names: Sequence[str]) -> Iterator[dict[str, TextIO]]:
    """Files of a folder that appear when all is done; where it fails, none, and no empty folder."""
    with ExitStack() as stack:
        paths = {name: stack.enter_context(whole(folder / name)) for name in names}
        yield {name: stack.enter_context(path.open("w", encoding="utf-8")) for name, path in paths.items()}


def _rows(source: str, format: str | None, question: str | None) -> Iterator[tuple[str, Path | None, Row | RowError]]:
    """The rows with the names and folders of their files; a file that cannot be read on is one bad row more."""
    paths = [source] if is_elsewhere(source) else [str(path) for path in files_of_rows(os.path.expanduser(source))]
    for path in paths:
        name = Path(path).name
        try:
            for opened in _opened(path):
                name = Path(opened.name).name
                # Without their folder, paths stay as the row has them, which is what the rules look at.
                for row in rows_of(opened._replace(folder=None), format, question):
                    yield name, opened.folder, row
        except RowError as error:
            yield name, None, error if error.origin else error.at(path)
        except UNREADABLE as error:
            yield name, None, RowError(path, "", f"cannot be read ({error}); write it again")


def _opened(path: str) -> Iterator[Opened]:
    file = Path(path)
    if file.suffix.lower() == ".json" and file.name != LISTED and file.is_file():  # which may be larger than memory
        yield Opened(path, file.parent, read_list(file) if _is_list(file) else read_jsonl(file))
    else:
        yield from open_source(path)


def _is_list(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return LIST.match(file.read(HEAD_BYTES)) is not None


def read_list(path: Path) -> Placed:
    """The objects of a JSON list, numbered from 1, with one of them in memory; what is broken ends the file.

    The list is the file, or `annotation` of the object that is.
    """
    decoder, number = json.JSONDecoder(), 0
    with path.open(encoding="utf-8-sig") as file:
        opening = LIST.match(file.read(HEAD_BYTES))
        assert opening, "no list of rows"
        file.seek(0)
        file.read(opening.end())
        text, position = "", 0
        while True:
            position = _skipped(text, position)
            if text[position : position + 1] == "]":
                if (text[position + 1 :] + file.read(HEAD_BYTES)).strip() != ("}" if opening["named"] else ""):
                    yield f"{path}:{number + 1}", RowError(f"{path}:{number + 1}", "", MORE_THAN_LIST)
                return
            try:
                row, end = decoder.raw_decode(text, position)
                after = _skipped(text, end)
                is_whole = text[after : after + 1] in (",", "]")
            except (json.JSONDecodeError, RecursionError):
                is_whole = False
            if not is_whole:
                more = file.read(max(CHUNK_CHARS, len(text) - position))
                text, position = text[position:] + more, 0
                if not more or len(text) > MOST_CHARS:
                    cause = f"broken JSON after row {number}; the rest was not read: write a list of objects, or .jsonl"
                    yield f"{path}:{number + 1}", RowError(f"{path}:{number + 1}", "", cause)
                    return
                continue
            number += 1
            yield f"{path}:{number}", object_of(f"{path}:{number}", row)
            position = after + (text[after] == ",")


def _skipped(text: str, position: int) -> int:
    """Where white space ends."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


class Looked(NamedTuple):
    """One clip of a row: what was wanted, what fits, and the clip with its recording where there is one alone."""

    name: str
    match: Match
    clip: AudioPart | None


def _join_row(
    row: Row, source: str, folder: Path | None, index: Recordings, files: dict[str, TextIO], joined: Joined, out: Path
) -> None:
    """Write a row to the file where it belongs, and count it."""
    counts = joined.of(source)
    looked = look_up(row, folder, index)
    lost = [one for one in looked if not one.match.paths and one.clip is None]
    unclear = [one for one in looked if one.match.paths and one.clip is None]
    if lost or unclear:
        counts.rows += 1
        is_missing = bool(lost)
        counts.missing += is_missing
        counts.ambiguous += not is_missing
        told = {"origin": row.origin, "id": row.id, "source": source, "wanted": [_told(one) for one in lost + unclear]}
        _write(files[MISSING if is_missing else AMBIGUOUS], told)
        return
    try:
        files_of_row = [one._replace(clip=_as_file(one.clip, index)) for one in looked]
        line = json.dumps(row_to_dict(_with(row, files_of_row), out), ensure_ascii=False, allow_nan=False)
    except (RowError, TypeError, ValueError) as error:
        cause = error.cause if isinstance(error, RowError) else f"cannot be written as JSON ({error})"
        _count_broken(RowError(row.origin, "", cause, row.id), counts, files)
        return
    counts.rows += 1
    counts.found += 1
    order = [AS_IT_IS, *RULES]
    counts.rules[max((one.match.rule for one in looked), key=order.index, default=AS_IT_IS)] += 1
    files[JOINED].write(line + "\n")
    for one in looked:
        for path in one.match.paths:
            index.need(path)


def _as_file(clip: AudioPart | None, index: Recordings) -> AudioPart | None:
    """The clip with the file of its recording, if that lies in an archive."""
    if clip is None or not isinstance(clip.audio, str):
        return clip
    return replace(clip, audio=index.as_file(clip.audio))


def _count_broken(error: RowError, counts: Counts, files: dict[str, TextIO]) -> None:
    counts.rows += 1
    counts.broken += 1
    cause = f"{error.field}: {error.cause}" if error.field else error.cause
    _write(files[BROKEN], {"origin": error.origin, "id": error.row_id, "cause": cause})


def _write(file: TextIO, line: dict[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _told(one: Looked) -> dict[str, Any]:
    """A name without a recording, with those that fit it."""
    if not one.match.paths:
        return {"name": one.name}
    left = len(one.match.paths) - MOST_CANDIDATES
    told = {"name": one.name, "rule": one.match.rule, "candidates": one.match.paths[:MOST_CANDIDATES]}
    return told | ({"further_candidates": left} if left > 0 else {})


def look_up(row: Row, folder: Path | None, index: Recordings) -> list[Looked]:
    """What fits each clip of a row, whose relative paths count from the folder of its file."""
    ids = sift_ids(row)
    return [_look_up(clip, folder, index, one) for clip, one in zip(row.clips, ids, strict=True)]


def sift_ids(row: Row) -> Sequence[str | None]:
    """The names that SIFT's id gives the clips: `comparison_<a>__<b>` two, `<id>` one; None for rows of other sets."""
    number = len(row.clips)
    if row.id is None or row.id != row.source_id:  # reading SIFT's rows puts the id in both
        return [None] * number
    names = row.id.removeprefix("comparison_")
    parts = names.split("__") if number > 1 else [names]
    return parts if len(parts) == number else [None] * number


def _look_up(clip: AudioPart, folder: Path | None, index: Recordings, sift_id: str | None) -> Looked:
    if not isinstance(clip.audio, str):
        return Looked("", Match(AS_IT_IS, ()), clip)
    if path := _existing(clip.audio, folder):
        return Looked(clip.audio, Match(AS_IT_IS, (path,)), replace(clip, audio=path))
    wanted = wanted_of(clip, sift_id)
    match = index.find(wanted)
    return Looked(clip.audio, match, _placed(clip, wanted, match) if len(match.paths) == 1 else None)


def _existing(name: str, folder: Path | None) -> str | None:
    """The absolute path of a file that is there: an absolute name, or one that stays within the folder of the rows."""
    if os.path.isabs(name):
        return name if os.path.isfile(name) else None
    if folder is None:
        return None
    top = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(top, name))
    return path if path.startswith(os.path.join(top, "")) and os.path.isfile(path) else None


def _placed(clip: AudioPart, wanted: Wanted, match: Match) -> AudioPart:
    """The clip in its recording; one that was cut at the clip's start begins there."""
    (path,) = match.paths
    video = video_of(wanted.stem)
    if match.rule == "youtube start" and clip.start is not None and video is not None and video.start is None:
        return replace(clip, audio=path, start=None, end=None if clip.end is None else clip.end - clip.start)
    return replace(clip, audio=path)


def _with(row: Row, looked: Sequence[Looked]) -> Row:
    """The row with its clips replaced, in their order."""
    clips = iter(looked)

    def changed(part: Part) -> Part:
        return next(clips).clip or part if isinstance(part, AudioPart) else part

    messages: list[Message] = [
        replace(message, content=tuple(map(changed, message.content))) for message in row.messages
    ]
    return replace(row, messages=tuple(messages))
