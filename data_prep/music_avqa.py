"""MUSIC-AVQA: questions about videos of people who play; of these the ones that can be heard. It brings no recordings.

{"video_id": "00000238", "question_id": 8, "type": "[\\"Audio\\", \\"Counting\\"]",
 "question_content": "How many musical instruments were heard throughout the video?", "templ_values": "[]",
 "question_deleted": 0, "anser": "two"}
{"video_id": "00000272", "question_id": 51, "type": "[\\"Audio\\", \\"Comparative\\"]",
 "question_content": "Is the <Object> more rhythmic than the <Object>?",
 "templ_values": "[\\"acoustic_guitar\\", \\"violin\\"]", "question_deleted": 0, "anser": "no"}
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import words_of
from audiollm.curation.joining import recording_of

SET = DataSet(
    title="MUSIC-AVQA: questions about music that is played, those about what is heard",
    license="research-only",
    tasks=("aqa",),
    columns=("video_id", "type", "question_content", "templ_values", "question_deleted", "anser"),
    splits={"train": ["train"], "validation": ["val"], "test": ["test"]},
    original="avqa-train.json, avqa-val.json, avqa-test.json",
    language="en",
    citation="Li et al., Learning to Answer Questions in Dynamic Audio-Visual Scenarios, 2022",
)
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The questions of avqa-SPLIT.json, which the repository has in data/json/."""
    name = f"avqa-{SET.splits[split][0]}.json"
    places = (name, f"json/{name}", f"data/json/{name}", f"*/data/json/{name}", f"*/{name}")
    yield from archive.list(*places, needs=SET.columns)


def convert(row: dict[str, Any], draw: Draw, *, recordings: Path) -> Item:
    """A question that sound alone answers, with its slots filled; recordings (or videos) are named by video_id."""
    modality, kind = json.loads(row["type"])
    if modality != "Audio":
        raise Dropped("about what is seen")
    if int(row["question_deleted"]):
        raise Dropped("its question was deleted")
    question, values = row["question_content"].strip(), json.loads(row["templ_values"])
    slots = re.findall(r"<\w+>", question)
    if len(slots) > len(values):
        raise Dropped("slots without values")
    for slot, value in zip(slots, values, strict=False):
        question = question.replace(slot, words_of(value), 1)
    answer = words_of(row["anser"])  # the set's own spelling of the name
    if kind == "Counting":
        answer = " ".join(str(NUMBERS.index(word)) if word in NUMBERS else word for word in answer.split())
    ask = Ask("aqa", re.sub(r"\bvideo\b", "recording", question), answer)
    return Item(recording_of(recordings, row["video_id"]), row["video_id"], [ask])
