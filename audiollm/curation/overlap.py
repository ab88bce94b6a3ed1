"""What two sets of rows share: recordings found again by the names of their sources, by content, and by sound.

    clips_of(rows)      the different clips, the rows about each, and the names by which sources know them
    fingerprints(...)   FOLDER/KEY/bits.npy, strong.npy, starts.npy, about.json: made once for the same content
    Index(prints)       looks clips up by quarters of their bits, then compares bit by bit
    find_overlap(...)   the pairs of clips; within one set, pairs of its own

The indexed set (evaluation) is in memory, about 15 kB for 10 s of sound; the other stays on disk and passes by.
Nothing depends on the order of rows or the number of processes. Not here: the fingerprint itself (fingerprint.py).
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from audiollm import audio as sound
from audiollm.audio import AudioError, AudioSource
from audiollm.conversation import AudioPart, Row, RowError
from audiollm.curation.fingerprint import (
    HOP_S,
    MIN_FRAMES,
    MIN_STRONG,
    RATE,
    VERSION,
    Fingerprint,
    fingerprint,
    reason_against,
)
from audiollm.curation.processes import workers
from audiollm.data.sources import Problems, load_rows
from audiollm.files import whole
from audiollm.report.figures import counted

EXACT_ERRORS, EXACT_DIFFERING = 0.003, 0.04
"""A copy differs in at most this share of the bits that are strong in both, and in that of those that are in either.
The same tune played again by the same instrument differs in more."""
MOST_ERRORS, MOST_DIFFERING, SELF_SHARE, DISTORTED_S = 0.05, 0.25, 0.15, 4.0
"""What was distorted differs in more: up to these shares, and up to this share of the errors that either clip has
against itself at another time. It takes more seconds to tell it from another recording of the same thing."""
SELF_LAG = 38  # frames: 0.38 s, from where on two frames share no samples
SELF_FRAMES = 3_000  # frames of a clip that are compared with each other: 30 s
QUARTER_BITS, QUARTERS, APART = 8, 4, 12  # a key is 8 neighbouring bits at 4 frames, 120 ms apart
KEY_STRONG = 8  # strong bits that make a key worth looking up
KEY_STEP = 4  # every fourth frame is indexed, every one is looked up
COMMON = 1_000  # a key of more frames than this tells little: it is passed over, and counted
OFFSETS = 3  # those with most keys in common are compared
CLIPS_AT_ONCE = 32
SPAN = 1 << 32  # more frames than a clip has

BY_NAME = ("source_id", "file name", "youtube", "freesound")
BY_SOUND = ("content", "sound")
YOUTUBE = re.compile(r"\[?Y?(?=[\w-]*[a-z])(?=[\w-]*[A-Z])([\w-]{11})\]?(?:[-_]\[?\d.*)?")
FREESOUND = {
    "esc50": re.compile(r"\d-(\d+)-[A-Z]-\d+"),
    "urbansound8k": re.compile(r"(\d+)-\d+-\d+-\d+"),
    **dict.fromkeys(("fsd50k", "wavcaps", "tacos", "freesound"), re.compile(r"(\d+)")),
}
"""Sets whose recordings are named by their number at Freesound, and how."""
COUNTED = re.compile(r"(?:[a-z]+[-_ ]?)?\d*", re.IGNORECASE)  # train-00012, clip3: the same name in any two sets


# ---- clips and their names -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Clip:
    """A clip, and the rows about it; `digest` is that of its content and cut."""

    part: AudioPart
    digest: str
    origin: str
    row_id: str | None
    rows: int = 1
    names: set[tuple[str, ...]] = field(default_factory=set)  # kind of name, and what it is

    def told(self) -> dict[str, Any]:
        """For the report."""
        audio = None if self.part.audio is None else sound.name_of(self.part.audio)
        cut = {name: at for name in ("start", "end") if (at := getattr(self.part, name)) is not None}
        return {"origin": self.origin, "row": self.row_id, "rows": self.rows, "audio": audio, **cut}


def clips_of(rows: Iterable[Row], problems: Problems) -> list[Clip]:
    """The different clips of rows, in the order of their content; those that cannot be read are problems."""
    clips: dict[Any, Clip | None] = {}
    files: dict[str, str] = {}
    for row in rows:
        for part in row.clips:
            if part.key not in clips:
                try:
                    clips[part.key] = Clip(part, digest_of(part, files), row.origin, row.id, 0)
                except AudioError as error:
                    clips[part.key] = None
                    problems.add(RowError(row.origin, "audio", str(error), row.id))
            if clip := clips[part.key]:
                clip.rows += 1
                clip.names |= names_of(row, part)
                clip.row_id, clip.origin = min((clip.row_id or "", clip.origin), (row.id or "", row.origin))
    return sorted((clip for clip in clips.values() if clip), key=lambda clip: (clip.digest, clip.row_id, clip.origin))


def digest_of(part: AudioPart, files: dict[str, str]) -> str:
    """Stands for what a clip holds, and for its cut; `files` keeps the digests of those that have many clips."""
    source = part.audio
    if source is None:
        raise AudioError("", "this audio part has no sound")
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if path not in files:
            files[path] = sound.digest(path)
        content = files[path]
    elif isinstance(source, bytes):
        content = hashlib.sha256(source).hexdigest()
    else:
        content = hashlib.sha256(sound.load(source, RATE).tobytes()).hexdigest()
    return hashlib.sha256(f"{content} {part.start or 0.0} {part.end}".encode()).hexdigest()


def names_of(row: Row, part: AudioPart) -> set[tuple[str, ...]]:
    """The names under which the recording of a clip is known; with two clips, a row's `source_id` names neither."""
    alone = len(row.clips) == 1
    words = [row.source_id] if row.source_id and alone else []
    names: set[tuple[str, ...]] = {("source_id", row.source or "", word) for word in words}
    if isinstance(part.audio, str | os.PathLike):
        words.append(os.path.basename(os.fspath(part.audio)))
    for word in words:
        stem = re.sub(r"\.(wav|flac|mp3|ogg|opus|m4a|mp4|webm)$", "", word, flags=re.IGNORECASE)
        if not COUNTED.fullmatch(stem):
            names.add(("file name", stem.lower()))
        if found := YOUTUBE.fullmatch(stem):
            names.add(("youtube", found[1]))
        if (row.source in FREESOUND) and (found := FREESOUND[row.source].fullmatch(stem)):
            names.add(("freesound", found[1]))
    return names


