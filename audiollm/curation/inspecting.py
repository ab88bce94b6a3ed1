"""Counts what rows hold, before a model is trained on them: one pass over the rows, then a sample of their sound.

No row is kept but those drawn to be shown. What grows with the rows are numbers: 16 bytes for each distinct recording
in each table, distinct answer, distinct question and pair of both. Not here: how figures are shown
(report/inspection.py), how a model gets them (reading.py), what makes a row wrong (conversation.py).
"""

import hashlib
import math
import os
import random
import tempfile
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from heapq import heappush, heapreplace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from audiollm import audio
from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, Row, RowError
from audiollm.curation.levels import SILENT_DB, header, is_clipped, loudness_db
from audiollm.curation.processes import workers
from audiollm.data.sources import open_source, rows_of
from audiollm.report.inspection import (
    AnswerPrior,
    Group,
    Histogram,
    Inspection,
    Listed,
    SoundFigures,
    TaskQuestions,
)

FIELDS = ("source", "task", "language", "license")
NONE = "(not said)"
OTHERS = "(all others)"
MOST_GROUPS = 200
"""Values of a field that have figures of their own; a field that holds an id has as many values as rows."""
MOST_TEXTS = 2000
"""Texts kept of each task: whatever makes up more than one in so many is found, and its number is exact."""
KEPT_CHARACTERS = 500
MOST_LISTED = 200
COMMONEST_QUESTIONS = 10
LENGTH_BORDERS_S = (0, 1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, math.inf)
TOKEN_BORDERS = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, math.inf)
LOUDNESS_BORDERS_DB = (-math.inf, *range(-80, 4, 4), math.inf)
LONGEST_DECODED_S = 600.0
"""Of a longer recording the beginning is decoded, so that memory does not follow the longest one."""
DEFAULT_SOUND = 1000
DEFAULT_WINDOW_S = 30.0
EXAMPLES = 30
WAITING = 1024

Count = Callable[[str], int]
Kind = TypeVar("Kind")


def inspect_rows(
    source: Any,
    *,
    format: str | None = None,
    tokenizer: str | None = None,
    window_s: float = DEFAULT_WINDOW_S,
    sound: int | None = DEFAULT_SOUND,
    num_proc: int = 1,
    seed: int = 0,
    examples: int = EXAMPLES,
) -> tuple[Inspection, list[Row]]:
    """The figures about rows, and some of the rows drawn by lot; ValueError where there is no row.

    tokenizer: a checkpoint or run, or a tokenizer alone, whose tokens are counted; words if not said. window_s: seconds
    that the encoder hears at once. sound: how many recordings are decoded, all of them for None. Which ones is drawn by
    lot, each with the same chance; so are the `examples`, with the same `seed`.
    """
    unit, count = ("words", count_words) if tokenizer is None else (f"tokens of {tokenizer}", count_tokens(tokenizer))
    name = str(source) if isinstance(source, str | os.PathLike) else "rows in memory"
    with tempfile.TemporaryDirectory(prefix="audiollm-inspect-") as folder:
        counts = Counts(count, window_s, Sample(sound, seed, Path(folder)), Reservoir(examples, seed))
        for opened in open_source(source):
            for row in tqdm(rows_of(opened, format, None), desc=opened.name, unit=" rows", leave=False, disable=None):
                if isinstance(row, Row):
                    counts.add(row)
                else:
                    counts.refuse(row)
        if not counts.rows:
            first = f"; {counts.bad_rows.count:,} could not be read, the first: {counts.first_error}"
            raise ValueError(f"{name}: there is no row to inspect{first if counts.bad_rows.count else ''}")
        counts.hear(num_proc)
    return counts.figures(name, unit), counts.shown.rows


