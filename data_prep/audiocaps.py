"""AudioCaps: 10 s of AudioSet, described in a sentence; in validation and test in five.

{"audiocap_id": 91139, "youtube_id": "r1nicOVtvkQ", "start_time": 130, "audio_length": 10,
 "caption": "A dog barks twice while rain falls", "audio": AUDIO}
{"audiocap_id": 91140, "youtube_id": "r1nicOVtvkQ", "start_time": 130, "audio_length": 10,
 "caption": "Barking over steady rain", "audio": AUDIO}
"""

from collections.abc import Iterator
from typing import Any

from audiollm.conversation import RowError
from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import described
from audiollm.curation.joining import of_youtube

SET = DataSet(
    title="AudioCaps: sounds of AudioSet, described in sentences",
    license="mit",
    tasks=("caption",),
    columns=("youtube_id", "start_time", "caption", "audio"),
    hub="OpenSound/AudioCaps",
    splits={"train": ["train"], "validation": ["validation"], "test": ["test"]},
    original="train.csv, val.csv, test.csv (audiocap_id,youtube_id,start_time,caption) and a folder with recordings",
    language="en",
    citation="Kim et al., AudioCaps: Generating Captions for Audios in The Wild, 2019",
    group_by=("youtube_id", "start_time"),
    together="caption",
)
CLIP_S = 10
FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table, and of each the recording that is there, or why there is none."""
    for place, row in archive.table(FILES[split], f"*/{FILES[split]}", needs=SET.columns[:-1]):
        try:
            start_s = float(row["start_time"])
        except ValueError:
            archive.bad.append(RowError(place, "start_time", f"{row['start_time']!r} is no number of seconds"))
            continue
        try:
            audio: Any = of_youtube(archive.folder, row["youtube_id"], start_s, start_s + CLIP_S)
        except Dropped as reason:
            audio = reason
        yield place, row | {"audio": audio}


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """All captions of one clip: the first is the answer, and the others are as right."""
    if isinstance(row["audio"], Dropped):
        raise row["audio"]
    return Item(row["audio"], row["youtube_id"], [described(draw, "caption", row["caption"])])
