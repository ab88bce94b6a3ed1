"""GigaSpeech: 10,000 hours of English from audio books, podcasts and YouTube.

{"segment_id": "YOU1000000117_S0000168", "speaker": "N/A", "text": "THEY'RE LEAVING <COMMA> CAN WE COME <QUESTIONMARK>",
 "audio": AUDIO, "begin_time": 941.54, "end_time": 944.87, "audio_id": "YOU1000000117", "title": "Return to Bergen",
 "url": "https://www.youtube.com/watch?v=zr2n1fLVasU", "source": "youtube", "category": "People  and  Blogs"}
{"segment_id": "AUD0000000003_S0000001", "speaker": "N/A", "text": "AND SO THEY WENT HOME <PERIOD>",
 "audio": AUDIO, "begin_time": 12.5, "end_time": 14.1, "audio_id": "AUD0000000003", "title": "The Long Way",
 "url": "http://www.archive.org/download/long_way/way_01.mp3", "source": "audiobook", "category": "N/A"}
"""

import re
from typing import Any

from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import multiple_choice

SET = DataSet(
    title="GigaSpeech: English audio books, podcasts and videos",
    license="non-commercial-research",  # the card says apache-2.0, the terms that one has to agree to say this
    tasks=("asr", "topic", "topic_mcq"),
    columns=("segment_id", "text", "audio", "category"),
    hub="speechcolab/gigaspeech",
    config="s",
    splits={"train": ["train"], "validation": ["validation"], "test": ["test"]},
    language="en",
    citation="Chen et al., GigaSpeech: An Evolving, Multi-domain ASR Corpus with 10,000 Hours of Audio, 2021",
)
PUNCTUATION = {"<comma>": ",", "<period>": ".", "<questionmark>": "?", "<exclamationpoint>": "!"}
GROUPS = (
    "arts; comedy; entertainment; film and animation; gaming; leisure; music",
    "business; crime; history; news and politics; nonprofits and activism; society and culture",
    "education; health and fitness; howto and style; science and technology",
    "autos and vehicles; kids and family; people and blogs; pets and animals; sports; travel and events",
)
SIMILAR = {topic: set(group.split("; ")) for group in GROUPS for topic in group.split("; ")}
TOPICS = tuple(SIMILAR)


def written(text: str) -> str:
    """A transcript with punctuation for its tags, and without <SIL>, <MUSIC>, <NOISE>, <OTHER>."""
    text = re.sub(r"<\w+>", lambda tag: PUNCTUATION.get(tag[0], " "), text.lower())
    return " ".join(re.sub(r"\s+([,.?!])", r"\1", text).split())


def convert(row: dict[str, Any], draw: Draw, *, topics: bool = True) -> Item:
    """The transcript in small letters; with `topics`, also what the whole recording is about, where that is known."""
    text = written(row["text"])
    if not re.search(r"\w", text):
        raise Dropped("no words")
    asks: list[Ask] = [draw.ask("asr", text)]
    topic = " ".join((row["category"] or "").lower().split())
    if topics and topic in TOPICS:
        asks += [draw.ask("topic", topic), multiple_choice(draw, "topic", topic, TOPICS, similar=SIMILAR)]
    return Item(row["audio"], row["segment_id"], asks, transcript=text)
