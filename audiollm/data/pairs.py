"""Rows to pairs of a clip and a text about it, by which two towers learn: its sound, and another text in each epoch.

Not here: batches (sampling.py, collate.py), tokens of a text (the processor).
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from audiollm.conversation import AudioPart, Row, RowError
from audiollm.data.dataset import Example, Recordings
from audiollm.data.quarantine import bad_row

Words = Literal["caption", "description", "transcript"]
"""Where a clip's texts stand: the answers of caption rows and their `references`, or a field of the audio part."""


def is_caption(row: Row) -> bool:
    """Whether the answer of a row describes its one clip: of task `caption`, `music_caption` ..., or of no task."""
    return len(row.clips) == 1 and (row.task is None or row.task.split("_")[-1] == "caption")


def texts_of(rows: Iterable[Row], words: Words, place: int = 0) -> list[str]:
    """The texts about a clip of one recording's rows (the clip at `place` in each), each once."""
    found: list[str] = []
    for row in rows:
        if words != "caption":
            found += [getattr(row.clips[place], words) or ""] if place < len(row.clips) else []
        elif is_caption(row):
            found += [row.target, *row.references]
    return [text for text in dict.fromkeys(text.strip() for text in found) if text]


def same_words(text: str) -> str:
    """What texts of the same words have in common: case, punctuation and white space left out."""
    return " ".join(re.findall(r"\w+", text.casefold()))


class Pairs(Recordings):
    """Recordings whose clips have one of their texts as `description`, another by lot in each epoch.

    A text that is too long for the text tower is named, and its clip goes without words in that epoch.
    """

    def __init__(self, rows: Sequence[Row], renderer: Any, *, words: Words, **options: Any) -> None:
        super().__init__(rows, renderer, **options)
        assert not self.with_text
        self.words = words

    def __getitem__(self, key: tuple[int, int]) -> Example:
        rows = self.groups[key[1]]
        first = rows[0]
        sounds, clips, cause = self.listen(first, key)
        problems = [] if cause is None else [bad_row("hearing", RowError(first.origin, "", cause, first.id))]
        told: list[AudioPart] = []
        for place, clip in enumerate(clips):
            text = "" if cause else self.draw(texts_of(rows, self.words, place), (*key, place))
            if text and (too_long := self.too_long_for_its_tower(text)):
                problems.append(bad_row("measuring", RowError(first.origin, self.words, too_long, first.id)))
                text = ""
            told.append(replace(clip, description=text or None))
        return Example((), sounds, tuple(told), (first.id or first.origin,), tuple(problems))

    def draw(self, texts: Sequence[str], key: tuple[int, ...]) -> str:
        """One of the texts, the same for the same seed, epoch and clip; nothing where there is none."""
        return random.Random("/".join(map(str, (self.seed, *key)))).choice(texts) if texts else ""

    def too_long_for_its_tower(self, text: str) -> str | None:
        """Why a text cannot be read; None if it can."""
        try:
            self.renderer.text_ids(text)  # type: ignore[attr-defined]
        except ValueError as error:
            return str(error)
        return None
