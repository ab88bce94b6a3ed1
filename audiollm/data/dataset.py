"""Rows to packed sequences: the questions of a clip brought together, rendered, and their sound loaded once.

Not here: which clips make a batch (data/sampling.py), padding and tensors (data/collate.py).
Everything is a function of the seed, the epoch and the clip's number, so it does not matter which worker does it.
"""

import math
import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset

from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, Message, Row, RowError
from audiollm.data.features import FeatureStore, Frames
from audiollm.data.packing import IGNORE_INDEX, PackedSequence, Tokens, pack_branches, trunk_length
from audiollm.data.quarantine import BadRow, bad_row

Sound = Literal["sound", "as_description", "omit"]


class Renderer(Protocol):
    """What rows need of the model's processor."""

    audio_token_id: int

    @property
    def sampling_rate(self) -> int:
        """Hz."""
        ...

    def num_audio_tokens(self, num_samples: int) -> int:
        """Audio tokens of a clip."""
        ...

    def render(
        self, messages: Sequence[Message], num_samples: Sequence[int], *, supervise: str = "last"
    ) -> Sequence[Any]:
        """Token ids and which of them are supervised."""
        ...

    def refuse_longer(self, clip: AudioPart, num_samples: int) -> None:
        """AudioError for a clip that is longer than the model hears."""
        ...

    def fingerprint(self) -> str:
        """Stands for all that decides how many tokens messages take."""
        ...


Sounding = np.ndarray | Frames
"""A clip as training hears it: mono float32 samples [L], or what a frozen encoder made of them before."""


@dataclass(frozen=True)
class Example:
    """The questions of one recording: packed sequences and the clips that they hear."""

    sequences: tuple[PackedSequence, ...]
    sounds: tuple[Sounding, ...]  # in the order of the prompts
    clips: tuple[AudioPart, ...]
    row_ids: tuple[str, ...]
    problems: tuple[BadRow, ...] = ()
    teacher: tuple[PackedSequence, ...] = ()  # the sequences with the sound told in words; none where nothing counts


@dataclass(frozen=True)
class Limits:
    """How long a sequence may be, and what becomes of what is longer.

    refuse: ValueError. drop: the row is left out. split: the questions of a clip are split over several sequences, and
    a row that is too long by itself is left out.
    """

    max_tokens: int | None = None  # of a row, and of the questions of a clip in one sequence
    positions: int | None = None  # of a row: as many as the language model knows
    too_long: Literal["refuse", "drop", "split"] = "drop"

    @property
    def of_row(self) -> float:
        """Tokens that a row may have."""
        return min(self.max_tokens or math.inf, self.positions or math.inf)


class Length(NamedTuple):
    """How long a recording is, told without decoding it."""

    seconds: float
    trunk: int  # tokens that its questions share, those of the sound included
    branches: tuple[int, ...]  # tokens that each question adds
    rows: tuple[int, ...]  # tokens of each row by itself
    teacher_trunk: int  # the same of what a teacher reads: tokens that its questions share
    teacher_branches: tuple[int, ...]  # and those that each adds; 0 where nothing is told in words

    def of(self, indices: Sequence[int]) -> "Length":
        """With some of the questions."""
        every = (self.branches, self.rows, self.teacher_branches)
        branches, rows, taught = (tuple(tokens[index] for index in indices) for tokens in every)
        return self._replace(branches=branches, rows=rows, teacher_branches=taught)

    def tokens(self, indices: Sequence[int]) -> int:
        """Tokens that some of the questions take, those of a teacher included."""
        added = sum(self.branches[index] + self.teacher_branches[index] for index in indices)
        return self.trunk + self.teacher_trunk + added


