"""Our rows as other tools read them: `audiollm convert rows.jsonl --to ms-swift`.

A recording that is embedded or a cut of another is written to a file of its own, since these formats know paths alone;
a WebDataset shard holds all sound itself.
What a format cannot say is left out and named, and never said by halves. Not here: reading them (formats.py).
"""

import base64
import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from audiollm import audio as sound
from audiollm.audio import AudioError
from audiollm.conversation import (
    LIST_FIELDS,
    TEXT_FIELDS,
    AudioPart,
    Message,
    Row,
    RowError,
    TextPart,
    row_to_dict,
)
from audiollm.data.formats import ASK_FOR_WORDS, DESTA_TAG, RECORDINGS, naming, with_choices
from audiollm.data.sources import LISTED, WILDCARDS, Problems
from audiollm.files import whole, write_whole

SAMPLING_RATE = 16_000
Said = TypeVar("Said")


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
            content = sound.encode(clip.load(SAMPLING_RATE), SAMPLING_RATE)
            with whole(self.folder / name) as unfinished:
                unfinished.write_bytes(content)
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
    return {
        "instruction": _question(row), "input": "", "audio_id": path_of(_only_clip(row)), "dataset": row.source or "",
        "task": row.task or "", "output": row.target,
    }  # fmt: skip


def to_salmonn(row: Row, path_of: Clips) -> dict[str, Any]:
    """`path`, `expand_wav` (further recordings, heard after it), `text`, `task`, `Q`: one question about recordings.

    The task is `QA`, whose prompt is the question, except where SALMONN's own prompts ask for the words spoken.
    """
    clips = _clips_before_one_question(row)
    told: dict[str, Any] = {"path": path_of(clips[0]), "text": row.target}
    if len(clips) > 1:
        told["expand_wav"] = [path_of(clip) for clip in clips[1:]]
    return told | ({"task": "asr"} if row.question == ASK_FOR_WORDS else {"task": "QA", "Q": _question(row)})


def to_desta(row: Row, path_of: Clips) -> dict[str, Any]:
    """`messages` with `<|AUDIO|>` in the texts and each message's `audios`; `id`, `dataset`, `prompt`, `response`."""
    messages: list[dict[str, Any]] = []
    for message in row.messages:
        told: dict[str, Any] = {"role": message.role, "content": _tagged(message, DESTA_TAG, row)}
        audios = [{"audio": path_of(clip), "text": clip.transcript} for clip in message.clips]
        messages.append(told | ({"audios": audios} if message.role == "user" else {}))
    paths = [one["audio"] for message in messages for one in message.get("audios", ())]
    return {
        "id": row.id or next(iter(paths), None), "dataset": row.source,
        "seed_description": row.clips[0].description if len(row.clips) == 1 else None,
        "prompt": row.question, "response": row.target, "messages": messages,
    }  # fmt: skip


def to_sift(row: Row, path_of: Clips) -> dict[str, Any]:
    """`messages` of parts with `text` or `audio_path`; `id`, `task`, `data_source`."""
    messages = []
    for message in row.messages:
        parts = [
            {"text": part.text, "audio_path": None}
            if isinstance(part, TextPart)
            else {"text": None, "audio_path": path_of(part)}
            for part in message.content
        ]
        messages.append({"role": message.role, "content": parts})
    return {"id": row.id, "task": row.task, "data_source": row.source, "messages": messages}


def to_mcq(row: Row, path_of: Clips) -> dict[str, Any]:
    """`audio_path`, `question`, `choices`, `answer` in words: one question about one recording, and its options."""
    question = _without_choices(row)
    return {
        "id": row.id, "source_dataset": row.source, "audio_path": path_of(_only_clip(row)), "question": question,
        "choices": list(row.choices), "answer": row.target,
    }  # fmt: skip


