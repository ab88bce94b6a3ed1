"""The row: one conversation with text and audio parts, and where it came from; validated when read, written as JSON.

Not here: foreign formats (data/formats.py), kinds of files and data sets (data/sources.py), decoding (audio.py),
token ids (models/processing.py). Text is text: nothing in this file looks for placeholders in it. Times are seconds.
"""

import base64
import binascii
import difflib
import hashlib
import json
import math
import os
import urllib.parse
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from audiollm import audio as sound
from audiollm.audio import AudioSource

ROLES = ("system", "user", "assistant")
TEXT_FIELDS = ("id", "task", "source", "source_id", "split", "language", "license", "answer", "rejected")
LIST_FIELDS = ("references", "choices")
TIME_FIELDS = ("start", "end", "duration")
AUDIO_FIELDS = ("audio", "url", "path")  # the first is ours, the others are what Hugging Face processors also read
KNOWN_FIELDS = frozenset((*TEXT_FIELDS, *LIST_FIELDS, "messages", "audios", "extra"))
AUDIO_PART_FIELDS = frozenset(("type", *AUDIO_FIELDS, *TIME_FIELDS, "transcript", "description"))
TEXT_PART_FIELDS = frozenset(("type", "text"))
MESSAGE_FIELDS = frozenset(("role", "content", "loss"))


class RowError(ValueError):
    """A row that cannot be used: where it stands, which field, and what is wrong with it."""

    def __init__(self, origin: str, field: str, cause: str, row_id: str | None = None) -> None:
        super().__init__(origin, field, cause, row_id)
        self.origin, self.field, self.cause, self.row_id = origin, field, cause, row_id

    def __str__(self) -> str:
        return ": ".join(part for part in (self.origin, self.field, self.cause) if part)

    def at(self, origin: str, row_id: str | None = None) -> "RowError":
        """The same error, told of another place."""
        return RowError(origin, self.field, self.cause, self.row_id or row_id)


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class AudioPart:
    """A clip, or a cut of one (`start` and `end` in seconds), with what is known about it in words."""

    audio: AudioSource | None
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    transcript: str | None = None  # the words spoken
    description: str | None = None  # the scene in words

    @property
    def key(self) -> Hashable:
        """Identity of the clip: parts with the same key sound the same."""
        return (*_identity(self.audio), self.start or 0.0, self.end)

    def seconds(self) -> float:
        """How long it is: as the row says, or else the file's header; 0 where that cannot be read."""
        start = self.start or 0.0
        if self.end is not None:
            return self.end - start
        if self.duration is not None:
            return self.duration
        try:
            return 0.0 if self.audio is None else sound.duration(self.audio) - start
        except sound.AudioError:
            return 0.0

    def load(self, sampling_rate: int) -> np.ndarray:
        """Mono float32 samples [L] in [-1, 1]; AudioError when the sound cannot be read."""
        if self.audio is None:
            raise RowError("", "audio", "this audio part has no sound to load; give it a path, bytes or an array")
        return sound.load(self.audio, sampling_rate, start=self.start, end=self.end)


