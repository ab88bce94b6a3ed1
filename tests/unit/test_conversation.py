"""Properties of the row: what is read is what was written, and a wrong row is told by its place and its field."""

import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiollm.conversation import (
    AudioPart,
    Message,
    Row,
    RowError,
    TextPart,
    parse_messages,
    parse_row,
    row_to_dict,
    write_rows,
)

CLOTHO: dict[str, Any] = {
    "id": "clotho-17-2",
    "task": "aqa",
    "source": "clotho_aqa",
    "source_id": "17.wav",
    "split": "train",
    "language": "en",
    "license": "mit",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "audio", "audio": "clips/17.flac", "start": 1.5, "end": 9.0, "duration": 7.5},
                {"type": "text", "text": "How many birds are singing?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Two."}]},
    ],
}
USER = ("messages", 0)
CLIP = ("messages", 0, "content", 0)
TEXT = ("messages", 0, "content", 1)
ANSWER = ("messages", 1)
REMOVED = object()


def clotho(*path: Any, **changes: Any) -> dict[str, Any]:
    """The row above with some fields of the object at `path` changed, or removed."""
    row = copy.deepcopy(CLOTHO)
    place: Any = row
    for step in path:
        place = place[step]
    for name, value in changes.items():
        if value is REMOVED:
            del place[name]
        else:
            place[name] = value
    return row


def wav_bytes(seconds: float = 0.1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.linspace(-0.5, 0.5, round(8000 * seconds)), 8000, format="WAV")
    return file.getvalue()


def test_the_row_of_the_design_is_read_and_written_unchanged() -> None:
    row = parse_row(CLOTHO, origin="rows.jsonl:1", folder="/data")
    assert row.clips == (AudioPart("/data/clips/17.flac", start=1.5, end=9.0, duration=7.5),)
    assert (row.question, row.target, row.task) == ("How many birds are singing?", "Two.", "aqa")
    assert [message.role for message in row.prompt] == ["user"]
    assert row_to_dict(row, folder="/data") == CLOTHO