def to_audiollms(row: Row, path_of: Clips) -> dict[str, Any]:
    """`context`, `instruction`, `answer`, and `choices` if there are any: one question about one recording."""
    question = _without_choices(row) if row.choices else _question(row)
    told = {"context": path_of(_only_clip(row)), "instruction": question, "answer": row.target}
    return told | ({"choices": list(row.choices)} if row.choices else {})


def to_manifest(row: Row, path_of: Clips) -> dict[str, Any]:
    """`audio_filepath`, `duration`, `text`: what is said in one recording, however it is asked for; `offset` of a cut.

    Times are seconds. A cut is told by its times and not written to a file of its own.
    """
    clip = _only_clip(row)
    if row.target != clip.transcript and row.task != "asr" and row.question != ASK_FOR_WORDS:
        raise RowError(row.origin, "messages", "does not answer with the words spoken, which alone a manifest holds")
    if not (duration := clip.seconds()):
        raise RowError(row.origin, "audio", "cannot be opened to tell how long it is; say its duration in the row")
    offset = {} if clip.start is None and clip.end is None else {"offset": clip.start or 0.0}
    path = path_of(replace(clip, start=None, end=None))
    return {"audio_filepath": path, **offset, "duration": round(duration, 6), "text": row.target}


def to_openai(row: Row, path_of: Clips) -> dict[str, Any]:
    """Messages with `input_audio` parts, the sound in base64 as WAV."""
    return {"messages": [{"role": message.role, "content": _openai(message)} for message in row.messages]}


class Writer(NamedTuple):
    """A format to write. `holds`: fields of a row that it has a place for, and its name of each; None if it has all.

    The name "" stands for several places. `asks`: whether it says what is asked.
    """

    say: Callable[[Row, Clips], dict[str, Any]]
    holds: Mapping[str, str] | None
    asks: bool = True


OF_CLIPS = ("duration", "transcript", "description")  # `start` and `end` are not lost: the recording is cut
WRITERS: dict[str, Writer] = {
    "rows": Writer(to_rows, None),
    "ms-swift": Writer(to_ms_swift, {"rejected": "rejected_response"}),
    "llama-factory": Writer(to_llama_factory, {}),
    "nvidia": Writer(to_nvidia, {"id": "id"}),
    "ltu": Writer(to_ltu, {"source": "dataset", "task": "task"}),
    "salmonn": Writer(to_salmonn, {"task": "task"}),
    "desta": Writer(to_desta, {"id": "id", "source": "dataset", "transcript": "", "description": "seed_description"}),
    "sift": Writer(to_sift, {"id": "id", "task": "task", "source": "data_source"}),
    "openai": Writer(to_openai, {}),
    "mcq": Writer(to_mcq, {"id": "id", "source": "source_dataset", "choices": "choices", "answer": "answer"}),
    "audiollms": Writer(to_audiollms, {"choices": "choices", "answer": "answer"}),
    "manifest": Writer(to_manifest, {"duration": "", "transcript": "text"}, asks=False),
}
SHARD = "webdataset"
"""A tar with the sound in it, and so no table of texts."""
FORMATS_TO_WRITE = (*WRITERS, SHARD)
JSON_LISTS = {
    "llama-factory": ("[\n", "\n]\n"), "nvidia": ("[\n", "\n]\n"), "ltu": ("[\n", "\n]\n"),
    "salmonn": ('{"annotation": [\n', "\n]}\n"),
}  # fmt: skip
"""Formats whose files are one JSON list: what opens and closes it. The others have an object a line."""
FACTORY_ENTRY = {
    "formatting": "sharegpt",
    "columns": {"messages": "conversations", "system": "system", "audios": "audios"},
}


