"""Writes what a worker makes of its chunk: rows as JSONL beside recordings, or Parquet shards with the sound in them.

    paths   recordings stay where they are, and rows name them
    embed   bytes as they are, in Parquet: once a recording, however many questions there are about it
    flac    16 kHz mono FLAC in clips/, and rows that name it

A part appears under its name when it is complete.
Not here: joining parts (running.py), what rows mean (conversation.py).
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow
from pyarrow import parquet

from audiollm import audio as sound
from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, Row, row_to_dict
from audiollm.curation.dataset import Item
from audiollm.curation.origins import CHUNK_BYTES

AudioMode = Literal["paths", "embed", "flac"]
SAMPLING_RATE = 16_000
GROUP_BYTES = 16 * 2**20
SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in ("id", "task", "source", "source_id", "split", "language", "license")]
    + [("messages", pyarrow.string()), ("audios", pyarrow.list_(pyarrow.binary()))]
    + [(name, pyarrow.list_(pyarrow.string())) for name in ("references", "choices")]
    + [("answer", pyarrow.string())]
)


class JsonlPart:
    """Rows, a line each; paths are written relative to the folder `out` where they lie in it."""

    def __init__(self, path: Path, out: Path) -> None:
        self.path, self.out = path, out
        path.parent.mkdir(parents=True, exist_ok=True)
        self.unfinished = path.with_name(path.name + ".tmp")
        self.file = self.unfinished.open("w", encoding="utf-8", newline="\n")

    def write(self, rows: list[Row]) -> None:
        """Those about one recording."""
        for row in rows:
            self.file.write(json.dumps(row_to_dict(row, self.out), ensure_ascii=False, allow_nan=False) + "\n")

    @property
    def is_full(self) -> bool:
        """Never: the files are put together."""
        return False

    def close(self) -> None:
        """Make it appear."""
        self.file.close()
        self.unfinished.replace(self.path)


class ParquetPart:
    """Rows with their sound; questions about one recording share its bytes (a dictionary in each row group)."""

    def __init__(self, path: Path, out: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.unfinished = path.with_name(path.name + ".tmp")
        self.file = parquet.ParquetWriter(
            self.unfinished, SCHEMA, use_dictionary=["audios.list.element"], dictionary_pagesize_limit=2**31 - 1,
            compression={"audios.list.element": "none"} | {n: "zstd" for n in SCHEMA.names if n != "audios"},
        )  # fmt: skip
        self.rows: list[dict[str, Any]] = []
        self.size = self.whole = 0

    def write(self, rows: list[Row]) -> None:
        """Those about one recording."""
        for row in rows:
            self.rows.append(columns_of(row))
        size = sum(len(clip.audio) for clip in rows[0].clips if isinstance(clip.audio, bytes))
        self.size, self.whole = self.size + size, self.whole + size
        if self.size >= GROUP_BYTES:
            self._flush()

    @property
    def is_full(self) -> bool:
        """Whether another shard is begun: what is embedded may be larger than what the source's rows showed."""
        return self.whole >= CHUNK_BYTES

    def close(self) -> None:
        """Make it appear."""
        self._flush()
        self.file.close()
        self.unfinished.replace(self.path)

    def _flush(self) -> None:
        if self.rows:
            self.file.write_table(pyarrow.Table.from_pylist(self.rows, SCHEMA))
            self.rows, self.size = [], 0


def columns_of(row: Row) -> dict[str, Any]:
    """A row as the columns of a shard: messages as JSON whose audio parts are silent, the sound beside them."""
    data = row_to_dict(row)
    parts = [part for message in data["messages"] for part in message["content"]]
    for part in parts:
        part.pop("audio", None)
    audios = [clip.audio for clip in row.clips]
    return {name: data.get(name) for name in SCHEMA.names} | {
        "messages": json.dumps(data["messages"], ensure_ascii=False),
        "audios": audios,
    }


def source_of(item: Item, home: Path | None) -> Any:
    """The sound of an item: a path that the converter made, what the source holds, or a file that it names.

    A name in the source is one from `home` on, the folder of its file; AudioError for one that leads out of it.
    """
    source = item.audio
    if isinstance(source, Mapping) and ("bytes" in source or "path" in source):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, Path):
        return str(source)
    if isinstance(source, str) and not source.startswith("data:"):
        if home is None:
            raise AudioError(source, "leads out of the source, which brings no such files")
        if not (home / source).resolve().is_relative_to(home.resolve()):
            raise AudioError(source, f"leads out of {home}, by its path or as a link")
        return str(home / source)
    if source is None:
        cause = "has no sound in the source, or a name or link that leads out of its folder; put the recordings there"
        raise AudioError(item.source_id, cause)
    return source


def clip_of(item: Item, home: Path | None, mode: AudioMode, path: Path) -> AudioPart:
    """The recording of an item as rows have it; for `flac` it is written to `path`. `home`: as in `source_of`.

    AudioError for one that is missing or broken; embedded and left where it is, its header is looked at and no more.
    """
    source = source_of(item, home)
    words = AudioPart(None, transcript=item.transcript, description=item.description)
    cut = item.start is not None or item.end is not None
    if mode == "flac" or (mode == "embed" and (cut or not isinstance(source, str | bytes))):
        samples = sound.load(source, SAMPLING_RATE, start=item.start, end=item.end)
        seconds = round(len(samples) / SAMPLING_RATE, 3)
        if mode == "embed":
            return replace(words, audio=sound.encode(samples, SAMPLING_RATE), duration=seconds)
        path.parent.mkdir(parents=True, exist_ok=True)
        sound.write(path, samples, SAMPLING_RATE)
        return replace(words, audio=str(path), duration=seconds)
    seconds = round(sound.duration(source), 3)
    if mode == "embed":
        content = source if isinstance(source, bytes) else Path(str(source)).read_bytes()
        return replace(words, audio=content, duration=seconds)
    if not isinstance(source, str):
        raise ValueError(
            "the sound of this source is in its files, and cannot stay where it is; take audio=embed or flac"
        )
    start, end = item.start or 0.0, seconds if item.end is None else item.end
    if start >= seconds:
        raise AudioError(source, f"start={start} s is beyond its end at {seconds} s")
    return replace(words, audio=source, start=item.start, end=item.end, duration=round(end - start, 3))
