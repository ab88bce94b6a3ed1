"""The runner of converters: makes once, says so, and never writes over something else."""

import functools
import json
import os
from pathlib import Path
from types import ModuleType

import pytest

from audiollm.curation import prepare as runner
from audiollm.curation import running
from audiollm.curation.dataset import Converted
from audiollm.curation.prepare import parse_options, prepare, prepare_all


@pytest.fixture
def converter(tmp_path, monkeypatch) -> ModuleType:
    """A converter that writes as many lines as it is asked for, and counts its calls."""
    source = tmp_path / "bells.py"
    source.write_text("first version")
    module = ModuleType("data_prep.bells")
    module.__file__ = str(source)
    module.calls = 0

    def convert(out: Path, *, lines: int = 2, title: str = "x") -> Converted:
        module.calls += 1
        (out / "rows.jsonl").write_text(title * lines)
        return Converted({"rows.jsonl": lines}, {"broken": 1})

    module.prepare = convert
    monkeypatch.setattr(running, "import_converter", lambda name: module)
    return module


def test_what_is_complete_is_not_made_again(converter, tmp_path, capsys):
    seconds = prepare("bells", tmp_path / "out", {"lines": 3})
    assert prepare("bells", tmp_path / "out", {"lines": "3"}) == seconds
    assert converter.calls == 1
    made, skipped = capsys.readouterr().out.splitlines()
    assert "rows 3" in made and "1 left out: broken" in made
    assert "is there already" in skipped


def test_other_options_do_not_write_over_a_folder_unless_asked(converter, tmp_path):
    prepare("bells", tmp_path / "out", {})
    with pytest.raises(ValueError, match="lines=2 instead of 5; remove it"):
        prepare("bells", tmp_path / "out", {"lines": 5})
    prepare("bells", tmp_path / "out", {"lines": 5}, overwrite=True)
    assert (tmp_path / "out/rows.jsonl").read_text() == "xxxxx"


def test_a_folder_of_an_older_converter_is_not_taken_for_a_new_one(converter, tmp_path):
    prepare("bells", tmp_path / "out", {})
    Path(converter.__file__).write_text("second version")
    with pytest.raises(ValueError, match="by another version of the converter"):
        prepare("bells", tmp_path / "out", {})


def test_rows_from_a_table_that_was_changed_since_are_not_taken_for_new_ones(converter, tmp_path, capsys, monkeypatch):
    def convert(out: Path, *, source: str) -> Converted:
        converter.calls += 1
        return Converted({"rows.jsonl": 1}, {})

    converter.prepare = convert
    table = tmp_path / "set" / "labels.csv"
    table.parent.mkdir()
    table.write_text("audio,text")
    for source in (str(table), str(table.parent)):
        prepare("bells", tmp_path / table.name, {"source": source}, overwrite=True)
        converter.calls = 0
        os.utime(table, (1, 1))  # the same rows with another time
        prepare("bells", tmp_path / table.name, {"source": source})
        assert converter.calls == 0 and "is there already" in capsys.readouterr().out
        table.write_text(table.read_text() + ",label")
        with pytest.raises(
            ValueError, match=r"made from a source that is another now: labels\.csv was changed; remove"
        ):
            prepare("bells", tmp_path / table.name, {"source": source})
    monkeypatch.setattr(runner, "LONG_TABLE", 3)  # of a long one size and time are looked at
    prepare("bells", tmp_path / "long", {"source": str(table)})
    os.utime(table, (2, 2))
    with pytest.raises(ValueError, match=r"labels\.csv was changed"):
        prepare("bells", tmp_path / "long", {"source": str(table)})


def test_tables_that_came_and_went_are_named_and_a_manifest_without_them_is_read(converter, tmp_path):
    def convert(out: Path, *, source: str) -> Converted:
        return Converted({"rows.jsonl": 1}, {})

    converter.prepare = convert
    source, out = tmp_path / "set", tmp_path / "out"
    source.mkdir()
    (source / "old.csv").write_text("a")
    prepare("bells", out, {"source": str(source)})
    (source / "old.csv").unlink()
    for number in range(6):
        (source / f"{number}.csv").write_text("a")
    named = "".join(rf"{number}\.csv was added, " for number in range(5))[:-2]
    with pytest.raises(ValueError, match=rf"another now: {named} and 2 tables more; remove"):
        prepare("bells", out, {"source": str(source)})
    manifest = json.loads((out / runner.MANIFEST).read_text())
    del manifest["tables"]
    (out / runner.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="was made from other tables, or by another version of the converter; remove"):
        prepare("bells", out, {"source": str(source)})
    for number in range(6):
        (source / f"{number}.csv").unlink()
    (source / "old.csv").write_text("a")
    prepare("bells", out, {"source": str(source)})
    assert "tables" not in json.loads((out / runner.MANIFEST).read_text())  # complete, and left as it was