def file_for(rows: str, format: str, out: Path | None) -> Path:
    """The file to write; the name of the rows with the format in it, if none is given. ValueError for a wrong name."""
    suffixes, kind = [".jsonl", ".json"], "an object a line"
    if format == SHARD:
        suffixes, kind = [".tar"], "a plain tar"
    elif format in JSON_LISTS:
        suffixes, kind = [".json"], "one JSON list"
    if out is None:
        if "://" in rows or (WILDCARDS & set(rows) and not Path(rows).exists()):
            raise ValueError(f"--out: {rows} is no single name; say the file to write: --out FILE{suffixes[0]}")
        return Path(rows.rstrip("/")).with_suffix(f".{format}{suffixes[0]}")
    if out.suffix not in suffixes:
        raise ValueError(f"--out: {out} is to be {out.with_suffix(suffixes[0])}: a file of format {format} is {kind}")
    return out


def convert_to(
    rows: Iterable[Row], format: str, out: Path, dropped: Counter[str] | None = None
) -> tuple[int, Problems]:
    """Write rows in a format; their number, and those that it cannot say. LLaMA-Factory's are listed beside them.

    `dropped` counts, for each field that the format does not hold, the rows that were written without it. Without a row
    there is no file, nor where that is stopped. ValueError where they cannot be listed.
    """
    problems, dropped = Problems(), Counter() if dropped is None else dropped
    listed = listing_with(out) if format == "llama-factory" else None
    with whole(out) as unfinished:
        count = (
            write_shard(rows, unfinished, problems)
            if format == SHARD
            else write_lines(rows, format, unfinished, Clips(out.parent), problems, dropped)
        )
        if not count:
            unfinished.unlink()
    if count and listed is not None:
        write_whole(out.with_name(LISTED), json.dumps(listed, ensure_ascii=False, indent=2) + "\n")
    return count, problems


def write_lines(
    rows: Iterable[Row], format: str, path: Path, clips: Clips, problems: Problems, dropped: Counter[str]
) -> int:
    """An object a line, or one JSON list; the number of rows."""

    def say(row: Row) -> str:
        told = WRITERS[format].say(row, clips)
        line = as_json(told)
        dropped.update(sorted(not_held(row, told, WRITERS[format])))
        return line

    is_list = format in JSON_LISTS
    opening, closing = JSON_LISTS.get(format, ("", ""))
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(opening)
        for told in said(rows, say, problems):
            file.write((",\n" if is_list and count else "") + told + ("" if is_list else "\n"))
            count += 1
        file.write(closing)
    return count


def not_held(row: Row, told: Mapping[str, Any], writer: Writer) -> set[str]:
    """The fields of a row that are not in what was told of it, or not as they were."""
    holds = writer.holds
    if holds is None:
        return set()
    known: dict[str, Any] = {name: getattr(row, name) for name in TEXT_FIELDS}
    known |= {name: list(getattr(row, name)) or None for name in LIST_FIELDS}
    for name in OF_CLIPS:
        values = [getattr(clip, name) for clip in row.clips]
        known[name] = values[0] if len(values) == 1 else values if any(values) else None
    known["loss"] = None if all(message.loss for message in row.messages) else False
    lost = {
        name
        for name, value in known.items()
        if value is not None and (name not in holds or (holds[name] and told.get(holds[name]) != value))
    }
    if not writer.asks and row.question not in ("", ASK_FOR_WORDS):  # which is asked where nothing is
        lost.add("question")
    return lost | set(row.extra)


