"""LP-MusicCaps: captions that a language model wrote out of musical tags; the recordings are not part of it.

The part about MusicCaps (MC) is read if nothing is said, and with `source=seungheondoh/LP-MusicCaps-MTT` or `-MSD`
those about MagnaTagATune and the Million Song Dataset. `caption_attribute_prediction` tells of things that are not
heard: the card advises against it, and it is not read. The card says MIT, the repository CC BY-NC 4.0.

{"fname": "[-0Ab1cDeFg2]-[30-40]", "ytid": "-0Ab1cDeFg2", "aspect_list": ["slow tempo", "choir"],
 "caption_ground_truth": "A choir sings slowly.", "caption_writing": "A slow choir piece.",
 "caption_summary": "A choir sings at a slow tempo.", "caption_paraphrase": "Choral music, unhurried.",
 "caption_attribute_prediction": "A sad choir from 1930.", "pseudo_attribute": ["sad"], "is_crawled": True,
 "author_id": 4, "start_s": 30, "end_s": 40, "audioset_positive_labels": "/m/0140xf", "is_balanced_subset": False,
 "is_audioset_eval": True}
"""

from pathlib import Path
from typing import Any

from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.instructions import described
from audiollm.curation.joining import of_youtube, recording_of

SET = DataSet(
    title="LP-MusicCaps: captions of music, written by a language model",
    license="mit, cc-by-nc-4.0",  # the card, and the repository
    tasks=("music_caption",),
    columns=("caption_writing", "caption_summary", "caption_paraphrase"),
    needs=("ytid", "start_s", "end_s", "track_id", "path"),
    hub="seungheondoh/LP-MusicCaps-MC",
    splits={"train": ["train"], "validation": ["valid", "validation"], "test": ["test"]},
    language="en",
    citation="Doh et al., LP-MusicCaps: LLM-Based Pseudo Music Captioning, 2023",
)


def convert(row: dict[str, Any], draw: Draw, *, recordings: Path) -> Item:
    """The written caption; summary and paraphrase are as right."""
    ask = described(draw, "music_caption", (row[name] for name in SET.columns))
    if "ytid" in row:
        name, audio = row["ytid"], of_youtube(recordings, row["ytid"], row["start_s"], row["end_s"])
    else:
        name = str(row["track_id"])
        audio = recording_of(recordings, *([Path(row["path"]).stem] if row.get("path") else []), name)
    return Item(audio, name, [ask], description=ask.answer)
