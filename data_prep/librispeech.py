"""LibriSpeech: 960 hours of English audio books, read aloud.

{"file": "84-121123-0000.flac", "audio": AUDIO, "text": "GO DO YOU HEAR", "speaker_id": 84, "chapter_id": 121123,
 "id": "84-121123-0000"}
"""

from collections.abc import Iterator
from typing import Any, Literal

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Item

SET = DataSet(
    title="LibriSpeech: English audio books",
    license="cc-by-4.0",
    tasks=("asr",),
    columns=("audio", "text", "id"),
    hub="openslr/librispeech_asr",
    config="clean",
    splits={"train": ["train.100", "train.360", "train.500"], "validation": ["validation"], "test": ["test"]},
    original="LibriSpeech/ as it is unpacked: train-clean-100/, dev-clean/ ..., in them SPEAKER/CHAPTER/*.trans.txt",
    language="en",
    citation="Panayotov et al., Librispeech: an ASR corpus based on public domain audio books, 2015",
)
FOLDERS = {"train": "train-*", "validation": "dev-*", "test": "test-*"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of the transcripts, ID WORDS."""
    for path in archive.find_all(f"{FOLDERS[split]}/*/*/*.trans.txt", f"*/{FOLDERS[split]}/*/*/*.trans.txt"):
        for place, line in archive.lines(path):
            name, _, text = line.partition(" ")
            audio = archive.recording(str(path.parent.relative_to(archive.folder)), f"{name}.flac")
            yield place, {"id": name, "text": text, "audio": audio}


def convert(row: dict[str, Any], draw: Draw, *, case: Literal["lower", "as_is"] = "lower") -> Item:
    """The transcript; it is in capitals and without punctuation, which `case=lower` makes small letters."""
    text = row["text"].lower() if case == "lower" else row["text"]
    return Item(row["audio"], str(row["id"]), [draw.ask("asr", text)], transcript=text)
