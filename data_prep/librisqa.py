"""LibriSQA: questions about utterances of LibriSpeech; part I is answered freely, part II out of four options.

{"speech_path": "train-clean-360/14/208/14-208-0000.flac", "question": "What did the boy bring home?",
 "answer": "He brought home a basket of apples.", "text": "THE BOY BROUGHT HOME A BASKET OF APPLES", "duration": 3.1}
{"speech_path": "train-clean-360/14/208/14-208-0001.flac",
 "question_and_option": "Where did they meet? A. At the mill B. In church C. By the river D. On the road",
 "answer": "C", "answer_and_analysis": "C. The speech says that they met by the river.",
 "text": "THEY MET BY THE RIVER", "duration": 2.4}
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item
from audiollm.curation.joining import recording_of

SET = DataSet(
    title="LibriSQA: questions about LibriSpeech",
    license="cc-by-4.0",
    tasks=("aqa", "mcq"),
    columns=("speech_path", "answer"),
    splits={"train": ["train"], "test": ["test"]},
    original="LibriSQA-PartI/LibriSQA-PartI-train.json, the same for test and for PartII; one part is enough",
    language="en",
    citation="Zhao et al., LibriSQA: A Novel Dataset and Framework for Spoken Question Answering, 2023",
)
OPTION = re.compile(r"(?:^|(?<=\s))\(?([A-D])[.):]\s*")


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of part I, then those of part II."""
    for path in archive.find_all(f"**/LibriSQA-Part*-{split}.json"):
        yield from archive.list(
            str(path.relative_to(archive.folder)), needs=(*SET.columns, "question|question_and_option")
        )


def convert(row: dict[str, Any], draw: Draw, *, recordings: Path) -> Item:
    """The question and its answer; of options the text of the right one. recordings: the folder of LibriSpeech."""
    name = row["speech_path"].replace("\\", "/").rpartition("/")[2].partition(".")[0]
    question = (row.get("question_and_option") or row["question"]).strip()
    ask = chosen(draw, question, row["answer"]) if "answer_and_analysis" in row else Ask("aqa", question, row["answer"])
    return Item(recording_of(recordings, name), name, [ask], transcript=(row.get("text") or "").lower() or None)


def chosen(draw: Draw, text: str, letter: str) -> Ask:
    """The question and its options, which are one text: QUESTION A. THIS B. THAT ..."""
    question, *parts = OPTION.split(text)
    options = dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
    right = options.get(letter.strip()[:1])
    if len(parts) != 8 or len(options) != 4 or not right:
        raise Dropped("its four options cannot be told apart")
    asked = draw.phrase("choices", question=question.strip(), options="; ".join(options.values()))
    return Ask("mcq", asked, right, choices=tuple(options.values()))
