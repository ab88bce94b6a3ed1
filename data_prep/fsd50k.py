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
from audiollm.curation.families import KINDS
from audiollm.curation.instructions import commonest, words_of, yes_and_no

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
SIMILAR = {one: set(members) for members in KINDS.values() for one in members}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of dev.csv or eval.csv, with each clip's licence, and the labels that are common in that table."""
    part = "eval" if split == "test" else "dev"
    name = f"FSD50K.metadata/{part}_clips_info_FSD50K.json"
    try:
        licenses = {row["key"]: row["license"] for _, row in archive.list(name, f"*/{name}", needs=("license",))}
    except NoSuchSplit:
        licenses = {}
    ground = archive.find(f"FSD50K.ground_truth/{part}.csv", f"*/FSD50K.ground_truth/{part}.csv")
    folder = ground.parent.parent.relative_to(archive.folder)
    needs = ("fname", "labels") if part == "eval" else ("fname", "labels", "split")
    table = list(archive.table(str(ground.relative_to(archive.folder)), needs=needs))
    common = commonest((label for _, row in table for label in labels_of(row)), SIMILAR)
    for place, row in table:
        if archive.is_of(split, row.get("split", "eval"), place, SET.splits):
            audio = archive.recording(str(folder), f"FSD50K.{part}_audio", f"{row['fname']}.wav")
            yield place, row | {"audio": audio, "license": licenses.get(row["fname"], ""), "common": common}


def labels_of(row: dict[str, Any]) -> list[str]:
    """`Bark,Domestic_animals_and_pets` -> bark, domestic animals and pets."""
    return [words_of(label).lower() for label in row["labels"].split(",")]


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """All labels, and a yes and a no about single ones; not about a dog where there is just "animal"."""
    labels = labels_of(row)
    heard = set(labels)
    kinds = [some for wide, some in KINDS.items() if heard.isdisjoint(wide.split(",")) or not heard.isdisjoint(some)]
    asks = [draw.ask("tagging", ", ".join(labels))]
    absent = [one for some in kinds for one in some]
    asks += yes_and_no(draw, labels, absent, similar=SIMILAR, common=row.get("common", ()))
    return Item(row["audio"], str(row["fname"]), asks, license=license_of(row.get("license") or ""))


def license_of(url: str) -> str | None:
    """`http://creativecommons.org/licenses/by-nc/3.0/` -> `cc-by-nc-3.0`."""
    found = re.search(r"creativecommons\.org/(?:licenses|publicdomain)/([^/]+)/([\d.]+)", url)
    return f"cc-{found[1]}-{found[2]}".replace("cc-zero", "cc0") if found else None
