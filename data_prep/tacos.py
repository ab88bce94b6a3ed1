"""TACOS: about 12,000 recordings of Freesound with a caption, and words for what is heard when.

{"filename": "1234.mp3", "caption": "A dog barks twice before a car passes.",
 "events": [["A dog barks", 0.5, 1.2], ["A car passes by.", 3.0, 7.25], ["A dog barks", 1.8, 2.4],
            ["A person coughs", 2.5, 2.9]], "freesound_id": "1234", "audio": AUDIO}
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.instructions import count, grounding, order

SET = DataSet(
    title="TACOS: captions and sounds with their times",
    license="cc-by-4.0, other",  # the captions; each recording has its own of Freesound
    tasks=("caption", "grounding", "order", "count"),
    columns=("filename", "caption", "events", "audio"),
    splits={"train": ["train"], "test": ["test"]},
    original="annotations_strong.csv, annotations_weak.csv, metadata.csv, {development,test}_split.csv, audio/",
    language="en",
    citation="Primus, Schmid and Widmer, TACOS: Temporally-aligned Audio Captions for Language-Audio Pretraining, 2025",
)
STRONG = ("filename", "text", "onset", "offset")
TABLES = {"train": "development_split.csv", "test": "test_split.csv"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The files of the split, each with what all tables say of it."""
    events: dict[str, list[list[Any]]] = {}
    for _, row in archive.table("annotations_strong.csv", "*/annotations_strong.csv", needs=STRONG):
        events.setdefault(row["filename"], []).append([row["text"], row["onset"], row["offset"]])
    weak = archive.table("annotations_weak.csv", "*/annotations_weak.csv", needs=("filename", "caption|text"))
    captions = {row["filename"]: row.get("caption") or row.get("text") or "" for _, row in weak}  # two releases
    metadata = archive.table("metadata.csv", "*/metadata.csv", needs=("filename", "freesound_id"))
    about = {row["filename"]: row for _, row in metadata}
    sounds = str(archive.find("audio", "*/audio").relative_to(archive.folder))
    for place, row in archive.table(TABLES[split], f"*/{TABLES[split]}", needs=("filename",)):
        name = row["filename"]
        found = {
            "caption": captions.get(name, ""),
            "events": events.get(name, []),
            "audio": archive.recording(sounds, name),
        }
        yield place, {"filename": name, "freesound_id": about.get(name, {}).get("freesound_id")} | found


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """A caption; when one sound is heard, which of two is first; and how often, if they were marked one by one."""
    events = [(as_label(text), float(onset), float(offset)) for text, onset, offset in row["events"] if text.strip()]
    often = Counter(label for label, _, _ in events)
    # "birds chirp" marked once may be many chirps: only what has several marks was counted by its listener
    marked = [event for event in events if often[event[0]] > 1]
    asks = [draw.ask("caption", row["caption"]), *grounding(draw, events), *order(draw, events), *count(draw, marked)]
    return Item(row["audio"], row.get("freesound_id") or row["filename"], asks)


def as_label(text: str) -> str:
    """The words as they stand within a question: `A dog barks.` -> `a dog barks`."""
    text = text.strip().rstrip(".")
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
