"""What rows hold, before a model is trained on them: the figures, a page in one file, tables for the terminal.

Not here: how the figures are counted (curation/inspecting.py), how rows are rendered (curation/reading.py), scores of a
model (html.py, table.py).
Shapes: L samples.
"""

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import groupby, repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from audiollm import audio
from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, Message, Row, RowError
from audiollm.report import spectrogram
from audiollm.report.figures import counted, duration, percent, visible
from audiollm.report.html import PLAYER_RATE, TEMPLATES, beginning, data_uri, page_environment, write_page

PLAYER_SECONDS = 30.0
"""The clips of a row are played to this length together."""
SOUND_BYTES = 11 * 2**20
"""Players and pictures of a page; what comes when it is full is shown without, so that the page stays below 15 MB."""
TEXT_CHARACTERS = 4000
"""Longer messages are shown by their beginning."""
RENDERED_CHARACTERS = 20_000
"""A longer rendered sequence is shown by its beginning."""
PAGE_GROUPS = 50
"""Groups and listed problems of each table of the page; the JSON has all that were kept."""
TERMINAL_GROUPS = 10
CELL_CHARACTERS = 60
WAVE_COLUMNS = 240


@dataclass(frozen=True)
class Histogram:
    """Counts of fixed bins, in their order; each bin has its first border, and not its last."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """The rows that have one source, task, language or license."""

    name: str
    rows: int
    recordings: int
    """Distinct clips."""
    hours: float
    """Of the distinct clips."""
    hours_heard: float
    """Of the clips of all rows: a recording counts once for each row."""
    tokens: int
    """Supervised tokens."""


@dataclass(frozen=True)
class AnswerPrior:
    """How a model fares that always gives the commonest answer of a task, and never listens."""

    task: str
    rows: int
    answer: str | None
    """None where each answer is too rare to be kept."""
    share: float
    distinct: int


@dataclass(frozen=True)
class TaskQuestions:
    """What a task asks most."""

    task: str
    rows: int
    distinct: int
    commonest: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class SoundFigures:
    """What decoding found; `recordings` were decoded, and the other counts are among them."""

    recordings: int
    clipped: int
    silent: int
    shortened: int
    """Of which only the beginning was decoded."""
    loudness: Histogram
    rates: Mapping[str, int]
    channels: Mapping[str, int]


@dataclass(frozen=True)
class Listed:
    """How many there are, and the first of them as (place, cause)."""

    count: int = 0
    first: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Inspection:
    """All figures about some rows. Durations are seconds where their names do not say hours."""

    source: str
    token_unit: str
    rows: int
    recordings: int
    hours: float
    hours_heard: float
    tokens: int
    groups: Mapping[str, tuple[Group, ...]]
    """Field of the row -> its groups, those with most rows first."""
    lengths: Histogram
    """Durations of the distinct clips whose duration is known."""
    unknown_length: int
    window_s: float
    beyond_window: int
    """Distinct clips longer than `window_s`."""
    answers: Histogram
    """Lengths of the last answers, in tokens."""
    priors: tuple[AnswerPrior, ...]
    questions: tuple[TaskQuestions, ...]
    repeated: int
    """Rows that ask about the same clips what another row asks about them."""
    sound: SoundFigures
    broken: Listed
    bad_rows: Listed
    notes: tuple[str, ...] = field(default=())
    """What a reader of the figures should know, such as groups that were put together."""

    def to_json(self) -> dict[str, Any]:
        """All figures, and the shares that follow from them."""
        return {**asdict(self), "shares": shares(self)}


def shares(found: Inspection) -> dict[str, float | None]:
    """Fractions of the clips, of the rows and of the decoded recordings; None of nothing."""
    known = found.recordings - found.unknown_length
    return {
        "beyond_window": _share(found.beyond_window, known),
        "repeated": _share(found.repeated, found.rows),
        "clipped": _share(found.sound.clipped, found.sound.recordings),
        "silent": _share(found.sound.silent, found.sound.recordings),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# --- rows as a model gets them ----------------------------------------------------------------------------------------


class Piece(Protocol):
    """A stretch of a rendered sequence: words, a control token, or a run of audio tokens (its text is one of them)."""

    @property
    def text(self) -> str:
        """The tokens in words."""

    @property
    def kind(self) -> str:
        """text, control or audio."""

    @property
    def supervised(self) -> bool:
        """Whether the model learns to write it."""

    @property
    def tokens(self) -> int:
        """How many they are."""


@dataclass(frozen=True)
class Reading:
    """A row as training renders it, usually one sequence, none where nothing of it is learned; or why it cannot be."""

    sequences: tuple[Sequence[Piece], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Readings:
    """The rows of a page as a model gets them."""

    name: str
    """The checkpoint or the tokenizer."""
    supervise: str
    """Which answers are learned: last or all."""
    knows_audio: bool
    """Whether it is known how many tokens a clip takes."""
    rows: tuple[Reading, ...]


# --- the page ---------------------------------------------------------------------------------------------------------


def write_inspection(
    path: str | os.PathLike[str], found: Inspection, examples: Sequence[Row], readings: Readings | None = None
) -> Path:
    """Write the page; one that is already there is replaced when the new one is complete."""
    return write_page(path, render_inspection(found, examples, readings))


def render_inspection(found: Inspection, examples: Sequence[Row], readings: Readings | None = None) -> str:
    """The page as text; `readings` are those of the examples, in their order.

    All text of rows is escaped, and the page runs no script but its own.
    """
    environment = page_environment()
    environment.filters |= {"percent": percent, "hours": hours, "bars": bars, "counted": counted}
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    styles = [(TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "inspection.css")]
    return environment.get_template("inspection.html").render(
        found=found,
        shares=shares(found),
        limit=PAGE_GROUPS,
        examples=_example_views(examples, readings),
        readings=readings,
        created=datetime.now().astimezone(),
        style=Markup("\n".join(styles)),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def hours(value: float) -> str:
    """Hours as one says them: 0.01 -> "36 s", 2.5 -> "2 h 30 min"."""
    return duration(3600 * value) if value else "0 s"


def bars(histogram: Histogram) -> list[dict[str, Any]]:
    """Each bin from the first that is not empty to the last, with its length as percent of the longest."""
    filled = [index for index, count in enumerate(histogram.counts) if count]
    if not filled:
        return []
    most = max(histogram.counts)
    return [
        {"label": histogram.labels[index], "count": count, "width": round(100 * count / most, 2)}
        for index in range(filled[0], filled[-1] + 1)
        for count in [histogram.counts[index]]
    ]


def _example_views(rows: Sequence[Row], readings: Readings | None) -> list[dict[str, Any]]:
    views: list[dict[str, Any]] = []
    left = SOUND_BYTES
    read: Iterable[Reading | None] = repeat(None, len(rows)) if readings is None else readings.rows
    for row, reading in zip(rows, read, strict=True):
        clips: list[dict[str, Any]] = []
        for clip in row.clips:
            view = clip_view(clip, PLAYER_SECONDS / len(row.clips))
            size = len(view.get("audio", "")) + len(view.get("picture", ""))
            if size > left:
                view = {"error": "not shown: the sound of the rows before fills the page"}
                size = 0
            left -= size
            clips.append(view)
        about = (row.task, row.source, row.language, row.license)
        views.append(
            {
                "place": row.id or row.origin,
                "about": " · ".join(filter(None, about)),
                "clips": clips,
                "messages": [_message_view(message) for message in row.messages],
                "refused": reading and reading.error,
                "sequences": [_sequence_view(pieces) for pieces in reading.sequences] if reading else [],
            }
        )
    return views


def _sequence_view(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Runs of pieces that are supervised, or not, and how much of the text does not fit."""
    runs: list[dict[str, Any]] = []
    left_out, left = 0, RENDERED_CHARACTERS
    for supervised, together in groupby(pieces, lambda piece: piece.supervised):
        shown = []
        for piece in together:
            text = piece.text[:left]
            left, left_out = left - len(text), left_out + len(piece.text) - len(text)
            if text:
                shown.append({"text": text, "kind": piece.kind, "tokens": piece.tokens})
        if shown:
            runs.append({"supervised": supervised, "pieces": shown})
    learned = sum(piece.tokens for piece in pieces if piece.supervised)
    return {"runs": runs, "left_out": left_out, "tokens": sum(piece.tokens for piece in pieces), "learned": learned}


