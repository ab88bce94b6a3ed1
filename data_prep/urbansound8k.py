"""UrbanSound8K: 8,732 sounds of a city, of at most 4 s, in 10 classes and ten folds.

{"slice_file_name": "100032-3-0-0.wav", "fsID": 100032, "start": 0.0, "end": 0.317551, "salience": 1, "fold": 5,
 "classID": 3, "class": "dog_bark", "audio": AUDIO}
{"slice_file_name": "100263-2-0-117.wav", "fsID": 100263, "start": 58.5, "end": 62.5, "salience": 1, "fold": 10,
 "classID": 2, "class": "children_playing", "audio": AUDIO}
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.instructions import classify, words_of

SET = DataSet(
    title="UrbanSound8K: sounds of a city, 10 classes",
    license="cc-by-nc-4.0",
    tasks=("sound", "sound_mcq", "existence"),
    columns=("slice_file_name", "fold", "class", "audio"),
    hub="danavery/urbansound8K",
    original="the unpacked UrbanSound8K, with metadata/UrbanSound8K.csv and audio/fold1 to audio/fold10",
    language="en",
    citation="Salamon, Jacoby and Bello, A Dataset and Taxonomy for Urban Sound Research, 2014",
)
GROUPS = (
    "air_conditioner engine_idling drilling jackhammer",
    "car_horn siren",
    "children_playing street_music",
    "dog_bark gun_shot",
)
SIMILAR = {words_of(label): {words_of(other) for other in group.split()} for group in GROUPS for label in group.split()}
LABELS = tuple(SIMILAR)


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of metadata/UrbanSound8K.csv."""
    sounds = str(archive.find("audio", "*/audio").relative_to(archive.folder))
    for place, row in archive.table("metadata/UrbanSound8K.csv", "*/metadata/UrbanSound8K.csv", needs=SET.columns[:-1]):
        yield place, row | {"audio": archive.recording(sounds, f"fold{row['fold']}", row["slice_file_name"])}


def convert(row: dict[str, Any], draw: Draw, *, test_fold: Annotated[int, Field(ge=0, le=10)] = 10) -> Item:
    """One class a slice; those of one fold (0: none) are for testing, since slices of one recording share a fold."""
    asks = classify(draw, "sound", words_of(row["class"]), LABELS, similar=SIMILAR)
    split = "test" if int(row["fold"]) == test_fold else "train"
    return Item(row["audio"], row["slice_file_name"], asks, split=split)
