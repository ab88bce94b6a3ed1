"""Properties of sources: every kind of file gives the same rows, and one bad row costs one row."""

import csv
import io
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from pyarrow import parquet

from audiollm.conversation import Row, RowError, write_rows
from audiollm.data import sources
from audiollm.data.sources import Problems, fingerprint, load_rows


def ours(question: str = "Who?", answer: str = "Birds.", audio: Any = "a.wav", **fields: Any) -> dict[str, Any]:
    part = {"type": "audio"} if audio is None else {"type": "audio", "audio": audio}
    user = {"role": "user", "content": [part, {"type": "text", "text": question}]}
    return {"messages": [user, {"role": "assistant", "content": [{"type": "text", "text": answer}]}], **fields}


def wav(seconds: float = 0.1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.linspace(-0.5, 0.5, round(8000 * seconds)), 8000, format="WAV")
    return file.getvalue()


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def write_table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def nobody_waits() -> Iterator[None]:
    """Who opens a pipe without a writer waits for ever: here he fails, if he is not through long after he should be."""

    def waited(*_: Any) -> None:
        raise AssertionError("a pipe is waited for")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def said(rows: list[Row]) -> list[tuple[str, str, Any]]:
    return [(row.question, row.target, row.clips[0].audio) for row in rows]


def stored(rows: list[dict[str, Any]], features: dict[str, Any]) -> datasets.Dataset:
    """A data set with audio made without torchcodec, which `from_list` would need."""
    schema = datasets.Features(features)
    table = pa.Table.from_pylist(rows, schema=schema.arrow_schema)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=schema))


@pytest.fixture
def two() -> list[dict[str, Any]]:
    return [ours(id="1"), ours("Where?", "In a wood.", audio="b/b.wav", id="2")]


def test_jsonl_json_and_parquet_give_the_same_rows(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    write_lines(tmp_path / "rows.jsonl", two)
    (tmp_path / "list.json").write_text("\ufeff" + json.dumps(two, indent=2), encoding="utf-8")
    write_lines(tmp_path / "lines.json", two)
    parquet.write_table(pa.Table.from_pylist(two), tmp_path / "nested.parquet")
    as_text = [row | {"messages": json.dumps(row["messages"])} for row in two]
    parquet.write_table(pa.Table.from_pylist(as_text), tmp_path / "text.parquet")
    expected = load_rows(tmp_path / "rows.jsonl")
    assert said(expected)[1] == ("Where?", "In a wood.", str(tmp_path / "b" / "b.wav"))
    for name in ("list.json", "lines.json", "nested.parquet", "text.parquet"):
        assert load_rows(tmp_path / name) == expected, name


def test_written_rows_are_read_again(tmp_path: Path, two: list[dict[str, Any]]) -> None:
    rows = load_rows(write_lines(tmp_path / "rows.jsonl", [*two, ours(audio="data:audio/wav;base64,UklGRg==")]))
    assert write_rows(tmp_path / "out" / "again.jsonl", rows) == 3
    assert load_rows(tmp_path / "out" / "again.jsonl") == rows


def test_places_are_file_and_line_with_empty_lines_counted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ours(), "", "  ", ours()])
    assert [row.origin for row in load_rows(path)] == [f"{path}:1", f"{path}:4"]


def test_one_bad_row_costs_one_row_and_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ours(), "{broken", ours(answer=""), "[1]", ours(audio=None), ours()])
    problems = Problems()
    assert len(load_rows(path, problems=problems)) == 2
    assert problems.count == 4
    for line, field in (
        (2, "broken JSON"),
        (3, "messages[1].content"),
        (4, "a row is an object"),
        (5, "messages[0].content[0]"),
    ):
        assert any(example.startswith(f"{path}:{line}: {field}") for example in problems.examples), problems.summary()


def test_strict_stops_at_the_first_bad_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ours(), ours(answer=""), "{broken"])
    for second in ("the answer is empty", "broken JSON"):
        with pytest.raises(RowError, match=second):
            load_rows(path, strict=True)
        write_lines(path, [ours(), "{broken", ours(answer="")])


def test_bad_rows_are_told_in_the_log_when_nobody_collects_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [ours(), ours(answer="")])
    load_rows(path)
    assert "1 problem:" in caplog.text and f"{path}:2: messages[1].content: the answer is empty" in caplog.text
    write_lines(path, [ours(answer=""), ours(answer="")])
    with pytest.raises(RowError, match="no row could be read; 2 problems:"):
        load_rows(path)


