"""Rows written for other tools: read again they say the same, and what a format cannot say is named."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from audiollm import audio as sound
from audiollm import cli
from audiollm.conversation import Row, parse_row, row_to_dict, write_rows
from audiollm.data.foreign import FORMATS_TO_WRITE, WRITERS, convert_to, file_for
from audiollm.data.formats import ASK_FOR_WORDS, detect_all, naming
from audiollm.data.sources import load_rows, open_source

RATE = 16_000


def wave(number: int) -> np.ndarray:
    return (0.2 * np.sin(np.arange(RATE) * (0.05 + 0.01 * number))).astype(np.float32)


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """One clip, a cut of it, one that is embedded, two turns with two clips, a system message, no clip; then questions
    about two clips, with options (in the question, and added by its reader), about words, and with other words for it;
    then words of cuts: from a time to another, to the end, from the beginning, of an embedded one.
    """
    for number in range(2):
        sound.write(tmp_path / f"{number}.wav", wave(number), RATE)

    def user(*content) -> dict:
        return {
            "role": "user",
            "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in content],
        }

    def clip(source, **times) -> dict:
        return {"type": "audio", "audio": source, **times}

    def answer(text: str) -> dict:
        return {"role": "assistant", "content": text}

    embedded = sound.encode(wave(3), RATE)
    conversations = [
        [user(clip("0.wav"), "What is it?"), answer("A tone.")],
        [user(clip("0.wav", start=0.25, end=0.75), "What is it?"), answer("Half a tone.")],
        [user(clip(embedded), "Which?"), answer("Another.")],
        [
            user("First", clip("0.wav"), "then", clip("1.wav")),
            answer("Low, high."),
            user("Which is first?"),
            answer("Low."),
        ],
        [{"role": "system", "content": "Be brief."}, user(clip("1.wav"), "And?"), answer("Yes.")],
        [user("No sound here."), answer("None.")],
        [user(clip("0.wav"), clip("1.wav"), "Which is lower?"), answer("The first.")],
        [user(clip("1.wav"), "Is it low or high?"), answer("high")],
        [user(clip("1.wav"), "Which?\nChoose one of: low; high"), answer("low")],
        [user(clip("0.wav", transcript="hello there"), ASK_FOR_WORDS), answer("hello there")],
        [user(clip("1.wav", duration=1.0, transcript="hello"), "What is said?"), answer("hello")],
        [user(clip("0.wav", start=0.1, end=0.3), ASK_FOR_WORDS), answer("hello")],
        [user(clip("0.wav", start=0.5), ASK_FOR_WORDS), answer("there")],
        [user(clip("0.wav", end=0.25), ASK_FOR_WORDS), answer("hell")],
        [user(clip(embedded, start=0.5, end=0.75), ASK_FOR_WORDS), answer("no")],
    ]
    about = {7: {"choices": ["low", "high"], "answer": "high"}, 8: {"choices": ["low", "high"], "answer": "low"}}
    return [
        parse_row({"id": str(n), "messages": messages, **about.get(n, {})}, origin=f"rows:{n}", folder=tmp_path)
        for n, messages in enumerate(conversations)
    ]


LEFT_OUT = {
    "nvidia": {4},
    "ltu": {3, 4, 5, 6},
    "salmonn": {3, 4, 5},
    "mcq": {0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14},
    "audiollms": {3, 4, 5, 6},
    "manifest": {0, 1, 2, 3, 4, 5, 6, 7, 8},
}


def heard(row: Row) -> list[tuple]:
    """Who says what, and what is heard there."""
    said = []
    for message in row.messages:
        parts = [part.load(RATE) if hasattr(part, "audio") else part.text for part in message.content]
        said.append((message.role, [part if isinstance(part, str) else part.tolist() for part in parts if len(part)]))
    return said


@pytest.mark.parametrize("name", WRITERS)
def test_rows_that_are_written_and_read_again_say_the_same(rows, tmp_path, name):
    out = tmp_path / name / "rows.json"
    number, problems = convert_to(rows, name, out)
    left_out = {str(row_id) for row_id in LEFT_OUT.get(name, ())}
    assert {error.row_id for error in problems.errors} == left_out and number == len(rows) - len(left_out)
    again = load_rows(out, format="table" if name == "manifest" else name, strict=True, check_files=True)
    kept = [row for row in rows if row.id not in left_out]
    for before, after in zip(kept, again, strict=True):
        if name == "manifest":  # which has words and not how they are asked for
            before = parse_row(row_to_dict(before) | {"messages": asked(before, ASK_FOR_WORDS)})
        for (role, parts), (role_again, parts_again) in zip(heard(before), heard(after), strict=True):
            assert role == role_again and len(parts) == len(parts_again)
            for part, part_again in zip(parts, parts_again, strict=True):
                same = part == part_again if isinstance(part, str) else np.allclose(part, part_again, atol=2 / 2**15)
                assert same


def test_a_shard_holds_each_row_with_its_recording(rows, tmp_path):
    out = tmp_path / "shards" / "rows.tar"
    number, problems = convert_to(rows, "webdataset", out)
    kept = [row for row in rows if len(row.clips) == 1]
    assert {error.row_id for error in problems.errors} == {row.id for row in rows} - {row.id for row in kept}
    assert number == len(kept) and [path.name for path in out.parent.iterdir()] == ["rows.tar"]
    lengths = [len(row.clips[0].load(RATE)) for row in kept]
    for path in tmp_path.glob("*.wav"):
        path.unlink()  # the shard needs none of them
    again = load_rows(out, strict=True)
    for before, after in zip(kept, again, strict=True):
        plain, back = (row_to_dict(row) for row in (before, after))
        for told in (plain, back):
            for message in told["messages"]:
                message["content"] = [part for part in message["content"] if part["type"] == "text"]
        assert plain == back
    assert [len(row.clips[0].load(RATE)) for row in again] == lengths


def asked(row: Row, question: str) -> list[dict]:
    """The messages of a row with one clip, its question in other words."""
    user, assistant = row_to_dict(row)["messages"]
    return [user | {"content": [user["content"][0], {"type": "text", "text": question}]}, assistant]


FULL = {
    "id": "m-id", "task": "m-task", "source": "m-source", "source_id": "m-source_id", "split": "m-split",
    "language": "m-language", "license": "m-license", "references": ["m-references"],
    "choices": ["m-choices", "m-answer"], "answer": "m-answer", "rejected": "m-rejected", "note": "m-note",
}  # fmt: skip
"""A row with each field that there is, all with marks that name them."""


@pytest.mark.parametrize("name", WRITERS)
def test_a_field_is_counted_as_dropped_where_the_file_does_not_hold_it_and_only_there(tmp_path, name):
    clip = {"duration": 1.0625, "transcript": "m-transcript", "description": "m-description"}
    asked, answer = {
        "mcq": ("Which?" + naming(FULL["choices"]), "m-answer"),
        "audiollms": ("Which?" + naming(FULL["choices"]), "m-answer"),
        "manifest": (ASK_FOR_WORDS, "m-transcript"),
    }.get(name, ("Which?", "said"))
    sound.write(tmp_path / "a.wav", wave(0), RATE)
    content = [{"type": "audio", "audio": "a.wav", **clip}, {"type": "text", "text": asked}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    row = parse_row(FULL | {"messages": messages}, folder=tmp_path)

    dropped: Counter[str] = Counter()
    assert convert_to([row, row], name, tmp_path / "out.json", dropped)[0] == 2
    text, known = (tmp_path / "out.json").read_text(), {*FULL, *clip}
    held = {field for field in known if ("1.0625" if field == "duration" else f'"m-{field}"') in text}
    assert dropped == dict.fromkeys(known - held, 2)


def test_what_is_known_of_several_clips_and_answers_that_are_not_learned_are_counted_too(rows, tmp_path):
    (user, assistant), about = row_to_dict(rows[6])["messages"], {"transcript": None, "description": "a tone"}
    clips = [part | about if part["type"] == "audio" else part for part in user["content"]]
    first = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi.", "loss": False}]
    row = parse_row({"messages": [*first, user | {"content": clips}, assistant]})
    dropped: Counter[str] = Counter()
    convert_to([row, rows[0]], "desta", tmp_path / "out.jsonl", dropped)
    assert dropped == {"description": 1, "loss": 1}


@pytest.mark.parametrize("name", WRITERS)
def test_the_format_of_a_written_file_is_told_by_looking_at_it(rows, tmp_path, name):
    convert_to(rows, name, tmp_path / "rows.json")
    for opened in open_source(tmp_path / "rows.json"):
        assert detect_all([raw for _, raw in opened.placed]) == ("table" if name == "manifest" else name)


def test_what_is_known_beside_the_words_is_written_where_the_format_has_a_place_for_it(rows, tmp_path):
    convert_to(rows[10:14], "manifest", tmp_path / "manifest.jsonl")
    assert [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()] == [
        {"audio_filepath": "1.wav", "duration": 1.0, "text": "hello"},
        {"audio_filepath": "0.wav", "offset": 0.1, "duration": 0.2, "text": "hello"},
        {"audio_filepath": "0.wav", "offset": 0.5, "duration": 0.5, "text": "there"},
        {"audio_filepath": "0.wav", "offset": 0.0, "duration": 0.25, "text": "hell"},
    ]
    again = load_rows(tmp_path / "manifest.jsonl", strict=True)
    assert again[1].clips[0].key == rows[11].clips[0].key  # to the bit, though 0.1 + 0.2 is not 0.3
    assert not (tmp_path / "clips").exists()
    convert_to(rows[9:11], "salmonn", tmp_path / "salmonn.json")
    assert json.loads((tmp_path / "salmonn.json").read_text()) == {
        "annotation": [
            {"path": "0.wav", "text": "hello there", "task": "asr"},
            {"path": "1.wav", "text": "hello", "task": "QA", "Q": "What is said?"},
        ]
    }
    for name in ("mcq", "audiollms"):
        convert_to(rows[7:9], name, tmp_path / f"{name}.jsonl")
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert lines[1]["question" if name == "mcq" else "instruction"] == "Which?"  # its reader names the options
        again = load_rows(tmp_path / f"{name}.jsonl", strict=True)
        assert [(row.choices, row.answer) for row in again] == [(("low", "high"), "high"), (("low", "high"), "low")]
    convert_to(rows[9:11], "desta", tmp_path / "desta.jsonl")
    again = load_rows(tmp_path / "desta.jsonl", strict=True)
    assert [(row.id, row.clips[0].transcript) for row in again] == [("9", "hello there"), ("10", "hello")]


@pytest.mark.parametrize(
    ("name", "changes", "cause"),
    [
        ("mcq", {"choices": ["low", "deep"]}, "choices: are not all named in the question"),
        ("audiollms", {"choices": ["deep", "shrill"], "answer": "deep"}, "answer: is not one of the row's choices"),
        ("manifest", {}, "does not answer with the words spoken"),
    ],
)
def test_a_row_is_left_out_rather_than_said_by_halves(rows, tmp_path, name, changes, cause):
    row = parse_row(row_to_dict(rows[8]) | {"messages": asked(rows[8], "How?")} | changes)
    number, problems = convert_to([row], name, tmp_path / "out.jsonl")
    assert number == 0 and cause in problems.summary()


def test_a_question_without_words_and_one_with_words_between_its_recordings_are_left_out(rows, tmp_path):
    wordless = parse_row(row_to_dict(rows[0]) | {"messages": asked(rows[0], " ")})
    between = [
        {"role": "user", "content": [*row_to_dict(rows[3])["messages"][0]["content"]]},
        {"role": "assistant", "content": "Low, high."},
    ]
    for name in ("ltu", "salmonn", "audiollms"):
        assert "asks nothing in words" in convert_to([wordless], name, tmp_path / "out.json")[1].summary()
    number, problems = convert_to([parse_row({"messages": between})], "salmonn", tmp_path / "out.json")
    assert number == 0 and "has words before or between recordings" in problems.summary()


def test_a_manifest_of_a_recording_that_cannot_be_opened_is_not_written(rows, tmp_path):
    (tmp_path / "0.wav").write_bytes(b"junk")
    number, problems = convert_to(rows[9:11], "manifest", tmp_path / "out.jsonl")
    assert number == 1 and "cannot be opened to tell how long it is" in problems.summary()


def test_rows_for_llama_factory_are_listed_beside_what_is_listed_there(rows, tmp_path):
    info = tmp_path / "dataset_info.json"
    others = {"other": {"file_name": "other.json", "tags": {"user_tag": "me"}}, "hub": {"hf_hub_url": "x/y"}}
    info.write_text(json.dumps(others))
    for _ in range(2):
        convert_to(rows, "llama-factory", tmp_path / "mine.json")
        listed = json.loads(info.read_text())
        assert listed.keys() == {"other", "hub", "mine"} and listed | others == listed
    info.write_text(json.dumps({"named": {"file_name": "mine.json", "tags": {"user_tag": "me"}}}))
    convert_to(rows, "llama-factory", tmp_path / "mine.json")
    assert json.loads(info.read_text()).keys() == {"named"}
    again = load_rows(info, strict=True, check_files=True)
    assert [(row.question, row.target) for row in again] == [(row.question, row.target) for row in rows]
    write_rows(tmp_path / "more.json", rows)
    assert len(load_rows(str(tmp_path / "*.json"), strict=True)) == 2 * len(rows)  # each file once, though it is listed


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("mine.json", "{", "broken JSON"),
        ("mine.json", "[]", "has not an object for each data set"),
        ("mine.json", '{"mine": {"file_name": "other.json"}}', "'mine' is another data set; write to another file"),
        ("dataset_info.json", None, "is to list the files of rows; give the rows another name"),
    ],
)
def test_what_is_listed_is_never_replaced(rows, tmp_path, name, content, told):
    info = tmp_path / "dataset_info.json"
    if content is not None:
        info.write_text(content)
    with pytest.raises(ValueError, match=told):
        convert_to(rows, "llama-factory", tmp_path / name)
    assert (info.read_text() if info.exists() else None) == content and not (tmp_path / "mine.json").exists()


def test_a_recording_that_is_whole_stays_where_it_is_and_a_cut_is_written_once(rows, tmp_path):
    convert_to([*rows[:11], *rows[:11]], "ms-swift", tmp_path / "rows.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert lines[0]["audios"] == ["0.wav"] and lines[1]["audios"] == lines[1 + 11]["audios"]
    assert len(list((tmp_path / "clips").iterdir())) == 2  # the cut and the embedded one


def test_a_text_that_looks_like_a_placeholder_is_not_written_as_one(rows, tmp_path):
    messages = [
        {"role": "user", "content": "What does <audio> mean?"},
        {"role": "assistant", "content": "A recording."},
    ]
    row = parse_row({"messages": messages}, origin="rows:9")
    for name, number in (("ms-swift", 0), ("llama-factory", 0), ("nvidia", 1), ("openai", 1)):
        written, problems = convert_to([row], name, tmp_path / "out")
        assert written == number and ("holds <audio>" in problems.summary()) == (not number)


def test_a_broken_recording_is_named_and_the_others_are_written(rows, tmp_path):
    (tmp_path / "0.wav").write_bytes(b"junk")
    number, problems = convert_to(rows[:3], "ms-swift", tmp_path / "out.jsonl")
    assert number == 2 and "rows:1" in problems.summary() and "0.wav" in problems.summary()  # the cut alone is decoded


def test_the_command_writes_a_file_and_says_what_it_left_out(rows, tmp_path):
    write_rows(tmp_path / "rows.jsonl", rows[:6])
    run = CliRunner().invoke(cli.app, ["convert", str(tmp_path / "rows.jsonl"), "--to", "ltu"])
    assert run.exit_code == 1 and "3 rows of format ltu; left out: 3 problems" in run.output.replace("\n", " ")
    assert len(json.loads((tmp_path / "rows.ltu.json").read_text())) == 3
    assert run.output.endswith("not in ltu: id (3 rows)\n")
    write_rows(tmp_path / "rows.jsonl", [replace(rows[0], license="mit", extra={"by\x1b": 1}), rows[1]])
    run = CliRunner().invoke(cli.app, ["convert", str(tmp_path / "rows.jsonl"), "--to", "ms-swift"])
    assert run.exit_code == 0
    assert run.output.endswith("not in ms-swift: id (2 rows), by\\x1b (1), license (1)\n")
    wrong = CliRunner().invoke(cli.app, ["convert", str(tmp_path / "rows.jsonl"), "--to", "ms-swft"])
    assert wrong.exit_code == 2 and "did you mean 'ms-swift'?" in wrong.stderr


def test_the_command_counts_rows_that_it_could_not_read_too(rows, tmp_path):
    write_rows(tmp_path / "rows.jsonl", rows[:1])
    whole = CliRunner().invoke(cli.app, ["convert", str(tmp_path / "rows.jsonl"), "--to", "ltu"])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("broken\n")
    run = CliRunner().invoke(cli.app, ["convert", str(tmp_path / "rows.jsonl"), "--to", "ltu"])
    assert (whole.exit_code, run.exit_code) == (0, 1)
    assert "1 row of format ltu; left out: 1 problem" in run.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("source", "to", "out", "told"),
    [
        ("rows/*.parquet", "nvidia", None, r"--out: rows/\*\.parquet is no single name; .* --out FILE\.json$"),
        ("hf://datasets/a/b", "rows", None, r"is no single name; .* --out FILE\.jsonl$"),
        ("rows.jsonl", "ltu", "out.jsonl", r"out\.jsonl is to be out\.json: a file of format ltu is one JSON list"),
        ("rows.jsonl", "rows", "out.txt", r"out\.txt is to be out\.jsonl: .* an object a line"),
    ],
)
def test_a_name_under_which_a_file_could_not_be_read_again_is_refused(source, to, out, told):
    with pytest.raises(ValueError, match=told):
        file_for(source, to, out and Path(out))


def test_the_files_of_a_dataset_info_are_read_with_their_names_of_columns_and_roles(tmp_path):
    sharegpt = [{"talk": [{"who": "me", "says": "<audio>What?"}, {"who": "it", "says": "A dog."}], "wavs": ["a.wav"]}]
    alpaca = [{"instruction": "<audio>What?", "input": "Be brief.", "output": "A dog.", "audios": ["a.wav"]}]
    info = {
        "talks": {
            "file_name": "talks.json", "formatting": "sharegpt", "columns": {"messages": "talk", "audios": "wavs"},
            "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it"},
        },
        "orders": {"file_name": "orders.json", "columns": {"audios": "audios"}},
    }  # fmt: skip
    for name, content in {"talks": sharegpt, "orders": alpaca, "dataset_info": info}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    talk, order = load_rows(tmp_path / "dataset_info.json", strict=True)
    assert (talk.question, talk.target, order.question) == ("What?", "A dog.", "What?\nBe brief.")
    assert [row.clips[0].audio for row in (talk, order)] == [str(tmp_path / "a.wav")] * 2
    wrong = {
        "has no `file_name`": {"hf_hub_url": "x/y"},
        "leads out of the folder": {"file_name": "../x.json"},
        "there is no file": {"file_name": "x.json"},
    }
    for told, entry in wrong.items():
        (tmp_path / "dataset_info.json").write_text(json.dumps({"one": entry}))
        with pytest.raises(ValueError, match=told):
            load_rows(tmp_path / "dataset_info.json")


def test_the_command_neither_writes_over_its_rows_nor_a_file_without_rows(rows, tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows[:1])
    before = path.read_bytes()
    done = CliRunner().invoke(cli.app, ["convert", str(path), "--to", "rows", "--out", str(path)])
    assert done.exit_code == 2 and "would be written anew" in done.output.replace("\n", " ")
    assert path.read_bytes() == before
    path.write_text("")
    done = CliRunner().invoke(cli.app, ["convert", str(path), "--to", "ltu"])
    assert done.exit_code == 2 and "there is no row to write" in done.output.replace("\n", " ")
    assert [path.name for path in tmp_path.glob("*.json*")] == ["rows.jsonl"]


@pytest.mark.parametrize("name", FORMATS_TO_WRITE)
def test_a_conversion_that_is_stopped_leaves_nothing_unfinished(rows, tmp_path, name):
    def stopped():
        yield from rows[:3]
        raise KeyboardInterrupt

    out = file_for("rows", name, None).name
    (tmp_path / out).write_text("of before")
    with pytest.raises(KeyboardInterrupt):
        convert_to(stopped(), name, tmp_path / out)
    assert (tmp_path / out).read_text() == "of before"
    assert {path.name for path in tmp_path.iterdir()} - {"clips"} == {"0.wav", "1.wav", out}


def test_a_recording_whose_writing_is_stopped_does_not_count_as_written(rows, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def stopped(path, content):
        write_bytes(path, content[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", stopped)
    with pytest.raises(KeyboardInterrupt):
        convert_to(rows[1:2], "ms-swift", tmp_path / "out" / "rows.jsonl")
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    convert_to(rows[1:2], "ms-swift", tmp_path / "out" / "rows.jsonl")
    (clip,) = (tmp_path / "out" / "clips").iterdir()
    assert len(sound.load(clip, RATE)) == RATE // 2


def test_a_question_that_a_manifest_does_not_hold_is_told(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound.encode(np.zeros(RATE, np.float32), RATE, "WAV"))
    rows = []
    for question in ("What is said?", ASK_FOR_WORDS):
        clip = {"type": "audio", "audio": "a.wav", "transcript": "hi"}
        said = [{"role": "user", "content": [clip, {"type": "text", "text": question}]}]
        rows.append(parse_row({"messages": [*said, {"role": "assistant", "content": "hi"}]}, folder=tmp_path))
    dropped = Counter()
    assert convert_to(rows, "manifest", tmp_path / "m.jsonl", dropped)[0] == 2
    assert dropped == {"question": 1}