def parse_sound(text: str) -> int | None:
    """How many recordings to decode: a number, or None for "all"."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise ValueError(f"sound={text} is none; it is a number of recordings to decode, or all")
    return int(text)


def count_words(text: str) -> int:
    """Pieces between white space."""
    return len(text.split())


def count_tokens(name: str) -> Count:
    """Counts by the tokenizer of a checkpoint, without the tokens of its chat template."""
    from audiollm.inference import load_prompts

    tokenizer = load_prompts(name).tokenizer
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


# --- counting without keeping -----------------------------------------------------------------------------------------


def key_of(value: Hashable) -> int:
    """64 bits that stand for a value, the same in each process."""
    digest = hashlib.blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Distinct:
    """Distinct keys of 64 bits, how often each was met, and the number that came with it first."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.uint32)
        self._values = np.empty(0, np.float32)
        self._new_keys = array("Q")
        self._new_values = array("f")

    def add(self, key: int, value: float = 0.0) -> None:
        """Meet a key."""
        self._new_keys.append(key)
        self._new_values.append(value)
        if len(self._new_keys) > max(WAITING, len(self._keys)):
            self._merge()

    def _merge(self) -> None:
        keys = np.concatenate([self._keys, np.array(self._new_keys, np.uint64)])
        counts = np.concatenate([self._counts, np.ones(len(self._new_keys), np.uint32)])
        values = np.concatenate([self._values, np.array(self._new_values, np.float32)])
        self._keys, first, place = np.unique(keys, return_index=True, return_inverse=True)
        self._counts = np.bincount(place, weights=counts, minlength=len(self._keys)).astype(np.uint32)
        self._values = values[first]
        self._new_keys, self._new_values = array("Q"), array("f")

    @property
    def counts(self) -> np.ndarray:
        """How often each key was met, in the order of the keys."""
        self._merge()
        return self._counts

    @property
    def values(self) -> np.ndarray:
        """The number that came first with each key; NaN where there was none."""
        self._merge()
        return self._values

    def count_of(self, key: int) -> int:
        """How often a key was met that was."""
        self._merge()
        return int(self._counts[np.searchsorted(self._keys, np.uint64(key))])


class Tally:
    """The commonest of many texts.

    The number of each is exact. The texts themselves are kept by the rule of Misra and Gries: when there are too many,
    each loses one mark, and those without a mark are forgotten. So a text that makes up more than 1 / MOST_TEXTS of
    all is there at the end.
    """

    def __init__(self) -> None:
        self.total = 0
        self.keys = Distinct()
        self._marks: dict[int, int] = {}
        self._texts: dict[int, str] = {}

    def add(self, text: str) -> None:
        """Count a text."""
        key = key_of(text)
        self.total += 1
        self.keys.add(key)
        if key in self._marks:
            self._marks[key] += 1
        elif len(self._marks) < MOST_TEXTS:
            self._marks[key] = 1
            self._texts[key] = text if len(text) <= KEPT_CHARACTERS else f"{text[:KEPT_CHARACTERS]}…"
        else:
            self._marks = {key: marks - 1 for key, marks in self._marks.items() if marks > 1}
            self._texts = {key: self._texts[key] for key in self._marks}

    def commonest(self, number: int) -> list[tuple[str, int]]:
        """The texts met most often, each with its number."""
        counted = [(text, self.keys.count_of(key)) for key, text in self._texts.items()]
        return sorted(counted, key=lambda one: (-one[1], one[0]))[:number]


class Reservoir:
    """Rows drawn by lot from a stream, each with the same chance."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.met = size, 0
        self.rows: list[Row] = []
        self._random = random.Random(seed)

    def offer(self, row: Row) -> None:
        """Draw for one more row."""
        self.met += 1
        if len(self.rows) < self.size:
            self.rows.append(row)
        elif (place := self._random.randrange(self.met)) < self.size:
            self.rows[place] = row


class Sample:
    """Distinct recordings drawn by lot from a stream: those whose keys are least when mixed with the seed.

    Sound that lies in a row waits in `folder`, so that memory holds no sound.
    """

    def __init__(self, size: int | None, seed: int, folder: Path) -> None:
        self.size, self.seed, self.folder = size, seed, folder
        self._heap: list[tuple[int, int]] = []  # the greatest first: (-lot, key)
        self._clips: dict[int, tuple[str, AudioPart]] = {}

    def offer(self, key: int, clip: AudioPart, name: str) -> None:
        """Draw for one more recording; one that was met before changes nothing."""
        if key in self._clips or self.size == 0:
            return
        lot = key_of((self.seed, key))
        if self.size is None or len(self._clips) < self.size:
            heappush(self._heap, (-lot, key))
        elif lot < -self._heap[0][0]:
            _, gone = heapreplace(self._heap, (-lot, key))
            self._drop(gone)
        else:
            return
        self._clips[key] = (name, self._set_aside(key, clip))

    def _set_aside(self, key: int, clip: AudioPart) -> AudioPart:
        if not isinstance(clip.audio, bytes):
            return clip
        path = self.folder / f"{key:016x}"
        path.write_bytes(clip.audio)
        return replace(clip, audio=str(path))

    def _drop(self, key: int) -> None:
        _, clip = self._clips.pop(key)
        if isinstance(clip.audio, str) and Path(clip.audio).parent == self.folder:
            os.unlink(clip.audio)

    def clips(self) -> list[tuple[int, str, AudioPart]]:
        """Key, name and clip of those drawn."""
        return [(key, *self._clips[key]) for key in sorted(self._clips)]


class FirstOnes:
    """How many there were, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[tuple[str, str]] = []

    def add(self, place: str, cause: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self._first) < MOST_LISTED:
            self._first.append((place, cause))

    def listed(self) -> Listed:
        """For the report."""
        return Listed(self.count, tuple(self._first))


