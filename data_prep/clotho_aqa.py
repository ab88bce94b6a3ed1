"""Clotho-AQA: questions about 1,991 recordings of sounds, each answered by three people in a word.

{"file_name": "Café in rain.wav", "QuestionText": "Is it raining?", "answer": "yes", "confidence": "yes"}
{"file_name": "Café in rain.wav", "QuestionText": "Is it raining?", "answer": "no", "confidence": "no"}
{"file_name": "Café in rain.wav", "QuestionText": "Is it raining?", "answer": "Yes", "confidence": "Yes"}
{"file_name": "Dogs.wav", "QuestionText": "What is barking?", "answer": "dog", "confidence": "yes"}
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item

SET = DataSet(
    title="Clotho-AQA: questions about sounds",
    license="mit, cc-by-nc-sa",  # of the questions, and what the portal says
    tasks=("aqa",),
    columns=("file_name", "QuestionText", "answer", "audio"),
    splits={"train": ["train"], "validation": ["validation"], "test": ["test"]},
    original="clotho_aqa_train.csv, clotho_aqa_val.csv, clotho_aqa_test.csv and the unpacked audio_files/",
    language="en",
    citation="Lipping, Sudarsanam, Drossos and Virtanen, Clotho-AQA: A Crowdsourced Dataset for AQA, 2022",
    group_by=("file_name", "QuestionText"),
    together="answer",
)
TABLES = {"train": "clotho_aqa_train.csv", "validation": "clotho_aqa_val.csv", "test": "clotho_aqa_test.csv"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The answers to questions; with each, in one column since one is gathered, whether its giver was sure."""
    sounds = str(archive.find("audio_files", "*/audio_files").relative_to(archive.folder))
    names = TABLES[split], f"*/{TABLES[split]}"
    for place, row in archive.table(*names, encoding="latin-1", needs=(*SET.columns[:-1], "confidence")):
        answer = row["answer"], row["confidence"]
        yield place, row | {"answer": answer, "audio": archive.recording(sounds, row["file_name"])}


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """What two of three say, all of two, or the only one, of those who were sure."""
    sure = Counter(answer.strip().lower() for answer, confidence in row["answer"] if is_yes(confidence))
    if not sure:
        raise Dropped("nobody was sure of an answer")
    answer, votes = sure.most_common(1)[0]
    if 3 * votes < 2 * sure.total():
        raise Dropped("no majority for an answer")
    return Item(row["audio"], row["file_name"], [Ask("aqa", row["QuestionText"].strip(), answer)])


def is_yes(confidence: str) -> bool:
    """Of `yes`, `no` and `maybe`, in any case."""
    return confidence.strip().lower() == "yes"
