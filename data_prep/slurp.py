"""SLURP: commands to a voice assistant, each said by several people; what is wanted, and the details that are named.

{"slurp_id": 4489, "sentence": "play jazz at half past nine", "intent": "play_music", "action": "music",
 "scenario": "play", "tokens": [{"surface": "play", "id": 0}, {"surface": "jazz", "id": 1}, {"surface": "at", "id": 2},
  {"surface": "half", "id": 3}, {"surface": "past", "id": 4}, {"surface": "nine", "id": 5}],
 "entities": [{"span": [1], "type": "music_genre"}, {"span": [3, 4, 5], "type": "time"}],
 "recordings": [{"file": "audio-1502-headset.flac", "wer": 0, "ent_wer": 0, "status": "correct"},
  {"file": "audio-1502.flac", "wer": 0, "ent_wer": 0, "status": "correct"}]}
"""

from collections.abc import Iterator
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import words_of

SET = DataSet(
    title="SLURP: commands to a voice assistant",
    license="cc-by-nc-4.0",  # of the sound; the text is cc-by-4.0
    tasks=("intent", "slots"),
    columns=("audio", "recording", "sentence", "scenario", "action", "tokens", "entities"),
    splits={"train": ["train"], "validation": ["devel"], "test": ["test"]},
    original="train.jsonl, devel.jsonl and test.jsonl of dataset/slurp, and slurp_real/ with the recordings",
    language="en",
    citation="Bastianelli et al., SLURP: A Spoken Language Understanding Resource Package, 2020",
)


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each recording of a command: at the mouth (headset) and from afar, by all who said it."""
    folder = archive.find("**/slurp_real").relative_to(archive.folder)
    for place, command in archive.list(f"**/{SET.splits[split][0]}.jsonl", needs=("recordings", *SET.columns[2:])):
        for recording in command["recordings"]:
            if archive.has(place, recording, "file"):
                audio = archive.recording(str(folder), recording["file"])
                yield f"{place}:{recording['file']}", command | {"recording": recording, "audio": audio}


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """The intent (scenario and action) and the slots in words; without slots, these are not asked for."""
    if row["recording"].get("status", "correct") != "correct":
        raise Dropped("was not said as it is written")
    slots = "; ".join(
        f"{words_of(entity['type'])}: {' '.join(row['tokens'][index]['surface'] for index in entity['span'])}"
        for entity in row["entities"]
    )
    asks = [draw.ask("intent", words_of(f"{row['scenario']} {row['action']}"))]
    asks += [draw.ask("slots", slots)] if slots else []
    name = row["recording"]["file"].partition(".")[0]
    return Item(row["audio"], name, asks, transcript=row["sentence"])
