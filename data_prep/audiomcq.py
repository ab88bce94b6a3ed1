"""AudioMCQ-StrongAC: 19,480 multiple choices that cannot be answered without the sound; and its set for development.

{"id": 17, "source_dataset": "AudioCaps", "question_type": "sound", "audio_path": "audios/AudioCaps/17.wav",
 "question": "What is heard after the thunder?", "choices": ["Rain", "A dog", "A car", "Applause"], "answer": "Rain",
 "gemini_cot": "After the thunder there is a steady patter.", "audio": AUDIO}
{"id": "dev_0001", "audio_path": "dev_audios/dev_0001.wav", "question_text": "How many dogs bark?",
 "multi_choice": ["1", "2", "3", "4"], "answer": 1, "audio": AUDIO}
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import with_choices

SET = DataSet(
    title="AudioMCQ-StrongAC: multiple choice about sound, speech and music",
    license="apache-2.0",
    tasks=("mcq",),
    columns=("audio_path", "answer", "audio"),
    splits={"train": ["train"], "validation": ["dev"]},
    original="data.jsonl (of AudioMCQ-StrongAC-GeminiCoT) or dev.jsonl (of DCASE2026-Task5-DevSet), and the recordings",
    language="en",
    citation="He et al., Measuring Audio's Impact on Correctness: Audio-Contribution-Aware Post-Training, 2025",
)
FILES = {"train": "data.jsonl", "validation": "dev.jsonl"}
NEEDS = ("audio_path", "question|question_text", "choices|multi_choice", "answer")


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the file of the split; the recordings lie beside it."""
    folder = str(archive.find(FILES[split], f"*/{FILES[split]}").parent.relative_to(archive.folder))
    for place, row in archive.list(FILES[split], f"*/{FILES[split]}", needs=NEEDS):
        yield place, row | {"audio": archive.recording(folder, row["audio_path"])}


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """The question with its choices in any order; the answer, told by its words or its number, is the text of one."""
    question = row.get("question") or row["question_text"]
    choices = [str(choice).strip() for choice in row.get("choices") or row["multi_choice"]]
    answer = row["answer"]
    if isinstance(answer, int):
        answer = choices[answer] if 0 <= answer < len(choices) else ""
    answer = str(answer).strip()
    if choices.count(answer) != 1:
        raise Dropped("its answer is not exactly one of the choices")
    draw.shuffle(choices)  # the sources may have a favourite place for the right one
    ask = replace(with_choices(draw, "", question, choices, answer), task="mcq")
    return Item(row["audio"], row["audio_path"], [ask])
