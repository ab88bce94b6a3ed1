"""The runner of converters: the same rows however the work is shared, stopped or stored; what is wrong is counted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import psutil
import pyarrow
import pytest
from converters import RATE, tone, write_csv, write_sound
from pyarrow import parquet

from audiollm import audio as sound
from audiollm.curation import origins, processes, prompts, running, writing
from audiollm.curation import prepare as prepare_module
from audiollm.curation.mapped import read_map
from audiollm.curation.prepare import options_of, prepare
from audiollm.data.sources import load_rows

LABELS = ("dog", "rooster", "rain", "engine", "siren")


def esc(folder: Path, number: int = 25) -> Path:
    """An archive of ESC-50 with so many clips, five to a fold."""
    rows = [
        {"filename": f"{n}.wav", "fold": n % 5 + 1, "target": 0, "category": LABELS[n % 3], "esc10": False,
         "src_file": n, "take": "A"}
        for n in range(number)
    ]  # fmt: skip
    write_csv(folder / "meta" / "esc50.csv", rows)
    for n in range(number):
        write_sound(folder / "audio" / f"{n}.wav", n)
    return folder


def made(out: Path, *names: str) -> bytes:
    return b"".join((out / name).read_bytes() for name in names or ("test.jsonl", "train.jsonl"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(running, "ROWS_A_CHUNK", 4)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return esc(tmp_path_factory.mktemp("esc"))


@pytest.fixture
def whole(archive, tmp_path) -> bytes:
    prepare("esc50", tmp_path / "whole", {"source": str(archive)})
    return made(tmp_path / "whole")


def test_several_processes_write_what_one_writes(archive, tmp_path, whole):
    prepare("esc50", tmp_path / "out", {"source": str(archive), "num_proc": 2})
    assert made(tmp_path / "out") == whole


def test_machines_that_share_a_set_write_each_row_once(archive, tmp_path, whole):
    out = tmp_path / "out"
    for shard in ("1/3", "2/3", "3/3"):
        prepare("esc50", out, {"source": str(archive), "shard": shard})
    shared = load_rows([str(out / "test-*.jsonl"), str(out / "train-*.jsonl")], strict=True)
    alone = load_rows([str(tmp_path / "whole" / "test.jsonl"), str(tmp_path / "whole" / "train.jsonl")], strict=True)
    assert sorted(shared, key=lambda row: row.id) == sorted(alone, key=lambda row: row.id)
    with pytest.raises(ValueError, match=r"is shared by 3 shards \(prepared-\d-of-3\.json\), and not by 2"):
        prepare("esc50", out, {"source": str(archive), "shard": "1/2"})
    with pytest.raises(ValueError, match="shard=4/3 names no part; say I/N"):
        prepare("esc50", tmp_path / "other", {"source": str(archive), "shard": "4/3"})


@pytest.mark.parametrize("audio", ["embed", "flac"])
def test_a_shard_that_is_made_anew_takes_nothing_of_the_others_away(archive, tmp_path, audio):
    out, options = tmp_path / "out", {"source": str(archive), "audio": audio}
    for shard in ("1/3", "2/3", "3/3"):
        prepare("esc50", out, options | {"shard": shard})
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    made = [set(json.loads((out / f"prepared-{n}-of-3.json").read_text())["made"]) for n in (1, 2, 3)]
    top = {str(path) if path.parts[0] != "clips" else f"clips/{path.parts[1]}" for path in before}
    assert set.union(*made) == {name for name in top if not name.startswith("prepared")}
    assert not made[0] & made[1] and not made[1] & made[2] and not made[0] & made[2]
    prepare("esc50", out, options | {"shard": "2/3", "seed": 1}, overwrite=True)
    after = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    changed = {path for path in before if after.get(path) != before[path]}
    assert after.keys() == before.keys() and changed
    assert all(any(str(path).startswith(name) for name in {*made[1], "prepared-2-of-3"}) for path in changed)


def test_a_shard_for_which_no_row_is_left_is_no_error(archive, tmp_path, capsys):
    for shard in ("1/2", "2/2"):
        prepare("esc50", tmp_path / "out", {"source": str(archive), "shard": shard, "limit": 1})
    assert "nothing is left for the shard-00002-of-00002" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").glob("*.json*")} == {
        "train-00001-of-00002.jsonl", "prepared-1-of-2.json", "prepared-2-of-2.json"
    }  # fmt: skip


def test_a_process_that_is_started_while_interruption_is_held_back_is_not_interrupted():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('whole')"
    with processes.interruption_held_back():
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "whole\n" and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def wait_until(what: Callable[[], object]) -> None:
    """Until it is so; an error after half a minute, which is far more than it takes."""
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def lives_in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_ends_with_its_workers_and_goes_on_to_the_same_bytes(tmp_path, monkeypatch, number):
    monkeypatch.setattr(running, "ROWS_A_CHUNK", 400)
    archive = esc(tmp_path / "esc", 800)
    prepare("esc50", tmp_path / "whole", {"source": str(archive), "audio": "flac"})
    program = "from audiollm import cli\nfrom audiollm.curation import running\nrunning.ROWS_A_CHUNK = 400\ncli.main()"
    command = (
        sys.executable, "-c", program, "prepare", "esc50", "--source", str(archive), "--audio", "flac",
        "--num-proc", "2", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0)
    wait_until(lambda: any((tmp_path / "out").glob("clips/*/*.flac")))
    run.send_signal(number)
    if number == signal.SIGINT:
        assert "Stopped. Given again, the same command goes on" in run.communicate(timeout=30)[1]
    assert run.wait(30) == (130 if number == signal.SIGINT else -number)
    wait_until(lambda: not any(lives_in_group(one, run.pid) for one in psutil.process_iter()))
    assert len(list((tmp_path / "out" / "parts").glob("[0-9]*.json"))) < 2  # both were begun
    assert not list((tmp_path / "out").glob("*.jsonl"))
    prepare("esc50", tmp_path / "out", {"source": str(archive), "audio": "flac", "num_proc": 2})
    files = [
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.suffix in (".jsonl", ".flac")}
        for out in (tmp_path / "whole", tmp_path / "out")
    ]
    assert len(files[0]) == 802 and files[0] == files[1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "clips", "prepared.json", "test.jsonl", "train.jsonl"
    }  # fmt: skip


def test_shards_are_made_at_once_in_one_folder_and_each_once(archive, tmp_path, whole, monkeypatch):
    refused = []
    joined = running.joined

    def beside(*about):
        monkeypatch.setattr(running, "joined", joined)
        with pytest.raises(ValueError, match="another run writes there") as error:
            prepare("esc50", tmp_path / "out", {"source": str(archive), "shard": "1/2"})
        refused.append(error)
        prepare("esc50", tmp_path / "out", {"source": str(archive), "shard": "2/2"})
        return joined(*about)

    monkeypatch.setattr(running, "joined", beside)
    prepare("esc50", tmp_path / "out", {"source": str(archive), "shard": "1/2"})
    lines = [line for path in (tmp_path / "out").glob("t*.jsonl") for line in path.read_bytes().splitlines()]
    assert refused and sorted(lines) == sorted(whole.splitlines())
    assert not list((tmp_path / "out").glob("*lock"))


def test_what_was_converted_before_a_stop_is_not_converted_again(archive, tmp_path, whole, monkeypatch):
    converted = []
    convert = running.rows_about

    def stopped(job, number, *rest):
        converted.append(number)
        if len(converted) == 11:
            raise KeyboardInterrupt
        return convert(job, number, *rest)

    monkeypatch.setattr(running, "rows_about", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare("esc50", tmp_path / "out", {"source": str(archive)})
    assert not list((tmp_path / "out").glob("*.jsonl"))
    prepare("esc50", tmp_path / "out", {"source": str(archive)})
    assert made(tmp_path / "out") == whole
    assert converted[11] == 8 and len(converted) == 11 + 25 - 8


def test_a_folder_that_was_begun_with_other_options_is_begun_anew_where_that_is_said(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "joined", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare("esc50", tmp_path / "out", {"source": str(archive), "seed": 1})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="was begun with seed=1 instead of 0"):
        prepare("esc50", tmp_path / "out", {"source": str(archive)})
    prepare("esc50", tmp_path / "out", {"source": str(archive)}, overwrite=True)
    prepare("esc50", tmp_path / "fresh", {"source": str(archive)})
    assert made(tmp_path / "out") == made(tmp_path / "fresh")


@pytest.mark.parametrize("audio", ["paths", "flac", "embed"])
@pytest.mark.parametrize("why", ["split", "source", "option", "stopped"])
def test_what_was_made_stays_where_it_cannot_be_made_anew(archive, tmp_path, monkeypatch, audio, why):
    out, options = tmp_path / "out", {"source": str(archive), "audio": audio}
    prepare("esc50", out, options)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    changes = {"split": {"split": "test"}, "source": {"source": str(tmp_path / "none")}, "option": {"test_fold": 9}}
    if why == "stopped":
        monkeypatch.setattr(running, "convert_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises((ValueError, KeyboardInterrupt)):
        prepare("esc50", out, options | changes.get(why, {"seed": 1}), overwrite=True)
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    prepare("esc50", out, options | {"seed": 1}, overwrite=True)
    prepare("esc50", tmp_path / "fresh", options | {"seed": 1})
    after = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.[jpf]*") if path.is_file()}
    fresh = {path.relative_to(tmp_path / "fresh"): path for path in (tmp_path / "fresh").rglob("*.[jpf]*")}
    assert after.keys() == fresh.keys() and not list(out.glob(".*"))
    rows = [path for path in after if path.suffix in (".jsonl", ".parquet", ".flac")]
    assert rows and all(after[path] == fresh[path].read_bytes() for path in rows)


def test_what_is_broken_is_left_out_with_place_and_cause_and_counted(tmp_path, capsys):
    archive = esc(tmp_path / "esc", 10)
    (archive / "audio" / "3.wav").write_bytes(b"junk")
    (archive / "audio" / "4.wav").unlink()
    table = archive / "meta" / "esc50.csv"
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace("0.wav", "../../../etc/passwd")
    lines[2] = lines[2].replace(",2,", ",two,")
    table.write_text("\n".join([*lines, "too,few"]))
    prepare("esc50", tmp_path / "out", {"source": str(archive)})
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [(Path(one["origin"]).name, one["cause"]) for one in dropped] == [
        ("esc50.csv:12", "not as the set's rows are"), ("esc50.csv:2", "broken recording"),
        ("esc50.csv:3", "not as the set's rows are"), ("esc50.csv:5", "broken recording"),
        ("esc50.csv:6", "broken recording"),
    ]  # fmt: skip
    assert "leads out of its folder" in dropped[1]["detail"] and "4.wav: no such file" in dropped[4]["detail"]
    assert "3 left out: broken recording" in capsys.readouterr().out
    assert {row.source_id for row in load_rows([str(tmp_path / "out" / "t*.jsonl")])} == {
        f"{n}.wav" for n in (2, *range(5, 10))
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda folder: (folder / "meta" / "esc50.csv").unlink(),
            r"has no meta/esc50\.csv .* it takes the unpacked ESC",
        ),
        (lambda folder: (folder / "meta" / "esc50.csv").write_text("filename,fold\na,1\n"), "has no column 'category'"),
        (
            lambda folder: [path.write_bytes(b"x") for path in (folder / "audio").iterdir()],
            "no row could be made; the first",
        ),
    ],
)
def test_a_source_that_is_another_is_told_in_one_sentence(tmp_path, change, told):
    archive = esc(tmp_path / "esc", 5)
    change(archive)
    with pytest.raises(ValueError, match=told) as error:
        prepare("esc50", tmp_path / "out", {"source": str(archive)})
    assert "\n" not in str(error.value)


def dropped_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]


def test_a_quote_that_is_not_closed_is_told_where_it_stands_and_costs_no_row_silently(tmp_path, whole):
    archive = esc(tmp_path / "esc", 10)
    table = archive / "meta" / "esc50.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:4], lines[4].replace("3.wav", '"3.wav'), *lines[5:]]))
    with pytest.raises(ValueError, match=r"esc50\.csv:5: broken table from here on .*; check the quotes"):
        prepare("esc50", tmp_path / "out", {"source": str(archive)})
    table.write_text("\n".join([*lines[:4], '"3.wav"x,4,0,dog,False,3,A', *lines[5:]]))
    prepare("esc50", tmp_path / "out", {"source": str(archive)})
    [one] = dropped_of(tmp_path / "out")
    assert one["origin"].endswith("esc50.csv:5") and one["detail"].startswith("is broken (")
    rows = load_rows([str(tmp_path / "out" / "t*.jsonl")])
    assert {row.source_id for row in rows} == {f"{n}.wav" for n in range(10) if n != 3}


def test_an_empty_or_unknown_label_and_a_wrong_value_are_left_out_with_their_column(tmp_path):
    archive = esc(tmp_path / "esc", 10)
    table = archive / "meta" / "esc50.csv"
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace("dog", "")
    lines[2] = lines[2].replace("rooster", "unicorn")
    lines[3] = lines[3].replace(",3,", ",three,")
    table.write_text("\n".join(lines))
    prepare("esc50", tmp_path / "out", {"source": str(archive)})
    assert [
        (one["origin"].rpartition(":")[2], one["cause"], one["detail"]) for one in dropped_of(tmp_path / "out")
    ] == [
        ("2", "a label that the set does not have", ""),
        ("3", "a label that the set does not have", ""),
        ("4", "not as the set's rows are", "fold: ValueError: invalid literal for int() with base 10: 'three'"),
    ]
    assert all(row.target.strip() for row in load_rows([str(tmp_path / "out" / "t*.jsonl")]))


def test_a_pipe_in_the_place_of_a_table_is_refused_and_not_waited_for(tmp_path):
    archive = esc(tmp_path / "esc", 5)
    (archive / "meta" / "esc50.csv").unlink()
    os.mkfifo(archive / "meta" / "esc50.csv")
    with pytest.raises(ValueError, match=r"esc50\.csv is no file; it takes the unpacked ESC"):
        prepare("esc50", tmp_path / "out", {"source": str(archive)})


def test_a_recording_that_parquet_names_is_beside_it_or_left_out(tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    write_sound(tmp_path / "secret.wav", 7)
    write_sound(folder / "in" / "0.wav", 0)
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    names = ["in/0.wav", "../secret.wav", str(tmp_path / "secret.wav"), "link.wav", "secret.wav", "/etc/passwd"]
    rows = [
        {"filename": f"{n}.wav", "fold": 1, "category": "dog", "audio": {"bytes": None, "path": name}}
        for n, name in enumerate(names)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    monkeypatch.chdir(tmp_path)
    for audio in ("embed", "flac"):
        prepare("esc50", tmp_path / audio, {"source": str(folder), "audio": audio})
        dropped = dropped_of(tmp_path / audio)
        assert [one["cause"] for one in dropped] == ["broken recording"] * 5
        assert ["leads out of" in one["detail"] for one in dropped] == [True, True, True, False, True]
    assert {row.source_id for row in load_rows(str(tmp_path / "embed" / "*.parquet"))} == {"0.wav"}


def test_a_recording_that_parquet_elsewhere_names_is_none_of_this_machine(tmp_path):
    write_sound(tmp_path / "secret.wav", 7)
    row = {
        "filename": "0.wav",
        "fold": 1,
        "category": "dog",
        "audio": {"bytes": None, "path": str(tmp_path / "secret.wav")},
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "train.parquet")
    fsspec.filesystem("memory").put_file(str(tmp_path / "train.parquet"), "/bucket/named/train.parquet")
    with pytest.raises(ValueError, match=r"no row could be made; .*secret\.wav: leads out of the source"):
        prepare("esc50", tmp_path / "out", {"source": "memory://bucket/named"})


def test_a_source_that_is_not_there_and_a_split_that_is_none_are_told(archive, tmp_path):
    with pytest.raises(
        ValueError, match=r"there is no folder \./nowhere; it takes `ashraq/esc50` of the hub, or a folder"
    ):
        prepare("esc50", tmp_path / "out", {"source": "./nowhere"})
    with pytest.raises(ValueError, match="esc50 has no split 'tain'; did you mean 'train'"):
        prepare("esc50", tmp_path / "out", {"source": str(archive), "split": "tain"})


def parquet_of(folder: Path, number: int, row_groups: int = 4) -> Path:
    """ESC-50 as the hub has it."""
    rows = [
        {"filename": f"{n}.wav", "fold": n % 5 + 1, "category": LABELS[n % 3],
         "audio": {"bytes": sound.encode(tone(n), RATE), "path": None}}
        for n in range(number)
    ]  # fmt: skip
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet", row_group_size=row_groups)
    return folder


def test_rows_of_parquet_are_those_of_the_archive_and_places_are_rows_of_the_file(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(origins, "CHUNK_BYTES", 1)  # a chunk a row group
    folder = parquet_of(tmp_path / "hub", 25)
    prepare("esc50", tmp_path / "out", {"source": str(folder), "audio": "flac"})
    ours = load_rows([str(tmp_path / "out" / name) for name in ("test.jsonl", "train.jsonl")], strict=True)
    theirs = load_rows([str(tmp_path / "whole" / name) for name in ("test.jsonl", "train.jsonl")], strict=True)
    assert [(row.id, row.question, row.target) for row in ours] == [
        (row.id, row.question, row.target) for row in theirs
    ]
    assert all(
        (a.clips[0].load(RATE) == b.clips[0].load(RATE)).all() for a, b in zip(ours[::9], theirs[::9], strict=True)
    )


def test_parquet_in_an_object_store_is_read_where_it_lies(tmp_path, whole):
    files = fsspec.filesystem("memory")
    for name in ("train-00000.parquet", "other-00000.parquet"):
        files.pipe(f"/bucket/esc/data/{name}", (parquet_of(tmp_path / name, 25) / "train.parquet").read_bytes())
    prepare("esc50", tmp_path / "out", {"source": "memory://bucket/esc", "audio": "flac"})
    ours = load_rows([str(tmp_path / "out" / name) for name in ("test.jsonl", "train.jsonl")], strict=True)
    theirs = load_rows([str(tmp_path / "whole" / name) for name in ("test.jsonl", "train.jsonl")], strict=True)
    assert [(row.id, row.target) for row in ours] == [(row.id, row.target) for row in theirs]
    files.rm("/bucket/esc/data/train-00000.parquet")
    with pytest.raises(ValueError, match="has no split 'train' among its 1 Parquet files"):
        prepare("esc50", tmp_path / "none", {"source": "memory://bucket/esc"})
    with pytest.raises(ValueError, match="nothing://x: nothing:// is no kind of object store"):
        prepare("esc50", tmp_path / "none", {"source": "nothing://x"}, overwrite=True)


def test_embedded_sound_is_stored_once_a_recording(archive, tmp_path):
    prepare("esc50", tmp_path / "out", {"source": str(archive), "audio": "embed"})
    files = sorted((tmp_path / "out").glob("*.parquet"))
    size = sum(path.stat().st_size for path in files)
    recordings = sum(path.stat().st_size for path in (archive / "audio").iterdir())
    rows = load_rows([str(file) for file in files], strict=True)
    assert len(rows) == 100 and size < 1.3 * recordings + 20_000 * len(files)
    assert all(len(row.clips[0].load(RATE)) == RATE for row in rows)


def test_chunks_of_an_archive_are_cut_where_their_recordings_are_large(archive, tmp_path, whole, monkeypatch):
    size = (archive / "audio" / "0.wav").stat().st_size
    monkeypatch.setattr(origins, "CHUNK_BYTES", 2.5 * size)
    prepare("esc50", tmp_path / "out", {"source": str(archive), "audio": "embed"})
    shards = [[row.source_id for row in load_rows(str(path))] for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert max(len(set(names)) for names in shards) <= 3 and len(shards) >= 9
    prepare("esc50", tmp_path / "paths", {"source": str(archive)})
    assert made(tmp_path / "paths") == whole
    for shard in ("1/2", "2/2"):
        prepare("esc50", tmp_path / "shared", {"source": str(archive), "shard": shard})
    shared = load_rows([str(tmp_path / "shared" / f"{split}-*.jsonl") for split in ("test", "train")])
    alone = load_rows([str(tmp_path / "paths" / f"{split}.jsonl") for split in ("test", "train")])
    assert sorted(row.id for row in shared) == sorted(row.id for row in alone)


def test_a_shard_is_full_where_what_is_embedded_is_larger_than_the_rows_of_the_source_showed(
    archive, tmp_path, monkeypatch
):
    prepare("esc50", tmp_path / "whole", {"source": str(archive), "audio": "embed"})
    monkeypatch.setattr(writing, "CHUNK_BYTES", 1.5 * (archive / "audio" / "0.wav").stat().st_size)
    prepare("esc50", tmp_path / "out", {"source": str(archive), "audio": "embed"})
    shards = sorted((tmp_path / "out").glob("*.parquet"))
    assert max(len({row.source_id for row in load_rows(str(path))}) for path in shards) == 2
    for split in ("train", "test"):
        rows, whole = (load_rows(str(tmp_path / out / f"{split}-*.parquet")) for out in ("out", "whole"))
        assert [row.id for row in rows] == [row.id for row in whole]
        assert [row.clips[0].audio for row in rows] == [row.clips[0].audio for row in whole]


def test_what_was_begun_is_not_gone_on_with_where_other_recordings_cut_other_chunks(tmp_path, monkeypatch):
    archive = esc(tmp_path / "esc", 12)
    gone = [archive / "audio" / f"{n}.wav" for n in (0, 1)]
    size = gone[0].stat().st_size
    monkeypatch.setattr(origins, "CHUNK_BYTES", 2.5 * size)
    for path in gone:
        path.rename(path.with_suffix(".away"))
    convert = running.rows_about
    monkeypatch.setattr(running, "rows_about", lambda job, n, *rest: convert(job, n, *rest) if n < 9 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare("esc50", tmp_path / "out", {"source": str(archive)})
    monkeypatch.setattr(running, "rows_about", convert)
    for path in gone:
        path.with_suffix(".away").rename(path)
    with pytest.raises(
        ValueError, match=r"00000\.json was made of 4 rows from 0 on.*; remove .*parts, and give"
    ) as error:
        prepare("esc50", tmp_path / "out", {"source": str(archive)})
    assert "\n" not in str(error.value)


def test_a_limit_takes_the_first_rows_of_each_split_and_other_phrasings_ask_otherwise(archive, tmp_path):
    for name, options in (("few", {"limit": 7}), ("held_out", {"limit": 7, "phrasings": "held_out"})):
        prepare("esc50", tmp_path / name, {"source": str(archive), **options})
    few, other = (load_rows([str(tmp_path / name / "t*.jsonl")]) for name in ("few", "held_out"))
    assert {row.source_id for row in few} == {f"{n}.wav" for n in range(7)} == {row.source_id for row in other}
    assert not {row.question for row in few} & {row.question for row in other}
    assert [row.target for row in few] == [row.target for row in other]


def test_a_mapping_makes_rows_of_a_table_without_code(tmp_path):
    folder = tmp_path / "bells"
    write_csv(folder / "table.csv", [{"clip": f"{n}.wav", "label": LABELS[n % 3], "from": n / 10} for n in range(4)])
    for n in range(4):
        write_sound(folder / f"{n}.wav", n)
    prepare("audio=clip text=label task=sound start=from", tmp_path / "line", {"source": str(folder)})
    (tmp_path / "bells.yaml").write_text(
        f"name: bells\nsource: {folder}\naudio: clip\ntext: label\ntask: sound\nlabels: [dog, rooster, rain]\n"
    )
    prepare(str(tmp_path / "bells.yaml"), tmp_path / "yaml", {})
    line, classes = load_rows(tmp_path / "line" / "train.jsonl"), load_rows(tmp_path / "yaml" / "train.jsonl")
    assert [row.target for row in line] == ["dog", "rooster", "rain", "dog"]
    assert [row.clips[0].start for row in line] == [0.0, 0.1, 0.2, 0.3]
    assert {row.task for row in classes} == {"sound", "sound_mcq", "existence"} and {row.source for row in classes} == {
        "bells"
    }


BELLS = "audio: clip\ntext: label\ntask: sound\nlabels: [dog, wolf, fox, car, bus, bell, horn, rain, wind]\n"


def test_labels_of_a_mapping_that_are_alike_stand_beside_each_other(tmp_path):
    source = tmp_path / "in"
    write_sound(source / "a.wav", 0)
    write_csv(source / "train.csv", [{"clip": "a.wav", "label": "dog"}] * 40)
    (tmp_path / "map.yaml").write_text(f"{BELLS}similar: [[dog, wolf], [dog, fox]]\n")
    prepare(str(tmp_path / "map.yaml"), tmp_path / "out", {"source": str(source)})
    rows = load_rows(tmp_path / "out" / "train.jsonl", strict=True)
    choices = [set(row.choices) for row in rows if row.choices]
    assert len(choices) == 40 and all({"dog", "wolf", "fox"} <= some for some in choices)
    denied = [row.question for row in rows if row.target == "no"]
    assert sum("wolf" in question or "fox" in question for question in denied) > 15  # 10 if any label were drawn


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{BELLS}similar: [[dog, wlf]]\n", "similar names 'wlf', which is none of the labels; did you mean 'wolf'"),
        ("audio: a\ntext: b\ntask: sound\nsimilar: [[dog]]\n", r"similar names 'dog', .*; write `labels: \[\.\.\.\]`"),
    ],
)
def test_labels_that_are_alike_are_labels(tmp_path, text, told):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_map(str(tmp_path / "map.yaml"))


def test_a_mapping_without_labels_that_are_alike_is_what_it_was_before_there_could_be_some(tmp_path):
    (tmp_path / "map.yaml").write_text(BELLS)
    assert "similar" not in read_map(str(tmp_path / "map.yaml")).model_dump_json()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("audio=clip text=label", "--map: task is missing"),
        ("audio=clip text=label task=sounds", "--map: no phrasings for the task 'sounds'; did you mean 'sound'"),
        ("audio=clip txt=label task=sound", "--map: txt is not a setting; did you mean 'text'"),
        ("audio=klip text=label task=sound", "has no column 'klip' .it has clip, label"),
    ],
)
def test_a_wrong_mapping_is_told_in_one_sentence(tmp_path, words, told):
    write_csv(tmp_path / "table.csv", [{"clip": "0.wav", "label": "dog"}])
    with pytest.raises(ValueError, match=told) as error:
        prepare(words, tmp_path / "out", {"source": str(tmp_path)})
    assert "\n" not in str(error.value)


MAPPED = "audio=clip text=label task=sound"


def bells(folder: Path, **tables: list[str]) -> Path:
    """A folder with recordings and a table of these answers for each name."""
    for name, labels in tables.items():
        write_csv(folder / f"{name}.csv", [{"clip": f"{n}.wav", "label": label} for n, label in enumerate(labels)])
    for n in range(3):
        write_sound(folder / f"{n}.wav", n)
    return folder


def test_a_mapping_makes_all_splits_that_the_names_of_tables_tell(tmp_path, capsys):
    source = bells(tmp_path / "in", train=["dog"], bells_dev=["rain"], test=["siren", "dog"], notes=["dog"])
    prepare(MAPPED, tmp_path / "all", {"source": str(source)})
    assert "not read: notes.csv" in capsys.readouterr().out
    found = {name: load_rows(tmp_path / "all" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    answers = {name: [row.target for row in rows] for name, rows in found.items()}
    assert answers == {"train": ["dog"], "validation": ["rain"], "test": ["siren", "dog"]}
    prepare(MAPPED, tmp_path / "one", {"source": str(source), "split": "test"})
    assert [path.name for path in (tmp_path / "one").glob("*.jsonl")] == ["test.jsonl"]


def test_a_mapping_makes_all_splits_that_the_names_of_parquet_files_tell(tmp_path):
    for split, label in (("train", "dog"), ("test", "rain")):
        table = pyarrow.table({"clip": [{"bytes": sound.encode(tone(0), RATE), "path": "0.wav"}], "label": [label]})
        (tmp_path / "in").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "in" / f"{split}-00000-of-00001.parquet")
    for number, source in enumerate((tmp_path / "in", f"file://{tmp_path}/in")):
        prepare(MAPPED, tmp_path / str(number), {"source": str(source)})
        rows = load_rows(str(tmp_path / str(number) / "*.parquet"))
        assert {(row.split, row.target) for row in rows} == {("train", "dog"), ("test", "rain")}


def test_several_tables_of_which_no_name_tells_a_split_are_refused(tmp_path):
    source = bells(tmp_path / "in", one=["dog"], two=["rain"])
    with pytest.raises(ValueError, match=r"holds one\.csv, two\.csv, and no name tells a split"):
        prepare(MAPPED, tmp_path / "out", {"source": str(source)})
    with pytest.raises(
        ValueError, match=rf"one\.csv is a file; give the set's own folder, .*{source}; it takes a folder"
    ):
        prepare(MAPPED, tmp_path / "out", {"source": str(source / "one.csv")})
    (tmp_path / "map.yaml").write_text(
        "audio: clip\ntext: label\ntask: sound\nsplits: {train: [one, two]}\nlabels: [dog]\n"
    )
    prepare(str(tmp_path / "map.yaml"), tmp_path / "out", {"source": str(source)})
    assert {row.target for row in load_rows(tmp_path / "out" / "train.jsonl") if row.task == "sound"} == {"dog"}
    assert "the answer is not among the labels" in (tmp_path / "out" / "dropped.jsonl").read_text()


def test_a_split_that_a_mapping_says_and_its_source_has_not_is_no_success(tmp_path):
    source = bells(tmp_path / "in", train=["dog"], bells_dev=["rain"])
    mapping = tmp_path / "map.yaml"
    mapping.write_text("audio: clip\ntext: label\ntask: sound\nsplits: {train: [trainn], test: [bells_dev]}\n")
    with pytest.raises(ValueError, match=r"trainn"):
        prepare(str(mapping), tmp_path / "out", {"source": str(source)})
    assert not (tmp_path / "out").exists()


def test_a_recording_that_leads_out_of_the_folder_is_named_as_written(tmp_path):
    source = bells(tmp_path / "in")
    outside = tmp_path / "far.wav"
    write_sound(outside, 1)
    (source / "link.wav").symlink_to(outside)
    names = ["0.wav", str(outside), "link.wav", ""]
    write_csv(source / "train.csv", [{"clip": name, "label": "dog"} for name in names])
    prepare(MAPPED, tmp_path / "out", {"source": str(source)})
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [line["detail"].split(" ")[:2] for line in dropped] == [
        ["clip:", str(outside)], ["clip:", "link.wav"], ["clip:", "is"]
    ]  # fmt: skip
    assert "leads out of" in dropped[0]["detail"] and dropped[2]["detail"].startswith("clip: is empty")


def test_lines_that_are_no_utf_8_are_left_out_with_their_place(tmp_path):
    source = bells(tmp_path / "in")
    (source / "train.csv").write_bytes("clip,label\n0.wav,dog\n1.wav,grün\n".encode("latin-1"))
    prepare(MAPPED, tmp_path / "out", {"source": str(source)})
    [dropped] = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert dropped["origin"].endswith("train.csv:3") and dropped["detail"] == "is no text in UTF-8; save the file in it"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"clip,label\n", "out: no row could be made: the source holds no row"),
        (b"cl\x1bip,la\x07bel\n0.wav,dog\n", r"it has cl\?ip, la\?bel"),
        (b'clip,label\n0.wav,"' + b"x" * 200_000, r"train\.csv:2: broken table from here on"),
        ("clip,label\n0.wav,dog\n".encode("utf-16-le"), r"train\.csv: is no text file: it is not UTF-8"),
    ],
)
def test_a_table_of_which_nothing_can_be_made_is_told_in_one_sentence(tmp_path, content, told):
    source = bells(tmp_path / "in")
    (source / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=told) as error:
        prepare(MAPPED, tmp_path / "out", {"source": str(source)})
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_table_of_semicolons_long_cells_and_quotes_in_tsv_loses_no_row(tmp_path):
    long = "dog " * 50_000 + "end"
    tables = {
        "semicolons.csv": f'clip;label\n0.wav;dog, cat\n1.wav;"{long}"\n0.wav;"two\nlines"\n',
        "tabs.tsv": f'clip\tlabel\n0.wav\tdog, cat\n1.wav\t{long}\n0.wav\t"a lone quote\n',
    }
    for name, text in tables.items():
        source = bells(tmp_path / name.partition(".")[0])
        for table in source.glob("*.csv"):
            table.unlink()
        (source / f"train{Path(name).suffix}").write_text(text)
        prepare(MAPPED, tmp_path / "out" / name, {"source": str(source)})
        targets = [row.target for row in load_rows(str(tmp_path / "out" / name / "train.jsonl"))]
        assert targets == ["dog, cat", long, "two\nlines" if name.endswith("csv") else '"a lone quote']


def test_a_column_that_is_null_is_called_empty(tmp_path):
    folder = parquet_of(tmp_path / "hub", 4)
    rows = parquet.read_table(folder / "train.parquet").to_pylist()
    rows[2]["category"] = None
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    prepare("esc50", tmp_path / "out", {"source": str(folder)})
    assert [one["detail"] for one in dropped_of(tmp_path / "out")] == ["category: is empty"]


def test_rows_of_a_mapping_are_called_after_its_file_or_its_source(tmp_path):
    source = bells(tmp_path / "my-bells", train=["dog"])
    (tmp_path / "loud.yaml").write_text(f"audio: clip\ntext: label\ntask: sound\nsource: {source}\n")
    for spec, options, name in (
        (MAPPED, {"source": str(source)}, "my_bells"),
        (str(tmp_path / "loud.yaml"), {}, "loud"),
    ):
        prepare(spec, tmp_path / name, options)
        [row] = load_rows(str(tmp_path / name / "train.jsonl"))
        assert (row.source, row.id) == (name, f"{name}-train-0")


def test_a_mapping_that_is_no_yaml_is_told_with_its_line(tmp_path):
    (tmp_path / "map.yaml").write_text("audio: clip\ntext: [label\ntask: sound\n")
    with pytest.raises(ValueError, match=r"map\.yaml:3: is no YAML") as error:
        prepare(str(tmp_path / "map.yaml"), tmp_path / "out", {})
    assert "\n" not in str(error.value)


# ---- questions that no recording answers


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Many rows of a table, each about the same recording: a function from options to what is made of them."""
    source = tmp_path_factory.mktemp("many")
    write_sound(source / "a.wav", 0)
    write_csv(source / "train.csv", [{"clip": "a.wav", "label": LABELS[n % 5]} for n in range(600)])
    (source / "many.yaml").write_text("{name: many, audio: clip, text: label, task: sound}")

    def rows(out: Path, **options) -> list:
        prepare(str(source / "many.yaml"), out, {"source": str(source), **options})
        return load_rows([str(out / "train*.jsonl")], strict=True)

    return rows


