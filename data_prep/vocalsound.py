"""VocalSound: 21,024 recordings of people who laugh, sigh, cough, clear their throat, sneeze or sniff.

{"audio": AUDIO, "answer": "Throat clearing"}
{"audio": AUDIO, "answer": "Laughter"}
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.instructions import classify

SET = DataSet(
    title="VocalSound: human vocal sounds, 6 classes",
    license="cc-by-sa-4.0",
    tasks=("vocal_sound", "vocal_sound_mcq", "existence"),
    columns=("audio", "answer"),
    splits={"train": ["train"], "validation": ["val", "validation"], "test": ["test"]},
    hub="mteb/vocalsound",
    original="the unpacked vs_release_16k, with audio_16k/ and meta/{tr,val,te}_meta.csv",
    language="en",
    citation="Gong, Yu and Glass, VocalSound: A Dataset for Improving Human Vocal Sounds Recognition, 2022",
)
WORDS = {one.replace(" ", ""): one for one in ("laughter", "sigh", "cough", "throat clearing", "sneeze", "sniff")}
SIMILAR = {"cough": ["throat clearing", "sneeze"], "throat clearing": ["cough"], "sneeze": ["cough", "sniff"]}
SIMILAR |= {"sniff": ["sigh", "sneeze"], "sigh": ["sniff", "laughter"], "laughter": ["sigh", "cough"]}
TABLES = {"train": "tr_meta.csv", "validation": "val_meta.csv", "test": "te_meta.csv"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The recordings of the split's speakers; SPEAKER_TIME_CLASS.wav is the name of each."""
    table = archive.find(f"meta/{TABLES[split]}", f"*/meta/{TABLES[split]}")
    speakers = {line.split(",")[0].strip('"') for _, line in archive.lines(table)}
    folder = archive.find("audio_16k", "*/audio_16k", "audio_44k", "*/audio_44k")
    for path in sorted(folder.glob("*.wav")):
        if path.name.split("_")[0] in speakers:
            yield str(path), {"audio": path, "answer": path.stem.split("_")[-1]}


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """One class a recording, called the same whether the source writes `throatclearing` or `Throat clearing`."""
    label = WORDS["".join(filter(str.isalpha, row["answer"].lower()))]
    return Item(
        row["audio"], speaker_of(row["audio"]), classify(draw, "vocal_sound", label, [*SIMILAR], similar=SIMILAR)
    )


def speaker_of(audio: Any) -> str:
    """The speaker, as the file's name has it; the whole name where it is another."""
    name = Path((audio.get("path") or "") if isinstance(audio, Mapping) else audio).stem
    found = re.match(r"[fm]?\d+(?=_\d+_[a-z]+$)", name)
    return found[0] if found else name
