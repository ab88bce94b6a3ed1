"""Clotho-AQA: questions about 1,991 recordings of sounds, each answered by three people in a word.

The hub's copy, of validation and test alone, has the one answer on which people agreed.

{"audio": {"bytes": AUDIO, "path": "Café in rain.wav"}, "question": "Is it raining?", "answer": "yes"}
{"audio": {"bytes": AUDIO, "path": "Dogs.wav"}, "question": "What is barking?", "answer": "dog"}
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item
from audiollm.curation.mapped import name_of

SET = DataSet(
    title="Clotho-AQA: questions about sounds",
    license="mit, cc-by-nc-sa",  # of the questions, and what the portal says
    tasks=("aqa",),
    columns=("audio", "question", "answer"),
    hub="lmms-lab/ClothoAQA",
    config="clotho_aqa",
    splits={
        "train": ["train"],
        "validation": ["validation", "clotho_aqa_val_filtered"],
        "test": ["test", "clotho_aqa_test_filtered"],
    },
    original="clotho_aqa_train.csv, clotho_aqa_val.csv, clotho_aqa_test.csv and the unpacked audio_files/",
    language="en",
    citation="Lipping, Sudarsanam, Drossos and Virtanen, Clotho-AQA: A Crowdsourced Dataset for AQA, 2022",
)
NEEDS = ("file_name", "QuestionText", "answer", "confidence")
TABLES = {"train": "clotho_aqa_train.csv", "validation": "clotho_aqa_val.csv", "test": "clotho_aqa_test.csv"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The questions, each with its answers and whether those who gave them were sure."""
    found: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    sounds = str(archive.find("audio_files", "*/audio_files").relative_to(archive.folder))
    names = TABLES[split], f"*/{TABLES[split]}"
    for place, row in archive.table(*names, encoding="latin-1", needs=NEEDS):
        audio, question = archive.recording(sounds, row["file_name"]), row["QuestionText"]
        about = {"audio": audio, "question": question, "answer": []}
        _, asked = found.setdefault((row["file_name"], question), (place, about))
        asked["answer"].append((row["answer"], row["confidence"]))
    yield from found.values()


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """What two of three say, all of two, or the only one, of those who were sure."""
    if isinstance(row["answer"], str):
        return item_of(row, draw, row["answer"].strip().lower())
    sure = Counter(answer.strip().lower() for answer, confidence in row["answer"] if is_yes(confidence))
    if not sure:
        raise Dropped("nobody was sure of an answer")
    answer, votes = sure.most_common(1)[0]
    if 3 * votes < 2 * sure.total():
        raise Dropped("no majority for an answer")
    return item_of(row, draw, answer)


def item_of(row: dict[str, Any], draw: Draw, answer: str) -> Item:
    """The question and its answer."""
    return Item(row["audio"], name_of(row["audio"], draw), [Ask("aqa", row["question"].strip(), answer)])


def is_yes(confidence: str) -> bool:
    """Of `yes`, `no` and `maybe`, in any case."""
    return confidence.strip().lower() == "yes"
