"""ESC-50: 2,000 environmental sounds of 5 s in 50 classes, in five folds.

{"filename": "1-100032-A-0.wav", "fold": 1, "target": 0, "category": "dog", "esc10": True, "src_file": 100032,
 "take": "A", "audio": AUDIO}
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.instructions import classify, words_of

SET = DataSet(
    title="ESC-50: environmental sounds, 50 classes",
    license="cc-by-nc-3.0",
    tasks=("sound", "sound_mcq", "existence"),
    columns=("filename", "fold", "category", "audio"),
    hub="ashraq/esc50",
    original="the unpacked ESC-50-master, with meta/esc50.csv and audio/",
    language="en",
    citation="Piczak, ESC: Dataset for Environmental Sound Classification, 2015",
)
GROUPS = (
    "dog rooster pig cow frog cat hen insects sheep crow",
    "rain sea_waves crackling_fire crickets chirping_birds water_drops wind pouring_water toilet_flush thunderstorm",
    "crying_baby sneezing clapping breathing coughing footsteps laughing brushing_teeth snoring drinking_sipping",
    "door_wood_knock mouse_click keyboard_typing door_wood_creaks can_opening washing_machine vacuum_cleaner "
    "clock_alarm clock_tick glass_breaking",
    "helicopter chainsaw siren car_horn engine train church_bells airplane fireworks hand_saw",
)
SIMILAR = {words_of(label): {words_of(other) for other in group.split()} for group in GROUPS for label in group.split()}
LABELS = tuple(SIMILAR)


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of meta/esc50.csv."""
    sounds = str(archive.find("audio", "*/audio").relative_to(archive.folder))
    for place, row in archive.table("meta/esc50.csv", "*/meta/esc50.csv", needs=SET.columns[:-1]):
        yield place, row | {"audio": archive.recording(sounds, row["filename"])}


def convert(row: dict[str, Any], draw: Draw, *, test_fold: Annotated[int, Field(ge=0, le=5)] = 5) -> Item:
    """One class a clip; one fold (0: none) is for testing, since clips of one recording share a fold."""
    label = words_of(row["category"])
    split = "test" if int(row["fold"]) == test_fold else "train"
    return Item(row["audio"], row["filename"], classify(draw, "sound", label, LABELS, similar=SIMILAR), split=split)