def test_a_share_of_the_recordings_is_asked_what_no_recording_answers(asked, tmp_path):
    rows = asked(tmp_path / "out", unheard=0.2)
    refused = [row for row in rows if row.task == "unheard"]
    assert 80 <= len(refused) <= 160  # 120 expected; 40 are four standard deviations
    assert len({row.id for row in rows}) == len(rows) == 600 + len(refused)
    asks, answers = prompts.pool("unheard").training, prompts.pool("unheard_answer").training
    assert {row.question for row in refused} <= set(asks) and len({row.question for row in refused}) > len(asks) / 2
    assert {row.target for row in refused} <= set(answers)
    assert not any(label in row.question for row in refused for label in LABELS)


def test_what_is_asked_besides_is_what_is_asked_without(asked, tmp_path):
    without, with_some = asked(tmp_path / "without"), asked(tmp_path / "some", unheard=0.5)
    assert [row for row in with_some if row.task != "unheard"] == without
    assert not any(row.task == "unheard" for row in without)


def test_which_recordings_are_asked_follows_from_the_seed_alone(asked, tmp_path):
    whole = asked(tmp_path / "whole", unheard=0.1)
    for shard in ("1/2", "2/2"):
        shared = asked(tmp_path / "shared", unheard=0.1, shard=shard)
    assert sorted(shared, key=lambda row: row.id) == sorted(whole, key=lambda row: row.id)
    assert asked(tmp_path / "several", unheard=0.1, num_proc=2) == whole
    other = asked(tmp_path / "other", unheard=0.1, seed=1)
    assert {row.id for row in other if row.task == "unheard"} != {row.id for row in whole if row.task == "unheard"}


