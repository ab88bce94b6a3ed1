"""Music."""

import json
from pathlib import Path
from typing import Any

from converters import archived, sounds, write_csv, write_json, write_sound


def without_sound(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a table of an archive has it."""
    return {name: value for name, value in row.items() if name != "audio"}


@archived
def musiccaps(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_csv(folder / "musiccaps-public.csv", rows)


@sounds("musiccaps")
def clips_by_video(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    for number, row in enumerate(rows):
        write_sound(folder / f"{row['ytid']}.wav", number)
    return {"recordings": str(folder)}


@sounds("lp_musiccaps")
def clips_by_video_and_time(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    for number, row in enumerate(rows):
        write_sound(folder / f"{row['fname']}.wav", number)
    return {"recordings": str(folder)}


@archived
def musicbench(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir()
    for name in ("train", "test_A"):
        lines = [json.dumps(without_sound(row)) + "\n" for row in rows]
        (folder / f"MusicBench_{name}.json").write_text("".join(lines))
    for number, row in enumerate(rows):
        write_sound(folder / "datashare" / row["location"], number)


@archived
def musicqa(folder: Path, rows: list[dict[str, Any]]) -> None:
    for name in ("Finetune", "Eval"):
        write_json(folder / f"{name}MusicQA.json", [without_sound(row) for row in rows])
    for number, row in enumerate(rows):
        write_sound(folder / "audios" / row["audio_name"], number)


@archived
def music_avqa(folder: Path, rows: list[dict[str, Any]]) -> None:
    for split in ("train", "val", "test"):
        write_json(folder / "data" / "json" / f"avqa-{split}.json", rows)


@sounds("music_avqa")
def recordings_by_video(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    for number, row in enumerate(rows):
        write_sound(folder / f"{row['video_id']}.wav", number)
    return {"recordings": str(folder)}


@archived
def nsynth(folder: Path, rows: list[dict[str, Any]]) -> None:
    for split in ("train", "valid", "test"):
        part = folder / f"nsynth-{split}"
        write_json(part / "examples.json", {row["note_str"]: without_sound(row) for row in rows})
        for number, row in enumerate(rows):
            write_sound(part / "audio" / f"{row['note_str']}.wav", number)


@archived
def gtzan(folder: Path, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        write_sound(folder / "genres" / row["label"] / f"{row['label']}.{number:05d}.wav", number)