Part = TextPart | AudioPart


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says; `loss` is False for an assistant message that the model should not learn."""

    role: str
    content: tuple[Part, ...]
    loss: bool = True

    @property
    def text(self) -> str:
        """The text parts, a line each."""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def clips(self) -> tuple[AudioPart, ...]:
        """The audio parts."""
        return tuple(part for part in self.content if isinstance(part, AudioPart))


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation, and where it came from; `origin` ("file:line") is where it was read, and not compared."""

    messages: tuple[Message, ...]
    id: str | None = None
    task: str | None = None
    source: str | None = None
    source_id: str | None = None
    split: str | None = None
    language: str | None = None
    license: str | None = None
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer: str | None = None
    rejected: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    origin: str = field(default="", compare=False)

    @property
    def clips(self) -> tuple[AudioPart, ...]:
        """The audio parts of all messages, in their order."""
        return tuple(clip for message in self.messages for clip in message.clips)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the last assistant message."""
        return self.messages[: self._index_of_last("assistant")]

    @property
    def target(self) -> str:
        """The text of the last assistant message."""
        return self.messages[self._index_of_last("assistant")].text

    @property
    def question(self) -> str:
        """The text of the last user message."""
        return self.messages[self._index_of_last("user")].text

    @property
    def group_key(self) -> Hashable:
        """The same for rows about one recording, so that their questions can be brought together.

        Rows are about one recording when they name it (`source_id`) and have the same clips, if any; rows that name
        none and have no clip belong together when they ask the same.
        """
        recording = None if self.source_id is None else (self.source, self.source_id)
        clips = tuple(clip.key for clip in self.clips)
        return (recording, clips) if recording or clips else (None, self.prompt)

    def without_audio(self) -> "Row":
        """The blind form: the audio parts removed, every word kept."""
        return self._with_parts(lambda part: None if isinstance(part, AudioPart) else part)

    def with_description(self) -> "Row":
        """Every audio part told in words: its description, or else its transcript; RowError when it has neither."""
        return self._told("description", "transcript")

    def with_words(self, name: str) -> "Row":
        """Every audio part told in the words of its field `name`; RowError when it has none there."""
        return self._told(name)

    def _told(self, *names: str) -> "Row":
        def in_words(part: Part) -> Part:
            if not isinstance(part, AudioPart):
                return part
            words = next(filter(None, (getattr(part, name) for name in names)), None)
            if not words:
                cause = f"an audio part has no {names[0]} to stand for it; add one, or use this row with its sound"
                raise RowError(self.origin, names[0], cause, self.id)
            return TextPart(words)

        return self._with_parts(in_words)

    def _with_parts(self, change: Callable[[Part], Part | None]) -> "Row":
        messages = []
        for message in self.messages:
            changed = (change(part) for part in message.content)
            messages.append(replace(message, content=tuple(part for part in changed if part is not None)))
        return replace(self, messages=tuple(messages))

    def _index_of_last(self, role: str) -> int:
        for index in reversed(range(len(self.messages))):
            if self.messages[index].role == role:
                return index
        raise RowError(self.origin, "messages", f"this conversation has no message of the {role}")


def parse_row(data: Mapping[str, Any], *, origin: str = "row", folder: str | Path | None = None) -> Row:
    """One row as it stands on disk, checked field by field; relative audio paths count from `folder`."""
    if not isinstance(data, Mapping):
        raise RowError(origin, "", f"a row is an object with `messages`, not {_kind(data)}")
    reader = _Reader(origin, folder, iter(_list_of(data.get("audios"), origin, "audios")))
    messages = reader.messages(_decoded(data.get("messages"), origin))
    reader.check_answers(messages)
    about: dict[str, Any] = {name: reader.text(data[name], name) for name in TEXT_FIELDS if data.get(name) is not None}
    about |= {name: reader.texts(data[name], name) for name in LIST_FIELDS if data.get(name) is not None}
    answer, choices = about.get("answer"), about.get("choices")
    if answer is not None and choices and answer not in choices:
        raise RowError(origin, "answer", not_among(answer))
    return Row(messages=messages, **about, extra=_extra(data, origin), origin=origin)


def not_among(answer: Any) -> str:
    """What is wrong with an answer that is none of its choices."""
    return f"{answer!r} is not among the choices; write the right one in the same words"


def parse_messages(
    messages: str | Sequence[Mapping[str, Any] | Message], *, origin: str = "messages", folder: str | Path | None = None
) -> tuple[Message, ...]:
    """A prompt: a question alone, or messages as dicts or `Message`s; it may end with the user's turn."""
    if isinstance(messages, str):
        return (Message("user", (TextPart(messages),)),)
    return _Reader(origin, folder, iter(())).messages(messages)