def test_phrasings_that_are_held_out_are_kept_from_refusals_of_training(asked, tmp_path):
    held_out = asked(tmp_path / "out", unheard=1, phrasings="held_out")
    refused = [row for row in held_out if row.task == "unheard"]
    assert len(refused) == 600
    assert {row.question for row in refused} == set(prompts.pool("unheard").held_out)
    assert {row.target for row in refused} == set(prompts.pool("unheard_answer").held_out)


@pytest.mark.parametrize("pool", ["unheard", "unheard_answer"])
def test_what_no_recording_answers_is_asked_by_no_other_task(pool):
    own = {line for half in prompts.pool(pool) for line in half}
    assert not any(
        own & {line for half in prompts.pool(task) for line in half} for task in prompts.tasks() if task != pool
    )


def test_a_share_that_is_none_is_refused(asked, tmp_path):
    with pytest.raises(ValueError, match="many: unheard=2 does not fit: Input should be less than or equal to 1"):
        asked(tmp_path / "out", unheard=2)


def test_a_folder_from_before_an_option_is_as_it_is_wanted_while_that_is_off(asked, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as before:
        before.setattr(prepare_module, "options_of", lambda converter: {
            key: value for key, value in options_of(converter).items() if key != "unheard"
        })  # fmt: skip
        asked(tmp_path / "out")
    assert "unheard" not in json.loads((tmp_path / "out" / "prepared.json").read_text())["options"]
    asked(tmp_path / "out")
    assert "is there already" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"was made with unheard=0\.0 instead of 0\.3;"):
        asked(tmp_path / "out", unheard=0.3)
