"""Which recordings make a batch: the same for the same seed and epoch, dealt fairly, each as its weight says."""

from collections import Counter

import pytest

from audiollm.data.sampling import POOL, BatchSampler

LENGTHS = [1.0 + (number * 7919 % 101) / 10 for number in range(203)]


def batches(epoch=0, lengths=LENGTHS, batch_size=4, **options):
    sampler = BatchSampler(lengths, batch_size, **options)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    assert all(key_epoch == epoch for batch in found for key_epoch, _ in batch)
    return [[number for _, number in batch] for batch in found]


def heard(batches):
    return Counter(number for batch in batches for number in batch)


def test_the_order_is_that_of_the_seed_and_the_epoch():
    assert batches(epoch=2, seed=5) == batches(epoch=2, seed=5)
    assert batches(epoch=2, seed=5) != batches(epoch=3, seed=5)
    assert batches(epoch=2, seed=5) != batches(epoch=2, seed=6)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 300])
def test_every_recording_is_heard_once_an_epoch(batch_size):
    found = batches(batch_size=batch_size)
    assert {len(batch) for batch in found} == {batch_size}
    counts = heard(found)
    extra = -len(LENGTHS) % batch_size  # the last batch is filled up
    assert set(counts) == set(range(len(LENGTHS))) and sum(counts.values()) == len(LENGTHS) + extra
    if not extra:
        assert set(counts.values()) == {1}


def test_validation_keeps_the_order_and_repeats_nothing():
    found = batches(shuffle=False)
    assert [number for batch in found for number in batch] == list(range(len(LENGTHS)))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_step_without_overlap(world_size):
    lengths = LENGTHS[:192]  # whole steps
    ranks = [batches(lengths=lengths, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert set(heard(batch for rank in ranks for batch in rank).values()) == {1}
    whole = batches(lengths=lengths, batch_size=4 * world_size)
    together = [sorted(number for rank in step for number in rank) for step in zip(*ranks, strict=True)]
    assert together == [sorted(step) for step in whole]


def test_ranks_have_equal_numbers_of_full_batches_whatever_is_left_over():
    for count in (1, 5, 11, 203):
        ranks = [batches(lengths=LENGTHS[:count], rank=rank, world_size=3) for rank in range(3)]
        assert len({len(rank) for rank in ranks}) == 1
        assert {len(batch) for rank in ranks for batch in rank} == {4}


def test_a_weight_says_how_often_a_source_is_heard_in_an_epoch():
    sources = [(100, 2.0), (80, 0.5), (23, 1.0)]
    counts = heard(batches(sources=sources, batch_size=1))
    assert {counts[number] for number in range(100)} == {2}
    halves = []
    for epoch in range(2):
        counts = heard(batches(epoch, sources=sources, batch_size=1))
        halves.append({number for number in range(100, 180) if counts[number]})
        assert len(halves[-1]) == 40 and {counts[number] for number in halves[-1]} == {1}
        assert {counts[number] for number in range(180, 203)} == {1}
    assert halves[0] != halves[1]  # another half in the next epoch


def test_a_weight_between_whole_numbers_repeats_some():
    counts = heard(batches(sources=[(203, 1.25)], batch_size=1))
    assert Counter(counts.values()) == {1: 203 - 51, 2: 51}


def test_a_small_weight_still_lets_something_be_heard():
    assert sum(map(len, batches(sources=[(203, 0.001)], batch_size=1))) == 1


def test_sources_must_count_the_recordings():
    with pytest.raises(ValueError, match="sources count 7 recordings, there are 203"):
        BatchSampler(LENGTHS, 4, sources=[(7, 1.0)])


def test_a_batch_holds_clips_of_like_length_and_long_and_short_batches_alternate():
    found = batches()
    spreads = [max(LENGTHS[n] for n in batch) - min(LENGTHS[n] for n in batch) for batch in found]
    alone = max(LENGTHS) - min(LENGTHS)
    assert sum(spreads) / len(spreads) < alone / 4
    means = [sum(LENGTHS[n] for n in batch) / len(batch) for batch in found[:POOL]]
    assert means != sorted(means)
