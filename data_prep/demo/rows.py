"""From scenes and their questions to rows: one row a question, those of a scene one after the other.

Not here: the row itself (audiollm/conversation.py).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiollm.conversation import AudioPart, Message, Part, Row, TextPart
from data_prep.demo.phrasings import Phrasings
from data_prep.demo.questions import Asker, Question
from data_prep.demo.scenes import Scene

LICENSE = "cc0-1.0"


@dataclass(frozen=True)
class Asked:
    """A scene and what is asked about it."""

    id: str
    scene: Scene
    questions: tuple[Question, ...]


def ask_about(name: str, scenes: Iterable[Scene], asker: Asker, limit: int | None = None) -> list[Asked]:
    """Scenes with their questions; of each task, at most `limit` questions in all."""
    asked: list[Asked] = []
    counts: Counter[str] = Counter()
    for index, scene in enumerate(scenes):
        questions = []
        for question in asker.ask(scene):
            if limit is None or counts[question.task] < limit:
                counts[question.task] += 1
                questions.append(question)
        asked.append(Asked(f"{name}-{index:05d}", scene, tuple(questions)))
    return asked


def audio_rows(
    asked: Sequence[Asked],
    durations: Sequence[float],
    clips: Path,
    split: str,
    phrasings: Phrasings,
    rng: np.random.Generator,
) -> Iterator[Row]:
    """Rows that play the clip and ask; `durations` in seconds."""
    for item, duration in zip(asked, durations, strict=True):
        clip = AudioPart(
            str(clips / f"{item.id}.flac"),
            duration=round(duration, 4),
            transcript=item.scene.transcript,
            description=item.scene.description,
        )
        yield from _rows(item, clip, split, phrasings, rng)


def text_rows(asked: Sequence[Asked], phrasings: Phrasings, rng: np.random.Generator) -> Iterator[Row]:
    """Rows that tell the scene in words and ask."""
    for item in asked:
        yield from _rows(item, TextPart(item.scene.description), "train", phrasings, rng)


def _rows(item: Asked, told: Part, split: str, phrasings: Phrasings, rng: np.random.Generator) -> Iterator[Row]:
    for index, question in enumerate(item.questions):
        user = Message("user", (told, TextPart(question.phrase(phrasings, rng))))
        yield Row(
            messages=(user, Message("assistant", (TextPart(question.answer),))),
            id=f"demo-{item.id}-{index}",
            task=question.task,
            source="demo",
            source_id=item.id,
            split=split,
            language="en",
            license=LICENSE,
        )
