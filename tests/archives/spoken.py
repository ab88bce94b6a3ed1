"""Speech: what is meant, felt and asked."""

import json
from pathlib import Path
from typing import Any

from converters import RATE, archived, sounds, tone, write_csv, write_json, write_sound

from audiollm import audio as sound


@archived
def spoken_squad(folder: Path, rows: list[dict[str, Any]]) -> None:
    for split, wav in (("train", "train_wav"), ("test", "dev_wav")):
        paragraphs = []
        for number, row in enumerate(rows):
            write_sound(folder / "Spoken-SQuAD_audio" / wav / f"0_{number}_0.wav", number)
            qa = {"id": str(number), "question": row["instruction"], "answers": [{"text": row["answer"]}]}
            paragraphs.append({"context": "it is spoken", "qas": [qa]})
        data = [{"title": "Towers", "paragraphs": paragraphs}]
        write_json(folder / f"spoken_{split}-v1.1.json", {"version": "1.1", "data": data})


@sounds("librisqa")
def librispeech_of_librisqa(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    for number, row in enumerate(rows):
        write_sound(folder / "LibriSpeech" / row["speech_path"], number)
    return {"recordings": str(folder)}


@archived
def librisqa(folder: Path, rows: list[dict[str, Any]]) -> None:
    for part in ("PartI", "PartII"):
        for split in ("train", "test"):
            mine = [row for row in rows if ("answer_and_analysis" in row) == (part == "PartII")]
            write_json(folder / f"LibriSQA-{part}" / f"LibriSQA-{part}-{split}.json", mine)


@archived
def meld(folder: Path, rows: list[dict[str, Any]]) -> None:
    for name, wav in (
        ("train", "train_splits"),
        ("dev", "dev_splits_complete"),
        ("test", "output_repeated_splits_test"),
    ):
        write_csv(folder / f"{name}_sent_emo.csv", rows)
        for number, row in enumerate(rows):
            write_sound(folder / wav / f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}.wav", number)


@archived
def iemocap(folder: Path, rows: list[dict[str, Any]]) -> None:
    codes = {"excited": "exc", "sad": "sad", "frustrated": "fru"}
    for number, row in enumerate(rows):
        name = row["file"].removesuffix(".wav")
        session = folder / "IEMOCAP_full_release" / f"Session{int(name[3:5])}"
        dialog = name.rpartition("_")[0]
        write_sound(session / "sentences" / "wav" / dialog / row["file"], number)
        turn = f"[6.2901 - 8.2357]\t{name}\t{codes[row['major_emotion']]}\t[2.5, 2.5, 2.5]"
        said = f"{name} [006.2901-008.2357]: {row['transcription']}"
        header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"
        rating = "C-E2:\tNeutral;\t()"
        for place, lines in (("EmoEvaluation", [header, "", turn, rating]), ("transcriptions", [said])):
            (session / "dialog" / place).mkdir(parents=True, exist_ok=True)
            (session / "dialog" / place / f"{dialog}.txt").write_text("\n".join(lines))
        (session / "dialog" / "EmoEvaluation" / f"._{dialog}.txt").write_bytes(b"\x00\x05\x16\x07[Mac OS X")


def named(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The sound of rows whose recordings have a name, which tells more than a column does."""
    for number, row in enumerate(rows):
        row["audio"] = {"bytes": sound.encode(tone(number), RATE), "path": row["audio"]["path"]}
    return {}


sounds("clotho_aqa")(named)
sounds("crema_d")(named)
sounds("ravdess")(named)


@archived
def crema_d(folder: Path, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        write_sound(folder / "AudioWAV" / row["audio"]["path"], number)


@archived
def ravdess(folder: Path, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        name = row["audio"]["path"]
        for copy in (folder, folder / "audio_speech_actors_01-24"):
            write_sound(copy / f"Actor_{name[-6:-4]}" / name, number)


@archived
def slurp(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "dataset" / "slurp").mkdir(parents=True)
    for split in ("train", "devel", "test"):
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / "dataset" / "slurp" / f"{split}.jsonl").write_text(text)
    for row in rows:
        for number, recording in enumerate(row["recordings"]):
            write_sound(folder / "audio" / "slurp_real" / recording["file"], number)
