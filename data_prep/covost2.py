"""CoVoST 2: sentences of Common Voice with translations, from English into 15 languages and from 21 into English.

{"client_id": "63d0", "file": "/data/clips/common_voice_en_18540003.mp3", "audio": AUDIO,
 "translation": "Er kam zu spät.", "sentence": '"He came too late."', "id": "common_voice_en_18540003"}
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item
from data_prep.common_voice import LANGUAGES

SET = DataSet(
    title="CoVoST 2: speech translation from and into English",
    license="cc-by-nc-4.0",
    tasks=("asr", "translation", "transcribe_translate"),
    columns=("id", "audio", "sentence", "translation"),
    hub="fixie-ai/covost2",
    config="en_de",
    splits={"train": ["train"], "validation": ["validation"], "test": ["test"]},
    original="covost_v2.en_de.train.tsv, .dev.tsv and .test.tsv, as get_covost_splits.py writes them, and the "
    "clips/ of Common Voice 4",
    citation="Wang et al., CoVoST 2 and Massively Multilingual Speech-to-Text Translation, 2020",
)
PARTS = {"train": "train", "validation": "dev", "test": "test"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the tables of every pair that is there, which their names tell; a backslash in them escapes."""
    name = f"covost_v2.*.{PARTS[split]}.tsv"
    for path in archive.find_all(name, f"*/{name}"):
        clips = str(archive.find("clips", "*/clips", "*/*/clips").relative_to(archive.folder))
        table = str(path.relative_to(archive.folder))
        for place, row in archive.table(table, delimiter="\t", quotes=False, needs=("path", "sentence", "translation")):
            texts = {key: re.sub(r"\\(.)", r"\1", row[key]) for key in ("sentence", "translation")}
            about = {"id": Path(row["path"]).stem, "pair": path.name.split(".")[1]}
            yield place, texts | about | {"audio": archive.recording(clips, row["path"])}


def convert(row: dict[str, Any], draw: Draw, *, pair: str | None = None) -> Item:
    """Transcript, translation, and both; names of tables and configs tell `pair`, which else is to be given."""
    both = row.get("pair") or pair or draw.config
    if both is None:
        raise Dropped("nothing tells the languages; give pair=en_de")
    source, target = both.split("_")
    said, translated = row["sentence"].strip(), row["translation"].strip()
    if not translated:
        raise Dropped("no translation")
    if "REMOVE" in translated:  # so the translators marked sentences that make no sense
        raise Dropped("marked as one to remove")
    asks = [
        Ask(task, draw.phrase(pool, language=LANGUAGES[code]), answer, language=code)
        for task, pool, answer, code in (
            ("asr", "asr_language", said, source),
            ("translation", "translation", translated, target),
            ("transcribe_translate", "transcribe_translate", f"{said}\n{translated}", target),
        )
        if said or task == "translation"
    ]
    return Item(row["audio"], row["id"], asks, transcript=said or None)
