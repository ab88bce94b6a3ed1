"""CREMA-D: 7,442 sentences spoken by 91 actors in six emotions.

A clip is named ACTOR_SENTENCE_EMOTION_LEVEL; nothing else tells who speaks. Where copies lost the names, `label` tells
the emotion, and rows stay in the split of the source.

{"audio": {"bytes": AUDIO, "path": "1001_DFA_ANG_XX.wav"}, "label": "Anger"}
{"audio": {"bytes": AUDIO, "path": "1091_WSI_HAP_HI.wav"}, "label": "Happy"}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiollm.audio import name_of
from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import SIMILAR_EMOTIONS, multiple_choice
from audiollm.curation.mapped import name_of as clip_name

SET = DataSet(
    title="CREMA-D: acted emotion in sentences",
    license="odbl",
    tasks=("emotion", "emotion_mcq"),
    columns=("audio",),
    needs=("label",),
    hub="mteb/crema-d",
    original="AudioWAV/ with 1001_DFA_ANG_XX.wav ...",
    language="en",
    citation="Cao et al., CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, 2014",
)
EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The recordings of AudioWAV."""
    for path in sorted(archive.find("AudioWAV", "*/AudioWAV").glob("[0-9]*.wav")):
        yield str(path), {"audio": path}


def convert(row: dict[str, Any], draw: Draw, *, first_test_actor: int = 1073) -> Item:
    """The emotion that was to be played; actors from one on (of 1001 to 1091) are for testing, and in nothing else."""
    name = Path(name_of(row["audio"])).stem
    actor, _, code, *_ = [*name.split("_"), "", "", ""]
    if not actor.isdigit():
        name, actor, code = clip_name(row["audio"], draw), "", ""
    emotion = EMOTIONS.get(code) or EMOTIONS.get(str(row.get("label") or "")[:3].upper())  # Anger, angry ...
    if emotion is None:
        raise Dropped("neither its name nor its label says an emotion")
    options = multiple_choice(draw, "emotion", emotion, tuple(EMOTIONS.values()), similar=SIMILAR_EMOTIONS)
    asks = [draw.ask("emotion", emotion), options]
    split = ("test" if int(actor) >= first_test_actor else "train") if actor else None
    return Item(row["audio"], name, asks, split=split)
