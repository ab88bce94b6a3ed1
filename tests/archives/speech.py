"""Speech to be written down or translated."""

from pathlib import Path
from typing import Any

from converters import AUDIO, archived, sounds, write_sound


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> None:
    """A table in which quotes mean nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{key: value for key, value in row.items() if value is not AUDIO} for row in rows]
    lines = ["\t".join(map(str, values)) for values in ([*rows[0]], *(row.values() for row in rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@archived
def librispeech(folder: Path, rows: list[dict[str, Any]]) -> None:
    for part in ("train-clean-100", "dev-clean", "test-clean"):
        for number, row in enumerate(rows):
            chapter = folder / part / str(row["speaker_id"]) / str(row["chapter_id"])
            write_sound(chapter / f"{row['id']}.flac", number)
            with (chapter / f"{row['speaker_id']}-{row['chapter_id']}.trans.txt").open("a") as lines:
                lines.write(f"{row['id']} {row['text']}\n")


@archived
def mls(folder: Path, rows: list[dict[str, Any]]) -> None:
    for part in ("train", "dev", "test"):
        for number, row in enumerate(rows):
            audio = folder / "mls_german" / part / "audio" / row["speaker_id"] / row["chapter_id"]
            write_sound(audio / f"{row['id']}.flac", number)
        lines = "".join(f"{row['id']}\t{row['transcript']}\n" for row in rows)
        (folder / "mls_german" / part / "transcripts.txt").write_text(lines, encoding="utf-8")


@archived
def common_voice(folder: Path, rows: list[dict[str, Any]]) -> None:
    for part in ("train", "dev", "test"):
        write_tsv(folder / "en" / f"{part}.tsv", rows)
    for number, row in enumerate(rows):
        write_sound(folder / "en" / "clips" / row["path"], number)


@archived
def covost2(folder: Path, rows: list[dict[str, Any]]) -> None:
    texts = [{key: row[key].replace('"', '\\"') for key in ("sentence", "translation", "client_id")} for row in rows]
    for part in ("train", "dev", "test"):
        table = [{"path": f"{row['id']}.mp3", **text} for row, text in zip(rows, texts, strict=True)]
        write_tsv(folder / f"covost_v2.en_de.{part}.tsv", table)
    for number, row in enumerate(rows):
        write_sound(folder / "en" / "clips" / f"{row['id']}.mp3", number)


@sounds("covost2")
def languages(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"pair": "en_de"}  # of Parquet in a folder nothing else tells it