class _Reader:
    """Checks and converts the parts of one row; `sounds` fill, in order, the audio parts without one of their own."""

    def __init__(self, origin: str, folder: str | Path | None, sounds: Iterator[Any]) -> None:
        self.origin, self.folder, self.sounds = origin, folder, sounds

    def messages(self, data: Any) -> tuple[Message, ...]:
        if not isinstance(data, (list, tuple)) or not data:
            found = "missing" if data is None else "empty" if data in ([], ()) else _kind(data)
            raise RowError(self.origin, "messages", f"must be a list of messages, and is {found}")
        messages = tuple(self.message(message, f"messages[{index}]") for index, message in enumerate(data))
        for index, message in enumerate(messages):
            if message.role == "system" and index:
                raise RowError(
                    self.origin, f"messages[{index}].role", "a system message must come first; move it there"
                )
        left = sum(1 for _ in self.sounds)
        if left:
            cause = f"{left} more than the audio parts without a sound of their own; give each its audio part"
            raise RowError(self.origin, "audios", cause)
        return messages

    def check_answers(self, messages: Sequence[Message]) -> None:
        """A row teaches or asks for an answer: it ends with one, and what is supervised has words in it."""
        if messages[-1].role != "assistant":
            raise RowError(
                self.origin, "messages", "must end with a message of the assistant, the answer to be learned"
            )
        for index, message in enumerate(messages):
            if message.role == "assistant" and message.loss and not message.text.strip():
                cause = 'the answer is empty; write it, or set "loss": false on this message'
                raise RowError(self.origin, f"messages[{index}].content", cause)

    def message(self, data: Any, where: str) -> Message:
        if isinstance(data, Message):
            return data
        if not isinstance(data, Mapping):
            raise RowError(self.origin, where, f"a message is an object with `role` and `content`, not {_kind(data)}")
        self.closed(data, MESSAGE_FIELDS, where)
        role = data.get("role")
        if role not in ROLES:
            cause = "missing" if role is None else f"unknown role {role!r}"
            raise RowError(self.origin, f"{where}.role", f"{cause}; known: {', '.join(ROLES)}")
        loss = data.get("loss")
        if loss is not None and not isinstance(loss, bool):
            raise RowError(self.origin, f"{where}.loss", f"must be true or false, and is {loss!r}")
        content = self.content(data.get("content"), f"{where}.content")
        if role == "assistant" and any(isinstance(part, AudioPart) for part in content):
            raise RowError(self.origin, f"{where}.content", "the assistant answers in text; move the audio to the user")
        return Message(role, content, True if loss is None else loss)

    def content(self, data: Any, where: str) -> tuple[Part, ...]:
        if isinstance(data, str):
            return (TextPart(data),)
        if not isinstance(data, (list, tuple)) or not data:
            found = "missing" if data is None else "empty" if data in ([], ()) else _kind(data)
            raise RowError(self.origin, where, f"must be a text or a list of parts, and is {found}")
        return tuple(self.part(part, f"{where}[{index}]") for index, part in enumerate(data))

    def part(self, data: Any, where: str) -> Part:
        if isinstance(data, (TextPart, AudioPart)):
            return data
        if not isinstance(data, Mapping):
            raise RowError(self.origin, where, f"a part is an object with `type`, not {_kind(data)}")
        kind = data.get("type")
        if kind == "text":
            return self.text_part(data, where)
        if kind == "audio":
            return self.audio_part(data, where)
        cause = "missing" if kind is None else f"unknown part {kind!r}"
        raise RowError(self.origin, f"{where}.type", f"{cause}; known: text, audio")

    def text_part(self, data: Mapping[str, Any], where: str) -> TextPart:
        self.closed(data, TEXT_PART_FIELDS, where)
        text = data.get("text")
        if not isinstance(text, str):
            raise RowError(self.origin, f"{where}.text", f"must be a text, and is {_kind(text)}")
        return TextPart(text)

    def audio_part(self, data: Mapping[str, Any], where: str) -> AudioPart:
        self.closed(data, AUDIO_PART_FIELDS, where)
        given = next((data[name] for name in AUDIO_FIELDS if data.get(name) is not None), None)
        source = next(self.sounds, None) if given is None else given
        start, end, duration = (seconds_of(data.get(name), f"{where}.{name}", self.origin) for name in TIME_FIELDS)
        if end is not None and end <= (start or 0.0):
            raise RowError(self.origin, f"{where}.end", f"{end} must be later than the start, {start or 0.0} (seconds)")
        if duration == 0.0:
            raise RowError(self.origin, f"{where}.duration", "must be more than 0 seconds; leave it out when unknown")
        transcript, description = data.get("transcript"), data.get("description")
        return AudioPart(
            audio=self.audio(source, f"{where}.audio"),
            start=start,
            end=end,
            duration=duration,
            transcript=None if transcript is None else self.text(transcript, f"{where}.transcript"),
            description=None if description is None else self.text(description, f"{where}.description"),
        )

    def audio(self, source: Any, where: str) -> AudioSource:
        """A path counted from the folder; bytes out of a `data:` URI or a Hugging Face mapping; else as given."""
        if isinstance(source, Mapping) and source.get("array") is not None and source.get("sampling_rate"):
            return np.asarray(source["array"]), int(source["sampling_rate"])
        if isinstance(source, Mapping) and ("bytes" in source or "path" in source):
            source = source.get("path") if source.get("bytes") is None else source["bytes"]
        if source is None or source == "":
            raise RowError(self.origin, where, "missing; give a path, bytes or a data: URI")
        if isinstance(source, str) and source.startswith("data:"):
            return self.from_data_uri(source, where)
        if isinstance(source, (str, os.PathLike)):
            return self.path(os.fspath(source), where)
        if isinstance(source, (bool, int, float, list)):
            raise RowError(self.origin, where, f"must be a path, bytes or a data: URI, and is {_kind(source)}")
        return source

    def path(self, path: str, where: str) -> str:
        if path.startswith("file://"):
            path = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
        if "://" in path:
            raise RowError(self.origin, where, f"{path} is not a local file; download it and give its path")
        return path if self.folder is None else os.path.abspath(os.path.join(self.folder, path))

    def from_data_uri(self, uri: str, where: str) -> bytes:
        head, _, payload = uri.partition(",")
        try:
            return (
                base64.b64decode(payload, validate=True)
                if head.endswith(";base64")
                else urllib.parse.unquote_to_bytes(payload)
            )
        except binascii.Error as error:
            raise RowError(self.origin, where, f"broken data: URI ({error}); write it again in base64") from None

    def text(self, value: Any, where: str) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):  # ids are often plain numbers
            return str(value)
        raise RowError(self.origin, where, f"must be a text, and is {_kind(value)}")

    def texts(self, value: Any, where: str) -> tuple[str, ...]:
        return tuple(
            self.text(item, f"{where}[{index}]") for index, item in enumerate(_list_of(value, self.origin, where))
        )

    def closed(self, data: Mapping[str, Any], known: frozenset[str], where: str) -> None:
        """Refuse a field that would be ignored; an empty one may stand there, as Parquet fills them in."""
        if data.keys() <= known:
            return
        for name in data:
            if name not in known and data[name] is not None:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = (
                    f"did you mean {near[0]!r}?"
                    if near
                    else "put it at the top of the row, where others' fields are kept"
                )
                raise RowError(self.origin, f"{where}.{name}", f"is not a field here; {hint}")


