"""Lengths of rows that stay on disk: what is let in, left out and batched is what it is in memory, found once."""

import io
import json
import tarfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tiny import tiny

from audiollm.conversation import AudioPart
from audiollm.data import measured, sampling, shards
from audiollm.data.dataset import Limits, Recordings, group_rows
from audiollm.data.mixture import Loaded, Mixture
from audiollm.data.sampling import StreamBudgetSampler
from audiollm.data.sources import load_rows
from audiollm.data.streams import Stream, open_stream
from audiollm.models.processing import AudioLLMProcessor

COUNT = 60


@pytest.fixture(scope="module")
def processor():
    return tiny().processor


def row(number, question):
    """The third question is longer the higher the number is, and the sound of some clips is long."""
    clip = {"type": "audio", "audio": f"{number}.wav", "duration": 1.0 + number % 7}
    text = f"what {number}?" if question < 2 else f"how many? {'dogs ' * number}"
    content = [clip, {"type": "text", "text": text + " yes" * question}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a bell " * (1 + number % 3)}]
    return {"id": f"{number}-{question}", "messages": messages}


def every(count=COUNT, questions=3):
    return [row(number, question) for number in range(count) for question in range(questions)]


def write_jsonl(folder, found):
    for number in {one["id"].partition("-")[0] for one in found}:
        (folder / f"{number}.wav").write_bytes(b"sound " + number.encode())
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found))
    return str(folder / "rows.jsonl")


def write_parquet(folder, found):
    write_jsonl(folder, found)
    table = pyarrow.Table.from_pylist([one | {"messages": json.dumps(one["messages"])} for one in found])
    parquet.write_table(table, folder / "rows.parquet", row_group_size=18)
    return str(folder / "rows.parquet")


