"""Rows that stay on disk: the same as those in memory, in an order that is a function of the position."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from audiollm.data import streams
from audiollm.data.dataset import group_rows
from audiollm.data.mixture import Loaded, Mixture
from audiollm.data.order import numbers_at, permuted
from audiollm.data.sampling import POOL, StreamSampler
from audiollm.data.sources import Problems, load_rows, of_tasks
from audiollm.data.streams import open_stream
from audiollm.recipe import DataSettings
from audiollm.training.stage_data import StageData

QUESTIONS = {"describe": "what do you hear?", "count": "how many?", "existence": "is there a dog?"}


def rows(first=0, count=40):
    """Questions about recordings, those of a recording next to one another; there is no such file."""
    found = []
    for number in range(first, first + count):
        clip = {"type": "audio", "audio": f"{number}.wav", "duration": 1.0 + number % 7}
        for task in list(QUESTIONS)[: 1 + number % 3]:
            content = [clip, {"type": "text", "text": QUESTIONS[task]}]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": f"größer {number}"}]
            found.append({"id": f"{task}-{number}", "task": task, "messages": messages})
    return found


def write_jsonl(path: Path, found):
    """Also with empty lines, of which a place in the file must not lose count."""
    text = "".join(("\n" if number % 5 == 3 else "") + json.dumps(one) + "\n" for number, one in enumerate(found))
    path.write_text(text.rstrip("\n"))  # the last line ends with the file
    return str(path)


def write_parquet(path: Path, found):
    table = pyarrow.Table.from_pylist([one | {"messages": json.dumps(one["messages"])} for one in found])
    parquet.write_table(table, path, row_group_size=17)
    return str(path)


@pytest.fixture(params=["jsonl", "parquet"])
def files(request, tmp_path):
    """Two files of one kind, as a pattern."""
    write = write_jsonl if request.param == "jsonl" else write_parquet
    for number in range(2):
        write(tmp_path / f"{number}.{request.param}", rows(40 * number))
    return str(tmp_path / f"*.{request.param}")


def without_files(path, folder, **options):
    return open_stream(path, folder, audio="omit", **options)


def test_a_stream_gives_the_rows_and_groups_of_rows_in_memory(files, tmp_path):
    stream, problems = without_files(files, tmp_path)
    expected = [row.without_audio() for row in load_rows(files)]
    read = [row for number in range(len(stream)) for row in stream[number]]
    assert read == expected and [row.origin for row in read] == [row.origin for row in expected]
    assert problems.count == 0 and stream.content.num_rows == len(expected)
    if files.endswith("jsonl"):  # in Parquet a recording whose rows are in two row groups is heard twice
        groups = group_rows(load_rows(files))
        assert [len(stream[number]) for number in range(len(stream))] == list(map(len, groups))
        assert list(stream.seconds(np.arange(len(stream)))) == [group[0].clips[0].duration for group in groups]


def test_tasks_and_limits_choose_the_same_rows(files, tmp_path):
    for tasks, limit in ((["count", "describe"], None), (None, 50), (["existence"], 7)):
        stream, _ = without_files(files, tmp_path, tasks=tasks, limit=limit)
        expected = load_rows(files)
        expected = (of_tasks(expected, tasks, "rows") if tasks else expected)[:limit]
        read = [row.id for number in range(len(stream)) for row in stream[number]]
        assert read[:limit] == [row.id for row in expected][: len(read)] and stream.content.num_rows == len(expected)


def test_bad_rows_are_those_that_are_refused_in_memory(tmp_path):
    found = rows()
    lines = [json.dumps(one) for one in found]
    lines[3] = "{broken"
    lines[10] = lines[10].replace("assistant", "teacher")
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    problems = Problems()
    expected = load_rows(tmp_path / "rows.jsonl", problems=problems)
    stream, refused = without_files(str(tmp_path / "rows.jsonl"), tmp_path)
    assert refused.examples == problems.examples and [e.row_id for e in refused.errors] == [None, found[10]["id"]]
    read = [row.id for number in range(len(stream)) for row in stream[number]]
    assert read == [row.id for row in expected]
    with pytest.raises(ValueError, match=r"(?s)rows\.jsonl has no rows to train on; .*there is no file"):
        open_stream(str(tmp_path / "rows.jsonl"), tmp_path)
    (tmp_path / "rows.csv").write_text("audio,question,answer")
    with pytest.raises(
        ValueError, match=r"rows\.csv cannot be read row by row; `stream: true` is for \.jsonl, \.parquet"
    ):
        open_stream(str(tmp_path / "rows.csv"), tmp_path)


def test_an_index_is_made_once_and_again_when_a_file_is_another(files, tmp_path, monkeypatch):
    without_files(files, tmp_path)
    made = []
    index = streams.index
    monkeypatch.setattr(streams, "index", lambda *args: made.append(1) or index(*args))
    assert len(without_files(files, tmp_path)[0]) >= 80 and not made
    path = min(tmp_path.glob(files.rpartition("/")[2]))
    (write_jsonl if path.suffix == ".jsonl" else write_parquet)(path, rows(0, 30))
    assert without_files(files, tmp_path)[0].content.num_rows == len(rows(0, 30)) + len(rows(40)) and made


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    stream, _ = without_files(write_jsonl(tmp_path / "rows.jsonl", rows()), tmp_path)
    read = []
    line_of = streams.line_of
    monkeypatch.setattr(streams, "line_of", lambda *args: read.append(1) or line_of(*args))
    assert len(stream[38]) == 3 and len(read) == 3


@pytest.mark.parametrize("size", [1, 2, 3, 100, 1025])
def test_a_permutation_takes_every_number_to_another(size):
    found = permuted(np.arange(size), size, "a").tolist()
    assert sorted(found) == list(range(size))
    assert [int(permuted(np.array([number]), size, "a")[0]) for number in range(size)] == found
    if size > 10:
        other = permuted(np.arange(size), size, "b").tolist()
        neighbours = sum(abs(x - y) == 1 for x, y in pairwise(found))
        assert found != other and neighbours < size / 10


def test_each_epoch_of_a_stream_hears_everything_once_in_another_order(files, tmp_path):
    stream, _ = without_files(files, tmp_path)
    passes, numbers = numbers_at(stream.blocks, np.arange(3 * len(stream)), "7")
    epochs = [numbers[passes == one].tolist() for one in range(3)]
    assert all(sorted(numbers) == list(range(len(stream))) for numbers in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def mixture(tmp_path, weights=(1.0, 1.0)):
    one, _ = without_files(write_jsonl(tmp_path / "one.jsonl", rows(0, 60)), tmp_path)
    return Mixture([one, Loaded(group_rows(load_rows(write_jsonl(tmp_path / "two.jsonl", rows(60, 20)))))], weights, 3)


def keys_of(mixed, positions):
    epochs, numbers = mixed.keys_at(np.array(positions))
    return list(zip(epochs.tolist(), numbers.tolist(), strict=True))


def test_sources_are_heard_by_their_weights_at_every_moment(tmp_path):
    mixed = mixture(tmp_path, (1.0, 9.0))  # 60 and 180 of 240
    keys = keys_of(mixed, range(4000))
    assert [sum(number >= 60 for _, number in keys[start : start + 1000]) for start in (0, 1000, 3000)] == [750] * 3
    assert max(Counter(keys).values()) == 1 and len(mixed[70]) == len(rows(70, 1))


@pytest.mark.parametrize(("temperature", "shares"), [(None, (16, 4)), (2.0, (40 / 3, 20 / 3)), (1e9, (10, 10))])
@pytest.mark.parametrize("stream", [False, True])
def test_a_temperature_mixes_streams_as_it_mixes_rows_in_memory(tmp_path, stream, temperature, shares):
    """16 recordings and 4; with 2 they are heard as the roots, 2 : 1."""
    for number in range(20):
        (tmp_path / f"{number}.wav").touch()
    paths = [write_jsonl(tmp_path / f"{first}.jsonl", rows(first, count)) for first, count in ((0, 16), (16, 4))]
    sources = [{"path": paths[0], "stream": stream}, {"path": paths[1]}]
    stage = SimpleNamespace(data=DataSettings(train=sources, temperature=temperature))
    data = StageData.load(SimpleNamespace(cache=str(tmp_path), seed=0), stage)
    if stream:
        heard = Counter(number >= 16 for _, number in keys_of(data.mixture, range(1000)))
        found = [heard[False] / 50, heard[True] / 50]
    else:
        recordings = SimpleNamespace(rows=data.train, groups=group_rows(data.train))
        found = [count * weight for count, weight in data.sources(recordings)]
    assert found == pytest.approx(shares, abs=0.02)


def batches(mixed, epoch=0, size=4, samples=80, **options):
    sampler = StreamSampler(mixed, size, samples, **options)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler) and {len(batch) for batch in found} == {size}
    return found


@pytest.mark.parametrize("ranks", [2, 4])
def test_what_a_step_hears_does_not_depend_on_the_number_of_ranks(tmp_path, ranks):
    mixed = mixture(tmp_path)
    alone = batches(mixed, size=8)
    shared = [batches(mixed, size=8 // ranks, rank=rank, world_size=ranks) for rank in range(ranks)]
    for step, parts in zip(alone, zip(*shared, strict=True), strict=True):
        assert sorted(step) == sorted(key for part in parts for key in part)
    assert len({key for batch in alone for key in batch}) == 80  # nothing twice


def test_epochs_follow_one_another_without_gap_or_overlap(tmp_path):
    mixed = mixture(tmp_path)
    found = [key for epoch in range(8) for batch in batches(mixed, epoch, samples=72) for key in batch]
    whole = keys_of(mixed, range(8 * 72))
    assert len(set(found)) == len(found) and len(set(found) - set(whole)) <= POOL * 4


def test_a_batch_of_a_stream_holds_clips_of_like_length(tmp_path):
    mixed = mixture(tmp_path)
    spreads = [np.ptp(mixed.seconds(np.array([number for _, number in batch]))) for batch in batches(mixed)]
    drawn = random.Random(0).sample(range(80), 80)
    mixed_up = [drawn[start : start + 4] for start in range(0, 80, 4)]
    by_chance = [np.ptp(mixed.seconds(np.array(batch))) for batch in mixed_up]
    assert sum(spreads) < sum(by_chance) / 3


def test_few_recordings_come_once_in_a_step_and_equally_often(tmp_path):
    """Where a pool of batches holds every recording several times."""
    few = Mixture([without_files(write_jsonl(tmp_path / "few.jsonl", rows(0, 16)), tmp_path)[0]], [1.0], 0)
    heard = Counter()
    for epoch in range(8):
        ranks = [batches(few, epoch, samples=16, rank=rank, world_size=2) for rank in range(2)]
        for one, other in zip(*ranks, strict=True):
            assert len({number for _, number in one + other}) == 8
            heard.update(number for _, number in one + other)
    assert set(heard.values()) == {8}