# ---- fingerprints, kept on disk --------------------------------------------------------------------------------------


class Prints:
    """Fingerprints one after another; a clip that has none has no frames."""

    def __init__(self, bits: np.ndarray, strong: np.ndarray, starts: np.ndarray) -> None:
        self.bits, self.strong, self.starts = bits, strong, starts  # [frames] uint32, the same, [clips + 1] int64

    @classmethod
    def joined(cls, prints: Sequence[Fingerprint | None]) -> "Prints":
        """Those in memory."""
        empty = np.empty(0, np.uint32)
        starts = np.cumsum([0, *(0 if one is None else len(one.bits) for one in prints)])
        bits, strong = ([empty, *(one[half] for one in prints if one is not None)] for half in (0, 1))
        return cls(np.concatenate(bits), np.concatenate(strong), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, clip: int, /) -> Fingerprint:
        begin, end = self.starts[clip], self.starts[clip + 1]
        return Fingerprint(np.asarray(self.bits[begin:end]), np.asarray(self.strong[begin:end]))


BROKEN = "broken: "
Sound = tuple[AudioSource, float | None, float | None]  # what to load, from and to


def heard(sounds: Sequence[Sound]) -> list[Fingerprint | str]:
    """The fingerprint of each, or why there is none: in other processes."""
    return [_heard(*one) for one in sounds]


def _heard(source: AudioSource, start: float | None, end: float | None) -> Fingerprint | str:
    try:
        samples = sound.load(source, RATE, start=start, end=end)
    except AudioError as error:
        return BROKEN + error.cause
    found = fingerprint(samples)
    return reason_against(samples, found) or found