def write_tar(folder, found):
    with tarfile.open(folder / "rows.tar", "w") as archive:
        for one in found:
            for name, content in (
                (f"{one['id']}.wav", one["id"].encode()),
                (f"{one['id']}.json", json.dumps(one).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return str(folder / "rows.tar")


WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet, "tar": write_tar}
LIMITS = [Limits(), Limits(100), Limits(110, None, "split"), Limits(None, 90, "drop")]


def on_disk(path, folder, processor, limits, **options):
    """Recordings of a stream, and what they leave out."""
    stream, _ = open_stream(path, folder)
    found = Recordings([], processor, limits=limits, groups=Mixture([stream], [1.0], 0), **options)
    return found, found.measure()


def ids(recordings):
    return [[one.id for one in recordings.groups[number]] for number in range(len(recordings))]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_let_in_left_out_and_split_is_what_it_is_in_memory(tmp_path, processor, kind, limits, monkeypatch):
    monkeypatch.setattr(AudioPart, "load", lambda *_: pytest.fail("a clip was decoded"))
    path = WRITERS[kind](tmp_path, every())
    whole = Recordings(load_rows(path), processor, limits=limits, questions_per_clip=2)
    left_out = whole.measure()
    some, bad = on_disk(path, tmp_path, processor, limits, questions_per_clip=2)
    assert ids(some) == ids(whole) and bad == left_out and some.num_rows == whole.num_rows == 3 * COUNT
    assert bool(bad) == (limits.of_row < float("inf"))
    most = [whole.most_tokens(length) for length in whole.lengths]
    assert [some.num_tokens((0, number)) for number in range(len(some))] == most
    assert all(whole.num_tokens((epoch, n)) <= most[n] for n in range(len(whole)) for epoch in range(3))
    assert some.groups.seconds(np.arange(len(some))).tolist() == [length.seconds for length in whole.lengths]


def test_a_row_that_is_refused_is_named_as_in_memory_at_every_start(tmp_path, processor):
    path = write_jsonl(tmp_path, every())
    limits = Limits(80, None, "refuse")
    with pytest.raises(ValueError, match=r"rows\.jsonl:6: .*; shorten it, raise `max_tokens`") as raised:
        Recordings(load_rows(path), processor, limits=limits).measure()
    for _ in range(2):
        with pytest.raises(ValueError) as refused:
            on_disk(path, tmp_path, processor, limits)
        assert str(refused.value) == str(raised.value)


@pytest.mark.parametrize("told", [True, False])
def test_sound_in_a_shard_is_read_only_where_its_row_does_not_tell_how_long_it_is(
    tmp_path, processor, told, monkeypatch
):
    found = every(3)
    for one in found:
        if not told:
            del one["messages"][0]["content"][0]["duration"]
    path = write_tar(tmp_path, found)
    read = []
    content_of = shards.content_of
    monkeypatch.setattr(shards, "content_of", lambda file, m: read.append(m.name) or content_of(file, m))
    on_disk(path, tmp_path, processor, Limits(100))
    assert any(name.endswith(".wav") for name in read) == (not told)


def test_rows_are_measured_once_and_again_when_their_tokens_may_be_others(tmp_path, processor, monkeypatch):
    path = write_jsonl(tmp_path, every(9))
    first = on_disk(path, tmp_path, processor, Limits(100))
    read = []
    get = Stream.read
    monkeypatch.setattr(Stream, "read", lambda *args: read.append(1) or get(*args))
    again = on_disk(path, tmp_path, processor, Limits(100))
    assert not read and again[1] == first[1] and ids(again[0]) == ids(first[0])
    other = tiny().processor
    other.system_prompt = "be short"
    for changed in (
        lambda: on_disk(path, tmp_path, processor, Limits(90)),
        lambda: on_disk(path, tmp_path, processor, Limits(100), supervise="all"),
        lambda: on_disk(path, tmp_path, processor, Limits(100), with_text=False),
        lambda: on_disk(path, tmp_path, processor, Limits(100), questions_per_clip=1),
        lambda: on_disk(path, tmp_path, other, Limits(100)),
    ):
        read.clear()
        changed()
        assert len(read) >= 9


def test_a_processor_has_one_fingerprint_whatever_it_did_and_also_in_a_later_stage(tmp_path, processor):
    before = processor.fingerprint()
    processor.tokenizer(["a dog", "a dog barks"], padding=True, truncation=True, max_length=3)
    assert processor.fingerprint() == before
    processor.save_pretrained(tmp_path)
    assert AudioLLMProcessor.from_pretrained(tmp_path).fingerprint() == before
    for name, value in {"chat_template_kwargs": {"a": 1}, "connector_config": {"name": "mlp"}}.items():
        other = tiny().processor
        setattr(other, name, value)
        assert other.fingerprint() != before
    other = tiny().processor
    other.tokenizer.add_tokens(["barks"])
    assert other.fingerprint() != before


def test_several_processes_measure_what_one_measures(tmp_path, processor, monkeypatch):
    path = write_jsonl(tmp_path, every())
    found = {}
    for name, size in (("one", 1000), ("many", 5)):
        monkeypatch.setattr(measured, "CHUNK", size)
        some, bad = on_disk(path, tmp_path / name, processor, Limits(110, None, "split"))
        part = some.groups.parts[0]
        found[name] = (part.sequences.tobytes(), part.rows.tobytes(), part.blocks, bad)
    assert found["one"] == found["many"] and len(found["one"][1]) > 100


def test_who_asks_at_the_same_time_waits_for_the_one_who_measures(tmp_path, processor, monkeypatch):
    path = write_jsonl(tmp_path, every(20))
    made = []
    write = measured.write

    def slow(*args):
        made.append(1)
        time.sleep(0.3)
        return write(*args)

    monkeypatch.setattr(measured, "write", slow)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: ids(on_disk(path, tmp_path, processor, Limits(100))[0]), range(3)))
    assert len(made) == 1 and found[0] == found[1] == found[2]


def test_sources_in_memory_and_on_disk_are_measured_together(tmp_path, processor):
    rows = load_rows(write_jsonl(tmp_path, every(20)))
    (tmp_path / "other").mkdir()
    stream, _ = open_stream(write_jsonl(tmp_path / "other", every(40)), tmp_path)
    mixed = Mixture([Loaded(group_rows(rows)), stream], [1.0, 1.0], 0)
    some = Recordings([], processor, limits=Limits(100), groups=mixed)
    bad = some.measure()
    shares = [len(part) / len(some) for part in some.groups.parts]
    assert {one["origin"].rpartition("/")[0] for one in bad} == {str(tmp_path), str(tmp_path / "other")}
    assert some.num_rows == 180 and [n / 1000 for n in some.groups.period] == pytest.approx(shares, abs=1e-3)
    expected = [max(some.num_tokens((0, n)), 1) for n in (0, len(some) - 1)]
    assert some.groups.tokens(np.array([0, len(some) - 1])).tolist() == expected


# ------------------------------------------------------------------------------------------------ batches by tokens


class Lengths:
    """Recordings of such lengths in the endless order of a mixture, of which no row can be read."""

    def __init__(self, sizes, seed=0):
        self.mixture = Mixture([Loaded([[]] * 0, [])], [1.0], seed)
        self.mixture.parts[0].blocks = (len(sizes),)
        self.mixture.period = (1000,)
        self.sizes = np.array(sizes)
        self.keys_at = self.mixture.keys_at

    def __len__(self):
        return len(self.sizes)

    def seconds(self, numbers):
        return self.sizes[numbers] / 25

    def tokens(self, numbers):
        return self.sizes[numbers]


