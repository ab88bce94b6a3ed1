"""A conversation with one model about sound: what was said, what is heard, the next answer.

Not here: how an answer is made (inference.py), how a person types (terminal.py).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiollm.audio import AudioSource
from audiollm.conversation import AudioPart, Message, Row, TextPart, write_rows

if TYPE_CHECKING:
    from audiollm.inference import Listener

Clips = AudioSource | list[Any] | None


class Talk:
    """Questions and answers about the clips that were given so far; a clip stays for all later questions."""

    def __init__(self, listener: Listener, **generation: Any) -> None:
        """`generation`: arguments of `generate` for every answer, such as `max_new_tokens=64`."""
        self.listener = listener
        self.generation = generation
        self._system: list[Message] = []
        self._turns: list[Message] = []
        self._clips: list[AudioPart] = []  # given, and not yet part of a turn
        self._saved: set[Path] = set()

    @property
    def history(self) -> tuple[Message, ...]:
        """All messages so far, the system's first."""
        return (*self._system, *self._turns)

    @property
    def clips(self) -> tuple[AudioPart, ...]:
        """Every clip that the next question can be about, in the order in which they were given."""
        return (*(clip for message in self._turns for clip in message.clips), *self._clips)

    def say_system(self, text: str) -> None:
        """Set the system message; an empty text removes it."""
        self._system = [Message("system", (TextPart(text),))] if text else []

    def listen(self, audio: AudioSource, *, start: float | None = None, end: float | None = None) -> AudioPart:
        """Give a clip for the next question. AudioError if it cannot be read; nothing changes then."""
        clip = self._read(audio, start, end)
        self._clips.append(clip)
        return clip

    def ask(
        self,
        question: str,
        audio: Clips = None,
        *,
        start: float | None = None,
        end: float | None = None,
    ) -> str:
        """The answer to a question, about a new clip (or a list of them) or about those given before.

        `start` and `end`, in seconds, say which part of each new clip is heard. AudioError if one cannot be read.
        """
        return "".join(self.stream(question, audio, start=start, end=end)).strip()

    def stream(
        self,
        question: str,
        audio: Clips = None,
        *,
        start: float | None = None,
        end: float | None = None,
    ) -> Generator[str, None, None]:
        """The answer in pieces, as it is generated. Closing the iterator stops it; what was said stays."""
        if not question.strip():
            raise ValueError("the question is empty; ask something, such as 'What do you hear?'")
        sources = audio if isinstance(audio, list) else [] if audio is None else [audio]
        return self._answer(question, [self._read(source, start, end) for source in sources])

    def _read(self, audio: AudioSource, start: float | None, end: float | None) -> AudioPart:
        """The clip with its duration, read once: so that a broken file is refused before it enters the conversation."""
        source: Any = audio
        if hasattr(source, "read"):  # an open file may be closed when the next question comes
            source.seek(0)
            source = source.read()
        rate = self.listener.processor.sampling_rate
        samples = AudioPart(source, start=start, end=end).load(rate)
        return AudioPart(source, start=start, end=end, duration=len(samples) / rate)

    def _answer(self, question: str, given: list[AudioPart]) -> Generator[str, None, None]:
        """Stream the answer; once anything was said, question and answer enter the history."""
        num_waiting = len(self._clips)
        asked = Message("user", (*self._clips, *given, TextPart(question)))
        said: list[str] = []
        finished = False
        try:
            with closing(self.listener.stream((*self.history, asked), **self.generation)) as pieces:
                for piece in pieces:
                    said.append(piece)
                    yield piece
            finished = True
        finally:
            answer = "".join(said).strip()
            if answer:
                self._turns += [asked, Message("assistant", (TextPart(answer),))]
                del self._clips[:num_waiting]
            elif finished:
                self._clips += given

    def reset(self) -> None:
        """Forget all that was said and heard; the system message stays."""
        self._turns.clear()
        self._clips.clear()

    def save(self, path: str | Path) -> Path:
        """Write the conversation as one row (JSONL), which training and evaluation can read.

        A file that this conversation did not write is not replaced: ValueError.
        """
        if not self._turns:
            raise ValueError("there is nothing to save yet: ask a question first")
        path = Path(path).expanduser().resolve()
        if path.exists() and path not in self._saved:
            raise ValueError(f"{path} exists already; choose another name")
        write_rows(path, [Row(messages=self.history, task="chat", origin="chat")])
        self._saved.add(path)
        return path


def open_talk(
    checkpoint: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    quantize: str | None = None,
    adapter: str | Path | None = None,
    lora_scale: float | None = None,
    system: str | None = None,
    **generation: Any,
) -> Talk:
    """A conversation with a checkpoint: a run, one of its stages, or a name on the Hub; see `audiollm.load`."""
    from audiollm.inference import load

    listener = load(
        checkpoint, device=device, dtype=dtype, revision=revision, quantize=quantize, adapter=adapter,
        lora_scale=lora_scale,
    )  # fmt: skip
    talk = Talk(listener, **generation)
    talk.say_system(system or "")
    return talk
