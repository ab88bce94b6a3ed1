"""VGGSound: 10 s of YouTube, each with the one of 309 sounds that is seen to be made in it.

{"youtube_id": "abcDEf_0-12", "start_seconds": "30", "label": "playing violin, fiddle", "split": "train"}
{"youtube_id": "-x0YZabc_12", "start_seconds": "150", "label": "dog howling", "split": "test"}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.instructions import classify, commonest, words_of
from audiollm.curation.joining import of_youtube

SET = DataSet(
    title="VGGSound: sounds of YouTube whose source is seen, 309 classes",
    license="cc-by-4.0",
    tasks=("sound", "sound_mcq", "existence"),
    columns=("youtube_id", "start_seconds", "label"),
    splits={"train": ["train"], "test": ["test"]},
    original="vggsound.csv (without a header: video, start in seconds, label, split)",
    language="en",
    citation="Chen et al., VGGSound: A Large-scale Audio-Visual Dataset, 2020",
)
CLIP_S = 10
COLUMNS = ("youtube_id", "start_seconds", "label", "split")
GROUPS = (
    "dog barking; cat meowing; sheep bleating; horse neighing; frog croaking; owl hooting; duck quacking",
    "playing violin or fiddle; playing piano; playing trumpet; playing accordion; playing harp; playing drum kit",
    "people coughing; people sneezing; people snoring; people clapping; people burping; baby crying; people whistling",
    "helicopter; train horning; driving motorcycle; skateboarding; motorboat or speedboat acceleration",
    "church bell ringing; telephone bell ringing; police car (siren); smoke detector beeping; reversing beeps",
    "raining; thunder; wind noise; waterfall burbling; fire crackling; ocean burbling",
    "toilet flushing; typing on computer keyboard; printer printing; using sewing machines; popping popcorn",
    "machine gun shooting; fireworks banging; chainsawing trees; hammering nails; lawn mowing",
)
SIMILAR = {label: set(group.split("; ")) for group in GROUPS for label in group.split("; ")}
COMMON = {"playing", "people", "driving", "or", "on"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of vggsound.csv of one split, with the labels that are common in all of it."""
    table = list(archive.table("vggsound.csv", "*/vggsound.csv", header=COLUMNS))
    common = commonest((label_of(row) for _, row in table), SIMILAR)
    for place, row in table:
        if archive.is_of(split, row["split"].strip(), place, SET.splits):
            yield place, row | {"common": common}


def label_of(row: dict[str, Any]) -> str:
    """`playing violin, fiddle` -> playing violin or fiddle."""
    return words_of(row["label"].replace(", etc.", "").replace(", ", " or "))


def convert(row: dict[str, Any], draw: Draw, *, recordings: Path) -> Item:
    """One sound a clip; those with a word in common (two of dogs) are not set against each other."""
    label = label_of(row)
    start_s = float(row["start_seconds"])
    audio = of_youtube(recordings, row["youtube_id"], start_s, start_s + CLIP_S)
    others = [other for other in SIMILAR if not set(other.split()) & set(label.split()) - COMMON]
    asks = classify(draw, "sound", label, [label, *others], similar=SIMILAR, common=row.get("common", ()))
    return Item(audio, row["youtube_id"], asks)