def seconds_of(value: Any, where: str, origin: str = "") -> float | None:
    """A time in seconds, None where it is not told; RowError for what is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise RowError(origin, where, f"must be a number of seconds, and is {_kind(value)}")
    if not math.isfinite(value) or value < 0:
        raise RowError(origin, where, f"must be a time in seconds, 0 or later, and is {value}")
    return float(value)


def row_to_dict(row: Row, folder: str | Path | None = None) -> dict[str, Any]:
    """The JSON form, in a fixed order and without what is not set; paths inside `folder` become relative to it."""
    data: dict[str, Any] = {name: getattr(row, name) for name in TEXT_FIELDS[:7]}
    data["messages"] = [_message_to_dict(message, folder, row.origin) for message in row.messages]
    data |= {name: list(getattr(row, name)) for name in LIST_FIELDS}
    data |= {"answer": row.answer, "rejected": row.rejected, "extra": dict(row.extra)}
    return {name: value for name, value in data.items() if value is not None and value != [] and value != {}}


def write_rows(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows as JSONL and return their number; the file appears under its name only when it is complete."""
    from audiollm.files import whole  # which does not travel with an exported model

    path, count = Path(path), 0
    with whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(_to_json(row, path.parent) + "\n")
            count += 1
    return count


def _to_json(row: Row, folder: Path) -> str:
    data = row_to_dict(row, folder)
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowError(row.origin, "", f"cannot be written as JSON ({error}); leave that field out") from None


