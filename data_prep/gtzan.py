"""GTZAN: 1,000 pieces of music of 30 s in ten genres.

{"audio": AUDIO, "label": "blues"}
{"audio": AUDIO, "label": "hiphop"}

It has faults that are part of every copy (Sturm, 2013): jazz.00054 is broken, about 50 pieces are there twice, others
under a wrong genre. Pieces of one artist follow each other within a genre, so that a split by number keeps most of
them, and of the repeated pieces, on one side. Where copies lost the names, pieces stay in the split of the source.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import multiple_choice
from audiollm.curation.mapped import name_of

SET = DataSet(
    title="GTZAN: music of ten genres",
    license="unknown",
    tasks=("genre", "genre_mcq"),
    columns=("audio", "label"),
    hub="mteb/gtzan-genre",
    original="the unpacked genres/ or genres_original/, with blues/blues.00000.wav ...",
    language="en",
    citation="Tzanetakis and Cook, Musical Genre Classification of Audio Signals, 2002",
)
GROUPS = ("blues jazz country rock", "metal rock", "pop disco rock", "hip-hop reggae disco", "classical jazz")
GENRES = ["blues", "classical", "country", "disco", "hip-hop", "jazz", "metal", "pop", "reggae", "rock"]
SIMILAR = {genre: {other for group in GROUPS if genre in group.split() for other in group.split()} for genre in GENRES}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The recordings of each genre's folder."""
    name = "[a-z]*/[a-z]*.[0-9]*.*"  # and not ._blues.00000.wav, which some archives hold too
    for path in archive.find_all(f"genres/{name}", f"genres_original/{name}", f"*/genres*/{name}"):
        yield str(path), {"label": path.parent.name, "audio": path}


def convert(row: dict[str, Any], draw: Draw, *, test_from: int = 80) -> Item:
    """Its genre, by its label or its name; pieces with this number and above, of each genre, are for testing."""
    path = row["audio"]["path"] if isinstance(row["audio"], Mapping) else row["audio"]
    named = re.search(r"(?:([a-z]+)\.)?(\d+)\.\w+$", str(path))
    label = named[1] if row["label"] is None and named else row["label"]
    genre = "hip-hop" if label == "hiphop" else label
    if genre not in GENRES:
        raise Dropped("neither its label nor its name says one of the ten genres")
    asks = [draw.ask("genre", genre), multiple_choice(draw, "genre", genre, GENRES, similar=SIMILAR)]
    if named is None:
        return Item(row["audio"], name_of(row["audio"], draw), asks)
    split = "test" if int(named[2]) >= test_from else "train"
    return Item(row["audio"], f"{label}.{int(named[2]):05d}", asks, split=split)
