"""WavCaps: 403,050 sounds of four collections, each with a sentence that a language model made of its description.

{"id": "180913", "title": "dogs.wav", "caption": "Dogs are barking in the rain.", "duration": 12.5, "tags": ["dog"],
 "description": "two dogs in the rain", "download_link": "https://freesound.org/download/180913"}
{"id": "Yabc_DE-f012.wav", "caption": "A train passes and its horn sounds.", "duration": 10.0, "audio": "wav_path"}
"""

import json
from collections.abc import Iterator
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.joining import stems_of

SET = DataSet(
    title="WavCaps: sounds of FreeSound, BBC, SoundBible and AudioSet with captions; for academic use only",
    license="cc-by-4.0-academic-use-only",
    tasks=("caption",),
    columns=("id", "caption", "source", "audio", "blacklisted"),
    original="json_files/ (FreeSound/fsd_final.json ..., blacklist/*.json) and the recordings, unpacked anywhere",
    language="en",
    citation="Mei et al., WavCaps: A ChatGPT-Assisted Weakly-Labelled Audio Captioning Dataset, 2023",
)


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The items of */*_final.json; numbers of FreeSound and SoundBible are alike, so the folder counts too."""
    blacklist: dict[str, set[str]] = {}
    for path in archive.find_all("blacklist/*.json", "*/blacklist/*.json", "*/*/blacklist/*.json"):
        archive.place = str(path)
        for source, names in json.loads(path.read_bytes()).items():
            blacklist.setdefault(source, set()).update(map(stem_of, names))
    stems = stems_of(archive.folder)
    for path in archive.find_all("*/*_final.json", "*/*/*_final.json", "*/*/*/*_final.json"):
        source = path.parent.name
        for place, row in archive.list(str(path.relative_to(archive.folder)), key="data", needs=("id", "caption")):
            name = stem_of(row["id"])
            at = [file for file in stems.get(name, ()) if source in str(file.relative_to(archive.folder).parent)]
            listed = name in blacklist.get(source.removesuffix("_SL"), ())
            yield place, row | {"source": source, "audio": at[0] if at else None, "blacklisted": listed}


def stem_of(name: str) -> str:
    """The name of a recording without suffix; ids of AudioSet have one, and the recordings another."""
    return str(name).removesuffix(".wav").removesuffix(".flac")


def convert(row: dict[str, Any], draw: Draw, *, blacklist: bool = True) -> Item:
    """The caption; `blacklist` leaves out all of AudioCaps, Clotho, ESC-50 ... that the lists beside the set name."""
    if blacklist and row["blacklisted"]:
        raise Dropped("on the black list of evaluation clips")
    if row["audio"] is None:
        raise Dropped("its recording is not there")
    name = stem_of(row["id"])
    names = {"FreeSound": name, "AudioSet_SL": name.removeprefix("Y")}  # as FSD50K and AudioSet have them
    source_id = names.get(row["source"], f"{row['source']}-{name}")
    return Item(row["audio"], source_id, [draw.ask("caption", row["caption"].strip())])
