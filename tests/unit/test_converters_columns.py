"""Archives that are not quite as a set has them: a column is missing, a row is bad."""

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import archives  # noqa: F401  (which enters the layouts)
import pytest
from converters import ARCHIVES, CONVERTERS, SOUNDS, examples

from audiollm.curation.prepare import prepare
from audiollm.resources import import_converter

TABLES = {".csv": ",", ".tsv": "\t"}


def laid_out(name: str, folder: Path) -> dict[str, Any]:
    """The example of a set as an archive, and the options that it needs."""
    rows = examples(import_converter(name))
    options = (SOUNDS[name](folder / "sounds", rows) or {}) if name in SOUNDS else {}
    options |= ARCHIVES[name](folder / "archive", rows) or {}
    return {"source": str(folder / "archive"), **options}


def dropped_from(out: Path) -> list[tuple[str, str]]:
    """File and line, and detail, of what was left out."""
    lines = map(json.loads, (out / "dropped.jsonl").read_text(encoding="utf-8").splitlines())
    return [(Path(line["origin"]).name, line["detail"]) for line in lines]


def keys_in(data: Any) -> Iterator[str]:
    """The names in JSON, however deep."""
    if isinstance(data, dict):
        yield from data
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from keys_in(value)


def without_key(data: Any, key: str) -> Any:
    """JSON with a name less."""
    if isinstance(data, dict):
        return {name: without_key(value, key) for name, value in data.items() if name != key}
    return [without_key(value, key) for value in data] if isinstance(data, list) else data


def jsons(path: Path) -> list[Any]:
    """What a file holds, of which each line may be JSON."""
    text = path.read_text(encoding="utf-8")
    try:
        return [json.loads(text)]
    except ValueError:
        return list(map(json.loads, text.splitlines()))


def columns_of(path: Path) -> list[str]:
    """The columns of a table with a header, the names in a JSON file."""
    if path.suffix in TABLES:
        first = path.read_text(encoding="latin-1").partition("\n")[0].strip().split(TABLES[path.suffix])
        return first if all(name.replace(" ", "_").strip(".").isidentifier() for name in first[:1]) else []
    return list(dict.fromkeys(keys_in(jsons(path))))


def removed(path: Path, column: str) -> bytes:
    """The content of a file without a column."""
    if path.suffix not in TABLES:
        return "\n".join(json.dumps(without_key(one, column)) for one in jsons(path)).encode()
    quoting = csv.QUOTE_MINIMAL if path.suffix == ".csv" else csv.QUOTE_NONE
    with path.open(encoding="latin-1", newline="") as file:
        rows = list(csv.reader(file, delimiter=TABLES[path.suffix], quoting=quoting))
    at = rows[0].index(column)
    lines = [row[:at] + row[at + 1 :] for row in rows]
    changed = path.with_name("changed")
    with changed.open("w", encoding="latin-1", newline="") as file:
        escape = {} if quoting == csv.QUOTE_MINIMAL else {"quotechar": None, "escapechar": None}
        csv.writer(file, delimiter=TABLES[path.suffix], quoting=quoting, lineterminator="\n", **escape).writerows(lines)
    content = changed.read_bytes()
    changed.unlink()
    return content


def told_of(name: str, options: dict[str, Any], out: Path, column: str) -> str | None:
    """What is said of an archive, or of its first row that names the column; None where nothing is."""
    try:
        prepare(name, out, options)
    except ValueError as error:
        return str(error)
    finally:
        left_out = dropped_from(out) if (out / "dropped.jsonl").exists() else []
        shutil.rmtree(out, ignore_errors=True)
    return next((f"{place}: {why}" for place, why in left_out if repr(column) in why), None)


