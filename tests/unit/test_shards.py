"""WebDataset shards: the same rows as files beside JSONL, whatever else is in the tar."""

import io
import json
import random
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile

from audiollm.conversation import RowError
from audiollm.data import shards
from audiollm.data.sources import Problems, fingerprint, load_rows
from audiollm.data.streams import open_stream

CLIPS = {number: bytes(random.Random(number).randbytes(100 + 700 * number)) for number in range(7)}
"""What stands for sound here; some are longer than a block of a tar."""


def clip(number):
    return {"type": "audio", "audio": f"{number}.wav", "duration": 1.0 + number}


def turns(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


SHAPES = {
    "rows": lambda n: {"messages": turns([clip(n), {"type": "text", "text": "what?"}], f"größer {n}")},
    "cuts": lambda n: {"messages": turns([clip(n) | {"end": 0.5}, clip(n) | {"start": 0.5}], "the same")},
    "audios": lambda n: {"messages": turns([{"type": "audio"}, {"type": "audio"}], "two"), "audios": [f"{n}.wav"] * 2},
    "swift": lambda n: {"messages": turns("<audio><audio> alike?", "yes"), "audios": [f"{n}.wav"] * 2},
    "query": lambda n: {"query": "what?", "response": "a dog", "audios": [f"{n}.wav"], "system": "short"},
    "factory": lambda n: {"conversations": [{"from": "human", "value": "<audio>what?"}, {"from": "gpt", "value": "x"}],
                          "audios": [f"{n}.wav"]},
    "nvidia": lambda n: {"conversations": [{"from": "human", "value": "a <sound> b"}, {"from": "gpt", "value": "x"}],
                         "sound": f"{n}.wav"},
    "table": lambda n: {"path": f"{n}.wav", "question": "what?", "answer": "a dog", "duration": 2.0},
    "transcript": lambda n: {"audio": f"{n}.wav", "text": "some words", "speaker": n},
}  # fmt: skip


def as_json(shape, number):
    return json.dumps({"id": f"{shape}-{number}"} | SHAPES[shape](number)).encode()


def write_tar(path: Path, members, format=tarfile.PAX_FORMAT):
    """A tar of (name, bytes)."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def members(shape="rows", numbers=CLIPS):
    return [m for n in numbers for m in ((f"in/{n}.wav", CLIPS[n]), (f"in/{n}.json", as_json(shape, n)))]


def heard(rows):
    """Rows whose clips are bytes in the place of paths; bytes stay."""
    return [
        (row.id, row.task, row.extra, [(m.role, m.text) for m in row.messages],
         [(c.audio if isinstance(c.audio, bytes) else Path(c.audio).read_bytes(), c.start, c.end, c.duration)
          for c in row.clips])
        for row in rows
    ]  # fmt: skip


def streamed(path, folder, **options):
    stream, problems = open_stream(str(path), folder, **options)
    return [row for number in range(len(stream)) for row in stream[number]], problems


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shard_holds_the_rows_of_jsonl_beside_files(tmp_path, shape):
    for number, content in CLIPS.items():
        (tmp_path / f"{number}.wav").write_bytes(content)
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(as_json(shape, number) for number in CLIPS))
    expected = load_rows(tmp_path / "rows.jsonl", strict=True)
    path = write_tar(tmp_path / "rows.tar", members(shape))
    rows = load_rows(path, strict=True)
    assert heard(rows) == heard(expected) and {type(clip.audio) for row in rows for clip in row.clips} == {bytes}
    assert [row.origin for row in rows] == [f"{path}:in/{number}" for number in CLIPS]
    read, problems = streamed(path, tmp_path)
    assert read == rows and [row.origin for row in read] == [row.origin for row in rows] and not problems.count


def test_a_json_member_need_not_name_its_recording(tmp_path):
    for number, shape in enumerate(("rows", "swift", "query", "factory", "table")):
        row = SHAPES[shape](0)
        for name in ("audios", "path"):
            row.pop(name, None)
        if shape == "rows":
            row["messages"][0]["content"][0].pop("audio")
        if shape == "swift":
            row["messages"] = turns("what?", "a dog")
        path = write_tar(tmp_path / f"{number}.tar", [("a.wav", CLIPS[0]), ("a.json", json.dumps(row).encode())])
        assert [clip.audio for clip in load_rows(path, strict=True)[0].clips] == [CLIPS[0]]


def test_a_text_is_the_answer_as_in_a_folder_of_recordings(tmp_path):
    folder = tmp_path / "birds"
    found = []
    for number, content in CLIPS.items():
        (folder / "in").mkdir(parents=True, exist_ok=True)
        for name, data in ((f"in/{number}.FLAC", content), (f"in/{number}.txt", f"\ufeffgröße {number}\n".encode())):
            (folder / name).write_bytes(data)
            found.append((name, data))
    path = write_tar(tmp_path / "birds.tar", found)
    rows = load_rows(path, strict=True)
    assert heard(rows) == heard(load_rows(folder, strict=True)) and streamed(path, tmp_path)[0] == rows
    assert [row.source for row in rows] == [row.source for row in load_rows(folder)]


STORE = "memory://bucket/birds"


@pytest.fixture
def store(tmp_path):
    """Two shards here, and the same in an object store."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    for name, numbers in (("a", range(4)), ("b", range(4, 7))):
        write_tar(tmp_path / f"{name}.tar", members(numbers=numbers))
        files.put_file(str(tmp_path / f"{name}.tar"), f"/bucket/birds/{name}.tar")
    return files


def test_shards_in_an_object_store_are_those_of_this_machine(store, tmp_path):
    here = load_rows(str(tmp_path / "*.tar"), strict=True)
    for address in (STORE, f"{STORE}/*.tar", f"{STORE}/"):
        there = load_rows(address, strict=True)
        assert there == here and there[0].origin == "memory:///bucket/birds/a.tar:in/0"
        assert streamed(address, tmp_path)[0] == here
    assert load_rows(f"{STORE}/b.tar") == here[4:]
    before = fingerprint(STORE)
    store.put_file(str(tmp_path / "a.tar"), "/bucket/birds/b.tar")
    assert fingerprint(STORE) != before and len(streamed(STORE, tmp_path)[0]) == 8


def test_a_key_in_an_object_store_is_read_without_what_is_before_it(store, tmp_path, monkeypatch):
    stream, _ = open_stream(STORE, tmp_path)
    asked = []
    fetch = MemoryFile.read
    monkeypatch.setattr(
        MemoryFile, "read", lambda self, size=-1: asked.append((self.tell(), size)) or fetch(self, size)
    )
    (row,) = stream[3]
    size = store.size("/bucket/birds/a.tar")
    assert row.clips[0].audio == CLIPS[3] and asked
    assert min(place for place, _ in asked) > size / 3 and sum(count for _, count in asked) < size / 2


def test_what_is_damaged_mixed_or_compressed_in_an_object_store_is_one_sentence(store, tmp_path):
    whole = store.cat("/bucket/birds/a.tar")
    store.pipe("/bucket/birds/a.tar", whole[:3000])
    problems = Problems()
    rows = load_rows(STORE, problems=problems)
    assert [error.origin for error in problems.errors] == ["memory:///bucket/birds/a.tar"]
    assert len(rows) == 3 + 1 and "is damaged after" in problems.examples[0]
    store.pipe("/bucket/birds/a.parquet", b"x")
    with pytest.raises(RowError, match=r"holds both Parquet files and tar shards; say which"):
        load_rows(STORE)
    store.rm("/bucket/birds", recursive=True)
    store.pipe("/bucket/birds/a.tar.gz", b"x")
    with pytest.raises(RowError, match=r"no Parquet file and no tar shard, .*; copy it to this machine"):
        load_rows(STORE)


def test_a_store_that_fails_while_a_shard_is_read_is_told_with_its_address(store, monkeypatch):
    def fail(self, size=-1):
        raise KeyError("socket")

    monkeypatch.setattr(MemoryFile, "read", fail)
    with pytest.raises(RowError, match=r"memory:///bucket/birds/a\.tar: cannot be reached \('socket'\)"):
        load_rows(STORE)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_every_kind_of_tar_are_found_again(tmp_path, format):
    folder = "/".join(["deep" * 10] * 3)  # 122 characters, of which a plain header holds 100
    path = write_tar(tmp_path / "a.tar", [(f"{folder}/{name}", data) for name, data in members()], format)
    rows = load_rows(path, strict=True)
    assert len(rows) == len(CLIPS) and streamed(path, tmp_path)[0] == rows


def test_links_hidden_and_other_members_are_passed_over(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in members():
            for other in (name, name.replace("in/", "in/._"), name.rpartition(".")[0] + ".npy"):
                info = tarfile.TarInfo(other)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
                link = tarfile.TarInfo(name.rpartition(".")[0] + ".flac")
                link.type, link.linkname = kind, "/etc/passwd"
                archive.addfile(link)
    problems = Problems()
    rows = load_rows(path, problems=problems)
    plain = load_rows(write_tar(tmp_path / "plain.tar", members()))
    assert rows == plain and not problems.count and streamed(path, tmp_path)[0] == rows


BAD = {
    "no-text": ([("no-text.wav", b"x")], r"has no text next to no-text\.wav; write its row to no-text\.json"),
    "no-sound": ([("no-sound.json", b"{}")], r"has no recordings \(no-sound\.json\)"),
    "two": ([("two.left.wav", b"x"), ("two.right.wav", b"y")], r"has 2 recordings"),
    "broken": ([("broken.wav", b"x"), ("broken.json", b"{broken")], r"broken JSON"),
    "list": ([("list.wav", b"x"), ("list.json", b"[1]")], r"a row is an object, not list"),
    "bytes": ([("bytes.wav", b"x"), ("bytes.txt", b"\xff\xfe\xfa")], r"its text is not UTF-8"),
    "fields": ([("fields.wav", b"x"), ("fields.json", b'{"messages": 3}')], r"messages: must be a list"),
}


def test_bad_keys_are_named_and_the_others_are_read(tmp_path):
    found = [*members(numbers=[0, 1]), *(member for bad, _ in BAD.values() for member in bad), *members(numbers=[2])]
    path = write_tar(tmp_path / "a.tar", found)
    problems = Problems()
    rows = load_rows(path, problems=problems)
    assert [row.id for row in rows] == ["rows-0", "rows-1", "rows-2"]
    assert [error.origin for error in problems.errors] == [f"{path}:{key}" for key in BAD]
    for error, (_, cause) in zip(problems.errors, BAD.values(), strict=True):
        with pytest.raises(RowError, match=cause):
            raise error
    read, refused = streamed(path, tmp_path)
    assert read == rows and refused.examples == problems.examples


@pytest.mark.parametrize("left", [0, 100, 512, 700, 1300, 3072, 9000, 9728, -10240, -1024])
def test_what_precedes_a_cut_is_read_and_the_cut_is_named(tmp_path, left):
    path = Path(write_tar(tmp_path / "a.tar", members()))
    whole = load_rows(path)
    path.write_bytes(path.read_bytes()[: left or None] if left else b"")
    problems = Problems()
    rows = load_rows([str(path), write_tar(tmp_path / "b.tar", members("table", [3]))], problems=problems)
    assert rows[:-1] == whole[: len(rows) - 1] and rows[-1].id == "table-3"
    if left == -1024:  # one block of the end is still there
        assert len(rows) == len(whole) + 1 and not problems.count
    else:
        assert len(rows) <= len(whole) + (left == -10240)
        assert str(path) in str(problems.errors[-1]) and "is damaged after" in str(problems.errors[-1])
    read, refused = streamed(tmp_path / "*.tar", tmp_path)
    assert read == rows and refused.examples == problems.examples


def test_a_sound_that_is_cut_off_is_no_row(tmp_path):
    path = Path(write_tar(tmp_path / "a.tar", [(name, data) for name, data in reversed(members())]))
    whole = load_rows(path)
    path.write_bytes(path.read_bytes()[:2000])  # within the longest clip, behind its text
    problems = Problems()
    assert len(whole) == len(CLIPS) and load_rows(path, problems=problems) == []
    assert [error.origin for error in problems.errors] == [f"{path}:in/6", str(path)]
    assert "in/6.wav is cut off" in problems.examples[1]


def test_damage_anywhere_never_ends_the_reading(tmp_path):
    found = [("größer/" + name, data) for name, data in members(numbers=[0, 1])]  # which has a header of its own
    path = Path(write_tar(tmp_path / "a.tar", found))
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 5))):
            damaged[draw.choice((draw.randrange(100, 160), draw.randrange(512, 560), draw.randrange(len(whole))))] = (
                draw.choice((draw.randrange(256), 0x80, 0xFF, ord("9"), ord("-"), ord("=")))
            )
        header = bytearray(damaged[:512])  # a first header whose sum is right again, whatever its size and type say
        header[148:156] = b" " * 8
        damaged[148:156] = b"%06o\0 " % sum(header)
        path.write_bytes(damaged)
        for keyed in shards.read_keys(path):
            assert keyed.raw or isinstance(keyed.raw, RowError)


def test_an_index_does_not_read_the_sound_and_a_key_reads_its_own_alone(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", members())
    read = []
    content_of = shards.content_of
    monkeypatch.setattr(shards, "content_of", lambda file, m: read.append(m.name) or content_of(file, m))
    stream, _ = open_stream(path, tmp_path)
    assert read == [f"in/{number}.json" for number in CLIPS]
    assert stream.seconds(np.arange(len(stream))).tolist() == [1.0 + number for number in CLIPS]
    read.clear()
    assert stream[4][0].clips[0].audio == CLIPS[4] and read == ["in/4.wav", "in/4.json"]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst"])
def test_a_compressed_shard_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    for read in (load_rows, lambda path: open_stream(path, tmp_path)):
        with pytest.raises(RowError, match=rf"{name}: is compressed, .*; unpack it to a plain \.tar"):
            read(str(tmp_path / name))
