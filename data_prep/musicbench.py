"""MusicBench: MusicCaps with other tempos and pitches, and with the tempo, key and chords that programs found.

Tempo, key and chords are taken from their own columns: the prompts put them into words at times ("in Adagio").

{"dataset": "MusicBench", "location": "data_aug2/-0Ab1cDeFg2_1.wav", "main_caption": "A calm guitar in E major.",
 "alt_caption": "A guitar plays. The bpm is 112.0.", "prompt_aug": "", "prompt_ch": "The chord progression is E, B/D#.",
 "prompt_bt": "The beat counts to 4.", "prompt_bpm": "The bpm is 112.0.", "prompt_key": "The key is E major.",
 "beats": [[0.37, 0.91], [1, 2]], "bpm": 112.0, "chords": ["E", "B/D#"], "chords_time": [0.46, 2.1],
 "key": ["E", "major"], "keyprob": [0.89], "is_audioset_eval_mcaps": False, "audio": AUDIO}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import described

SET = DataSet(
    title="MusicBench: music with captions, tempo, key and chords",
    license="cc-by-sa-3.0",
    tasks=("music_caption", "tempo", "key", "chords"),
    columns=("location", "main_caption", "bpm", "chords", "key", "keyprob", "audio"),
    splits={"train": ["train"], "test": ["test"]},
    original="MusicBench_train.json, MusicBench_test_A.json and the unpacked MusicBench.tar.gz: datashare/",
    language="en",
    citation="Melechovsky et al., Mustango: Toward Controllable Text-to-Music Generation, 2024",
)
FILES = {"train": "MusicBench_train.json", "test": "MusicBench_test_A.json"}  # test_B is about the clips of test_A


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON lines of a split."""
    folder = archive.find("datashare", "*/datashare").relative_to(archive.folder)
    for place, row in archive.json_lines(archive.find(FILES[split], f"*/{FILES[split]}"), SET.columns[:-1]):
        yield place, row | {"audio": archive.recording(str(folder), row["location"]), "trains": split == "train"}


def convert(row: dict[str, Any], draw: Draw, *, min_keyprob: float = 0.5, musiccaps_test: bool = False) -> Item:
    """Caption, tempo, key (where its program is sure), chords. `musiccaps_test`: train on what MusicCaps tests on."""
    if row.get("is_audioset_eval_mcaps") and row.get("trains") and not musiccaps_test:
        raise Dropped("MusicCaps tests on it")
    asks = [described(draw, "music_caption", (row["main_caption"], row.get("alt_caption")))]
    if row["bpm"]:
        asks.append(draw.ask("tempo", str(round(row["bpm"]))))
    if row["key"] and row["keyprob"] and row["keyprob"][0] >= min_keyprob:
        asks.append(draw.ask("key", " ".join(row["key"])))
    if chords := [chord for chord in row["chords"] or () if chord != "N"]:  # N: no chord there
        asks.append(draw.ask("chords", ", ".join(chords)))
    return Item(row["audio"], Path(row["location"]).stem[:11], asks, description=asks[0].answer)  # the id of its video
