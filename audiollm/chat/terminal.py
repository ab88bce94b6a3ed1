"""The terminal in front of a conversation: one question and its answer, or a conversation with commands.

Not here: what is said and heard (talk.py). Where the input is no terminal, each line is a question or command.
"""

import os
import re
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter, WordCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.shortcuts import CompleteStyle
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from audiollm.audio import name_of
from audiollm.chat.talk import Clips, Talk
from audiollm.conversation import AudioPart

COMMANDS = {
    "/audio": ("PATH [START [END]]", "listen to a file, or to a part of it in seconds"),
    "/reset": ("", "forget what was said and heard"),
    "/save": ("PATH", "write the conversation as a row (JSONL)"),
    "/help": ("", "show this list"),
    "/quit": ("", "leave, as Ctrl-D does; Ctrl-C stops an answer"),
}
PART = re.compile(r"(?P<path>.+?)\s+(?P<start>-?\d+(\.\d+)?)(\s+(?P<end>-?\d+(\.\d+)?))?")

# Neither a model nor the name of a file may steer the terminal: of the control characters only new line and tab pass.
CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def ask_once(talk: Talk, question: str, audio: Clips, console: Console) -> None:
    """Print the answer to one question as it is generated. AudioError if a file cannot be read."""
    if not audio:
        _say(Console(stderr=True), "No --audio is given, so this is answered from words alone.", style="dim")
    _print_answer(talk.stream(question, audio), console)


def converse(talk: Talk, audio: str | list[str] | None, console: Console) -> None:
    """Talk until the person leaves: a line is a question, or a command that begins with a slash."""
    _say(console, f"{talk.listener.name}   /help shows the commands", style="bold")
    for path in [audio] if isinstance(audio, str) else audio or []:
        _respond(talk, f"/audio {path}", console)
    hinted = False
    for line in _lines():
        if line in ("/quit", "/exit"):
            break
        if line and not (line.startswith("/") or talk.clips or hinted):
            _say(console, "No audio yet, so this is answered from words alone; /audio PATH gives a file.", style="dim")
            hinted = True
        if line:
            _respond(talk, line, console)


def _respond(talk: Talk, line: str, console: Console) -> None:
    """Obey a command or answer a question; a mistake costs one sentence and not the conversation."""
    try:
        if line.startswith("/"):
            _obey(talk, line, console)
        else:
            _print_answer(talk.stream(line), console)
    except (ValueError, OSError) as error:
        _say(console, str(error), style="red")
    except KeyboardInterrupt:
        _say(console, "(stopped)", style="dim")


def _obey(talk: Talk, line: str, console: Console) -> None:
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    if command not in COMMANDS:
        raise ValueError(f"there is no command {command}; /help shows those that there are")
    if COMMANDS[command][0] and not rest:
        raise ValueError(f"{command} needs a file: {command} {COMMANDS[command][0]}")
    if command == "/audio":
        path, start, end = file_and_part(rest)
        _say(console, f"Listening to {describe(talk.listen(path, start=start, end=end))}", style="green")
    elif command == "/save":
        _say(console, f"Saved to {talk.save(file_and_part(rest, parts=False)[0])}", style="green")
    elif command == "/reset":
        talk.reset()
        _say(console, "Forgotten. /audio PATH gives a file.", style="green")
    elif command == "/help":
        _print_help(console)


def file_and_part(text: str, *, parts: bool = True) -> tuple[str, float | None, float | None]:
    """Read PATH [START [END]]; a path with spaces may be quoted, escaped or left as it is."""
    match = PART.fullmatch(text) if parts and not os.path.exists(os.path.expanduser(text)) else None
    path, start, end = (match["path"], match["start"], match["end"]) if match else (text, None, None)
    path = unquoted(path)
    before, _, last = text.rpartition(" ")
    if parts and not os.path.exists(path) and os.path.exists(unquoted(PART.sub(r"\g<path>", before.strip()))):
        raise ValueError(f"{last!r} is not a time in seconds; /audio {COMMANDS['/audio'][0]}")
    return path, float(start) if start else None, float(end) if end else None


def unquoted(path: str) -> str:
    """A path as typed, without its quotes, its ~ and the backslashes before its spaces."""
    if len(path) > 1 and path[0] == path[-1] and path[0] in "'\"":
        path = path[1:-1]
    path = os.path.expanduser(path)
    return path if os.path.exists(path) else path.replace("\\ ", " ")


def describe(clip: AudioPart) -> str:
    """The name of a clip and how much of it is heard."""
    seconds = clip.duration or 0.0
    length = f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    part = f", from {clip.start or 0:g} s" if clip.start is not None or clip.end is not None else ""
    return f"{name_of(clip.audio)} ({length}{part})"


def _print_answer(pieces: Generator[str, None, None], console: Console) -> None:
    """Print an answer as it comes, words whole at the end of a line."""
    with closing(pieces):
        with console.status("Listening ..."):
            first = next((piece for piece in pieces if piece.strip()), None)
        if first is None:
            return _say(console, "(no answer)", style="dim")
        clean = (piece.translate(CONTROL) for piece in chain([first.lstrip()], pieces))
        try:
            for text in wrapped(clean, console.width) if console.is_terminal else clean:
                console.out(text, end="", highlight=False)
        finally:
            console.out("")


def wrapped(pieces: Iterable[str], width: int) -> Iterator[str]:
    """The pieces, with a new line in front of each word that does not fit into the line (width in cells)."""
    column = 0
    for word in (word for piece in pieces for word in re.findall(r"\n|[^\S\n]+|\S+", piece)):
        if word != "\n" and column > 0 and column + cell_len(word) > width:
            yield "\n"
            column = 0
            word = word.lstrip()
        yield word
        column = 0 if word == "\n" else column + cell_len(word)


def _print_help(console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    for command, (arguments, meaning) in COMMANDS.items():
        table.add_row(Text(f"{command} {arguments}", style="bold"), meaning)
    console.print(table)


def _say(console: Console, text: str, *, style: str) -> None:
    """Print a line of our own; brackets in it are no markup."""
    console.print(Text(text.translate(CONTROL), style=style, overflow="fold"))


def _lines() -> Iterator[str]:
    """What the person types, line by line, until the end of the input."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from (line.strip() for line in sys.stdin)
        return
    session: PromptSession[str] = PromptSession(
        history=_typed_before(),
        completer=_CommandCompleter(),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
    )
    while True:
        try:
            line = session.prompt("> ")
        except KeyboardInterrupt:  # clears the line; Ctrl-D leaves
            continue
        except EOFError:
            return
        yield line.strip()


def _typed_before() -> History:
    """The questions of earlier conversations, kept in the user's state folder where that can be written."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "audiollm"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "chat_history").touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(folder / "chat_history")


class _CommandCompleter(Completer):
    """Commands at the start of a line, paths after those that take one."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        command, space, rest = document.text_before_cursor.partition(" ")
        if not space and command.startswith("/"):
            words = [name + " " if arguments else name for name, (arguments, _) in COMMANDS.items()]
            yield from WordCompleter(words, sentence=True).get_completions(document, complete_event)
        elif command in ("/audio", "/save"):
            yield from PathCompleter(expanduser=True).get_completions(Document(rest), complete_event)
