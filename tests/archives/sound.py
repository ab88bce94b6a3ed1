"""Sounds with captions and tags."""

from pathlib import Path
from typing import Any

from converters import archived, sounds, write_csv, write_json, write_sound


@archived
def audiocaps(folder: Path, rows: list[dict[str, Any]]) -> None:
    columns = ("audiocap_id", "youtube_id", "start_time", "caption")
    for name in ("train", "val", "test"):
        write_csv(folder / f"{name}.csv", [{column: row[column] for column in columns} for row in rows])
    for number, row in enumerate(rows):
        write_sound(folder / "recordings" / f"{row['youtube_id']}_{row['start_time']}.wav", number)


@archived
def clotho(folder: Path, rows: list[dict[str, Any]]) -> None:
    table = [
        {"file_name": row["index"]} | {f"caption_{k}": text for k, text in enumerate(row["raw_text"], start=1)}
        for row in rows
    ]
    for name in ("development", "validation", "evaluation"):
        write_csv(folder / f"clotho_captions_{name}.csv", table)
        for number, row in enumerate(rows):
            write_sound(folder / name / row["index"], number)


@archived
def wavcaps(folder: Path, rows: list[dict[str, Any]]) -> None:
    names = {"FreeSound": "fsd_final.json", "AudioSet_SL": "as_final.json"}
    write_json(
        folder / "json_files" / "blacklist" / "blacklist_exclude_test_ac.json", {"FreeSound": [], "AudioSet": []}
    )
    for number, (row, (source, name)) in enumerate(zip(rows, names.items(), strict=True)):
        write_json(folder / "json_files" / source / name, {"num_captions_per_audio": 1, "data": [row]})
        write_sound(folder / "waveforms" / f"{source}_flac" / f"{row['id'].removesuffix('.wav')}.flac", number)


@archived
def fsd50k(folder: Path, rows: list[dict[str, Any]]) -> None:
    validation = [row | {"split": "val"} for row in rows]
    write_csv(folder / "FSD50K.ground_truth" / "dev.csv", rows + validation)
    write_csv(folder / "FSD50K.ground_truth" / "eval.csv", [{k: row[k] for k in row if k != "split"} for row in rows])
    for number, row in enumerate(rows):
        write_sound(folder / "FSD50K.dev_audio" / f"{row['fname']}.wav", number)
        write_sound(folder / "FSD50K.eval_audio" / f"{row['fname']}.wav", number)


@archived
def vggsound(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_csv(folder / "vggsound.csv", rows, header=False)


@sounds("vggsound")
def vggsound_sounds(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    for number, row in enumerate(rows):
        write_sound(folder / f"{row['youtube_id']}_{int(row['start_seconds']):06d}.wav", number)
    return {"recordings": str(folder)}