def test_a_preparation_that_made_nothing_leaves_no_folder_and_takes_none_that_was_there(converter, tmp_path):
    makes: list[str] = []

    def fails(out: Path) -> Converted:
        (out / "parts").mkdir()
        (out / "parts" / "train-00000.jsonl").write_text("half")
        for name in makes:
            (out / name).write_text("{}")
        raise ValueError("no row could be made")

    converter.prepare = fails
    (tmp_path / "there").mkdir()
    for out in ("new/deep", "there"):
        with pytest.raises(ValueError, match="no row could be made"):
            prepare("bells", tmp_path / out, {})
    assert not (tmp_path / "new").exists() and not any((tmp_path / "there").iterdir())
    for number, name in enumerate(("parts/00000.json", "clip.flac")):  # a chunk that is done, and something else
        makes[:] = [name]
        with pytest.raises(ValueError, match="no row could be made"):
            prepare("bells", tmp_path / str(number), {})
        assert (tmp_path / str(number) / name).exists() and (tmp_path / str(number) / runner.MANIFEST).exists()


def test_a_second_run_into_a_folder_is_refused_and_takes_nothing_from_the_first(converter, tmp_path):
    made = converter.prepare

    def beside(out: Path, **options) -> Converted:
        (out / "parts").mkdir()
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="out: another run writes there; wait for it, or name another --out"):
                prepare("bells", out, {}, overwrite=overwrite)
        (out / "parts").rmdir()
        return made(out, **options)

    converter.prepare = functools.wraps(made)(beside)
    prepare("bells", tmp_path / "out", {})
    assert converter.calls == 1
    named = json.loads((tmp_path / "out" / runner.MANIFEST).read_text())["made"]
    assert {*named, runner.MANIFEST} == {path.name for path in (tmp_path / "out").iterdir()}
    assert not [name for name in named if "lock" in name]


def test_what_a_killed_run_left_of_its_lock_is_in_nobodys_way(converter, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".prepared.lock").touch()
    prepare("bells", tmp_path / "out", {})
    assert converter.calls == 1 and not (tmp_path / "out" / ".prepared.lock").exists()


def test_what_was_begun_with_other_options_is_not_replaced_unasked(converter, tmp_path):
    def stopped(out: Path, *, lines: int = 2, title: str = "x") -> Converted:
        (out / "parts").mkdir()
        (out / "parts/00000.json").write_text("{}")
        raise KeyboardInterrupt

    made, converter.prepare = converter.prepare, stopped
    with pytest.raises(KeyboardInterrupt):
        prepare("bells", tmp_path / "out", {})
    converter.prepare = made
    with pytest.raises(ValueError, match=r"out was begun with lines=2 instead of 5; remove it, .*; --overwrite makes"):
        prepare("bells", tmp_path / "out", {"lines": 5})
    assert (tmp_path / "out/parts/00000.json").exists()
    prepare("bells", tmp_path / "out", {"lines": 5}, overwrite=True)
    assert not (tmp_path / "out/parts").exists()


def test_an_unfinished_folder_is_made_anew(converter, tmp_path):
    prepare("bells", tmp_path / "out", {})
    file = tmp_path / "out" / runner.MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["seconds"]
    file.write_text(json.dumps(manifest))
    prepare("bells", tmp_path / "out", {"lines": 4})
    assert converter.calls == 2


def test_a_folder_with_other_things_is_left_alone(converter, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty, and nothing says what made it"):
        prepare("bells", tmp_path / "thesis", {}, overwrite=True)
    assert converter.calls == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"line": 1}, "bells has no option 'line'; did you mean 'lines'?"),
        ({"lines": "many"}, "bells: lines='many' does not fit"),
        ({"out": "x"}, "bells has no option 'out'; known: lines, title"),
    ],
)
def test_a_wrong_option_is_told_with_the_way_out(converter, tmp_path, options, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        prepare("bells", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_the_block_of_a_recipe_names_folders_and_options(converter, tmp_path):
    steps = {"bells": (tmp_path / "out", {"lines": 3, "out": "anywhere"})}
    assert prepare_all(steps) >= 0
    assert (tmp_path / "out/rows.jsonl").exists()


def test_a_second_process_waits_for_the_first(converter, tmp_path, monkeypatch):
    steps = {"bells": (tmp_path / "out", {})}
    seconds = prepare_all(steps)
    monkeypatch.setenv("RANK", "1")
    assert prepare_all(steps) == seconds and converter.calls == 1


def test_options_are_read_as_yaml():
    assert parse_options(["clips=10", "name=x=y", "fast=true"]) == {"clips": 10, "name": "x=y", "fast": True}
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse_options(["clips"])