SIZES = [20 + (number * 6151 % 257) for number in range(5000)]
BUDGET = 600


def batches(order, epoch=0, budget=BUDGET, samples=5000, **options):
    sampler = StreamBudgetSampler(order, budget, samples, **options)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_split_each_step_within_the_budget_and_hear_nothing_twice(world_size):
    ranks = [batches(Lengths(SIZES), budget=2000, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    totals = [[sum(SIZES[number] for _, number in batch) for batch in step] for step in zip(*ranks, strict=True)]
    assert max(map(max, totals)) <= 2000 and min(map(min, totals)) > 0
    assert sum(map(sum, totals)) / (len(totals) * world_size * 2000) > 0.9  # batches are full
    assert sum(map(sum, totals)) / sum(world_size * max(step) for step in totals) > 0.95  # and alike
    keys = Counter(chain.from_iterable(chain.from_iterable(ranks)))
    assert set(keys.values()) == {1} and len(keys) == pytest.approx(5000, rel=0.01)


@pytest.mark.parametrize("samples", [100, 1100, 5000, 12_000])
def test_epochs_follow_one_another_without_gap_or_overlap(samples):
    """Also where an epoch is less than a pool, or not a whole number of them."""
    sampler = StreamBudgetSampler(Lengths(SIZES), BUDGET, samples)
    found = []
    for epoch in range(15_000 // samples + 1):
        sampler.set_epoch(epoch)
        found += list(sampler)
    assert found == batches(Lengths(SIZES), samples=30_000)[: len(found)]
    heard = {key for batch in found for key in batch}
    epochs, numbers = Lengths(SIZES).keys_at(np.arange(len(heard)))
    whole = set(zip(epochs.tolist(), numbers.tolist(), strict=True))
    assert len(heard) == sum(map(len, found))
    assert len(whole - heard) < sampler.pool < len(heard) / 5  # of the pool that is begun last


def test_the_order_is_that_of_the_seed_and_a_later_epoch_is_found_without_the_earlier():
    assert batches(Lengths(SIZES, 1), 3, seed=1) == batches(Lengths(SIZES, 1), 3, seed=1)
    assert batches(Lengths(SIZES, 1), 3, seed=1) != batches(Lengths(SIZES, 2), 3, seed=2)
    sampler = StreamBudgetSampler(Lengths(SIZES), BUDGET, 5000)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        found = list(sampler)
    assert found == batches(Lengths(SIZES), 3)


def test_what_is_larger_than_the_budget_is_a_batch_of_its_own():
    sizes = [*SIZES[:200], BUDGET + 1, 5 * BUDGET]
    found = batches(Lengths(sizes), samples=len(sizes))
    alone = {batch[0][1] for batch in found if len(batch) == 1}
    assert {200, 201} <= alone
    assert all(len(batch) == 1 or sum(sizes[n] for _, n in batch) <= BUDGET for batch in found)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_rank_has_a_batch_even_where_there_are_few_recordings(count):
    ranks = [batches(Lengths(SIZES[:count]), samples=count, rank=rank, world_size=4) for rank in range(4)]
    assert {len(rank) for rank in ranks} == {1} and all(batch for rank in ranks for batch in rank)
    assert {number for rank in ranks for batch in rank for _, number in batch} == set(range(count))


def test_few_recordings_come_equally_often_and_a_batch_holds_none_twice():
    few = Lengths([60] * 16)
    heard = Counter()
    for epoch in range(8):
        for batch in batches(few, epoch, budget=480, samples=64):
            assert len({number for _, number in batch}) == len(batch) == 8
            heard.update(number for _, number in batch)
    assert set(heard.values()) == {32}


def test_a_lognormal_mix_of_lengths_leaves_little_padding():
    draw = np.random.default_rng(0)
    sizes = np.round(25 * np.clip(draw.lognormal(np.log(8), 0.5, 5000), 2, 28)).astype(int)
    found = batches(Lengths(sizes), budget=8000)
    slots = sum(len(batch) * max(sizes[number] for _, number in batch) for batch in found)
    assert 1 - sum(sizes[number] for batch in found for _, number in batch) / slots < 0.08
    mixed = batches(Lengths(sizes), budget=8000, group_by_length=False)
    assert np.mean([np.ptp(sizes[[n for _, n in batch]]) for batch in mixed]) > 300


def test_batches_in_memory_and_on_disk_are_filled_alike():
    in_memory = sampling.BudgetSampler(lambda key: SIZES[key[1]], SIZES, BUDGET)
    assert len(batches(Lengths(SIZES))) == pytest.approx(len(in_memory), rel=0.03)