def _message_view(message: Message) -> dict[str, Any]:
    text = message.text
    left_out = max(len(text) - TEXT_CHARACTERS, 0)
    return {
        "role": message.role,
        "clips": len(message.clips),
        "text": text[:TEXT_CHARACTERS],
        "left_out": left_out,
        "taught": message.role == "assistant" and message.loss,
    }


def clip_view(clip: AudioPart, longest_s: float) -> dict[str, Any]:
    """Player, waveform and spectrogram of the first `longest_s` seconds; the reason where it cannot be read."""
    try:
        samples_L = clip.load(PLAYER_RATE)
    except (AudioError, RowError) as error:
        return {"error": str(error)}
    samples_L, shown = beginning(samples_L, longest_s)
    return {
        "error": None,
        "seconds": shown,
        "audio": data_uri("audio/ogg", audio.encode(samples_L, PLAYER_RATE, "OGG")),
        "picture": data_uri("image/png", spectrogram.png(spectrogram.log_mel(samples_L, PLAYER_RATE))),
        "wave": waveform(samples_L),
    }


def waveform(samples_L: np.ndarray) -> Markup:
    """The least and greatest sample of each stretch as one outline; the frame is full scale, -1 to 1."""
    pieces = np.array_split(samples_L, min(WAVE_COLUMNS, len(samples_L)))
    step = WAVE_COLUMNS / len(pieces)
    tops = [f"{index * step:.1f},{50 - 50 * piece.max():.1f}" for index, piece in enumerate(pieces)]
    bottoms = [f"{index * step:.1f},{50 - 50 * piece.min():.1f}" for index, piece in enumerate(pieces)]
    outline = Markup('<svg class="wave" viewBox="0 0 {} 100" preserveAspectRatio="none" aria-hidden="true">')
    return outline.format(WAVE_COLUMNS) + Markup('<polygon points="{}"/></svg>').format(" ".join(tops + bottoms[::-1]))


