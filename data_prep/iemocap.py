"""IEMOCAP: two actors at a time in scenes of feeling, five sessions; emotion, gender, and what is said.

{"file": "Ses01F_impro01_M001.wav", "audio": AUDIO, "major_emotion": "excited", "gender": "Male",
 "transcription": "I got the job!"}
{"file": "Ses05M_script01_1_F002.wav", "audio": AUDIO, "major_emotion": "sad", "gender": "Female",
 "transcription": "He never came back."}
"""

from collections.abc import Iterator
from typing import Any, Literal

from audiollm.conversation import RowError
from audiollm.curation.archives import Archive
from audiollm.curation.dataset import DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import SIMILAR_EMOTIONS, multiple_choice

SET = DataSet(
    title="IEMOCAP: acted emotion in dialogue",
    license="other",  # given to those who ask USC for it; the hub's copy has no licence of theirs
    tasks=("emotion", "emotion_mcq", "gender", "asr"),
    columns=("file", "audio", "major_emotion", "gender", "transcription"),
    hub="AbstractTTS/IEMOCAP",
    original="IEMOCAP_full_release as it is unpacked: Session1/dialog/EmoEvaluation/, dialog/transcriptions/, "
    "sentences/wav/ ..., to Session5",
    language="en",
    citation="Busso et al., IEMOCAP: interactive emotional dyadic motion capture database, 2008",
)
CODES = {"ang": "angry", "hap": "happy", "exc": "excited", "sad": "sad", "neu": "neutral"}
CODES |= {"fru": "frustrated", "fea": "fear", "sur": "surprise", "dis": "disgust"}
FOUR = ("angry", "happy", "sad", "neutral")


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The turns of the evaluations, with their transcripts; files of a Mac, `._Ses...`, are none."""
    root = archive.find("Session*", "*/Session*").parent
    for path in sorted(root.glob("Session*/dialog/EmoEvaluation/Ses*.txt")):
        session = path.parents[2]
        said = [line for _, line in archive.lines(session / "dialog" / "transcriptions" / path.name)]
        words = {line.split()[0]: line.partition("]:")[2].strip() for line in said}
        for place, line in archive.lines(path):
            if line.startswith("["):
                _, name, code, *_ = [*line.split("\t"), "", ""]
                if not code:
                    archive.bad.append(RowError(place, "", "names no turn and emotion between tabs"))
                    continue
                gender = "Female" if name.rpartition("_")[2].startswith("F") else "Male"
                row = {"file": f"{name}.wav", "major_emotion": CODES.get(code, code), "gender": gender}
                audio = session / "sentences" / "wav" / path.stem / f"{name}.wav"
                yield place, row | {"transcription": words.get(name, ""), "audio": audio}


def convert(
    row: dict[str, Any], draw: Draw, *, emotions: Literal["four", "all"] = "four", test_session: int = 5
) -> Item:
    """Emotion, gender and words; the actors of one session are for testing, since they play in no other.

    emotions: four asks for angry, happy, sad and neutral, where happy takes in excited; turns of others are left out.
    """
    emotion = row["major_emotion"].strip().lower()
    if emotions == "four":
        emotion = "happy" if emotion == "excited" else emotion
    labels = FOUR if emotions == "four" else tuple(CODES.values())
    if emotion not in labels:
        raise Dropped("none of the emotions that are asked for")
    asks = [draw.ask("emotion", emotion), multiple_choice(draw, "emotion", emotion, labels, similar=SIMILAR_EMOTIONS)]
    asks += [draw.ask("gender", row["gender"].strip().lower()), draw.ask("asr", row["transcription"].strip())]
    split = "test" if int(row["file"][3:5]) == test_session else "train"
    return Item(row["audio"], row["file"], asks, transcript=row["transcription"].strip(), split=split)
