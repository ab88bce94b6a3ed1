"""Data sets of the hub, which here are folders of this machine: read by `datasets.load_dataset` itself."""

import json
from types import SimpleNamespace

import datasets
import pyarrow
import pytest
from datasets import Audio, ClassLabel, Features, Value
from pyarrow import parquet

from audiollm.data.hub import HubDataset
from audiollm.data.sources import Problems, fingerprint, load_rows
from audiollm.recipe import DataSettings, RecipeError, load_recipe, missing_files
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
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [
        {"audio": {"bytes": bytes([n]) * 50, "path": f"{n}.wav"}, "question": "what?", "answer": n % 2, "id": n}
        for n in range(first, first + count)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(found, FEATURES.arrow_schema), path)


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


def test_settings_of_the_hub_are_for_the_hub_and_streams_for_files(tmp_path):
    with pytest.raises(ValueError, match=r"`config`, `split` and `revision` are for data sets of the hub"):
        DataSettings(train=[{"path": "rows.jsonl", "split": "train"}])
    with pytest.raises(ValueError, match=r"`hf download birds/songs --repo-type dataset --local-dir DIR`"):
        DataSettings(train=[{"path": "hf://datasets/birds/songs", "stream": True}])


def test_a_data_set_of_the_hub_is_no_missing_file():
    path = "stages.align.data.train=[hf://datasets/birds/songs]"
    missing = missing_files(load_recipe("quickstart", [path]))
    assert not any("hf://" in one for one in missing)
    with pytest.raises(RecipeError, match=r"hf download birds/songs"):
        load_recipe("quickstart", ["stages.align.data.train=[{path: hf://datasets/birds/songs, stream: true}]"])