def write_shard(rows: Iterable[Row], path: Path, problems: Problems) -> int:
    """A WebDataset tar: 00000000.flac and 00000000.json are the sound of a row and the row; the number of rows."""
    count = 0
    with tarfile.open(path, "w") as archive:
        for sound_name, content, told in said(rows, of_a_shard, problems):
            for suffix, data in ((sound_name, content), (".json", told.encode())):
                member = tarfile.TarInfo(f"{count:08d}{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            count += 1
    return count


def of_a_shard(row: Row) -> tuple[str, bytes, str]:
    """The suffix and the bytes of a row's recording, cut where it is a cut of a longer one, and the row without it."""
    if len(row.clips) != 1:
        raise RowError(row.origin, "messages", f"has {len(row.clips)} clips, and a key of a shard has one recording")
    (clip,) = row.clips
    suffix = Path(clip.audio).suffix.lower() if isinstance(clip.audio, str) else ""
    if suffix in RECORDINGS and clip.start is None and clip.end is None:
        content = Path(str(clip.audio)).read_bytes()
    else:
        suffix, content = ".flac", sound.encode(clip.load(SAMPLING_RATE), SAMPLING_RATE)
    told = row_to_dict(row, None)
    for message in told["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "audio":
                for key in ("audio", "start", "end"):
                    part.pop(key, None)
    return suffix, content, as_json(told)


def said(rows: Iterable[Row], say: Callable[[Row], Said], problems: Problems) -> Iterator[Said]:
    """What is made of each row; those of which nothing can be made are problems."""
    for row in rows:
        try:
            yield say(row)
        except RowError as error:
            problems.add(error.at(error.origin or row.origin, row.id))
        except (AudioError, OSError) as error:
            problems.add(RowError(row.origin, "audio", str(error), row.id))


def as_json(told: Mapping[str, Any]) -> str:
    """One line; ValueError for what is no JSON."""
    return json.dumps(told, ensure_ascii=False, allow_nan=False)


def listing_with(out: Path) -> dict[str, Any]:
    """What dataset_info.json beside a file of LLaMA-Factory is to hold: what it holds, and this file.

    ValueError where that is no such listing, or has another file under the name of this one.
    """
    info = out.with_name(LISTED)
    if out == info:
        raise ValueError(f"--out: {info} is to list the files of rows; give the rows another name")
    try:
        listed = json.loads(info.read_bytes()) if info.exists() else {}
    except ValueError as error:
        raise ValueError(f"{info}: broken JSON ({error}); mend it, or write to another folder with --out") from None
    if not isinstance(listed, dict) or not all(isinstance(entry, dict) for entry in listed.values()):
        raise ValueError(f"{info}: has not an object for each data set; mend it, or write to another folder with --out")
    name = next((name for name, entry in listed.items() if entry.get("file_name") == out.name), out.stem)
    if name in listed and listed[name].get("file_name") != out.name:
        raise ValueError(f"{info}: {name!r} is another data set; write to another file with --out")
    return listed | {name: {"file_name": out.name, **FACTORY_ENTRY}}


def _clips_before_one_question(row: Row) -> tuple[AudioPart, ...]:
    """The recordings of a row that is one question about them; RowError where it is not, or words stand between."""
    clips = row.clips
    first = row.messages[0].content[: len(clips)]
    if [message.role for message in row.messages] != ["user", "assistant"] or not clips:
        raise RowError(row.origin, "messages", "is not one question about recordings, which alone this format knows")
    if len(clips) > 1 and not all(isinstance(part, AudioPart) for part in first):
        raise RowError(row.origin, "messages", "has words before or between recordings; this format has them after all")
    return clips


def _only_clip(row: Row) -> AudioPart:
    """The recording of a row that is one question about it; RowError where it is not."""
    if [message.role for message in row.messages] != ["user", "assistant"] or len(row.clips) != 1:
        raise RowError(row.origin, "messages", "is not one question about one recording, which alone this format knows")
    return row.clips[0]


def _question(row: Row) -> str:
    """The words of the question; RowError where there are none."""
    if not row.question.strip():
        raise RowError(row.origin, "messages", "asks nothing in words, and this format has a question")
    return row.question


def _without_choices(row: Row) -> str:
    """The question from which a reader makes the row's own with its options; RowError where there is none."""
    if row.target not in row.choices:
        raise RowError(row.origin, "answer", "is not one of the row's choices, and this format answers with one")
    bare = _question(row).removesuffix(naming(row.choices))
    for question in (bare, row.question):
        if with_choices(question, row.choices) == row.question:
            return question
    raise RowError(row.origin, "choices", "are not all named in the question, as this format has it; name them there")


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
