"""MusicQA: questions and answers about music, which a language model made of captions and tags.

FinetuneMusicQA.json is about MagnaTagATune, EvalMusicQA.json about MTG-Jamendo, PretrainMusicQA.json about MusicCaps.
The card says MIT; the recordings have the terms of those sets.

{"audio_name": "005342.wav", "conversation": [{"from": "human", "value": " Is there singing?"},
 {"from": "gpt", "value": " No, the music is instrumental."}], "audio": AUDIO}
{"audio_name": "005342.wav", "conversation": [{"from": "human", "value": "Describe the audio"},
 {"from": "gpt", "value": "A harpsichord plays fast."}], "audio": AUDIO}
"""

from collections.abc import Iterator
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item

SET = DataSet(
    title="MusicQA: questions about music",
    license="mit, cc-by-nc-sa, cc-by-sa-4.0",  # the card, MagnaTagATune and MusicCaps
    tasks=("aqa",),
    columns=("audio_name", "conversation", "audio"),
    splits={"train": ["train"], "test": ["test"]},
    original="FinetuneMusicQA.json, PretrainMusicQA.json or EvalMusicQA.json, and the unpacked audios.zip: audios/",
    language="en",
    citation="Liu et al., Music Understanding LLaMA: Advancing Text-to-Music Generation with QA and Captioning, 2023",
    group_by=("audio_name",),
    together="conversation",
)


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The conversations of a split, one question and answer each."""
    names = ("FinetuneMusicQA.json", "PretrainMusicQA.json") if split == "train" else ("EvalMusicQA.json",)
    folder = archive.find("audios", "*/audios").relative_to(archive.folder)
    for path in archive.find_all(*names, *(f"*/{name}" for name in names)):
        for place, row in archive.list(str(path.relative_to(archive.folder)), needs=SET.columns[:-1]):
            audio = archive.recording(str(folder), row["audio_name"])
            yield place, row | {"audio": audio, "of_musiccaps": path.name.startswith("Pretrain")}


def convert(row: dict[str, Any], draw: Draw, *, musiccaps: bool = False) -> Item:
    """All questions about one recording. `musiccaps`: also those of MusicCaps, which tests on some and names none."""
    if row.get("of_musiccaps") and not musiccaps:
        raise Dropped("of MusicCaps")
    asks = []
    for conversation in row["conversation"]:
        texts = {turn["from"]: turn["value"].strip() for turn in conversation}
        if texts["human"]:
            asks.append(Ask("aqa", texts["human"], texts["gpt"]))
    return Item(row["audio"], row["audio_name"], asks)