class Groups(Protocol):
    """The rows of each recording: in memory, or read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> list[Row]: ...


class Recordings(Dataset[Example]):
    """Rows grouped by what they hear (or by `source_id`, where they hear nothing); (epoch, number) gives one group.

    `groups` are those of rows that stay on disk; otherwise `rows` are brought together.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        renderer: Renderer,
        *,
        seed: int = 0,
        questions_per_clip: int | None = None,
        supervise: Literal["last", "all"] = "last",
        with_text: bool = True,
        sounds: "SoundCache | None" = None,
        features: FeatureStore | None = None,
        share_audio: bool = True,
        limits: Limits = Limits(),
        groups: Groups | None = None,
        augment: "Augmentation | None" = None,
        teacher_text: str | None = None,
    ) -> None:
        self.rows = rows
        self.groups: Any = group_rows(rows) if groups is None else groups
        self.renderer = renderer
        self.seed = seed
        self.questions_per_clip = questions_per_clip
        self.supervise = supervise
        self.with_text = with_text
        self.sounds = sounds or SoundCache(0)
        self.features = features
        self.share_audio = share_audio
        self.limits = limits
        self.augment = augment
        self.teacher_text = teacher_text  # the field of a clip that a teacher reads in its place
        self.lengths: list[Length] = []

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def num_rows(self) -> int:
        """Rows that were given, those that are left out included."""
        return len(self.rows) if isinstance(self.groups, list) else self.groups.num_rows

    def seconds(self, number: int) -> float:
        """Length of a group's sound where it was measured or the rows tell it, else 0: for batches of like lengths."""
        if self.lengths:
            return self.lengths[number].seconds
        return sum(clip.duration or 0.0 for clip in self.groups[number][0].clips)

    def measure(self) -> list[BadRow]:
        """Find the length of every recording, which `num_tokens` and `seconds` then tell; nothing is decoded.

        What the limits do not let in is taken out and returned; ValueError where they refuse it.
        """
        if isinstance(self.groups, list):
            self.groups, self.lengths, bad = self.fitting(self.groups)
        else:
            self.groups, bad = self.groups.measured(self)
        return bad

    def fitting(self, groups: Iterable[list[Row]]) -> tuple[list[list[Row]], list[Length], list[BadRow]]:
        """Groups that the limits let in, their lengths, and the rows that they leave out."""
        kept: list[list[Row]] = []
        lengths: list[Length] = []
        bad: list[BadRow] = []
        for rows in groups:
            parts, longer = self.fit(rows)
            self.refuse(longer)
            kept += [[rows[index] for index in indices] for indices, _ in parts]
            lengths += [length for _, length in parts]
            bad += longer
        return kept, lengths, bad

    def fit(self, rows: Sequence[Row]) -> tuple[list[tuple[list[int], Length]], list[BadRow]]:
        """The rows of a recording that go into one sequence together, with its length; and those that are left out."""
        length = self.length(rows)
        fitting = [index for index in range(len(rows)) if length.rows[index] <= self.limits.of_row]
        parts = self.parts(fitting, length)
        kept = parts if self.limits.too_long == "split" else parts[:1]
        within = {index for part in kept for index in part}
        longer = [self.too_long(rows[n], length.rows[n]) for n in range(len(rows)) if n not in within]
        return [(part, length.of(part)) for part in kept], longer

    def refuse(self, longer: Sequence[BadRow]) -> None:
        """ValueError for the first row that is too long, where the limits refuse it."""
        if longer and self.limits.too_long == "refuse":
            told = f"{longer[0]['origin']}: {longer[0]['cause']}"
            raise ValueError(f"{told}; shorten it, raise `max_tokens`, or set `too_long: drop`")

    def identity(self) -> list[Any]:
        """What `fit` depends on, beside the rows, as plain JSON."""
        known = [self.renderer.fingerprint(), self.supervise, self.with_text, self.share_audio]
        augmented = [] if self.augment is None else [str(self.augment.settings)]
        taught = [] if self.teacher_text is None else [f"teacher: {self.teacher_text}"]
        return [*known, *asdict(self.limits).values(), self.questions_per_clip, *augmented, *taught]

    def parts(self, indices: Sequence[int], length: Length) -> list[list[int]]:
        """Questions of a clip that fit into one sequence together, in their order."""
        parts: list[list[int]] = []
        for index in indices:
            together = [*parts[-1], index] if parts else [index]
            if parts and self.most_tokens(length.of(together)) <= (self.limits.max_tokens or math.inf):
                parts[-1].append(index)
            else:
                parts.append([index])
        return parts

    def most_tokens(self, length: Length) -> int:
        """Tokens of a sequence, whichever of its questions are chosen; what a teacher reads is another sequence."""
        return length.trunk + sum(sorted(length.branches, reverse=True)[: self.questions_per_clip])

    def most_read(self, length: Length) -> int:
        """Tokens of a sequence and of its teacher's, whichever of its questions are chosen."""
        added = [one + taught for one, taught in zip(length.branches, length.teacher_branches, strict=True)]
        return length.trunk + length.teacher_trunk + sum(sorted(added, reverse=True)[: self.questions_per_clip])

    def too_long(self, row: Row, num_tokens: int) -> BadRow:
        """What is said of a row that the limits do not let in."""
        cause = f"takes {num_tokens:,} tokens, and a row may have {self.limits.of_row:,}"
        if num_tokens <= self.limits.of_row:
            cause = "does not fit into one sequence with the other questions of its clip"
        return bad_row("measuring", RowError(row.origin, "", cause, row.id))

    def too_long_to_read(self, row: Row, num_tokens: int) -> BadRow:
        """What is said of a row whose words the language model has too few positions for."""
        cause = f"takes {num_tokens:,} tokens with its {self.teacher_text}, and the model has {self.limits.positions:,}"
        return bad_row("measuring", RowError(row.origin, "", cause, row.id))

    def length(self, rows: Sequence[Row]) -> Length:
        """Of the rows of one recording; from the rows' times, or else the header of the file."""
        seconds = [clip.seconds() for clip in rows[0].clips]
        samples = [round(length * self.renderer.sampling_rate) or self.silence for length in seconds]
        if self.augment is not None:
            samples = [self.augment.longest(length, self.renderer.sampling_rate) for length in samples]
        nothing = (0,) * len(rows)
        if not self.with_text:
            return Length(sum(seconds), sum(map(self.renderer.num_audio_tokens, samples)), nothing, nothing, 0, nothing)
        rendered = [self.as_taught(row, samples) for row in rows]
        if len(rows) == 1 and len(rendered[0]) == 1:  # it shares nothing, and most large sets have one question a clip
            [only] = rendered[0]
            size, read = len(only.input_ids), len(only.teacher.input_ids) if only.teacher else 0
            return Length(sum(seconds), 0, (size,), (size,), 0, (read,))
        parts = self.split([tokens for one in rendered for tokens in one])
        alone = tuple(max((len(tokens.input_ids) for tokens in one), default=0) for one in rendered)
        trunk, branches = shared_and_added(rendered, parts)
        return Length(sum(seconds), trunk, branches, alone, *shared_and_added(teachers(rendered), teachers(parts)))

    def as_taught(self, row: Row, lengths: Sequence[int]) -> Sequence[Tokens]:
        """The sequences of a row, each with its teacher's where the row has the words."""
        sequences = self.render(row, lengths)
        try:
            return self.with_teacher(row, sequences)
        except RowError:
            return sequences

    def num_tokens(self, key: tuple[int, int]) -> int:
        """Tokens of what `self[key]` gives, what a teacher reads included; questions may have more in common.

        Of rows that stay on disk it is known what they take at most.
        """
        if not isinstance(self.groups, list):
            return int(self.groups.tokens(np.array([key[1]]))[0])
        length = self.lengths[key[1]]
        return length.tokens(self.choose(*key, len(length.branches)))

    @property
    def silence(self) -> int:
        """Samples of the silence that stands for a clip that cannot be read."""
        return self.renderer.sampling_rate // 10

    def __getitem__(self, key: tuple[int, int]) -> Example:
        group = self.groups[key[1]]
        rows = [group[index] for index in self.choose(*key, len(group))]
        sounds, clips, cause = self.listen(rows[0], key)
        first = group[0]  # a broken recording has one name in all epochs
        problems = (bad_row("hearing", RowError(first.origin, "", cause, first.id)),) if cause else ()
        row_ids = tuple(row.id or row.origin for row in rows)
        if not self.with_text:
            return Example((), sounds, clips, row_ids, problems)
        rendered, longer = self.render_all(rows, [num_samples(sound) for sound in sounds])
        if not rendered:  # its sound is longer than its row says
            sounds = tuple(np.zeros(self.silence, np.float32) for _ in clips)
            rendered = [tokens for row in rows for tokens in self.render(row, [self.silence] * len(clips))]
        parts = self.split(rendered)
        sequences = tuple(pack_branches(part) for part in parts)
        if problems or len(longer) == len(rows):
            sequences = tuple(replace(s, shift_labels=np.full_like(s.shift_labels, IGNORE_INDEX)) for s in sequences)
        heard = [number for part in parts for number in range(part[0].num_clips)]
        clips, sounds = tuple(clips[i] for i in heard), tuple(sounds[i] for i in heard)
        teacher = () if problems else read_by_teacher(parts)
        return Example(sequences, sounds, clips, row_ids, (*problems, *longer), teacher)

    def split(self, rendered: Sequence[Tokens]) -> list[list[Tokens]]:
        """Those that share their audio together; each alone, where the model knows no branches."""
        if not self.share_audio:
            return [[tokens] for tokens in rendered]
        return split_by_audio(rendered, self.renderer.audio_token_id)

    def render_all(self, rows: Sequence[Row], lengths: Sequence[int]) -> tuple[list[Tokens], list[BadRow]]:
        """Token sequences of rows that are within the limits, and told in words if a teacher reads; and the others."""
        rendered: list[Tokens] = []
        left_out: list[BadRow] = []
        for row in rows:
            try:
                sequences = self.with_teacher(row, self.render(row, lengths))
            except RowError as error:
                left_out.append(bad_row("rendering", error))
                continue
            size = max((len(tokens.input_ids) for tokens in sequences), default=0)
            read = max((len(tokens.input_ids) for tokens in teachers([sequences])[0]), default=0)
            if size > self.limits.of_row:
                left_out.append(self.too_long(row, size))
            elif read > (self.limits.positions or math.inf):
                left_out.append(self.too_long_to_read(row, read))
            else:
                rendered += sequences
        return rendered, left_out

    def with_teacher(self, row: Row, sequences: Sequence[Tokens]) -> Sequence[Tokens]:
        """The sequences of a row, each with the one that its teacher reads; RowError where the words are missing.

        ValueError if what is to be learned is not the same tokens in both.
        """
        if self.teacher_text is None:
            return sequences
        read = self.render(row.with_words(self.teacher_text), ())
        ours, theirs = ([tokens.answers for tokens in side] for side in (sequences, read))
        if ours != theirs:
            counts = [sum(map(len, side)) for side in (ours, theirs)]
            raise ValueError(
                f"{row.origin}: {counts[0]} supervised tokens follow the sound and {counts[1]} its "
                f"{self.teacher_text}, and they must be the same; this chat template cannot be used for distillation"
            )
        return [replace(tokens, teacher=teacher) for tokens, teacher in zip(sequences, read, strict=True)]

    def choose(self, epoch: int, number: int, count: int) -> Sequence[int]:
        """All questions of a clip, or some of them, others in each epoch."""
        every = range(count)
        if self.questions_per_clip is None or len(every) <= self.questions_per_clip:
            return every
        return random.Random(f"{self.seed}/{epoch}/{number}").sample(every, self.questions_per_clip)

    def listen(self, row: Row, key: tuple[int, int]) -> tuple[tuple[Sounding, ...], tuple[AudioPart, ...], str | None]:
        """The clips and their sound; a broken one becomes a short silence of no words, and it is said what is wrong."""
        sounds: list[Sounding] = []
        clips, cause = [], None
        for place, clip in enumerate(row.clips):
            try:
                sounds.append(self.hear(clip, (*key, place)))
                clips.append(clip)
            except (AudioError, RowError) as error:
                cause = str(error)
                sounds.append(np.zeros(self.silence, np.float32))
                clips.append(replace(clip, transcript=None, description=None))
        return tuple(sounds), tuple(clips), cause

    def hear(self, clip: AudioPart, key: tuple[int, int, int]) -> Sounding:
        """What the encoder made of the clip, where that is kept, or else its samples; AudioError if unreadable.

        `key` (epoch, recording, place in it) is what augmentation is drawn by: who asks plays no part.
        """
        frames = None if self.features is None else self.features.of(clip)
        if frames is not None:
            return frames
        samples = self.sounds.load(clip, self.renderer.sampling_rate)
        if self.augment is not None:
            samples = self.augment(samples, self.renderer.sampling_rate, (self.seed, *key))
        self.renderer.refuse_longer(clip, len(samples))
        return samples

    def render(self, row: Row, lengths: Sequence[int]) -> list[Tokens]:
        """The row's token sequences (one, unless its template rewrites the history of a conversation).

        `lengths` are those of its clips, in samples.
        """
        rendered = self.renderer.render(row.messages, lengths, supervise=self.supervise)
        return [Tokens(one.input_ids, one.supervised, one.num_clips) for one in rendered]