@pytest.mark.parametrize("name", [name for name in CONVERTERS if name in ARCHIVES])
def test_a_missing_column_is_told_by_its_file_and_name(name, tmp_path):
    options = laid_out(name, tmp_path)
    about = import_converter(name).SET
    files = [path for path in (tmp_path / "archive").rglob("*") if path.suffix in (*TABLES, ".json", ".jsonl")]
    needed = set()
    for path in sorted(files):
        whole = path.read_bytes()
        for column in columns_of(path):
            path.write_bytes(removed(path, column))
            told = told_of(name, options, tmp_path / "out", column)
            path.write_bytes(whole)
            if told is not None:
                assert re.search("is missing|has no column|holds no list under|KeyError: ", told)
                assert repr(column) in told and path.name in told and "\n" not in told
                needed.add(column)
    found = {column for path in files for column in columns_of(path)}
    assert needed >= found & set(about.columns) - {"audio", "context"}  # the sound is what `read` adds


def changed_line(path: Path, number: int, change: Callable[[str], str]) -> None:
    """Change one line of a text."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_line_of_json_without_a_key_is_left_out_and_the_others_are_made(tmp_path):
    options = laid_out("audiomcq", tmp_path)
    table = tmp_path / "archive" / "data.jsonl"
    row = json.loads(table.read_text())
    bad = [{key: value for key, value in row.items() if key != "audio_path"}, "text", row | {"answer": None}]
    table.write_text("".join(json.dumps(one) + "\n" for one in (row, *bad, row)))
    prepare("audiomcq", tmp_path / "out", {**options, "split": "train"})
    assert dropped_from(tmp_path / "out") == [
        ("data.jsonl:2", "'audio_path': is missing"),
        ("data.jsonl:3", "is not an object but str"),
        ("data.jsonl:4", ""),
    ]
    assert len((tmp_path / "out" / "train.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("start", ["", "soon"])
def test_a_start_time_that_is_none_is_left_out_by_name(tmp_path, start):
    options = laid_out("audiocaps", tmp_path)
    table = tmp_path / "archive" / "train.csv"
    changed_line(table, 2, lambda line: line.replace(",130,", f",{start},"))
    prepare("audiocaps", tmp_path / "out", {**options, "split": "train"})
    assert dropped_from(tmp_path / "out") == [("train.csv:2", f"start_time: {start!r} is no number of seconds")]


def test_a_question_and_a_recording_without_a_key_are_left_out_by_their_place(tmp_path):
    spoken = laid_out("spoken_squad", tmp_path / "spoken_squad")
    path = tmp_path / "spoken_squad" / "archive" / "spoken_train-v1.1.json"
    data = json.loads(path.read_text())
    data["data"][0]["paragraphs"][0]["qas"] += [{"question": "Why?"}]
    data["data"][0]["paragraphs"] += [{"context": "no questions"}]
    path.write_text(json.dumps(data))
    prepare("spoken_squad", tmp_path / "1", {**spoken, "split": "train"})
    assert dropped_from(tmp_path / "1") == [
        ("spoken_train-v1.1.json:1:0", "'answers': is missing"), ("spoken_train-v1.1.json:1:1", "'qas': is missing"),
    ]  # fmt: skip
    slurp = laid_out("slurp", tmp_path / "slurp")
    changed_line(
        next((tmp_path / "slurp").rglob("train.jsonl")), 1, lambda line: line.replace('"file": "audio-1502.', '"x": ".')
    )
    prepare("slurp", tmp_path / "2", {**slurp, "split": "train"})
    assert dropped_from(tmp_path / "2") == [("train.jsonl:1", "'file': is missing")]


def test_a_bad_article_does_not_give_its_recordings_to_the_next(tmp_path):
    options = laid_out("spoken_squad", tmp_path)
    path = tmp_path / "archive" / "spoken_train-v1.1.json"
    data = json.loads(path.read_text())
    data["data"].insert(0, {"title": "no paragraphs"})
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="no row could be made"):  # its recordings would be 1_0_0.wav
        prepare("spoken_squad", tmp_path / "out", {**options, "split": "train"})


def test_what_read_stumbles_over_is_told_with_the_place_and_what_is_expected(tmp_path):
    options = laid_out("slurp", tmp_path)
    path = next(tmp_path.rglob("train.jsonl"))
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"recordings": 5}))
    with pytest.raises(ValueError, match=r"train\.jsonl:2: is not as slurp has it \(.*\); it takes train\.jsonl"):
        prepare("slurp", tmp_path / "out", {**options, "split": "train"})