def fingerprints(clips: Sequence[Clip], folder: Path, num_proc: int) -> tuple[Prints, dict[int, str]]:
    """Those of clips in `folder`, made where they are not there, and why some clips have none (number -> reason).

    Clips of the same digest are told once: the key of the folder is that of all digests.
    """
    key = hashlib.sha256("\n".join([str(VERSION), *(clip.digest for clip in clips)]).encode()).hexdigest()[:16]
    place = folder / key
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{key}-", suffix=".tmp", dir=folder))
        try:
            write(unfinished, clips, num_proc)
            unfinished.rename(place)
        except OSError:
            if not place.is_dir():  # another process was faster, and wrote the same
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return read(place, len(clips))


def write(folder: Path, clips: Sequence[Clip], num_proc: int) -> None:
    """Fingerprint clips, and write each down as it comes."""
    against: dict[int, str] = {}
    starts = np.zeros(len(clips) + 1, np.int64)
    with (folder / "bits.raw").open("wb") as bits, (folder / "strong.raw").open("wb") as strong:
        for number, found in enumerate(hear_all(clips, num_proc)):
            starts[number + 1] = starts[number]
            if isinstance(found, str):
                against[number] = found
            else:
                starts[number + 1] += len(found.bits)
                bits.write(found.bits.astype("<u4").tobytes())
                strong.write(found.strong.astype("<u4").tobytes())
    for name in ("bits", "strong"):
        with_header(folder / f"{name}.raw", int(starts[-1]))
    np.save(folder / "starts.npy", starts, allow_pickle=False)
    (folder / "about.json").write_text(json.dumps(against), encoding="utf-8")


def hear_all(clips: Sequence[Clip], num_proc: int) -> Iterator[Fingerprint | str]:
    """In their order; few at a time are under way, so that memory does not grow with their number."""
    sounds: list[Sound] = [(clip.part.audio, clip.part.start, clip.part.end) for clip in clips if clip.part.audio]
    assert len(sounds) == len(clips)  # digest_of refuses a clip without sound
    jobs = (sounds[begin : begin + CLIPS_AT_ONCE] for begin in range(0, len(sounds), CLIPS_AT_ONCE))
    with tqdm(total=len(sounds), desc="fingerprints", unit=" clips", leave=False, mininterval=1, disable=None) as bar:
        for done in map(heard, jobs) if num_proc == 1 else _in_processes(jobs, num_proc):
            bar.update(len(done))
            yield from done