def read_by_teacher(parts: Sequence[Sequence[Tokens]]) -> tuple[PackedSequence, ...]:
    """What a teacher reads in the place of each packed sequence, its answers in the same order."""
    return tuple(pack_branches(part) for part in teachers(parts) if part)


def teachers(parts: Sequence[Sequence[Tokens]]) -> list[list[Tokens]]:
    """What a teacher reads in the place of each sequence of some; of those without one, nothing."""
    return [[tokens.teacher for tokens in part if tokens.teacher is not None] for part in parts]


def shared_and_added(
    rows: Sequence[Sequence[Tokens]], parts: Sequence[Sequence[Tokens]]
) -> tuple[int, tuple[int, ...]]:
    """Tokens that sequences share, all parts together, and those that each row adds."""
    trunks = {id(tokens): trunk_length(part) for part in parts for tokens in part}
    added = (sum(len(tokens.input_ids) - trunks[id(tokens)] for tokens in one) for one in rows)
    return sum(trunks[id(part[0])] for part in parts if part), tuple(added)


def num_samples(sound: Sounding) -> int:
    """The length of a clip, in samples of the model's rate."""
    return sound.num_samples if isinstance(sound, Frames) else len(sound)


class Augmentation(Protocol):
    """Changes the sound of clips in training."""

    settings: Any

    def __call__(self, samples: np.ndarray, rate: int, seed_parts: tuple[int, ...], /) -> np.ndarray:
        """Samples [L] as they are heard this time; the same for the same parts."""

    def longest(self, num_samples: int, rate: int, /) -> int:
        """How many samples a clip of so many may become."""