class GroupCounts:
    """The rows of one group."""

    def __init__(self) -> None:
        self.rows = self.tokens = 0
        self.heard_s = 0.0
        self.clips = Distinct()

    def add(self, tokens: int, clips: Mapping[int, float]) -> None:
        """Count a row with its distinct clips: key -> seconds, NaN where not known."""
        self.rows += 1
        self.tokens += tokens
        for key, seconds in clips.items():
            self.heard_s += 0.0 if math.isnan(seconds) else seconds
            self.clips.add(key, seconds)

    def figures(self, name: str) -> Group:
        """For the report."""
        values = self.clips.values
        seconds = float(np.nansum(values.astype(np.float64)))
        return Group(name, self.rows, len(values), seconds / 3600, self.heard_s / 3600, self.tokens)


# --- the pass over the rows -------------------------------------------------------------------------------------------


class Counts:
    """All that is counted while rows go by."""

    def __init__(self, count: Count, window_s: float, sample: Sample, shown: Reservoir) -> None:
        self.count, self.window_s, self.sample, self.shown = count, window_s, sample, shown
        self.all = GroupCounts()
        self.groups: dict[str, dict[str, GroupCounts]] = {name: {} for name in FIELDS}
        self.answer_lengths = np.zeros(len(TOKEN_BORDERS) - 1, np.int64)
        self.answers: dict[str, Tally] = {}
        self.questions: dict[str, Tally] = {}
        self.asked = Distinct()
        self.bad_rows, self.broken = FirstOnes(), FirstOnes()
        self.first_error: RowError | None = None
        self.heard = HeardCounts()
        self._broken_keys: set[int] = set()
        self._lengths: dict[int, float] = {}

    @property
    def rows(self) -> int:
        """How many were counted."""
        return self.all.rows

    def refuse(self, error: RowError) -> None:
        """Count a row that cannot be used."""
        self.first_error = self.first_error or error
        self.bad_rows.add(error.origin, f"{error.field}: {error.cause}" if error.field else error.cause)

    def add(self, row: Row) -> None:
        """Count a row."""
        taught = [message.text for message in row.messages if message.role == "assistant" and message.loss]
        tokens = sum(map(self.count, taught))
        clips = {key_of(clip.key): clip for clip in row.clips}
        seconds = {key: self.seconds(key, clip, row) for key, clip in clips.items()}
        self.all.add(tokens, seconds)
        for name, groups in self.groups.items():
            of_value(groups, getattr(row, name), GroupCounts).add(tokens, seconds)
        self.answer_lengths[bin_of(TOKEN_BORDERS, self.count(row.target))] += 1
        of_value(self.answers, row.task, Tally).add(plain_answer(row.target))
        question = question_of(row)
        of_value(self.questions, row.task, Tally).add(question)
        self.asked.add(key_of((tuple(clips), question)))
        self.shown.offer(row)
        for key, clip in clips.items():
            if key not in self._broken_keys:
                self.sample.offer(key, clip, name_of(clip, row))

    def seconds(self, key: int, clip: AudioPart, row: Row) -> float:
        """How long a clip is: as the row says, or its header; NaN where that cannot be told, and it is broken."""
        if key not in self._lengths:
            if len(self._lengths) > 10_000:  # rows about one recording mostly follow each other
                self._lengths.clear()
            try:
                self._lengths[key] = seconds_of(clip)
            except AudioError as error:
                self._lengths[key] = math.nan
                self.add_broken(key, name_of(clip, row), error.cause)
        return self._lengths[key]

    def add_broken(self, key: int, name: str, cause: str) -> None:
        """Name a recording that cannot be heard, once."""
        if key not in self._broken_keys:
            self._broken_keys.add(key)
            self.broken.add(name, cause)

    def hear(self, num_proc: int) -> None:
        """Decode the sample, in so many processes."""
        drawn = self.sample.clips()
        clips = [clip for _, _, clip in drawn]
        with mapped(num_proc) as each, tqdm(total=len(clips), desc="sound", leave=False, disable=None) as bar:
            for (key, name, _), heard in zip(drawn, each(hear_clip, clips), strict=True):
                bar.update()
                if heard.cause is None:
                    self.heard.add(heard)
                else:
                    self.add_broken(key, name, heard.cause)

    def figures(self, source: str, unit: str) -> Inspection:
        """All of it, for the report."""
        whole = self.all.figures("")
        seconds = self.all.clips.values
        known = seconds[~np.isnan(seconds)]
        asked = self.asked.counts
        return Inspection(
            source=source,
            token_unit=unit,
            rows=whole.rows,
            recordings=whole.recordings,
            hours=whole.hours,
            hours_heard=whole.hours_heard,
            tokens=whole.tokens,
            groups={name: in_order(groups) for name, groups in self.groups.items()},
            lengths=histogram(LENGTH_BORDERS_S, np.histogram(known, LENGTH_BORDERS_S)[0], " s"),
            unknown_length=len(seconds) - len(known),
            window_s=self.window_s,
            beyond_window=int((known > np.float32(self.window_s)).sum()),
            answers=histogram(TOKEN_BORDERS, self.answer_lengths, "", whole=True),
            priors=tuple(prior_of(task, tally) for task, tally in by_rows(self.answers)),
            questions=tuple(questions_of(task, tally) for task, tally in by_rows(self.questions)),
            repeated=int(asked[asked > 1].sum()),
            sound=self.heard.figures(),
            broken=self.broken.listed(),
            bad_rows=self.bad_rows.listed(),
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        for name, groups in self.groups.items():
            if OTHERS in groups:
                yield f"{name}: the first {MOST_GROUPS} values have figures of their own, the rest are {OTHERS}"
        if self.heard.shortened:
            limit = f"{LONGEST_DECODED_S:.0f} s"
            yield f"of {self.heard.shortened:,} recordings longer than {limit} only the first {limit} were decoded"
        if self.sample.size is not None and self.sample.size < len(self.all.clips.values):
            yield f"sound was decoded of {self.sample.size:,} recordings drawn by lot; damage in others is not seen"


def of_value(groups: dict[str, Kind], value: str | None, make: Callable[[], Kind]) -> Kind:
    """The group of a value; a common one when there are too many."""
    name = NONE if value is None else value
    if name not in groups and len(groups) >= MOST_GROUPS:
        name = OTHERS
    if name not in groups:
        groups[name] = make()
    return groups[name]


def in_order(groups: Mapping[str, GroupCounts]) -> tuple[Group, ...]:
    """The groups, those with most rows first."""
    return tuple(sorted((one.figures(name) for name, one in groups.items()), key=lambda one: (-one.rows, one.name)))


def by_rows(tallies: Mapping[str, Tally]) -> list[tuple[str, Tally]]:
    """The tallies, those with most texts first."""
    return sorted(tallies.items(), key=lambda one: (-one[1].total, one[0]))


def prior_of(task: str, tally: Tally) -> AnswerPrior:
    """How often the commonest answer of a task is right."""
    counts = tally.keys.counts
    most = int(counts.max())
    text, number = next(iter(tally.commonest(1)), (None, 0))
    return AnswerPrior(task, tally.total, text if number == most else None, most / tally.total, len(counts))


def questions_of(task: str, tally: Tally) -> TaskQuestions:
    """The commonest questions of a task."""
    return TaskQuestions(task, tally.total, len(tally.keys.counts), tuple(tally.commonest(COMMONEST_QUESTIONS)))


def plain_answer(text: str) -> str:
    """The form in which answers are compared: without regard to case, spaces and a final full stop."""
    return " ".join(text.casefold().split()).rstrip(".")


def question_of(row: Row) -> str:
    """The words of the last message of the user; none where there is no such message."""
    texts = [message.text for message in row.messages if message.role == "user"]
    return texts[-1].strip() if texts else ""


def seconds_of(clip: AudioPart) -> float:
    """Length in seconds; AudioError for a file that is not there, for no file, and for a damaged header."""
    if isinstance(clip.audio, str) and not os.path.isfile(clip.audio):
        missing = "there is no such file; paths count from the folder of the rows"
        raise AudioError(clip.audio, audio.other_than_file(clip.audio) or missing)
    start = clip.start or 0.0
    if clip.end is not None or clip.duration is not None:
        return clip.seconds()
    if clip.audio is None:
        raise AudioError("clip", "this audio part has no sound")
    length = audio.duration(clip.audio) - start
    if length <= 0:
        raise AudioError(audio.name_of(clip.audio), f"start={start} s is beyond its end")
    return length


def name_of(clip: AudioPart, row: Row) -> str:
    """What to call a clip: its path, or the row that holds it."""
    return audio.name_of(clip.audio) if isinstance(clip.audio, str) else f"sound in {row.origin}"


def bin_of(borders: Sequence[float], value: float) -> int:
    """Number of the bin that holds a value."""
    return bisect_right(borders, value, 1, len(borders) - 1) - 1


def histogram(borders: Sequence[float], counts: Iterable[int], unit: str, *, whole: bool = False) -> Histogram:
    """Bins in words: "2 to 5 s", "600 s and more", "below -80 dBFS"; of whole numbers "3 to 4"."""
    labels = []
    for low, high in pairwise(borders):
        last = high - 1 if whole else high
        if high == math.inf:
            labels.append(f"{low:g}{unit} and more")
        elif low == -math.inf:
            labels.append(f"below {high:g}{unit}")
        else:
            labels.append(f"{last:g}{unit}" if whole and last == low else f"{low:g} to {last:g}{unit}")
    return Histogram(tuple(labels), tuple(int(count) for count in counts))


# --- sound ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What decoding one recording found; `cause` says why it could not be decoded."""

    cause: str | None = None
    rate: int | None = None
    channels: int | None = None
    loudness_db: float = -math.inf
    clipped: bool = False
    shortened: bool = False


class HeardCounts:
    """What decoding found in all."""

    def __init__(self) -> None:
        self.recordings = self.clipped = self.silent = self.shortened = 0
        self.loudness = np.zeros(len(LOUDNESS_BORDERS_DB) - 1, np.int64)
        self.rates: Counter[str] = Counter()
        self.channels: Counter[str] = Counter()

    def add(self, heard: Heard) -> None:
        """Count a recording that was decoded."""
        self.recordings += 1
        self.clipped += heard.clipped
        self.silent += heard.loudness_db < SILENT_DB
        self.shortened += heard.shortened
        self.loudness[bin_of(LOUDNESS_BORDERS_DB, heard.loudness_db)] += 1
        self.rates["not told" if heard.rate is None else f"{heard.rate} Hz"] += 1
        self.channels["not told" if heard.channels is None else str(heard.channels)] += 1

    def figures(self) -> SoundFigures:
        """For the report."""
        return SoundFigures(
            self.recordings,
            self.clipped,
            self.silent,
            self.shortened,
            histogram(LOUDNESS_BORDERS_DB, self.loudness, " dBFS"),
            rates=dict(sorted(self.rates.items(), key=lambda one: (-one[1], one[0]))),
            channels=dict(sorted(self.channels.items(), key=lambda one: (-one[1], one[0]))),
        )


def hear_clip(clip: AudioPart) -> Heard:
    """Decode a clip at its own rate, mixed to mono as models hear it, and measure it."""
    if clip.audio is None:
        return Heard("this audio part has no sound")
    try:
        start = clip.start or 0.0
        length = audio.duration(clip.audio) if clip.end is None else clip.end
        rate, channels = header(clip.audio)
        shortened = length - start > LONGEST_DECODED_S
        part = replace(clip, end=start + LONGEST_DECODED_S) if shortened else clip
        samples = part.load(rate or 16_000)
    except AudioError as error:
        return Heard(error.cause)
    return Heard(None, rate, channels, loudness_db(samples), is_clipped(samples), shortened)


@contextmanager
def mapped(num_proc: int) -> Iterator[Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]]:
    """A `map` in so many processes, its results in order; ValueError where one of them dies."""
    if num_proc == 1:
        yield map
        return
    with workers(num_proc) as pool:
        yield lambda function, items: pool.map(function, items, chunksize=16)
