"""NSynth: 305,979 single notes of 4 s, of 1,006 instruments; no instrument of training is in the other parts.

{"note": 201034, "note_str": "bass_synthetic_033-022-050", "instrument": 417, "instrument_str": "bass_synthetic_033",
 "instrument_family": 0, "instrument_family_str": "bass", "instrument_source": 2, "instrument_source_str": "synthetic",
 "pitch": 22, "velocity": 50, "sample_rate": 16000, "qualities": [0, 1, 0, 0, 0, 0, 0, 0, 0, 1],
 "qualities_str": ["dark", "fast_decay"], "audio": AUDIO}
"""

from collections.abc import Iterator
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Item
from audiollm.curation.instructions import classify, with_choices, words_of

SET = DataSet(
    title="NSynth: single notes of many instruments",
    license="cc-by-4.0",
    tasks=("instrument", "instrument_mcq", "existence", "pitch", "aqa"),
    columns=("note_str", "instrument_family_str", "instrument_source_str", "pitch", "qualities_str", "audio"),
    splits={"train": ["train"], "validation": ["valid"], "test": ["test"]},
    original="the unpacked nsynth-train/, nsynth-valid/, nsynth-test/, with examples.json and audio/ in each",
    language="en",
    citation="Engel et al., Neural Audio Synthesis of Musical Notes with WaveNet Autoencoders, 2017",
)
FAMILIES = ["bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth lead", "vocal"]
GROUPS = ("brass flute reed", "bass guitar string", "keyboard organ mallet", "synth_lead keyboard", "vocal flute")
SIMILAR: dict[str, set[str]] = {}
for group in GROUPS:
    for family in group.split():
        SIMILAR.setdefault(words_of(family), set()).update(map(words_of, group.split()))
SHARPS = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
FLATS = ["C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B"]


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The notes of examples.json, an object by their names."""
    name = f"nsynth-{SET.splits[split][0]}"
    folder = str(archive.find(name, f"*/{name}").relative_to(archive.folder))
    for place, row in archive.list(f"{folder}/examples.json", needs=SET.columns[:-1]):
        yield place, row | {"audio": archive.recording(folder, "audio", f"{row['key']}.wav")}


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """Family, note name (C4 is MIDI 60), how it was made, and how it sounds where that is noted."""
    note, octave = int(row["pitch"]) % 12, int(row["pitch"]) // 12 - 1
    other = (f"{FLATS[note]}{octave}",) if FLATS[note] != SHARPS[note] else ()
    sources = draw.sample(("acoustic", "electronic", "synthetic"), 3)
    origin = "Is the instrument acoustic, electronic or synthetic?"
    asks = [
        *classify(draw, "instrument", words_of(row["instrument_family_str"]), FAMILIES, similar=SIMILAR),
        Ask("pitch", draw.phrase("pitch"), f"{SHARPS[note]}{octave}", references=other),
        with_choices(draw, "instrument", origin, sources, row["instrument_source_str"]),
    ]
    if row["qualities_str"]:
        asks.append(Ask("aqa", "Which qualities does this note have?", ", ".join(map(words_of, row["qualities_str"]))))
    return Item(row["audio"], row["note_str"], asks)