class SoundCache:
    """Decoded clips kept in memory, up to a limit in bytes; later epochs and stages need not decode them again."""

    def __init__(self, limit_bytes: float) -> None:
        self.left = limit_bytes
        self.kept: dict[Hashable, np.ndarray] = {}

    def load(self, clip: AudioPart, sampling_rate: int) -> np.ndarray:
        """Mono float32 samples [L] of a clip; AudioError when it cannot be read."""
        key = (clip.key, sampling_rate)
        if key in self.kept:
            return self.kept[key]
        samples = clip.load(sampling_rate)
        if samples.nbytes <= self.left:
            self.left -= samples.nbytes
            self.kept[key] = samples
        return samples


def group_rows(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that hear the same, together, in the order in which they first appear."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group_key, []).append(row)
    return list(groups.values())


def split_by_audio(rows: Sequence[Tokens], audio_token_id: int) -> list[list[Tokens]]:
    """Rows that are alike through their last audio token can share it; others make sequences of their own.

    A row that answers before its last clip (turns that are learned together) shares with none: its trunk ends too soon.
    """
    parts: dict[Hashable, list[Tokens]] = {}
    for number, row in enumerate(rows):
        ids = np.asarray(row.input_ids)
        audio = np.nonzero(ids == audio_token_id)[0]
        heard = int(audio[-1]) + 1 if len(audio) else 0
        parts.setdefault(ids[:heard].tobytes() if heard <= trunk_length([row]) else number, []).append(row)
    return list(parts.values())


def with_sound(rows: Sequence[Row], audio: Sound) -> list[Row]:
    """Rows as they are, with the scene in words in place of the sound, or without either."""
    if audio == "as_description":
        return [row.with_description() for row in rows]
    if audio == "omit":
        return [row.without_audio() for row in rows]
    return list(rows)
