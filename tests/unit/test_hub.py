"""Data sets of the hub, which here are folders of this machine: read by `datasets.load_dataset` itself."""

import io
import json
from types import SimpleNamespace

import datasets
import fsspec
import numpy as np
import pyarrow
import pytest
from datasets import Audio, ClassLabel, Features, Value
from pyarrow import parquet

from audiollm.conversation import RowError
from audiollm.data import streams
from audiollm.data.hub import HubDataset, RemoteFile
from audiollm.data.mixture import Mixture
from audiollm.data.sampling import StreamSampler
from audiollm.data.sources import Problems, fingerprint, load_rows
from audiollm.data.streams import open_stream
from audiollm.recipe import DataSettings, load_recipe, missing_files
from audiollm.training.stage_data import StageData

FEATURES = Features(
    {"audio": Audio(), "question": Value("string"), "answer": ClassLabel(names=["dog", "größer"]), "id": Value("int64")}
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def write_parquet(path, first, count):
    """Rows as `push_to_hub` writes them: sound as bytes, and what the columns are in the metadata."""
    found = [
        {"audio": {"bytes": bytes([n]) * 50, "path": f"{n}.wav"}, "question": "what?", "answer": n % 2, "id": n}
        for n in range(first, first + count)
    ]
    write_table(path, found)


def write_table(path, found, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(found, FEATURES.arrow_schema), path, **options)


@pytest.fixture
def folder(tmp_path):
    """A data set of two splits, the first in two files."""
    for name, first, count in (("train-0", 0, 5), ("train-1", 5, 3), ("test-0", 8, 2)):
        write_parquet(tmp_path / "set" / "data" / f"{name}.parquet", first, count)
    return tmp_path / "set"


def test_a_split_gives_the_rows_of_its_parquet_files_and_decodes_no_sound(folder):
    for split in ("train", "test"):
        expected = load_rows(str(folder / "data" / f"{split}-*.parquet"), strict=True)
        rows = load_rows(HubDataset(f"hf://datasets/{folder}", split=split), strict=True)
        assert rows == expected and {type(row.clips[0].audio) for row in rows} == {bytes}
        assert [row.origin for row in rows] == [f"hf://datasets/{folder}:{n}" for n in range(1, len(rows) + 1)]
    assert load_rows(f"hf://datasets/{folder}") == load_rows(HubDataset(f"hf://datasets/{folder}", split="train"))


def test_what_is_asked_for_is_what_is_loaded(folder, monkeypatch):
    asked = []
    load = datasets.load_dataset

    def record(path, *args, **options):
        asked.append((path, args, options))
        return load(str(folder))["train"]

    monkeypatch.setattr(datasets, "load_dataset", record)
    source = {"path": "hf://datasets/birds/songs", "config": "north", "split": "dawn", "revision": "v2", "limit": 2}
    stage = SimpleNamespace(data=DataSettings(train=[source]))
    data = StageData.load(SimpleNamespace(), stage)
    assert asked == [("birds/songs", ("north",), {"split": "dawn", "revision": "v2"})]  # and no remote code
    assert [row.id for row in data.train] == ["0", "1"] and data.num_read == 8


def test_bad_rows_are_named(tmp_path):
    lines = [{"audio": "x.wav", "question": "what?", "answer": answer} for answer in ("a dog", "", "a cat")]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    problems = Problems()
    rows = load_rows(f"hf://datasets/{tmp_path / 'set'}", problems=problems)
    assert [row.target for row in rows] == ["a dog", "a cat"]
    assert [error.origin for error in problems.errors] == [f"hf://datasets/{tmp_path / 'set'}:2"]


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"split": "night"}, r"split night: cannot be loaded \(Unknown split \"night\""),
        ({"config": "south"}, r"config south: cannot be loaded \(BuilderConfig 'south' not found"),
        ({"path": "/nowhere"}, r"cannot be loaded \(.*/nowhere.*\); check its name"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(folder, settings, cause):
    path = settings.pop("path", folder)
    with pytest.raises(ValueError, match=cause) as raised:
        load_rows(HubDataset(f"hf://datasets/{path}", **settings))
    assert "\n" not in str(raised.value)


def test_other_rows_have_another_fingerprint(folder):
    train, test = (HubDataset(f"hf://datasets/{folder}", split=split) for split in ("train", "test"))
    before = fingerprint(train)
    assert fingerprint(f"hf://datasets/{folder}") == before != fingerprint(test)
    write_parquet(folder / "data" / "train-1.parquet", 5, 4)
    assert fingerprint(train) != before and len(load_rows(train)) == 9


def test_settings_of_the_hub_are_for_the_hub():
    with pytest.raises(ValueError, match=r"`config`, `split` and `revision` are for data sets of the hub"):
        DataSettings(train=[{"path": "rows.jsonl", "split": "train"}])


def test_a_data_set_of_the_hub_is_no_missing_file():
    path = "stages.align.data.train=[hf://datasets/birds/songs]"
    missing = missing_files(load_recipe("quickstart", [path]))
    assert not any("hf://" in one for one in missing)


# ------------------------------------------------------------------------------------------- read where it lies


def streamed(source, folder, **options):
    """The rows of a stream, the bad ones, and the stream."""
    stream, problems = open_stream(source, folder, **options)
    return [row for number in range(len(stream)) for row in stream[number]], problems, stream


def test_a_stream_of_a_folder_gives_the_rows_of_its_split_and_loads_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it was loaded"))
    for split, count in (("train", 8), ("test", 2), (None, 8)):
        source = HubDataset(f"hf://datasets/{folder}", split=split, stream=True)
        rows, problems, stream = streamed(source, tmp_path)
        assert rows == load_rows(str(folder / "data" / f"{split or 'train'}-*.parquet")) and len(rows) == count
        assert not problems.count and stream.blocks == ((5, 3) if count == 8 else (2,))
        assert {type(row.clips[0].audio) for row in rows} == {bytes}


class Counted(io.BytesIO):
    """A file elsewhere, of which is noted how much was read."""

    read_bytes = 0

    def read(self, size=-1):
        found = super().read(size)
        Counted.read_bytes += len(found)
        return found


def remote_set(monkeypatch, found, row_group_size=10, counted=True):
    """Two files in memory, which `load_dataset_builder` finds by its own rules."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    half = len(found) // 2
    for name, part in (("train-0", found[:half]), ("train-1", found[half:])):
        buffer = io.BytesIO()
        table = pyarrow.Table.from_pylist(part, FEATURES.arrow_schema)
        parquet.write_table(table, buffer, row_group_size=row_group_size, compression="none", use_dictionary=False)
        memory.pipe(f"/set/{name}.parquet", buffer.getvalue())
    asked = []
    build = datasets.load_dataset_builder

    def find(path, name=None, revision=None):
        asked.append((path, name, revision))
        return build("parquet", data_files={"dawn": "memory://set/train-*.parquet"})

    monkeypatch.setattr(datasets, "load_dataset_builder", find)
    monkeypatch.setattr(Counted, "read_bytes", 0)
    if counted:
        monkeypatch.setattr(RemoteFile, "open", lambda file: Counted(memory.cat(file.url)))
    return asked, sum(memory.size(one) for one in memory.find("/set"))


def long_rows(count=60):
    return [
        {"audio": {"bytes": bytes([n]) * 100_000, "path": "same.wav"}, "question": "what?", "answer": n % 2, "id": n}
        for n in range(count)
    ]


SONGS = HubDataset("hf://datasets/birds/songs", "north", "dawn", "v2", stream=True)


def test_files_elsewhere_are_read_by_row_groups_and_no_sound_for_the_index(tmp_path, monkeypatch):
    asked, size = remote_set(monkeypatch, long_rows())
    stream, problems = open_stream(SONGS, tmp_path)
    assert asked == [("birds/songs", "north", "v2")] and not problems.count
    assert len(stream) == 60 and stream.blocks == (10,) * 6 and Counted.read_bytes < size / 20
    read = Counted.read_bytes
    (one,) = stream[34]
    assert one.id == "34" and one.clips[0].audio == bytes([34]) * 100_000 and one.target == "dog"
    assert Counted.read_bytes - read < size / 5
    write_table(tmp_path / "local.parquet", long_rows(), row_group_size=10)
    local, _ = open_stream(str(tmp_path / "local.parquet"), tmp_path)
    assert [stream[n] for n in range(60)] == [local[n] for n in range(60)] and local.blocks == stream.blocks
    orders = [Mixture([one], [1.0], 3).keys_at(np.arange(200))[1].tolist() for one in (stream, local)]
    assert orders[0] == orders[1]


def test_in_the_order_of_training_a_row_group_is_read_once_where_there_is_room(tmp_path, monkeypatch):
    _, size = remote_set(monkeypatch, long_rows())
    mixture = Mixture([open_stream(SONGS, tmp_path)[0]], [1.0], 0)
    for room, least, most in ((2**29, 0.9, 1.1), (1, 1.5, 60)):
        monkeypatch.setattr(streams, "ROW_GROUP_BYTES", room)
        streams.row_groups.kept.clear()
        monkeypatch.setattr(Counted, "read_bytes", 0)
        for batch in StreamSampler(mixture, 6, 60):
            assert all(mixture[number] for _, number in batch)
        assert least < Counted.read_bytes / size < most
    assert len(streams.row_groups.kept) == 1


def test_sound_that_is_not_always_there_is_read_for_the_index_and_named(tmp_path, monkeypatch):
    found = long_rows(8)
    found[5]["audio"] = {"bytes": None, "path": None}
    remote_set(monkeypatch, found)
    rows, problems, _ = streamed(SONGS, tmp_path)
    assert [row.id for row in rows] == [str(n) for n in range(8) if n != 5]
    assert problems.count == 1 and problems.errors[0].origin == "memory:///set/train-1.parquet:2"


def test_an_index_of_files_elsewhere_is_made_once_and_again_when_one_is_another(tmp_path, monkeypatch):
    remote_set(monkeypatch, long_rows())
    before = fingerprint(SONGS)
    open_stream(SONGS, tmp_path)
    monkeypatch.setattr(Counted, "read_bytes", 0)
    assert len(open_stream(SONGS, tmp_path)[0]) == 60 and Counted.read_bytes == 0 and fingerprint(SONGS) == before
    monkeypatch.undo()
    remote_set(monkeypatch, long_rows(20))
    assert len(open_stream(SONGS, tmp_path)[0]) == 20 and fingerprint(SONGS) != before


def test_a_file_that_cannot_be_read_elsewhere_is_one_sentence(tmp_path, monkeypatch):
    remote_set(monkeypatch, long_rows())
    monkeypatch.setattr(RemoteFile, "open", lambda _: io.BytesIO(b"junk" * 99))
    with pytest.raises(RowError, match=r"memory:///set/train-0\.parquet: cannot be read .*; check the network"):
        open_stream(SONGS, tmp_path)


def test_what_cannot_stream_from_the_hub_is_a_sentence_with_the_way_out(folder, tmp_path):
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "rows.jsonl").write_text('{"audio": "x.wav", "question": "what?", "answer": "a dog"}')
    lines = HubDataset(f"hf://datasets/{tmp_path / 'lines'}", stream=True)
    with pytest.raises(RowError, match=r"does not lie in Parquet files.*; leave `stream` out, or `hf download"):
        open_stream(lines, tmp_path)
    with pytest.raises(RowError, match=r"split night: has no split 'night'; its files are of: train, test"):
        open_stream(HubDataset(f"hf://datasets/{folder}", split="night", stream=True), tmp_path)
    with pytest.raises(RowError, match=r"nowhere: cannot be loaded"):
        open_stream(HubDataset("hf://datasets//nowhere", stream=True), tmp_path)
    endless = datasets.load_dataset("parquet", data_files=str(folder / "data" / "test-0.parquet"), streaming=True)
    with pytest.raises(RowError, match=r"an IterableDataset cannot go back .*`stream: true`"):
        load_rows(endless["train"])


def test_a_stage_streams_a_data_set_of_the_hub_by_its_settings(tmp_path, monkeypatch):
    remote_set(monkeypatch, long_rows(), counted=False)
    source = {"path": SONGS.path, "config": "north", "split": "dawn", "revision": "v2", "stream": True, "limit": 30}
    stage = SimpleNamespace(data=DataSettings(train=[source]))
    data = StageData.load(SimpleNamespace(cache=str(tmp_path), seed=0), stage)
    assert len(data.mixture) == 30 and data.num_read == 30 and data.train[29].id == "29"
