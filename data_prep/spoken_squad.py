"""Spoken-SQuAD: questions about paragraphs of Wikipedia, read aloud by a machine; answers are words of the paragraph.

{"context": AUDIO, "instruction": "What stands on top of the tower?", "answer": "a golden bell"}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from audiollm.audio import AudioSource, load
from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item

SET = DataSet(
    title="Spoken-SQuAD: questions about read paragraphs",
    license="cc-by-sa-4.0",
    tasks=("aqa",),
    columns=("context", "instruction", "answer"),
    hub="AudioLLMs/spoken_squad_test",
    splits={"train": ["train"], "test": ["test"]},
    original="spoken_train-v1.1.json, spoken_test-v1.1.json, and train_wav/ and dev_wav/ of Spoken-SQuAD_audio with "
    "ARTICLE_PARAGRAPH_SENTENCE.wav, counted from 0 (take audio=flac: sentences are joined to paragraphs)",
    language="en",
    citation="Li et al., Spoken SQuAD: A Study of Mitigating the Impact of Speech Recognition Errors, 2018",
)
FOLDERS = {"train": "train_wav", "test": "dev_wav"}
RATE = 16_000


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The questions of the JSON, each with the recordings of its paragraph's sentences."""
    spoken: dict[str, list[Path]] = {}
    for path in sorted(archive.find(f"**/{FOLDERS[split]}").glob("*.wav"), key=sentence_of):
        spoken.setdefault("_".join(path.stem.split("_")[:2]), []).append(path)
    for place, article in archive.list(f"**/spoken_{split}-v1.1.json", key="data", needs=("paragraphs",)):
        a = int(place.rpartition(":")[2]) - 1  # a bad article counts too
        for p, paragraph in enumerate(article["paragraphs"]):
            at = f"{place}:{p}"
            for qa in paragraph["qas"] if archive.has(at, paragraph, "qas") else ():
                is_whole = archive.has(at, qa, "question", "answers")
                if not is_whole or not all(archive.has(at, answer, "text") for answer in qa["answers"]):
                    continue
                answers = list(dict.fromkeys(answer["text"] for answer in qa["answers"])) or [""]
                row = {"instruction": qa["question"], "answer": answers[0], "others": answers[1:]}
                yield at, row | {"context": spoken.get(f"{a}_{p}", [])}


def sentence_of(path: Path) -> int:
    """The last number of a name; as text, 10 would come before 2."""
    return int(path.stem.split("_")[-1])


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """The question and its answer; other answers that people gave are references. The set names no recording."""
    audio: AudioSource = row["context"]
    if isinstance(audio, list):
        if not audio:
            raise Dropped("its recording is not there")
        audio = audio[0] if len(audio) == 1 else (np.concatenate([load(path, RATE) for path in audio]), RATE)
    ask = Ask("aqa", row["instruction"].strip(), row["answer"].strip(), tuple(row.get("others", ())))
    return Item(audio, row["instruction"].strip(), [ask])
