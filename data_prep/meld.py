"""MELD: the emotion and the sentiment of utterances of the television series Friends.

{"Sr No.": 1, "Utterance": "I can\u0092t believe you did that!", "Speaker": "Monica", "Emotion": "anger",
 "Sentiment": "negative", "Dialogue_ID": 0, "Utterance_ID": 3, "Season": 4, "Episode": 7,
 "StartTime": "00:20:57,256", "EndTime": "00:21:00,049", "audio": AUDIO}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Item
from audiollm.curation.instructions import SIMILAR_EMOTIONS, multiple_choice
from audiollm.curation.joining import stems_of

SET = DataSet(
    title="MELD: emotion and sentiment in Friends",
    license="gpl-3.0, other",  # the annotations; what is heard is TV, and nobody may pass it on
    tasks=("emotion", "emotion_mcq", "sentiment", "sentiment_mcq"),
    columns=("audio", "Utterance", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"),
    hub="TwinkStart/MELD",  # the test split only
    splits={"train": ["train"], "validation": ["validation"], "test": ["test"]},
    original="train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv, and dia0_utt0.wav (or .mp4) ... in folders "
    "named train_splits, dev_splits_complete, output_repeated_splits_test, or train, dev, test",
    language="en",
    citation="Poria et al., MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations, 2019",
)
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
EMOTIONS = ("neutral", "joy", "sadness", "anger", "fear", "disgust", "surprise")
SENTIMENTS = ("neutral", "positive", "negative")
WINDOWS = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
PLAIN = str.maketrans("‘’“”", "''\"\"")


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table; its recordings are found whatever their suffix."""
    name = "dev" if split == "validation" else split
    folder = archive.find(f"**/{FOLDERS[name]}", f"**/{name}")
    clips = stems_of(folder)
    table = f"**/{name}_sent_emo.csv"
    for place, row in archive.table(table, encoding=encoding_of(archive.find(table)), needs=SET.columns[1:]):
        stem = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        yield place, row | {"audio": clips.get(stem, [folder / f"{stem}.wav"])[0]}


def encoding_of(path: Path) -> str:
    """Copies of the tables are in UTF-8 or in Windows-1252."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def convert(row: dict[str, Any], draw: Draw) -> Item:
    """The emotion and the sentiment, open and as multiple choice; what is said comes with mended apostrophes."""
    emotion, sentiment = row["Emotion"].strip().lower(), row["Sentiment"].strip().lower()
    asks = [draw.ask("emotion", emotion), multiple_choice(draw, "emotion", emotion, EMOTIONS, similar=SIMILAR_EMOTIONS)]
    asks += [draw.ask("sentiment", sentiment), multiple_choice(draw, "sentiment", sentiment, SENTIMENTS)]
    said = row["Utterance"].translate(WINDOWS).translate(PLAIN).strip()
    return Item(row["audio"], f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}", asks, transcript=said)