@pytest.mark.parametrize(
    ("row", "field", "cause"),
    [
        (clotho(messages=REMOVED), "messages", "missing"),
        (clotho(messages=[]), "messages", "empty"),
        (clotho(messages={"role": "user"}), "messages", "an object"),
        (clotho(messages="[{]"), "messages", "not JSON"),
        (clotho(messages=["hello"]), "messages[0]", "'hello'"),
        (clotho(*USER, role="human"), "messages[0].role", "unknown role 'human'; known: system, user, assistant"),
        (clotho(*USER, role=["user"]), "messages[0].role", "unknown role"),
        (clotho(*USER, role=REMOVED), "messages[0].role", "missing"),
        (clotho(*ANSWER, role="system"), "messages[1].role", "a system message must come first"),
        (clotho(*ANSWER, role="user"), "messages", "must end with a message of the assistant"),
        (clotho(*ANSWER, loss="no"), "messages[1].loss", "true or false"),
        (clotho(*ANSWER, loss=0), "messages[1].loss", "true or false"),
        (clotho(*ANSWER, weight=2), "messages[1].weight", "is not a field here"),
        (clotho(*ANSWER, content=REMOVED), "messages[1].content", "missing"),
        (clotho(*ANSWER, content=[]), "messages[1].content", "empty"),
        (clotho(*ANSWER, content=3), "messages[1].content", "3"),
        (clotho(*ANSWER, content=" \n"), "messages[1].content", "the answer is empty"),
        (clotho(*ANSWER, content=CLOTHO["messages"][0]["content"]), "messages[1].content", "answers in text"),
        (clotho(*USER, content=["hello"]), "messages[0].content[0]", "'hello'"),
        (clotho(*TEXT, type="image"), "messages[0].content[1].type", "unknown part 'image'; known: text, audio"),
        (clotho(*TEXT, type=REMOVED), "messages[0].content[1].type", "missing"),
        (clotho(*TEXT, text=REMOVED), "messages[0].content[1].text", "missing"),
        (clotho(*TEXT, text=5), "messages[0].content[1].text", "5"),
        (clotho(*CLIP, audio=REMOVED), "messages[0].content[0].audio", "missing"),
        (clotho(*CLIP, audio=""), "messages[0].content[0].audio", "missing"),
        (clotho(*CLIP, audio=17), "messages[0].content[0].audio", "must be a path"),
        (clotho(*CLIP, audio={"bytes": None, "path": None}), "messages[0].content[0].audio", "missing"),
        (clotho(*CLIP, audio="https://x.org/a.wav"), "messages[0].content[0].audio", "not a local file; download it"),
        (clotho(*CLIP, audio="data:audio/wav;base64,%%%"), "messages[0].content[0].audio", "broken data: URI"),
        (clotho(*CLIP, start=-1), "messages[0].content[0].start", "0 or later"),
        (clotho(*CLIP, start="1.5"), "messages[0].content[0].start", "must be a number of seconds"),
        (clotho(*CLIP, start=True), "messages[0].content[0].start", "must be a number of seconds"),
        (clotho(*CLIP, start=float("nan")), "messages[0].content[0].start", "nan"),
        (clotho(*CLIP, end=1.5), "messages[0].content[0].end", "must be later than the start, 1.5"),
        (clotho(*CLIP, end=0, start=None), "messages[0].content[0].end", "must be later than the start, 0.0"),
        (clotho(*CLIP, duration=0), "messages[0].content[0].duration", "more than 0"),
        (clotho(*CLIP, trancript="hi"), "messages[0].content[0].trancript", "did you mean 'transcript'?"),
        (clotho(*CLIP, description=["rain"]), "messages[0].content[0].description", "a list"),
        (clotho(task=["aqa"]), "task", "must be a text"),
        (clotho(references="Two birds."), "references", "must be a list"),
        (clotho(choices=["one", None]), "choices[1]", "missing"),
        (clotho(choices=["a", "b"], answer="c"), "answer", "'c' is not among the choices"),
        (clotho(audios=[b"left over"]), "audios", "1 more than the audio parts"),
        (clotho(extra="note"), "extra", "must be an object"),
    ],
)
def test_a_wrong_row_is_told_by_place_and_field(row: dict[str, Any], field: str, cause: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(row, origin="rows.jsonl:17")
    assert (caught.value.origin, caught.value.field) == ("rows.jsonl:17", field)
    assert cause in caught.value.cause
    assert str(caught.value) == f"rows.jsonl:17: {field}: {caught.value.cause}"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_unsupervised_answer_may_be_empty() -> None:
    row = clotho(*ANSWER, content="", loss=False)
    row["messages"] += [{"role": "user", "content": "And now?"}, {"role": "assistant", "content": "One."}]
    assert parse_row(row).messages[1] == Message("assistant", (TextPart(""),), loss=False)
    assert parse_row(row_to_dict(parse_row(row))) == parse_row(row)


def test_unknown_fields_are_kept_through_reading_and_writing() -> None:
    row = parse_row(clotho(speaker="17", take=3, nothing=None))
    assert row.extra == {"speaker": "17", "take": 3}
    assert parse_row(row_to_dict(row)).extra == row.extra


def test_fields_filled_in_by_parquet_mean_nothing() -> None:
    row = clotho(rejected=None, references=None, extra=None)
    row["messages"][0]["content"][1] |= {"audio": None, "start": None}
    assert parse_row(row) == parse_row(CLOTHO)


def test_messages_may_be_json_text_and_contents_plain_strings() -> None:
    plain = [{"role": "user", "content": "Say <audio> and <|im_end|>."}, {"role": "assistant", "content": "<|audio|>"}]
    row = parse_row({"messages": json.dumps(plain)})
    assert (row.question, row.target, row.clips) == ("Say <audio> and <|im_end|>.", "<|audio|>", ())


@pytest.mark.parametrize("alias", ["url", "path"])
def test_aliases_of_audio_name_the_same_clip(alias: str) -> None:
    row = clotho(*CLIP, audio=REMOVED, **{alias: "file:///data/clips/17.flac"})
    assert parse_row(row, folder="/data") == parse_row(CLOTHO, folder="/data")


def test_the_kth_of_audios_fills_the_kth_part_without_sound() -> None:
    parts = [{"type": "audio"}, {"type": "audio", "audio": "own.wav"}, {"type": "audio", "audio": None}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Rain."}]
    row = parse_row({"messages": messages, "audios": [b"first", {"bytes": None, "path": "last.wav"}]}, folder="/data")
    assert [clip.audio for clip in row.clips] == [b"first", "/data/own.wav", "/data/last.wav"]
    with pytest.raises(RowError, match=r"content\[2\]\.audio: missing"):
        parse_row({"messages": messages, "audios": [b"first"]})


def test_rows_that_are_written_and_read_are_equal(tmp_path: Path) -> None:
    inside = parse_row(
        clotho(references=["2"], choices=["1", "2"], answer="2", rejected="ten", note={"ä": 1}), folder=tmp_path
    )
    elsewhere = parse_row(clotho(*CLIP, audio="/elsewhere/18.wav", transcript="ja", description="rain"))
    in_bytes = parse_row(clotho(*CLIP, audio=wav_bytes()))
    path = tmp_path / "out" / "rows.jsonl"
    for target in (tmp_path / "rows.jsonl", path):
        assert write_rows(target, [inside, elsewhere, in_bytes]) == 3
        lines = target.read_text(encoding="utf-8").splitlines()
        read = [parse_row(json.loads(line), folder=target.parent) for line in lines]
        assert read == [inside, elsewhere, in_bytes]
        assert [row.group_key for row in read] == [inside.group_key, elsewhere.group_key, in_bytes.group_key]
    assert '"audio": "clips/17.flac"' in (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert "ä" in path.read_text(encoding="utf-8") and sorted(tmp_path.rglob("*.tmp")) == []


def test_writing_is_the_same_to_the_byte_whatever_the_order_of_the_fields(tmp_path: Path) -> None:
    rows = [parse_row(CLOTHO), parse_row(dict(reversed(CLOTHO.items())))]
    for name, row in zip("ab", rows, strict=True):
        write_rows(tmp_path / name, [row])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [parse_row(CLOTHO)])
    with pytest.raises(RowError, match="cannot be written as JSON"):
        write_rows(path, [parse_row(clotho(task="other")), parse_row(clotho(raw=b"bytes"))])
    assert json.loads(path.read_text())["task"] == "aqa"


def test_an_array_is_written_as_sound(tmp_path: Path) -> None:
    samples = np.linspace(-0.5, 0.5, 800, dtype=np.float32)
    prompt = parse_messages([{"role": "user", "content": [{"type": "audio", "audio": (samples, 8000)}]}])
    write_rows(tmp_path / "rows.jsonl", [Row((*prompt, Message("assistant", (TextPart("A ramp."),))))])
    row = parse_row(json.loads((tmp_path / "rows.jsonl").read_text()))
    # FLAC keeps 16 bits: half a step, 2**-16, and as much again for how readers scale full range.
    np.testing.assert_allclose(row.clips[0].load(8000), samples, atol=2**-15)


def test_a_clip_loads_only_its_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.arange(16000) / 16000, 16000)
    part = AudioPart(str(tmp_path / "a.wav"), start=0.25, end=0.5)
    samples = part.load(16000)
    assert samples.shape == (4000,)
    assert samples[0] == pytest.approx(0.25, abs=1e-4)
    with pytest.raises(RowError, match="no sound to load"):
        AudioPart(None).load(16000)


def test_the_same_cut_of_the_same_file_has_the_same_key() -> None:
    assert AudioPart("/data/x/../a.wav", start=0.0).key == AudioPart("/data/a.wav", description="rain").key
    assert AudioPart(b"abc").key == AudioPart(bytes(bytearray(b"abc"))).key
    ones = np.ones(8, np.float32)
    assert AudioPart((ones, 8000)).key == AudioPart((ones.copy(), 8000)).key
    different = [AudioPart("a"), AudioPart("b"), AudioPart("a", end=1.0), AudioPart(b"a"), AudioPart((ones, 8000))]
    different += [AudioPart((ones, 16000)), AudioPart((ones * 0.5, 8000)), AudioPart(None)]
    assert len({part.key for part in different}) == len(different)


def test_rows_about_one_recording_have_one_group() -> None:
    first, second = parse_row(CLOTHO), parse_row(clotho(*TEXT, text="Is there rain?"))
    other_clip, other_recording = parse_row(clotho(*CLIP, start=2.0)), parse_row(clotho(source_id="18.wav"))
    assert first.group_key == second.group_key
    assert len({row.group_key for row in (first, other_clip, other_recording)}) == 3
    assert (
        first.without_audio().group_key == second.without_audio().group_key != other_recording.without_audio().group_key
    )


def test_rows_of_text_alone_with_different_questions_have_no_group() -> None:
    one, two, same = (
        parse_row({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]})
        for text, answer in (("One?", "1"), ("Two?", "2"), ("One?", "eins"))
    )
    assert one.group_key == same.group_key != two.group_key


