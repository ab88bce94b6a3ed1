"""AudioSet: 10 s of YouTube, each with all of 527 sounds that people heard in it.

{"video_id": "--abcDEf012", "audio": AUDIO, "labels": ["/m/09x0r", "/m/05zppz", "/m/0t3k8"],
 "human_labels": ["Speech", "Male speech, man speaking", "Inside, small room"]}
{"video_id": "-x0YZabc_12", "audio": AUDIO, "labels": ["/m/0395lw", "/m/0_ksk"],
 "human_labels": ["Bell", "Motor vehicle (road)", "Bee, wasp, etc.", "Christmas music"]}
"""

from typing import Any

from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.families import COMMON, deniable
from audiollm.curation.instructions import yes_and_no

SET = DataSet(
    title="AudioSet: sounds of YouTube with all their tags",
    license="cc-by-4.0",
    tasks=("tagging", "existence"),
    columns=("video_id", "audio", "human_labels"),
    hub="agkphysics/AudioSet",
    config="balanced",
    splits={"train": ["train"], "test": ["test"]},
    language="en",
    citation="Gemmeke et al., Audio Set: An ontology and human-labeled dataset for audio events, 2017",
)
NAMES = ("Carnatic", "Christian", "Christmas", "French", "Hammond", "Middle Eastern")


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """All tags, and a yes and a no about single ones."""
    tags = [readable(label) for label in row["human_labels"]]
    sounds = [tag for tag in tags if not tag.startswith(("inside ", "outside "))]
    absent, alike = deniable(tags)
    asks = [draw.ask("tagging", ", ".join(tags))]
    asks += yes_and_no(draw, sounds, absent, similar=dict.fromkeys(sounds, alike), common=COMMON)
    return Item(row["audio"], row["video_id"], asks)


def readable(label: str) -> str:
    """`Bee, wasp, etc.` -> `bee or wasp`: a comma within a label would look like one between two."""
    place, comma, kind = label.partition(", ")
    if comma and place in ("Inside", "Outside"):
        return f"{place.lower()} ({kind})"
    parts = label.removesuffix(", etc.").replace(", and ", " and ").split(", ")
    return " or ".join(part if part.startswith(NAMES) else part[:1].lower() + part[1:] for part in parts)