def _message_to_dict(message: Message, folder: str | Path | None, origin: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "role": message.role,
        "content": [_part_to_dict(part, folder, origin) for part in message.content],
    }
    return data if message.loss else {**data, "loss": False}


def _part_to_dict(part: Part, folder: str | Path | None, origin: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    names = (*TIME_FIELDS, "transcript", "description")
    known = {name: getattr(part, name) for name in names if getattr(part, name) is not None}
    return {"type": "audio", "audio": _audio_to_text(part.audio, folder, origin), **known}


def _audio_to_text(source: AudioSource | None, folder: str | Path | None, origin: str) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source) if folder is None else _relative(os.fspath(source), folder)
    if isinstance(source, tuple):
        source = sound.encode(sound.load(source, source[1]), source[1])
    if isinstance(source, bytes):
        return "data:application/octet-stream;base64," + base64.b64encode(source).decode()
    raise RowError(
        origin, "audio", f"{_kind(source)} cannot be written to a file; give a path, bytes or an array with its rate"
    )


def _relative(path: str, folder: str | Path) -> str:
    """Relative inside the folder, so that both can move together; absolute elsewhere."""
    absolute, inside = os.path.abspath(path), os.path.join(os.path.abspath(folder), "")
    return absolute.removeprefix(inside).replace(os.sep, "/") if absolute.startswith(inside) else absolute


def _identity(source: AudioSource | None) -> tuple[Hashable, ...]:
    if isinstance(source, (str, os.PathLike)):
        return ("path", os.path.abspath(source))
    if isinstance(source, bytes):
        return ("bytes", hashlib.blake2b(source, digest_size=16).digest())
    if isinstance(source, tuple):
        samples, rate = source
        return ("array", hashlib.blake2b(np.ascontiguousarray(samples).tobytes(), digest_size=16).digest(), rate)
    return ("object", id(source))


def _extra(data: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The fields that are not ours, with those that an earlier reading already put under `extra`."""
    kept = data.get("extra") or {}
    if not isinstance(kept, Mapping):
        raise RowError(origin, "extra", f"must be an object with the fields that others use, and is {_kind(kept)}")
    if data.keys() <= KNOWN_FIELDS:
        return dict(kept)
    return {**kept, **{name: value for name, value in data.items() if name not in KNOWN_FIELDS and value is not None}}


def _decoded(messages: Any, origin: str) -> Any:
    """Parquet may hold messages as JSON text."""
    if not isinstance(messages, str):
        return messages
    try:
        return json.loads(messages)
    except json.JSONDecodeError as error:
        raise RowError(origin, "messages", f"a text that is not JSON ({error}); write a list of messages") from None


def _list_of(value: Any, origin: str, where: str) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return value
    raise RowError(origin, where, f"must be a list, and is {_kind(value)}")


def _kind(value: Any) -> str:
    """What a wrong value is, in the words of JSON; a short one is shown."""
    names = {type(None): "missing", dict: "an object", list: "a list", tuple: "a list", bytes: "bytes"}
    return names.get(type(value)) or f"{value!r:.60}"
