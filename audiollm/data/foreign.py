"""Our rows as other tools read them: `audiollm convert rows.jsonl --to ms-swift`.

A recording that is embedded or a cut of another is written to a file of its own, since these formats know paths alone.
What a format cannot say is left out and named, and never said by halves. Not here: reading them (formats.py).
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from audiollm import audio as sound
from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, Message, Row, RowError, TextPart, row_to_dict
from audiollm.data.sources import WILDCARDS, Problems

SAMPLING_RATE = 16_000
Clip = Callable[[AudioPart], str]


class Clips:
    """Paths of recordings, relative to the folder of the rows where they lie in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, clip: AudioPart) -> str:
        """The path of a recording that holds this clip and no more; AudioError if it is to be cut and broken."""
        if isinstance(clip.audio, str) and clip.start is None and clip.end is None:
            path = os.path.abspath(clip.audio)
            inside = os.path.join(os.path.abspath(self.folder), "")
            return path.removeprefix(inside).replace(os.sep, "/")
        name = f"clips/{hashlib.blake2b(repr(clip.key).encode(), digest_size=8).hexdigest()}.flac"
        if not (self.folder / name).exists():
            (self.folder / "clips").mkdir(parents=True, exist_ok=True)
            sound.write(self.folder / name, clip.load(SAMPLING_RATE), SAMPLING_RATE)
        return name


def to_rows(row: Row, path_of: Clips) -> dict[str, Any]:
    """Our own form."""
    return row_to_dict(row, path_of.folder)


def to_ms_swift(row: Row, path_of: Clips) -> dict[str, Any]:
    """`messages` with `<audio>` in the texts, and `audios` beside them."""
    messages = [{"role": message.role, "content": _tagged(message, "<audio>", row)} for message in row.messages]
    told = {"messages": messages, "audios": [path_of(clip) for clip in row.clips]}
    return told | ({"rejected_response": row.rejected} if row.rejected else {})


def to_llama_factory(row: Row, path_of: Clips) -> dict[str, Any]:
    """`conversations` with `from` and `value`, `<audio>` in the texts, and `audios` and `system` beside them."""
    system, turns = _turns(row, "<audio>")
    return {"conversations": turns, "system": system or "", "audios": [path_of(clip) for clip in row.clips]}


def to_nvidia(row: Row, path_of: Clips) -> dict[str, Any]:
    """`conversations` with `<sound>` in the texts, and `sound`, a path or several."""
    system, turns = _turns(row, "<sound>")
    if system is not None:
        raise RowError(row.origin, "messages", "has a system message, which this format does not know")
    paths = [path_of(clip) for clip in row.clips]
    return {"id": row.id, "sound": paths[0] if len(paths) == 1 else paths, "conversations": turns}


def to_ltu(row: Row, path_of: Clips) -> dict[str, Any]:
    """`instruction`, `input`, `audio_id`, `dataset`, `task`, `output`: one question about one recording."""
    if [message.role for message in row.messages] != ["user", "assistant"] or len(row.clips) != 1:
        raise RowError(row.origin, "messages", "is not one question about one recording, which alone this format knows")
    return {
        "instruction": row.question, "input": "", "audio_id": path_of(row.clips[0]), "dataset": row.source or "",
        "task": row.task or "", "output": row.target,
    }  # fmt: skip


def to_openai(row: Row, path_of: Clips) -> dict[str, Any]:
    """Messages with `input_audio` parts, the sound in base64 as WAV."""
    return {"messages": [{"role": message.role, "content": _openai(message)} for message in row.messages]}


WRITERS: dict[str, Callable[[Row, Clips], dict[str, Any]]] = {
    "rows": to_rows, "ms-swift": to_ms_swift, "llama-factory": to_llama_factory, "nvidia": to_nvidia, "ltu": to_ltu,
    "openai": to_openai,
}  # fmt: skip
JSON_LISTS = frozenset(("llama-factory", "nvidia", "ltu"))
"""Formats whose files are one JSON list; the others have an object a line."""


def file_for(rows: str, format: str, out: Path | None) -> Path:
    """The file to write; the name of the rows with the format in it, if none is given. ValueError for a wrong name."""
    suffixes = (".json",) if format in JSON_LISTS else (".jsonl", ".json")
    if out is None:
        if "://" in rows or (WILDCARDS & set(rows) and not Path(rows).exists()):
            raise ValueError(f"--out: {rows} is no single name; say the file to write: --out FILE{suffixes[0]}")
        return Path(rows.rstrip("/")).with_suffix(f".{format}{suffixes[0]}")
    if out.suffix not in suffixes:
        kind = "one JSON list" if format in JSON_LISTS else "an object a line"
        raise ValueError(f"--out: {out} is to be {out.with_suffix(suffixes[0])}: a file of format {format} is {kind}")
    return out


def convert_to(rows: Iterable[Row], format: str, out: Path) -> tuple[int, Problems]:
    """Write rows in a format; their number, and those that it cannot say."""
    problems, clips, count = Problems(), Clips(out.parent), 0
    is_list = format in JSON_LISTS
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(out.name + ".tmp")
    with unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[\n" if is_list else "")
        for row in rows:
            try:
                line = json.dumps(WRITERS[format](row, clips), ensure_ascii=False, allow_nan=False)
            except RowError as error:
                problems.add(error.at(error.origin or row.origin, row.id))
                continue
            except AudioError as error:
                problems.add(RowError(row.origin, "audio", str(error), row.id))
                continue
            file.write((",\n" if is_list and count else "") + line + ("" if is_list else "\n"))
            count += 1
        file.write("\n]\n" if is_list else "")
    unfinished.replace(out)
    return count, problems


def _tagged(message: Message, tag: str, row: Row) -> str:
    """A message as one text, with a tag where a clip stands."""
    pieces: list[str] = []
    for part in message.content:
        if isinstance(part, TextPart) and tag in part.text:
            raise RowError(row.origin, "messages", f"a text holds {tag}, which would be taken for a recording")
        is_after_text = bool(pieces) and pieces[-1] != tag and isinstance(part, TextPart)
        pieces += ["\n"] if is_after_text else []
        pieces.append(part.text if isinstance(part, TextPart) else tag)
    return "".join(pieces)


def _turns(row: Row, tag: str) -> tuple[str | None, list[dict[str, str]]]:
    """The system message, if any, and the turns with `from` and `value`."""
    names = {"user": "human", "assistant": "gpt"}
    system = row.messages[0].text if row.messages[0].role == "system" else None
    said = row.messages[1:] if system is not None else row.messages
    return system, [{"from": names[message.role], "value": _tagged(message, tag, row)} for message in said]


def _openai(message: Message) -> str | list[dict[str, Any]]:
    if not message.clips:
        return message.text
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        else:
            data = base64.b64encode(sound.encode(part.load(SAMPLING_RATE), SAMPLING_RATE, "WAV")).decode()
            parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    return parts
