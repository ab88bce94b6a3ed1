"""The conversation, its terminal and `audiollm.chat`, with a listener that answers by what it was given."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

import audiollm.audio
from audiollm.audio import AudioError
from audiollm.chat import Talk, terminal
from audiollm.conversation import parse_row


class EchoListener:
    """Says how many clips it heard and how many messages it read; `pieces` replaces what it says."""

    name = "demo/instruct"

    class processor:
        sampling_rate = 16_000

    def __init__(self):
        self.prompts, self.settings, self.pieces, self.closed = [], [], None, 0

    def stream(self, messages, **generation):
        self.prompts.append(messages)
        self.settings.append(generation)
        clips = [clip for message in messages for clip in message.clips]
        try:
            for piece in self.pieces or [f"{len(clips)} clips, ", f"{len(messages)} messages"]:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.closed += 1


@pytest.fixture
def talk():
    return Talk(EchoListener())


@pytest.fixture
def siren(tmp_path):
    path = tmp_path / "siren.wav"
    audiollm.audio.write(path, np.sin(np.arange(24_000) / 9).astype(np.float32) / 2, 16_000)
    return str(path)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=80)


def shown(console):
    return console.file.getvalue()


# ---- the conversation


def test_a_clip_stays_for_later_questions(talk, siren):
    assert talk.ask("What do you hear?", audio=siren) == "1 clips, 1 messages"
    assert talk.ask("Is it loud?") == "1 clips, 3 messages"
    assert talk.ask("And now?", audio=[siren, siren]) == "3 clips, 5 messages"
    assert [message.role for message in talk.history] == ["user", "assistant"] * 3
    assert [len(message.clips) for message in talk.history] == [1, 0, 0, 0, 2, 0]
    assert [clip.duration for clip in talk.clips] == [1.5] * 3


def test_a_part_of_a_clip_is_heard(talk, siren):
    talk.ask("What?", audio=siren, start=0.5, end=1.25)
    assert [(clip.start, clip.end, clip.duration) for clip in talk.clips] == [(0.5, 1.25, 0.75)]


def test_an_open_file_can_be_asked_about_twice(talk, siren):
    with open(siren, "rb") as file:
        talk.ask("What?", audio=file)
    talk.ask("Again?")
    assert len(talk.listener.prompts[1][0].clips[0].load(16_000)) == 24_000


def test_a_system_message_comes_first_and_outlives_a_reset(talk):
    talk.ask("Who are you?")
    talk.say_system("Be brief.")
    talk.say_system("Be kind.")
    talk.ask("Who?")
    assert [message.text for message in talk.listener.prompts[-1]][::3] == ["Be kind.", "Who?"]
    talk.reset()
    assert [message.text for message in talk.history] == ["Be kind."]
    talk.say_system("")
    assert talk.history == ()


def test_a_broken_clip_leaves_the_conversation_as_it_was(talk, siren, tmp_path):
    talk.ask("What do you hear?", audio=siren)
    before = talk.history
    for wrong in (str(tmp_path / "missing.wav"), [siren, str(tmp_path / "missing.wav")]):
        with pytest.raises(AudioError, match=r"missing\.wav"):
            talk.ask("And here?", audio=wrong)
    assert talk.history == before and len(talk.clips) == 1


def test_what_was_said_before_a_stop_stays(talk, siren):
    pieces = talk.stream("What do you hear?", siren)
    assert next(pieces) == "1 clips, "
    pieces.close()
    assert talk.listener.closed == 1
    assert [message.text for message in talk.history] == ["What do you hear?", "1 clips,"]


def test_a_question_that_fails_leaves_no_trace(talk, siren):
    talk.listen(siren)
    talk.listener.pieces = [RuntimeError("the model fails")]
    for _ in range(2):
        with pytest.raises(RuntimeError):
            talk.ask("What do you hear?", audio=siren)
    assert talk.history == () and len(talk.clips) == 1


def test_a_question_with_an_empty_answer_is_forgotten_but_its_clip_is_not(talk, siren):
    talk.listener.pieces = [" "]
    assert talk.ask("What do you hear?", audio=siren) == ""
    assert talk.history == ()
    talk.listener.pieces = None
    assert talk.ask("What do you hear?") == "1 clips, 1 messages"
    assert len(talk.clips) == 1


def test_clips_given_as_arrays_stay_apart(talk):
    for level in (0.1, 0.2):
        talk.ask("What?", audio=(np.full(1600, level, np.float32), 16_000))
    talk.listen((np.zeros(1600, np.float32), 16_000))
    assert talk.ask("And now?") == "3 clips, 5 messages"


def test_an_empty_question_is_refused(talk):
    with pytest.raises(ValueError, match="empty"):
        talk.ask("  ")


def test_settings_of_the_conversation_reach_every_answer():
    talk = Talk(EchoListener(), max_new_tokens=7)
    talk.ask("Who?")
    assert talk.listener.settings == [{"max_new_tokens": 7}]


def test_a_saved_conversation_is_a_row(talk, siren, tmp_path):
    with pytest.raises(ValueError, match="nothing to save"):
        talk.save(tmp_path / "empty.jsonl")
    talk.say_system("Be brief.")
    talk.ask("What do you hear?", audio=siren, start=0.5)
    path = talk.save(tmp_path / "talk.jsonl")
    talk.ask("Is it loud?")
    assert talk.save(tmp_path / "talk.jsonl") == path
    [line] = path.read_text().splitlines()
    row = parse_row(json.loads(line), origin="talk.jsonl:1", folder=tmp_path)
    assert [message.text for message in row.messages] == [message.text for message in talk.history]
    assert row.clips[0].audio and row.clips[0].start == 0.5 and row.clips[0].duration == 1.0


def test_saving_does_not_replace_a_file_of_others(talk, tmp_path):
    talk.ask("Who?")
    (tmp_path / "rows.jsonl").write_text("precious\n")
    with pytest.raises(ValueError, match="exists already"):
        talk.save(tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_text() == "precious\n"


# ---- the terminal


@pytest.fixture
def typed(monkeypatch):
    """Lines of a standard input that is no terminal."""
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_one_question_prints_the_answer_and_nothing_else(talk, siren, console):
    terminal.ask_once(talk, "What do you hear?", siren, console)
    assert shown(console) == "1 clips, 1 messages\n"
    with pytest.raises(AudioError):
        terminal.ask_once(talk, "What?", "missing.wav", console)


def test_a_conversation_from_lines(talk, siren, tmp_path, console, typed):
    typed(
        f"/audio {siren}", "", "What do you hear?", "Is it loud?", f"/save {tmp_path}/my talk.jsonl", "/quit", "Never"
    )
    terminal.converse(talk, None, console)
    assert "demo/instruct" in shown(console)
    assert "siren.wav(1.5s)" in "".join(shown(console).split())  # a long path is broken over lines
    assert "1 clips, 1 messages\n1 clips, 3 messages\n" in shown(console)
    assert (tmp_path / "my talk.jsonl").exists()
    assert len(talk.history) == 4


def test_the_files_of_the_command_line_are_heard_first(talk, siren, console, typed):
    typed("What do you hear?")
    terminal.converse(talk, [siren, siren], console)
    assert "2 clips, 1 messages" in shown(console)


def test_a_mistake_costs_one_sentence_and_the_conversation_goes_on(talk, siren, tmp_path, console, typed):
    mistakes = ["/audio missing.wav", "/audio", f"/audio {siren} 5 2", "/play it", "/save", "/save x.jsonl"]
    typed(*mistakes, "What do you hear?")
    terminal.converse(talk, str(tmp_path / "gone.wav"), console)
    said = shown(console).replace("\n", "")
    for sentence in (
        "gone.wav",
        "missing.wav",
        "/audio needs a file",
        "no command /play",
        "/save needs",
        "nothing to save",
    ):
        assert sentence in said
    assert talk.clips == () and "0 clips, 1 messages" in said


def test_a_question_without_audio_is_answered_with_a_hint_once(talk, console, typed):
    typed("Who are you?", "And who am I?")
    terminal.converse(talk, None, console)
    assert shown(console).count("No audio yet") == 1 and "0 clips, 3 messages" in shown(console)


def test_reset_forgets_and_help_names_every_command(talk, siren, console, typed):
    typed(f"/audio {siren}", "What?", "/reset", "/help")
    terminal.converse(talk, None, console)
    assert talk.history == () and talk.clips == ()
    assert all(command in shown(console) for command in terminal.COMMANDS)


def test_ctrl_c_stops_the_answer_and_not_the_conversation(talk, console, typed):
    typed("Count!", "And now?")
    talk.listener.pieces = ["one ", "two ", KeyboardInterrupt()]
    terminal.converse(talk, None, console)
    assert shown(console).count("one two \n(stopped)") == 2
    assert talk.listener.closed == 2
    assert [message.text for message in talk.history] == ["Count!", "one two", "And now?", "one two"]


def test_neither_answers_nor_names_steer_the_terminal(talk, console, typed):
    talk.listener.pieces = ["\x1b[2Jred [bold]x[/bold] ", "\x07\x9b31mend of\nit"]
    typed("Who?", "/audio [red]\x1b[2J.wav")
    terminal.converse(talk, None, console)
    assert "[2Jred [bold]x[/bold] 31mend of\nit\n" in shown(console)
    assert not {"\x1b", "\x07", "\x9b"} & set(shown(console))
    assert "[red]" in shown(console)


def test_an_answer_that_is_empty_is_said_to_be_empty(talk, console, typed):
    talk.listener.pieces = [" ", "\n"]
    typed("Who?")
    terminal.converse(talk, None, console)
    assert "(no answer)" in shown(console)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.wav", ("a.wav", None, None)),
        ("a.wav 1.5", ("a.wav", 1.5, None)),
        ("a.wav -1 3", ("a.wav", -1.0, 3.0)),  # refused where it is read, by its time
        ("my dog.wav 1.5 12", ("my dog.wav", 1.5, 12.0)),
        ("'my dog.wav' 0 2", ("my dog.wav", 0.0, 2.0)),
        ("it's.wav", ("it's.wav", None, None)),
        (r"my\ dog.wav", ("my dog.wav", None, None)),
        ("take 2", ("take 2", None, None)),  # there is such a file
    ],
)
def test_the_path_and_the_part_that_are_typed(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take 2").touch()
    assert terminal.file_and_part(text) == expected


@pytest.mark.parametrize(
    ("text", "told"), [("a b.wav abc", "'abc' is not a time"), ("'a b.wav' 1.5 x3", "'x3' is not a time")]
)
def test_a_time_that_is_none_is_named(text, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.wav").touch()
    with pytest.raises(ValueError, match=told):
        terminal.file_and_part(text)


@pytest.mark.parametrize("width", [10, 17, 30])
def test_lines_break_between_words_at_any_width(width):
    text = "The siren of an ambulance,  far away.\nThen 救急車 and applauseapplauseapplauseapplause."
    pieces = [text[start : start + 5] for start in range(0, len(text), 5)]
    whole = "".join(terminal.wrapped([text], width))
    assert "".join(whole.split()) == "".join("".join(terminal.wrapped(pieces, width)).split()) == "".join(text.split())
    for line in whole.split("\n"):
        assert Console().measure(line.rstrip()).maximum <= width or "applause" in line or " " not in line


def completions(text):
    document = Document(text)
    return [found.text for found in terminal._CommandCompleter().get_completions(document, CompleteEvent())]


def test_commands_and_paths_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my siren.wav").touch()
    assert completions("/a") == ["/audio "]
    assert [name.strip() for name in completions("/")] == list(terminal.COMMANDS)
    assert completions("/audio my s") == ["iren.wav"]
    assert completions("/help my") == completions("What") == completions("") == []


def test_what_is_typed_is_kept_in_the_state_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setattr(sys, "stdout", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text("first\rthrown away\x03 second \r\x04")  # Ctrl-C clears the line, Ctrl-D leaves
        assert list(terminal._lines()) == ["first", "second"]
    history = tmp_path / "state" / "audiollm" / "chat_history"
    assert "+first" in history.read_text() and history.stat().st_mode & 0o077 == 0


def test_a_state_folder_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert list(terminal._typed_before().load_history_strings()) == []


# ---- audiollm.chat


@pytest.mark.parametrize(
    "imports",
    [
        "import audiollm",
        "import audiollm.chat",
        "import audiollm.chat.terminal, audiollm",
        "import audiollm; first = audiollm.chat; import audiollm.chat.talk; assert first is audiollm.chat",
        "from audiollm import chat; import audiollm; assert chat is audiollm.chat",
    ],
)
def test_audiollm_chat_can_be_called_whatever_was_imported_before(imports):
    code = f"""
{imports}
import sys, types
assert "torch" not in sys.modules
sys.modules["audiollm.inference"] = types.SimpleNamespace(load=lambda checkpoint, **settings: (checkpoint, settings))
print(audiollm.chat("runs/demo", device="cpu", max_new_tokens=9).listener)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    told = "('runs/demo', {'device': 'cpu', 'dtype': 'auto', 'revision': None, 'quantize': None"
    assert told in done.stdout, done.stderr


def test_the_public_names_are_listed_and_others_are_missing():
    assert {"chat", "load"} <= set(dir(audiollm))
    assert callable(audiollm.chat)
    with pytest.raises(AttributeError, match="sing"):
        audiollm.sing  # noqa: B018
