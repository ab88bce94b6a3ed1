"""Clotho v2.1: 15 to 30 s of Freesound, each described in five sentences.

{"index": "Rain on a tin roof.wav", "datasetname": "Clotho", "audio": AUDIO, "audio_len": 21.5,
 "text": "Rain hits a metal roof and a dog barks",
 "raw_text": ["Rain hits a metal roof and a dog barks", "A dog barks while it rains on metal.",
  "Heavy rain falls on tin and an animal barks", "It is raining, and far away a dog is barking",
  "Water drums on a roof as a dog barks"]}
"""

from collections.abc import Iterator
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.instructions import described

SET = DataSet(
    title="Clotho v2.1: sounds of Freesound, each described in five sentences",
    license="other-non-commercial",
    tasks=("caption",),
    columns=("index", "audio", "raw_text"),
    hub="CLAPv2/Clotho",
    splits={"train": ["train"], "validation": ["validation"], "test": ["test"]},
    original="clotho_captions_development.csv (validation, evaluation), and development/ ... with recordings",
    language="en",
    citation="Drossos et al., Clotho: an Audio Captioning Dataset, 2020",
)
NAMES = {"train": "development", "validation": "validation", "test": "evaluation"}
CAPTIONS = [f"caption_{number}" for number in range(1, 6)]


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of clotho_captions_*.csv, with the columns of the hub."""
    name = NAMES[split]
    folder: str | None = None
    table = f"clotho_captions_{name}.csv"
    for place, row in archive.table(table, f"*/{table}", needs=("file_name", *CAPTIONS)):
        folder = folder or str(archive.find(f"{name}/", f"*/{name}/").relative_to(archive.folder))
        audio = archive.recording(folder, row["file_name"])
        yield place, {"index": row["file_name"], "audio": audio, "raw_text": [row[caption] for caption in CAPTIONS]}


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """One question a clip: the first caption is the answer, and the other four are as right."""
    return Item(row["audio"], row["index"].rpartition("/")[2], [described(draw, "caption", row["raw_text"])])