# --- the terminal -----------------------------------------------------------------------------------------------------


def print_inspection(found: Inspection, console: Console | None = None) -> None:
    """Print the figures as tables; the page has more."""
    console = console or Console()
    part = shares(found)
    console.print(Text(f"{plain(found.source)}: {counted(found.rows, 'row')}, "
                       f"{counted(found.recordings, 'recording')}, "
                       f"{hours(found.hours)} ({hours(found.hours_heard)} with repetitions), "
                       f"{found.tokens:,} supervised {found.token_unit}"))  # fmt: skip
    for name, groups in found.groups.items():
        console.print(_group_table(name, groups))
    console.print(_prior_table(found))
    beyond, repeated = percent(part["beyond_window"]), percent(part["repeated"])
    console.print(
        Text(f"longer than {found.window_s:g} s: {beyond} of the recordings; asked twice: {repeated} of rows")
    )
    console.print(Text(sound_sentence(found)))
    for title, listed in (("broken recordings", found.broken), ("bad rows", found.bad_rows)):
        _print_listed(console, title, listed)
    for note in found.notes:
        console.print(Text(f"! {plain(note, 400)}", style="yellow"))


def sound_sentence(found: Inspection) -> str:
    """What was decoded, and how much of it is clipped or silent."""
    heard, part = found.sound, shares(found)
    if not heard.recordings:
        return f"decoded: none of {counted(found.recordings, 'recording')}"
    rates = ", ".join(f"{rate} ({count:,})" for rate, count in heard.rates.items())
    channels = ", ".join(f"{number} ({count:,})" for number, count in heard.channels.items())
    return (
        f"decoded {heard.recordings:,} of {counted(found.recordings, 'recording')}: "
        f"{percent(part['clipped'])} clipped, {percent(part['silent'])} silent; "
        f"sampling rates {rates}; channels {channels}"
    )


def _group_table(name: str, groups: Sequence[Group]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(name)
    for heading in ("rows", "recordings", "length", "with repetitions", "tokens"):
        table.add_column(heading, justify="right")
    for group in groups[:TERMINAL_GROUPS]:
        figures = (f"{group.rows:,}", f"{group.recordings:,}", hours(group.hours), hours(group.hours_heard))
        table.add_row(Text(plain(group.name)), *figures, f"{group.tokens:,}")
    return _with_rest(table, len(groups))


def _prior_table(found: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("task", "commonest answer"):
        table.add_column(heading)
    for heading in ("its share", "distinct answers", "rows"):
        table.add_column(heading, justify="right")
    for prior in found.priors[:TERMINAL_GROUPS]:
        answer = "–" if prior.answer is None else plain(prior.answer)
        table.add_row(
            Text(plain(prior.task)), Text(answer), percent(prior.share), f"{prior.distinct:,}", f"{prior.rows:,}"
        )
    return _with_rest(table, len(found.priors))


def _with_rest(table: Table, number: int) -> Table:
    if number > TERMINAL_GROUPS:
        table.caption = f"... and {number - TERMINAL_GROUPS:,} more"
        table.caption_justify = "left"
    return table


def _print_listed(console: Console, title: str, listed: Listed) -> None:
    if not listed.count:
        return
    console.print(Text(f"{title}: {listed.count:,}", style="yellow"))
    for place, cause in listed.first[:TERMINAL_GROUPS]:
        console.print(Text(f"  {plain(place, 200)}: {plain(cause, 200)}"))
    if listed.count > TERMINAL_GROUPS:
        console.print(Text(f"  ... and {listed.count - TERMINAL_GROUPS:,} more"))


def plain(text: str, longest: int = CELL_CHARACTERS) -> str:
    """Text of a row on one line of a terminal: tabs and ends of lines are spaces, all else that is hidden is shown."""
    line = visible(re.sub(r"[\t\n\r]", " ", text[: longest + 1]))
    return line if len(line) <= longest else line[: longest - 1] + "…"