def test_problems_keep_the_first_in_words_and_count_the_rest() -> None:
    problems = Problems()
    assert problems.summary() == "no problems"
    for number in range(25):
        problems.add(RowError(f"rows:{number}", "task", "wrong"))
    lines = problems.summary().splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("25 problems:", "  rows:0: task: wrong", "  ... and 5 more")
    assert len(lines) == 22


def test_the_recognised_format_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="audiollm")
    path = write_lines(tmp_path / "rows.jsonl", [{"query": "<audio>Who?", "response": "Birds.", "audios": ["a.wav"]}])
    assert said(load_rows(path)) == [("Who?", "Birds.", str(tmp_path / "a.wav"))]
    assert f"{path}: rows of format ms-swift" in caplog.text


def test_format_decides_where_the_shape_does_not(tmp_path: Path) -> None:
    conversation = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Cars."}]}
    path = write_lines(tmp_path / "rows.jsonl", [ours() | conversation])
    with pytest.raises(RowError, match=f"{path}: this could be rows or llama-factory"):
        load_rows(path)
    assert load_rows(path, format="llama-factory")[0].target == "Cars."
    assert load_rows(path, format="rows")[0].target == "Birds."


def test_globs_and_lists_join_files_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_lines(tmp_path / f"{name}.jsonl", [ours(id=name)])
    assert [row.id for row in load_rows(str(tmp_path / "[ab].jsonl"))] == ["a", "b"]
    assert [row.id for row in load_rows([tmp_path / "c.jsonl", str(tmp_path / "a*.jsonl")])] == ["c", "a"]
    write_lines(tmp_path / "x[1].jsonl", [ours(id="a name with brackets")])
    assert [row.id for row in load_rows(tmp_path / "x[1].jsonl")] == ["a name with brackets"]


def test_rows_in_memory_are_read_as_they_are(two: list[dict[str, Any]]) -> None:
    rows = load_rows(two)
    assert (rows[1].origin, said(rows)[1]) == ("list:2", ("Where?", "In a wood.", "b/b.wav"))


def test_sound_inside_parquet_fills_the_parts_in_order(tmp_path: Path) -> None:
    user = {"role": "user", "content": [{"type": "audio"}, {"type": "audio"}, {"type": "text", "text": "Same?"}]}
    row = {"messages": json.dumps([user, {"role": "assistant", "content": "No."}]), "audios": [wav(0.1), wav(0.2)]}
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    clips = load_rows(tmp_path / "rows.parquet")[0].clips
    assert [clip.load(8000).shape for clip in clips] == [(800,), (1600,)]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("b.csv", ";"), ("c.csv", "\t"), ("d.tsv", "\t")])
