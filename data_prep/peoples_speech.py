"""People's Speech: 30,000 hours of English from the Internet Archive, such as interviews, talks and hearings.

{"id": "2016_SLASH_townhall_DOT_mp3_00001.flac", "audio": AUDIO, "duration_ms": 14920,
 "text": "so the first thing that we did was to count the trees"}
"""

from typing import Any

from audiollm.curation.dataset import DataSet, Draw, Item

SET = DataSet(
    title="People's Speech: English of all kinds",
    license="cc-by, cc-by-sa",  # several versions of both; those of the configurations *_sa are cc-by-sa
    tasks=("asr",),
    columns=("id", "audio", "text"),
    hub="MLCommons/peoples_speech",
    config="clean",
    splits={"train": ["train"], "validation": ["validation"], "test": ["test"]},
    language="en",
    citation="Galvez et al., The People's Speech: A Large-Scale Diverse English Speech Recognition Dataset, 2021",
)


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """The transcript, which is in small letters and without punctuation."""
    return Item(row["audio"], str(row["id"]), [draw.ask("asr", row["text"])], transcript=row["text"])
