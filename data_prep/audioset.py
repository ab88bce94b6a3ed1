"""AudioSet: 10 s of YouTube, each with all of 527 sounds that people heard in it.

{"video_id": "--abcDEf012", "audio": AUDIO, "labels": ["/m/09x0r", "/m/05zppz", "/m/0t3k8"],
 "human_labels": ["Speech", "Male speech, man speaking", "Inside, small room"]}
{"video_id": "-x0YZabc_12", "audio": AUDIO, "labels": ["/m/0395lw", "/m/0_ksk"],
 "human_labels": ["Bell", "Motor vehicle (road)", "Bee, wasp, etc.", "Christmas music"]}
"""

from typing import Any

from audiollm.curation.dataset import DataSet, Draw, Item
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
# Sounds that may be asked for where they are not, unless a tag has one of the words: tags are not complete, and a
# clip that is tagged with "Bark" or with "Animal" alone may well hold a dog.
ABSENT = {
    "animal pet livestock fowl dog canidae bark bow-wow yip growl howl whimper cat meow purr hiss roar horse neigh "
    "clip-clop cattle moo pig oink goat sheep bleat chicken cluck crow rodent bird chirp owl hoot frog croak insect": (
        "dog", "cat", "horse", "sheep", "frog", "owl",
    ),
    "music instrument piano organ keyboard guitar string drum brass trumpet horn harp accordion song sing": (
        "piano", "trumpet", "harp", "accordion",
    ),
    "vehicle car truck bus motor engine road traffic rail train subway aircraft plane helicopter propeller boat": (
        "train", "helicopter", "motorcycle",
    ),
    "alarm bell siren emergency telephone ring beep buzz ding chime horn clock": ("siren", "church bell", "doorbell"),
    "cough throat snor breath sneez cry sob baby infant child wail applause clap cheer crowd human": (
        "cough", "snoring", "baby cry or infant cry", "applause",
    ),
    "tool saw drill hammer wood chop engine thump bang tap knock domestic": ("chainsaw", "hammer"),
    "water liquid toilet sink domestic vacuum cleaner typ keyboard": ("toilet flush", "vacuum cleaner", "typewriter"),
    "gun explo boom bang fire burst thunder storm rain weather": ("fireworks", "gunshot or gunfire", "thunder"),
}  # fmt: skip


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """All tags, and a yes and a no about single ones."""
    tags = [readable(label) for label in row["human_labels"]]
    sounds = [tag for tag in tags if not tag.startswith(("inside ", "outside "))]
    heard = " ".join(tags).lower()
    absent = [one for words, some in ABSENT.items() if not any(word in heard for word in words.split()) for one in some]
    return Item(
        row["audio"], row["video_id"], [draw.ask("tagging", ", ".join(tags)), *yes_and_no(draw, sounds, absent)]
    )


def readable(label: str) -> str:
    """`Bee, wasp, etc.` -> `bee or wasp`: a comma within a label would look like one between two."""
    place, comma, kind = label.partition(", ")
    if comma and place in ("Inside", "Outside"):
        return f"{place.lower()} ({kind})"
    parts = label.removesuffix(", etc.").replace(", and ", " and ").split(", ")
    return " or ".join(part if part.startswith(NAMES) else part[:1].lower() + part[1:] for part in parts)
