"""FSD50K: 51,197 sounds of Freesound with all of 200 labels that fit, also the wider ones.

{"fname": "64760", "labels": "Bark,Dog,Domestic_animals_and_pets,Animal",
 "mids": "/m/05tny_,/m/0bt9lr,/m/068hy,/m/0jbk", "split": "train"}
{"fname": "16399", "labels": "Sink_(filling_or_washing),Domestic_sounds_and_home_sounds",
 "mids": "/m/0130jx,/t/dd00071", "split": "train"}
"""

import re
from collections.abc import Iterator
from typing import Any

from audiollm.curation.archives import Archive, NoSuchSplit
from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.instructions import words_of, yes_and_no

SET = DataSet(
    title="FSD50K: sounds of Freesound with all their labels",
    license="other",  # where the metadata are missing: the collection is cc-by-4.0, each clip has its own, some NC
    tasks=("tagging", "existence"),
    columns=("fname", "labels", "audio"),
    splits={"train": ["train"], "validation": ["val"], "test": ["eval"]},
    original="FSD50K.ground_truth/ (dev.csv, eval.csv), FSD50K.dev_audio/, FSD50K.eval_audio/, maybe FSD50K.metadata/",
    language="en",
    citation="Fonseca et al., FSD50K: an Open Dataset of Human-Labeled Sound Events, 2022",
)
# Wider labels, which the clips of narrower ones have too -> sounds that may be asked for where they are not.
KINDS = {
    "animal": ("dog", "cat", "insect", "frog"),
    "human voice": ("speech", "singing", "laughter", "crying and sobbing"),
    "music,musical instrument": ("guitar", "piano", "trumpet", "accordion", "harp"),
    "vehicle,engine": ("car", "bus", "motorcycle", "train", "aircraft", "boat and water vehicle"),
    "water": ("ocean", "stream"),
    "domestic sounds and home sounds": ("door", "typing", "toilet flush", "zipper (clothing)", "microwave oven"),
    "explosion": ("gunshot and gunfire", "fireworks"),
    "tools": ("hammer", "sawing", "drill"),
}
SIMILAR = {one: set(members) for members in KINDS.values() for one in members}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of dev.csv or eval.csv, with each clip's licence."""
    part = "eval" if split == "test" else "dev"
    name = f"FSD50K.metadata/{part}_clips_info_FSD50K.json"
    try:
        licenses = {row["key"]: row["license"] for _, row in archive.list(name, f"*/{name}", needs=("license",))}
    except NoSuchSplit:
        licenses = {}
    ground = archive.find(f"FSD50K.ground_truth/{part}.csv", f"*/FSD50K.ground_truth/{part}.csv")
    folder = ground.parent.parent.relative_to(archive.folder)
    needs = ("fname", "labels") if part == "eval" else ("fname", "labels", "split")
    for place, row in archive.table(str(ground.relative_to(archive.folder)), needs=needs):
        if row.get("split", "eval") in SET.splits[split]:
            audio = archive.recording(str(folder), f"FSD50K.{part}_audio", f"{row['fname']}.wav")
            yield place, row | {"audio": audio, "license": licenses.get(row["fname"], "")}


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """All labels, and a yes and a no about single ones; not about a dog where there is just "animal"."""
    labels = [words_of(label).lower() for label in row["labels"].split(",")]
    heard = set(labels)
    kinds = [some for wide, some in KINDS.items() if heard.isdisjoint(wide.split(",")) or not heard.isdisjoint(some)]
    asks = [draw.ask("tagging", ", ".join(labels)), *yes_and_no(draw, labels, sum(kinds, ()), similar=SIMILAR)]
    return Item(row["audio"], str(row["fname"]), asks, license=license_of(row.get("license") or ""))


def license_of(url: str) -> str | None:
    """`http://creativecommons.org/licenses/by-nc/3.0/` -> `cc-by-nc-3.0`."""
    found = re.search(r"creativecommons\.org/(?:licenses|publicdomain)/([^/]+)/([\d.]+)", url)
    return f"cc-{found[1]}-{found[2]}".replace("cc-zero", "cc0") if found else None