def test_the_blind_row_keeps_every_word() -> None:
    row = parse_row(CLOTHO)
    assert row.without_audio() == parse_row(clotho(*USER, content=CLOTHO["messages"][0]["content"][1:]))
    assert row.clips


def test_a_description_stands_where_the_clip_stood() -> None:
    row = parse_row(clotho(*CLIP, description="Two birds in a wood.", transcript="chirp"))
    parts = row.with_description().messages[0].content
    assert parts == (TextPart("Two birds in a wood."), TextPart("How many birds are singing?"))
    assert row.with_description().question == "Two birds in a wood.\nHow many birds are singing?"
    assert parse_row(clotho(*CLIP, transcript="chirp")).with_description().messages[0].content[0] == TextPart("chirp")
    with pytest.raises(RowError, match="rows:1: description: an audio part has no description"):
        parse_row(CLOTHO, origin="rows:1").with_description()


def test_a_prompt_may_be_a_question_alone_dicts_or_messages() -> None:
    question = (Message("user", (TextPart("What is <audio>?"),)),)
    assert parse_messages("What is <audio>?") == question
    assert parse_messages([{"role": "user", "content": "What is <audio>?"}]) == question
    assert parse_messages(question) == question


@pytest.mark.parametrize(
    "source", ["a.wav", Path("a.wav"), b"RIFF", (np.zeros(4), 8000)], ids=lambda s: type(s).__name__
)
def test_a_prompt_takes_every_shape_of_sound(source: Any) -> None:
    messages = parse_messages([{"role": "user", "content": [{"type": "audio", "audio": source}]}])
    audio = messages[0].clips[0].audio
    assert audio == (str(source) if isinstance(source, Path) else source)


def test_shapes_of_hugging_face_become_bytes_paths_and_arrays() -> None:
    def parsed(source: Any) -> Any:
        return parse_messages([{"role": "user", "content": [{"type": "audio", "audio": source}]}])[0].clips[0].audio

    assert parsed({"bytes": b"RIFF", "path": "a.wav"}) == b"RIFF"
    assert parsed({"bytes": None, "path": "a.wav"}) == "a.wav"
    assert parsed("data:audio/wav;base64,UklGRg==") == b"RIFF"
    samples, rate = parsed({"array": [0.0, 0.5], "sampling_rate": 8000, "path": None})
    assert (samples.tolist(), rate) == ([0.0, 0.5], 8000)


def test_a_wrong_prompt_is_an_error_too() -> None:
    wrongs: tuple[Any, ...] = ([], [{"role": "user"}], [{"role": "robot", "content": "hi"}], None)
    for wrong in wrongs:
        with pytest.raises(RowError):
            parse_messages(wrong)