def test_tables_have_columns_for_path_question_and_answer(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [
        {"file_name": "a.wav", "question": "Größer?", "answer": "Yes"},
        {"file_name": "b.wav", "question": "", "answer": "No"},
    ]
    path = write_table(tmp_path / name, rows, delimiter)
    problems = Problems()
    assert said(load_rows(path, problems=problems)) == [("Größer?", "Yes", str(tmp_path / "a.wav"))]
    assert problems.examples == [f"{path}:3: question: the question is empty; write it, or take the column away"]


def test_quotes_in_tsv_are_letters_and_in_csv_they_hold_commas(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('path\tsentence\na.wav\t"hello\nb.wav\t"you" there\n')
    assert [row.target for row in load_rows(tmp_path / "a.tsv")] == ['"hello', '"you" there']
    (tmp_path / "a.csv").write_text('path,sentence\na.wav,"hello, you"\nb.wav,hello, you\n')
    problems = Problems()
    assert [row.target for row in load_rows(tmp_path / "a.csv", problems=problems)] == ["hello, you"]
    assert "a.csv:3: has more cells than the header" in problems.summary()


def test_a_folder_of_recordings_takes_answers_from_text_files(tmp_path: Path) -> None:
    folder = tmp_path / "yard"
    (folder / "more").mkdir(parents=True)
    for name, text in (("a", " Rain.\n"), ("more/b", "A dog."), ("c", None), ("d", "")):
        (folder / f"{name}.wav").write_bytes(wav())
        if text is not None:
            (folder / f"{name}.txt").write_text(text)
    problems = Problems()
    rows = load_rows(folder, problems=problems)
    expected = [("Rain.", "a.wav"), ("A dog.", "more/b.wav")]
    assert said(rows) == [("What do you hear?", answer, str(folder / name)) for answer, name in expected]
    assert [(row.source, row.source_id) for row in rows] == [("yard", "a.wav"), ("yard", "more/b.wav")]
    assert rows[0].clips[0].load(8000).shape == (800,)
    assert problems.examples == [
        f"{folder / 'c.wav'}: has no text beside it; write its answer to c.txt",
        f'{folder / "d.wav"}: messages[1].content: the answer is empty; write it, or set "loss": false on this message',
    ]
    assert load_rows(folder, question="Weather?", problems=Problems())[0].question == "Weather?"


def test_a_folder_of_recordings_with_texts_says_which_files_of_rows_in_it_are_not_read(tmp_path, caplog) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    (tmp_path / "a.txt").write_text("Rain.")
    assert len(load_rows(tmp_path)) == 1 and not caplog.records
    (tmp_path / "rows.csv").write_text("audio,answer\na.wav,Rain.\n")
    assert len(load_rows(tmp_path)) == 1
    assert f"to read its files of rows name them: {tmp_path}/*.csv" in caplog.text


def test_a_dataset_in_memory_is_read_without_decoding_its_audio(tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(wav(0.2))
    sounds = [{"bytes": wav(), "path": None}, {"bytes": None, "path": str(tmp_path / "b.wav")}]
    features = {"audio": datasets.Audio(), "label": datasets.ClassLabel(names=["rain", "dog"])}
    dataset = stored([{"audio": sounds[0], "label": 1}, {"audio": sounds[1], "label": 0}], features)
    rows = load_rows(dataset)
    assert [row.target for row in rows] == ["dog", "rain"]
    assert [row.clips[0].load(8000).shape for row in rows] == [(800,), (1600,)]
    assert [row.target for row in load_rows(dataset.select([1]))] == ["rain"]
    dataset.to_parquet(tmp_path / "rows.parquet")
    assert [row.target for row in load_rows(tmp_path / "rows.parquet")] == ["dog", "rain"]


def test_a_dataset_of_conversations_is_read() -> None:
    part = {"type": datasets.Value("string"), "text": datasets.Value("string"), "audio": datasets.Audio()}
    message = {"role": datasets.Value("string"), "content": datasets.List(part)}
    dataset = stored([ours(audio={"bytes": wav(), "path": None})], {"messages": datasets.List(message)})
    assert load_rows(dataset)[0].clips[0].load(8000).shape == (800,)


def test_missing_files_are_problems_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    path = write_lines(tmp_path / "rows.jsonl", [ours(), ours(audio="gone.wav")])
    assert len(load_rows(path)) == 2
    problems = Problems()
    assert len(load_rows(path, check_files=True, problems=problems)) == 1
    assert problems.examples[0].startswith(f"{path}:2: audio: there is no file {tmp_path / 'gone.wav'}")


def test_what_stands_in_the_place_of_a_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    path = write_lines(tmp_path / "rows.jsonl", [ours(audio="folder.wav"), ours(audio="pipe.wav")])
    problems = Problems()
    assert not load_rows(path, check_files=True, problems=problems)
    assert problems.examples == [
        f"{path}:1: audio: {tmp_path / 'folder.wav'} is a folder, not a file",
        f"{path}:2: audio: {tmp_path / 'pipe.wav'} is not an ordinary file",
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.tar", "dataset_info.json"])
@pytest.mark.usefixtures("nobody_waits")
def test_a_pipe_is_no_file_of_rows_and_nobody_waits_for_it(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for source in (tmp_path / name, str(tmp_path / "*")):
        with pytest.raises(RowError, match="is not an ordinary file; write the rows"):
            load_rows(source)


@pytest.mark.usefixtures("nobody_waits")
def test_a_pipe_beside_a_recording_is_no_answer_and_a_folder_is_no_listing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(RowError, match=r"a\.txt: is not an ordinary file; write the"):
        load_rows(tmp_path, strict=True)
    (tmp_path / "dataset_info.json").mkdir()
    with pytest.raises(RowError, match="is a folder, not a file; write an object"):
        load_rows(tmp_path / "dataset_info.json")


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("nowhere.jsonl", "there is no such file or folder"),
        ("nowhere-*.jsonl", "no file matches"),
        (ours(), "one object is not a list of rows"),
        ({"train": [ours()]}, "take a split of it"),
        (17, "rows cannot come from int"),
        ([17], "rows cannot come from int"),
    ],
)
def test_a_source_that_is_none_is_told_with_the_way_out(source: Any, cause: str) -> None:
    with pytest.raises(RowError, match=cause):
        load_rows(source)


def test_the_list_in_an_object_that_salmonn_reads_is_read_as_a_list(tmp_path: Path) -> None:
    rows = [{"path": f"{n}.wav", "text": "A dog.", "task": "audiocaption"} for n in range(2)]
    for indent in (None, 4):
        text = "\ufeff" + json.dumps({"annotation": rows}, indent=indent)
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        read = load_rows(tmp_path / "a.json", strict=True)
        assert [(row.target, Path(row.clips[0].audio).name, row.origin.rpartition(":")[2]) for row in read] == [
            ("A dog.", "0.wav", "1"), ("A dog.", "1.wav", "2"),
        ]  # fmt: skip
    lines = "".join(json.dumps({"annotation": "x", "audio": "a.wav", "answer": "A dog."}) + "\n" for _ in range(2))
    (tmp_path / "a.json").write_text(lines)
    assert len(load_rows(tmp_path / "a.json", strict=True)) == 2


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.txt", b"hello", r"a\.txt: cannot tell what it holds; rows are read from \.jsonl"),
        ("a.json", b"[{]", r"a\.json: broken JSON"),
        ("a.json", b'{"annotation": [{}], "more": 1}', r"a\.json: holds more than one list of rows"),
        ("a.json", b'{"annotation": []}', r"a\.json: holds no row"),
        ("a.json", b'{"annotation": [{"path": "a"', r"a\.json: broken JSON"),
        ("a.json", b"[1]", r"a\.json:1: a row is an object"),
        ("a.jsonl", b"", r"a\.jsonl: holds no row"),
        ("a.jsonl", b'{"messages": "\xff"}\n', r"a\.jsonl:1: is not UTF-8; give rows as text"),
        ("a.json", b'[{"messages": "\xff"}]', r"a\.json: is not UTF-8; give rows as text"),
        ("a.jsonl", b"RIFF\x24\x00\x00\x00WAVE", r"a\.jsonl: is no text file"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: broken JSON"),
        ("a.jsonl", b'{"foo": 1}\n', r"a\.jsonl: no known format has the fields 'foo'; .* --from for a command"),
        ("a.parquet", b"PAR1 not", r"a\.parquet: is not a Parquet file"),
        ("a.csv", b"path,sentence\na.wav,gr\xfc\xdfe\n", r"a\.csv: is not UTF-8"),
        ("a.csv", "path,sentence\na.wav,grün\n".encode("utf-16-le"), r"a\.csv: is no text file: it is not UTF-8"),
        ("a.csv", b'path,sentence\na.wav,"hello\nb.wav,you\n', r"a\.csv:2: broken table"),
        ("a.csv", b"a.wav,hello\nb.wav,you\n", r"a\.csv: no known format"),
        ("a.csv", b"audio,question\na.wav,What?\n", r"a\.csv: there is no column for the answer .*name it 'answer'"),
    ],
)
def test_a_broken_file_is_told_with_its_name(tmp_path: Path, name: str, content: bytes, cause: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RowError, match=cause):
        load_rows(tmp_path / name)


def test_a_text_without_a_recording_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.wav", "a.txt", "orphan.txt"):
        (tmp_path / name).write_text("bark")
    assert len(load_rows(tmp_path)) == 1
    assert "1 texts have no recording of their name" in caplog.text and "orphan.txt" in caplog.text


def test_a_folder_without_recordings_says_what_to_name(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [ours()])
    with pytest.raises(RowError, match=r"holds no recording; for files of rows name them, as in .*\*\.jsonl"):
        load_rows(tmp_path)


def test_a_fingerprint_changes_with_every_file_of_a_source(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(wav(0.1))
    (tmp_path / "a.txt").write_text("a dog")
    (tmp_path / "rows.jsonl").write_text("0123456789")
    monkeypatch.setattr(sources, "WHOLE_BYTES", 8)
    monkeypatch.setattr(sources, "END_BYTES", 3)
    seen = [fingerprint(str(tmp_path))]

    def changed() -> bool:
        seen.append(fingerprint(str(tmp_path)))
        return seen[-1] not in seen[:-1]

    (tmp_path / "a.txt").write_text("a cat")
    assert changed()
    (tmp_path / "rows.jsonl").write_text("0123456780")
    assert changed()
    (tmp_path / "a.wav").write_bytes(wav(0.2))
    assert changed()
    (tmp_path / "a.wav").rename(tmp_path / "b.wav")
    assert changed()
    assert not changed()
    one = fingerprint(str(tmp_path / "a.txt"))
    assert one == fingerprint(str(tmp_path / "*.txt")) != fingerprint(str(tmp_path / "*.jsonl"))