def _in_processes(jobs: Iterable[Sequence[Sound]], num_proc: int) -> Iterator[list[Fingerprint | str]]:
    waiting: deque[Future[list[Fingerprint | str]]] = deque()
    with workers(num_proc) as pool:
        for job in jobs:
            waiting.append(pool.submit(heard, job))
            if len(waiting) > 2 * num_proc:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def with_header(raw: Path, count: int) -> None:
    """A raw file of uint32 as .npy in its place."""
    with raw.open("rb") as values, raw.with_suffix(".npy").open("wb") as file:
        header = {"descr": "<u4", "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        shutil.copyfileobj(values, file)
    raw.unlink()


def read(folder: Path, num_clips: int) -> tuple[Prints, dict[int, str]]:
    """What `write` wrote, mapped into memory; ValueError where that is damaged."""
    try:
        against = {int(number): str(why) for number, why in json.loads((folder / "about.json").read_bytes()).items()}
        starts = np.load(folder / "starts.npy", allow_pickle=False)
        bits, strong = (_mapped(folder / f"{name}.npy", int(starts[-1])) for name in ("bits", "strong"))
        if len(starts) != num_clips + 1 or len(bits) != starts[-1] or len(strong) != starts[-1]:
            raise ValueError("lengths differ")
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{folder} holds no fingerprints, or damaged ones ({error}); delete it") from None
    return Prints(bits, strong, starts), against


def _mapped(path: Path, count: int) -> np.ndarray:
    return np.load(path, mmap_mode="r" if count else None, allow_pickle=False)  # an empty file cannot be mapped


# ---- looking up ------------------------------------------------------------------------------------------------------


class Match(NamedTuple):
    """A clip of the index in which a query is heard."""

    clip: int
    offset_s: float  # when the query begins in it
    shared_s: float
    errors: float  # share of the bits that are strong in both and differ
    differing: float  # share of the bits that are strong in either and differ


class Index:
    """Looks up fingerprints; clips that have none find nothing and are not found."""

    def __init__(self, prints: Prints) -> None:
        self.prints = prints
        self.tables = [self._table(quarter) for quarter in range(QUARTERS)]
        self.passed_over = 0
        """Queries of which no key was rare enough to be looked up."""

    def _table(self, quarter: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys in order, and the frame of each."""
        found = []
        for clip in range(len(self.prints)):
            keys, frames = keys_of(self.prints[clip], quarter)
            kept = frames % KEY_STEP == 0
            found.append((keys[kept], frames[kept] + self.prints.starts[clip]))
        keys = np.concatenate([np.empty(0, np.uint32), *(keys for keys, _ in found)])
        frames = np.concatenate([np.empty(0, np.int64), *(frames for _, frames in found)])
        order = np.argsort(keys, kind="stable")
        return keys[order], frames[order]

    def find(self, query: Fingerprint) -> list[Match]:
        """Every clip in which a query is heard, or a part of it of `MIN_FRAMES` frames, in their order."""
        matches = []
        for clip, offsets in self._candidates(query).items():
            near = {offset + step for offset in offsets for step in (-1, 0, 1)}
            best = min((self._compared(query, clip, offset) for offset in sorted(near)), key=lambda match: match.errors)
            if is_copy(best) or self._is_distorted(best, query):
                matches.append(best)
        return sorted(matches)

    def _candidates(self, query: Fingerprint) -> dict[int, list[int]]:
        """Clips with a key in common, and at which offsets (in frames) they have most."""
        codes, looked_up, keyed = [np.empty(0, np.int64)], 0, 0
        for quarter, (keys, frames) in enumerate(self.tables):
            asked, at = keys_of(query, quarter)
            first, last = np.searchsorted(keys, asked, "left"), np.searchsorted(keys, asked, "right")
            rare = last - first <= COMMON
            keyed, looked_up = keyed + len(asked), looked_up + int(rare.sum())
            first, at, counts = first[rare], at[rare], (last - first)[rare]
            places = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
            found = frames[places]
            clips = np.searchsorted(self.prints.starts, found, "right") - 1
            offsets = found - self.prints.starts[clips] - np.repeat(at, counts)
            codes.append(clips * SPAN + offsets + SPAN // 2)
        self.passed_over += keyed > 0 and not looked_up
        values, votes = np.unique(np.concatenate(codes), return_counts=True)
        candidates: dict[int, list[int]] = defaultdict(list)
        for value in values[np.argsort(-votes, kind="stable")].tolist():
            clip, offset = divmod(value, SPAN)
            if len(candidates[clip]) < OFFSETS:
                candidates[clip].append(offset - SPAN // 2)
        return candidates

    def _compared(self, query: Fingerprint, clip: int, offset: int) -> Match:
        """How well a query fits a clip at an offset; too little in common counts as all wrong."""
        other = self.prints[clip]
        begin, end = max(0, -offset), min(len(query.bits), len(other.bits) - offset)
        found = Differing(1.0, 1.0)
        if end - begin >= MIN_FRAMES:
            found = differing(query, other, begin, begin + offset, end - begin)
        return Match(clip, round(offset * HOP_S, 2), round((end - begin) * HOP_S, 2), *found)

    def _is_distorted(self, match: Match, query: Fingerprint) -> bool:
        """Whether a match that is no copy is one nonetheless: what repeats itself is like others of its kind, too."""
        if match.errors > MOST_ERRORS or match.differing > MOST_DIFFERING or match.shared_s < DISTORTED_S:
            return False
        return match.errors <= SELF_SHARE * min(self_errors(query), self_errors(self.prints[match.clip]))


def is_copy(match: Match) -> bool:
    """Whether two clips differ by no more than a codec, a shift or a level makes them."""
    return match.errors <= EXACT_ERRORS and match.differing <= EXACT_DIFFERING


def keys_of(found: Fingerprint, quarter: int) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a quarter of the bands that say enough, uint32, and the first frame of each, int64.

    frame       n          n+6         n+12        n+18
    bits      [8 bits]   [8 bits]    [8 bits]    [8 bits]      one quarter, so that noise in one band spoils no other
    """
    count = max(0, len(found.bits) - APART * (QUARTERS - 1))
    keys, trusted = np.zeros(count, np.uint32), np.zeros(count, np.uint32)
    for turn in range(QUARTERS):
        part = slice(turn * APART, turn * APART + count)
        for into, bits in ((keys, found.bits), (trusted, found.strong)):
            into |= (bits[part] >> np.uint32(quarter * QUARTER_BITS) & np.uint32(0xFF)) << np.uint32(
                turn * QUARTER_BITS
            )
    frames = np.flatnonzero(np.bitwise_count(trusted) >= KEY_STRONG)
    return keys[frames], frames


class Differing(NamedTuple):
    """Shares of the bits that differ: of those that are strong in both clips, and of those that are in either."""

    in_both: float
    in_either: float


def differing(one: Fingerprint, other: Fingerprint, begin: int, other_begin: int, frames: int) -> Differing:
    """How two clips differ over some frames; by 1 where too few bits are strong in both."""
    mine, theirs = slice(begin, begin + frames), slice(other_begin, other_begin + frames)
    unequal = one.bits[mine] ^ other.bits[theirs]
    both, either = one.strong[mine] & other.strong[theirs], one.strong[mine] | other.strong[theirs]
    if _count(both) < MIN_STRONG:
        return Differing(1.0, 1.0)
    return Differing(_count(both & unequal) / _count(both), _count(either & unequal) / _count(either))


def _count(bits: np.ndarray) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def self_errors(found: Fingerprint) -> float:
    """The least share of bits in which a clip differs from itself at another time: 0 for a loop, about 0.5 for speech.

    An engine or an alarm is much like any other of its kind at some offset, as it is like itself a turn later.
    """
    key = (found.bits[:SELF_FRAMES].tobytes(), found.strong[:SELF_FRAMES].tobytes())
    return _self_errors(*key)


@lru_cache(maxsize=1_000)
def _self_errors(bits: bytes, strong: bytes) -> float:
    found = Fingerprint(np.frombuffer(bits, np.uint32), np.frombuffer(strong, np.uint32))
    lags = range(SELF_LAG, len(found.bits) - MIN_FRAMES + 1)
    return min((differing(found, found, 0, lag, len(found.bits) - lag).in_both for lag in lags), default=1.0)


# ---- pairs -----------------------------------------------------------------------------------------------------------


@dataclass
class Side:
    """One of the sets, by its name; `against` says why some clips have no fingerprint."""

    name: str
    rows: int
    clips: list[Clip]
    problems: Problems
    against: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Pair:
    """Two clips of one recording: of `train` and `evaluation`, or of one set; `found` says how it is known."""

    train: Clip
    evaluation: Clip
    found: tuple[str, ...]  # of BY_NAME and BY_SOUND
    match: Match | None = None

    @property
    def where(self) -> str:
        """The rows of both, and how it is known, in words."""
        return f"{self.train.origin} and {self.evaluation.origin} ({', '.join(self.found)})"

    def told(self) -> dict[str, Any]:
        """A line of the report."""
        line = {"found": list(self.found), "train": self.train.told(), "evaluation": self.evaluation.told()}
        if self.match is None:
            return line
        _, offset_s, shared_s, errors, _ = self.match
        return line | {"offset_s": offset_s, "shared_s": shared_s, "errors": round(errors, 4)}


@dataclass
class Overlap:
    """What two sets share; `evaluation` is None where a set was compared with itself."""

    train: Side
    evaluation: Side | None
    pairs: list[Pair]
    passed_over: int  # clips of which every key was too common to be looked up

    def count(self, kinds: Iterable[str]) -> int:
        """Pairs that are known in one of these ways."""
        return sum(not set(kinds).isdisjoint(pair.found) for pair in self.pairs)

    @property
    def unread(self) -> int:
        """Rows, or recordings, that could not be compared."""
        return sum(side.problems.count for side in (self.train, self.evaluation) if side)

    def summary(self) -> str:
        """The counts, a line each."""
        kinds = Counter(kind for pair in self.pairs for kind in pair.found)
        sides = [self.train, *([self.evaluation] if self.evaluation else [])]
        lines = [f"{side.name}: {counted(side.rows, 'row')}, {counted(len(side.clips), 'clip')}" for side in sides]
        lines.append(f"overlap: {counted(len(self.pairs), 'pair')} of clips; {self._concerned()}")
        for title, of in (("by source", BY_NAME), ("by sound", BY_SOUND)):
            told = ", ".join(f"{kind} {kinds[kind]:,}" for kind in of if kinds[kind])
            lines.append(f"  {title}: {self.count(of):,}" + (f" ({told})" if told else ""))
        for side in sides:
            told = ", ".join(f"{why} {count:,}" for why, count in sorted(side.against.items()))
            lines.append(
                f"not fingerprinted, of {side.name}: {side.against.total():,}" + (f" ({told})" if told else "")
            )
            if side.problems.count:
                lines.append(f"not compared, of {side.name}: {side.problems.summary()}")
        if self.passed_over:
            lines.append(f"too common to be looked up: {counted(self.passed_over, 'clip')} of {self.train.name}")
        return "\n".join(lines)

    def _concerned(self) -> str:
        first, second = ({id(clip): clip.rows for clip in clips} for clips in self._clips())
        if self.evaluation is None:
            return f"{counted(sum((first | second).values()), 'row')} of {self.train.name}"
        return (
            f"{counted(sum(first.values()), 'row')} of {self.train.name} "
            f"and {counted(sum(second.values()), 'row')} of {self.evaluation.name}"
        )

    def _clips(self) -> tuple[list[Clip], list[Clip]]:
        return [pair.train for pair in self.pairs], [pair.evaluation for pair in self.pairs]

    def write(self, path: Path) -> None:
        """The pairs, a JSON object a line; the file appears when it is complete."""
        with whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for pair in self.pairs:
                file.write(json.dumps(pair.told(), ensure_ascii=False) + "\n")


def find_overlap(train: Any, evaluation: Any = None, *, folder: str | Path, num_proc: int = 1) -> Overlap:
    """What the rows of `train` share with those of `evaluation`, or among themselves where there are none of these.

    Both are what `load_rows` takes. folder: where fingerprints are kept. RowError where a set cannot be read.
    Within one set, cuts of one file are no pair: that they belong together is plain.
    """
    first = read_side(train, "the training set" if evaluation is not None else "the set")
    second = None if evaluation is None else read_side(evaluation, "the evaluation set")
    indexed = first if second is None else second
    index = Index(_prints_of(indexed, Path(folder), num_proc))
    queries = index.prints if second is None else _prints_of(first, Path(folder), num_proc)
    found: dict[tuple[int, int], dict[str, Match | None]] = defaultdict(dict)
    for kind, here, there in by_name(first.clips, indexed.clips):
        found[here, there][kind] = None
    for kind, here, there, match in by_sound(queries, index, contents(first.clips), contents(indexed.clips)):
        found[here, there][kind] = match
    order = (*BY_NAME, *BY_SOUND)
    pairs = [
        Pair(first.clips[here], indexed.clips[there], tuple(sorted(kinds, key=order.index)), kinds.get("sound"))
        for (here, there), kinds in sorted(found.items())
        if second is not None or not of_one_file(first.clips[here], first.clips[there])
    ]
    return Overlap(first, second, pairs, index.passed_over)


def refuse_overlap(train: Sequence[str], evaluation: Sequence[str], folder: str | Path) -> None:
    """ValueError if the rows of some files are about recordings that others are about too, with the first pair."""
    for against in evaluation:
        found = find_overlap(list(train), against, folder=folder)
        if found.pairs:
            raise ValueError(
                f"{len(found.pairs):,} recordings of training are in {against} too, the first in "
                f"{found.pairs[0].where}; `audiollm overlap` lists them: leave them out, or set refuse_overlap to false"
            )


def refuse_duplicates(train: Sequence[str], folder: str | Path) -> None:
    """ValueError if some rows of training are about different clips of one recording, with the first pair."""
    found = find_overlap(list(train), folder=folder)
    if found.pairs:
        lists = f"`audiollm overlap {shlex.quote(train[0])}` lists"
        if len(train) > 1:
            lists = "`audiollm overlap ROWS`, and `--with ROWS` for two files, list"
        raise ValueError(
            f"training has {counted(len(found.pairs), 'pair')} of clips of one recording, the first in "
            f"{found.pairs[0].where}; {lists} them: leave them out, or set refuse_duplicates to false"
        )


def of_one_file(one: Clip, other: Clip) -> bool:
    """Whether two clips are the same file or bytes, or cuts of them."""
    whole, others = (replace(clip.part, start=None, end=None) for clip in (one, other))
    return whole.key == others.key


def read_side(source: Any, name: str) -> Side:
    """The clips of a set; what cannot be read is counted."""
    problems = Problems()
    rows = load_rows(source, problems=problems)
    if not rows:
        raise RowError("", "", f"{name} has no row that could be read; {problems.summary()}")
    called = os.fspath(source) if isinstance(source, str | os.PathLike) else name
    return Side(called, len(rows), clips_of(rows, problems), problems)


def contents(clips: Sequence[Clip]) -> dict[str, list[int]]:
    """Digest -> the clips of that content, in order."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, clip in enumerate(clips):
        found[clip.digest].append(number)
    return found


def _prints_of(side: Side, folder: Path, num_proc: int) -> Prints:
    """The fingerprints of the different contents of a set, in order; what has none is counted."""
    different = [side.clips[numbers[0]] for numbers in contents(side.clips).values()]
    prints, against = fingerprints(different, folder, num_proc)
    for number, why in against.items():
        clip = different[number]
        if why.startswith(BROKEN):
            cause = f"{sound.name_of(clip.part.audio)}: {why.removeprefix(BROKEN)}"
            side.problems.add(RowError(clip.origin, "audio", cause, clip.row_id))
        else:
            side.against[why] += 1
    return prints


def by_name(first: Sequence[Clip], second: Sequence[Clip]) -> Iterator[tuple[str, int, int]]:
    """Clips that have a name in common, and which kind of name."""
    known = _named(second)
    for name, here in _named(first).items():
        if first is second:
            yield from ((name[0], here[0], other) for other in here[1:])
        elif name in known:
            yield from ((name[0], *pair) for pair in linked(here, known[name]))


def _named(clips: Sequence[Clip]) -> dict[tuple[str, ...], list[int]]:
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, clip in enumerate(clips):
        for name in sorted(clip.names):
            found[name].append(number)
    return found


def linked(here: Sequence[int], there: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs in which everybody of two groups occurs, and not all with all: a thousand copies give a thousand pairs."""
    yield from ((one, there[0]) for one in here)
    yield from ((here[0], other) for other in there[1:])


def by_sound(
    queries: Prints, index: Index, first: Mapping[str, Sequence[int]], second: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, int, int, Match | None]]:
    """Clips of equal content, and those of which one is heard in the other."""
    here, there, within = list(first.values()), list(second.values()), queries is index.prints
    for digest, numbers in first.items():
        if within:
            yield from (("content", numbers[0], other, None) for other in numbers[1:])
        elif digest in second:
            yield from (("content", *pair, None) for pair in linked(numbers, second[digest]))
    digests = list(first), list(second)
    for query in tqdm(range(len(queries)), desc="matching", unit=" clips", leave=False, mininterval=1, disable=None):
        for match in index.find(queries[query]):
            if (within and match.clip <= query) or digests[0][query] == digests[1][match.clip]:
                continue
            yield from (("sound", *pair, match) for pair in linked(here[query], there[match.clip]))
