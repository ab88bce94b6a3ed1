"""RAVDESS: two sentences spoken by 24 actors in eight emotions.

A clip is named MODALITY-CHANNEL-EMOTION-INTENSITY-SENTENCE-REPETITION-ACTOR.

{"file": "03-01-06-01-02-01-12.wav", "audio": {"bytes": AUDIO, "path": "03-01-06-01-02-01-12.wav"}}
{"file": "03-01-03-02-01-01-23.wav", "audio": {"bytes": AUDIO, "path": "03-01-03-02-01-01-23.wav"}}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiollm.audio import name_of
from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import SIMILAR_EMOTIONS, multiple_choice

SET = DataSet(
    title="RAVDESS: acted emotion in two sentences",
    license="cc-by-nc-sa-4.0",
    tasks=("emotion", "emotion_mcq", "gender"),
    columns=("audio",),
    needs=("file",),
    hub="AbstractTTS/RAVDESS",
    original="the unpacked Audio_Speech_Actors_01-24: Actor_01/03-01-01-01-01-01-01.wav ..., to Actor_24/",
    language="en",
    citation="Livingstone and Russo, The Ryerson Audio-Visual Database of Emotional Speech and Song, 2018",
)
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SENTENCES = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The recordings of all actors, from one folder: some copies of the archive hold them twice."""
    for path in sorted(archive.find("Actor_*", "*/Actor_*").parent.glob("Actor_*/*.wav")):
        yield str(path), {"audio": path}


def convert(row: dict[str, Any], draw: Draw, *, first_test_actor: int = 21) -> Item:
    """The emotion that was to be played, and the gender; actors from one on (of 1 to 24) are for testing alone."""
    name = Path(row.get("file") or name_of(row["audio"])).stem
    codes = name.split("-")
    if len(codes) != 7 or not all(code.isdigit() for code in codes):
        raise Dropped("its name says no actor and emotion")
    _, channel, emotion, _, sentence, _, actor = codes
    if channel != "01":
        raise Dropped("is sung")
    label = EMOTIONS[int(emotion) - 1]
    asks = [draw.ask("emotion", label), multiple_choice(draw, "emotion", label, EMOTIONS, similar=SIMILAR_EMOTIONS)]
    asks += [draw.ask("gender", "male" if int(actor) % 2 else "female")]
    split = "test" if int(actor) >= first_test_actor else "train"
    return Item(row["audio"], name, asks, transcript=SENTENCES.get(sentence), split=split)
