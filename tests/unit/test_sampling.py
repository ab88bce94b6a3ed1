"""Which recordings make a batch: the same for the same seed and epoch, dealt fairly, each as its weight says."""

import math
import random
from collections import Counter

import numpy as np
import pytest

from audiollm.data.sampling import POOL, BatchSampler, BudgetSampler, share, tempered

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


@pytest.mark.parametrize("split", [(1, 2, 2), (1, 1, 4), (2, 1, 2), (2, 2, 1), (4, 1, 1)])
@pytest.mark.parametrize("count", [3, 192, 203])
def test_a_step_hears_the_same_however_it_is_split(split, count):
    world_size, batch_size, times = split
    lengths = LENGTHS[:count]
    shared = {"batch_size": batch_size, "world_size": world_size, "accumulation": times}
    ranks = [batches(lengths=lengths, rank=rank, **shared) for rank in range(world_size)]
    steps = [
        sorted(number for rank in ranks for batch in rank[start : start + times] for number in batch)
        for start in range(0, len(ranks[0]), times)
    ]
    assert steps == [sorted(step) for step in batches(lengths=lengths, batch_size=4)]


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


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [(None, [900, 90, 10]), (1.0, [900, 90, 10]), (2.0, [703, 222, 74]), (1e9, [334, 333, 333])],
)
def test_a_temperature_makes_shares_powers_of_what_they_were(temperature, shares):
    """With 2 they are as the roots of 900, 90 and 10, so 30 : 9.49 : 3.16."""
    sources = [(1800, 0.5), (90, 1.0), (5, 2.0)]
    found = [share(count, weight) for count, weight in tempered(sources, temperature)]
    assert [count for count, _ in tempered(sources, temperature)] == [1800, 90, 5]
    assert found == pytest.approx(shares, abs=1.0) and sum(found) == pytest.approx(1000, abs=1)


def test_a_temperature_leaves_an_empty_source_and_extremes_alone():
    assert tempered([(0, 2.0)], 3.0) == [(0, 2.0)] and tempered([], 3.0) == []
    assert tempered([(0, 2.0), (10, 1.0)], 3.0) == [(0, 2.0), (10, 1.0)]
    assert [share(*source) for source in tempered([(10**6, 1.0), (10, 1.0)], 1e-3)] == [1000010, 1]


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


# ------------------------------------------------------------------------------------------------ batches by tokens

SIZES = [20 + (number * 6151 % 257) for number in range(203)]
BUDGET = 600


def planned(epoch=0, sizes=SIZES, budget=BUDGET, lengths=None, num_tokens=None, **options):
    sampler = BudgetSampler(num_tokens or (lambda key: sizes[key[1]]), lengths or sizes, budget, **options)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def numbers(batches):
    return [[number for _, number in batch] for batch in batches]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_batches_keep_the_budget_and_all_ranks_together_hear_everything_once(world_size):
    ranks = [numbers(planned(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert heard(batch for rank in ranks for batch in rank) == Counter(range(len(SIZES)))
    for step in zip(*ranks, strict=True):
        totals = [sum(SIZES[number] for number in batch) for batch in step]
        assert max(totals) <= BUDGET and all(totals)


def test_the_budget_is_used_and_ranks_are_balanced():
    sizes = [20 + (number * 6151 % 257) for number in range(2000)]
    ranks = [numbers(planned(sizes=sizes, budget=2000, rank=rank, world_size=4)) for rank in range(4)]
    totals = [[sum(sizes[number] for number in batch) for batch in step] for step in zip(*ranks, strict=True)]
    assert sum(map(sum, totals)) / (len(totals) * 4 * 2000) > 0.9
    assert sum(map(sum, totals)) / sum(4 * max(step) for step in totals) > 0.97


def test_batches_by_tokens_are_hardly_padded():
    """8,000 clips of 2 to 28 s, log-normal: padded to the longest of its batch, sound has less than 2 % of padding."""
    rng = random.Random(0)
    seconds = [min(max(rng.lognormvariate(math.log(8), 0.45), 2), 28) for _ in range(8000)]
    found = numbers(planned(sizes=[round(25 * s) + 100 for s in seconds], budget=4000, lengths=seconds))
    padded = sum(max(seconds[n] for n in batch) * len(batch) for batch in found)
    assert 1 - sum(seconds) / padded < 0.02


def test_what_is_larger_than_the_budget_is_a_batch_of_its_own():
    sizes = [*SIZES, BUDGET + 1, 5 * BUDGET]
    found = numbers(planned(sizes=sizes))
    assert [len(SIZES)] in found and [len(SIZES) + 1] in found
    assert all(len(batch) == 1 or sum(sizes[number] for number in batch) <= BUDGET for batch in found)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_rank_has_a_batch_even_where_there_are_fewer_recordings(count):
    ranks = [numbers(planned(sizes=SIZES[:count], rank=rank, world_size=4)) for rank in range(4)]
    assert {len(rank) for rank in ranks} == {1}
    assert set(heard(batch for rank in ranks for batch in rank)) == set(range(count))


def test_the_order_by_tokens_is_that_of_the_seed_and_the_epoch():
    assert planned(epoch=2, seed=5) == planned(epoch=2, seed=5)
    assert numbers(planned(epoch=2, seed=5)) != numbers(planned(epoch=3, seed=5))
    assert planned(epoch=2, seed=5) != planned(epoch=2, seed=6)


def test_epochs_of_one_length_are_cut_from_passes_that_hear_everything_once():
    """Other questions in each pass take other room, so passes differ in their batches, and nothing may be lost."""
    sampler = BudgetSampler(lambda key: 20 + ((key[0] * 31 + key[1]) * 6151 % 257), SIZES, BUDGET)
    lengths = {sampler.count(number) for number in range(6)}
    assert len(lengths) > 1  # or the test shows nothing
    heard_in = Counter()
    for epoch in range(6):
        sampler.set_epoch(epoch)
        found = list(sampler)
        assert len(found) == len(sampler)
        heard_in.update(key for batch in found for key in batch)
    whole = [number for number in range(6) if all((number, one) in heard_in for one in range(len(SIZES)))]
    assert whole[:5] == list(range(5)) and set(heard_in.values()) == {1}


def test_weights_count_in_batches_by_tokens_too():
    counts = heard(numbers(planned(sources=[(100, 2.0), (80, 0.5), (23, 1.0)])))
    assert {counts[number] for number in range(100)} == {2} and {counts[number] for number in range(180, 203)} == {1}
    assert sum(counts[number] for number in range(100, 180)) == 40


def test_a_lognormal_mix_of_lengths_leaves_little_padding():
    draw = np.random.default_rng(0)
    seconds = np.clip(draw.lognormal(np.log(8), 0.5, 5000), 2, 28).tolist()
    sizes = [round(25 * length) + 40 for length in seconds]
    found = numbers(planned(sizes=sizes, lengths=seconds, budget=8000))
    slots = sum(len(batch) * max(seconds[number] for number in batch) for batch in found)
    assert 1 - sum(seconds) / slots < 0.08
