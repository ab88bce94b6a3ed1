"""Sound events, their times, and questions about them."""

import csv
import json
from pathlib import Path
from typing import Any

from converters import archived, write_csv, write_sound


@archived
def esc50(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_csv(folder / "meta" / "esc50.csv", rows)
    for number, row in enumerate(rows):
        write_sound(folder / "audio" / row["filename"], number)


@archived
def urbansound8k(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_csv(folder / "metadata" / "UrbanSound8K.csv", rows)
    for number, row in enumerate(rows):
        write_sound(folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"], number)


@archived
def vocalsound(folder: Path, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        write_sound(folder / "audio_16k" / f"{number}_0_{row['answer'].replace(' ', '').lower()}.wav", number)
    for table in ("tr", "val", "te"):
        speakers = [{"id": number, "gender": "female", "age": 30} for number in range(len(rows))]
        write_csv(folder / "meta" / f"{table}_meta.csv", speakers, header=False)


@archived
def clotho_aqa(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    given = [
        {"file_name": row["audio"]["path"], "QuestionText": row["question"], "answer": answer, "confidence": sure}
        for row in rows
        for answer, sure in ((row["answer"], "yes"), ("nothing", "no"), (row["answer"].title(), "Yes"))
    ]
    for split in ("train", "val", "test"):
        with (folder / f"clotho_aqa_{split}.csv").open("w", encoding="latin-1", newline="") as file:
            writer = csv.DictWriter(file, list(given[0]))
            writer.writeheader()
            writer.writerows(given)
    for number, row in enumerate(rows):
        write_sound(folder / "audio_files" / row["audio"]["path"], number)


@archived
def audiomcq(folder: Path, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        write_sound(folder / row["audio_path"], number)
        with (folder / ("data.jsonl" if "question" in row else "dev.jsonl")).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({key: value for key, value in row.items() if key != "audio"}) + "\n")


@archived
def tacos(folder: Path, rows: list[dict[str, Any]]) -> None:
    events = [(row["filename"], *event) for row in rows for event in row["events"]]
    strong = [dict(zip(("filename", "text", "onset", "offset"), event, strict=True)) for event in events]
    write_csv(folder / "annotations_strong.csv", strong)
    write_csv(folder / "annotations_weak.csv", [{key: row[key] for key in ("filename", "caption")} for row in rows])
    write_csv(folder / "metadata.csv", [{key: row[key] for key in ("filename", "freesound_id")} for row in rows])
    for split in ("development", "test"):
        write_csv(folder / f"{split}_split.csv", [{"filename": row["filename"]} for row in rows])
    for number, row in enumerate(rows):
        write_sound(folder / "audio" / row["filename"], number)
