"""MusicCaps: 5,521 clips of 10 s out of music videos, described by musicians; the recordings are not part of it.

`source=mahendra0203/musiccaps_processed_full` brings those of 5,355 clips. It does not tell which are for testing, so
that all its rows are for training, and a benchmark on MusicCaps is none after it.

{"ytid": "-0Ab1cDeFg2", "start_s": "30", "end_s": "40", "audioset_positive_labels": "/m/0140xf,/m/02cjck",
 "aspect_list": "['slow tempo', \\"children's choir\\", 'no percussion']", "caption": "Children sing slowly.",
 "author_id": "4", "is_balanced_subset": "False", "is_audioset_eval": "True"}
{"ytid": "h_Ij3kLmNo4", "start_s": "0", "end_s": "10", "audioset_positive_labels": "/m/04rlf",
 "aspect_list": "['techno']", "caption": "A fast techno beat.", "author_id": "6", "is_balanced_subset": "False",
 "is_audioset_eval": "False"}
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.joining import of_youtube

SET = DataSet(
    title="MusicCaps: music described by musicians",
    license="cc-by-sa-4.0",
    tasks=("music_caption", "tags_music"),
    columns=("aspect_list", "caption"),
    needs=("ytid", "start_s", "end_s", "is_audioset_eval", "audio", "youtube_id"),
    original="the table musiccaps-public.csv",
    language="en",
    citation="Agostinelli et al., MusicLM: Generating Music From Text, 2023",
)
NEEDS = (*SET.columns, *SET.needs[:4])


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of musiccaps-public.csv."""
    yield from archive.table("musiccaps-public.csv", "*/musiccaps-public.csv", needs=NEEDS)


def convert(row: dict[str, Any], draw: Draw, *, recordings: Path | None = None, whole: bool = False) -> Item:
    """Caption and aspects; what is of AudioSet's evaluation part is for testing. `whole`: videos that are not cut."""
    name, audio, start, end = row.get("ytid") or row["youtube_id"], row.get("audio"), None, None
    if audio is None:
        if recordings is None:
            raise Dropped("no recording in the source; give recordings=FOLDER")
        start, end = float(row["start_s"]), float(row["end_s"])
        audio = of_youtube(recordings, name, start, end)
    try:
        aspects = ast.literal_eval(row["aspect_list"])  # it is written as Python writes a list
    except (ValueError, SyntaxError):
        raise Dropped("its aspects are no list") from None
    asks = [draw.ask("music_caption", row["caption"].strip()), draw.ask("tags_music", ", ".join(aspects))]
    split = "test" if str(row.get("is_audioset_eval")).lower() == "true" else "train"
    part = (start, end) if whole else (None, None)
    return Item(audio, name, asks, part[0], part[1], description=row["caption"].strip(), split=split)
