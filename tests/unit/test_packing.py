"""Trunks and branches as arrays: what is shared, who sees whom, which token predicts which, and what fits together."""

import random

import numpy as np
import pytest
import torch

from audiollm.data.collate import PADDING, pad_sequences
from audiollm.data.dataset import split_by_audio
from audiollm.data.packing import IGNORE_INDEX, Tokens, best_fit, join, pack_branches, trunk_length
from audiollm.models.attention import as_mask, branch_mask, visible

A = 99  # the audio placeholder


def row(ids, answer_from, num_clips=1):
    """A row whose tokens from `answer_from` on are supervised."""
    return Tokens(ids, [index >= answer_from for index in range(len(ids))], num_clips)


def random_rows(rng):
    """Some rows with a common opening, a question and an answer of random lengths."""
    opening = [rng.randrange(10) for _ in range(rng.randint(1, 4))] + [A] * rng.randint(1, 4)
    rows = []
    for _ in range(rng.randint(1, 4)):
        question = [rng.randrange(3) for _ in range(rng.randint(1, 4))]
        answer = [rng.randrange(10) for _ in range(rng.randint(1, 4))]
        rows.append(row(opening + question + answer, len(opening) + len(question)))
    return rows


# -------------------------------------------------------------------------------------------------------------- trunks


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row([1, A, A, 5, 6, 7], 4)], 3),  # one row: up to the token that predicts the first supervised one
        ([row([1, A, 5, 6], 3), row([1, A, 7, 8], 3)], 2),  # two questions
        ([row([1, A, 5, 6, 8], 4), row([1, A, 5, 7, 9], 4)], 3),  # questions that begin alike
        ([row([1, A, 5, 6], 3), row([1, A, 5, 7], 3)], 2),  # one question, two answers: its last token is repeated
        ([row([1, A, 5, 6, 7], 3), row([1, A, 5, 6, 8], 3)], 2),  # answers that begin alike are branches all the same
        ([row([1, A, 5, 6], 3), row([1, A, 5, 6], 3)], 2),  # the same row twice
        ([row([1, A, 5], 2), row([1, A, 5, 6, 7], 4)], 1),  # as far as the row whose answer is first
        ([row([1, 2, 3], 2), row([4, 2, 3], 2)], 0),  # nothing in common
        ([row([1, 2], 0)], 0),  # supervised from the first token on
        ([Tokens([1, A, 2], [False] * 3), row([1, A, 2, 3], 3)], 2),  # a row with nothing to learn
        ([Tokens([1, A, 2], [False] * 3)], 3),
    ],
)
def test_the_trunk_ends_where_rows_part_or_begin_to_answer(rows, expected):
    assert trunk_length(rows) == expected


def test_the_drawing_of_the_module():
    shared = [10, A, A, A, A]
    packed = pack_branches([
        row([*shared, 1, 2, 3, 4], 7),
        row([*shared, 5, 6, 7], 7),
        row([*shared, 8, 9, 3], 7),
    ])  # fmt: skip
    assert packed.input_ids.tolist() == [*shared, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 5, 6, 7]
    assert packed.branch_ids.tolist() == [0] * 5 + [1] * 4 + [2] * 3 + [3] * 3
    labels = [IGNORE_INDEX] * 5 + [IGNORE_INDEX, 3, 4, IGNORE_INDEX] + [IGNORE_INDEX, 7, IGNORE_INDEX] * 1
    assert packed.shift_labels.tolist() == [*labels, IGNORE_INDEX, 3, IGNORE_INDEX]


def test_every_supervised_token_is_predicted_once_by_the_token_before_it():
    rng = random.Random(0)
    for _ in range(200):
        rows = random_rows(rng)
        packed = pack_branches(rows)
        predicted = [
            (int(packed.branch_ids[i]), int(packed.position_ids[i]), int(packed.shift_labels[i]))
            for i in np.nonzero(packed.shift_labels != IGNORE_INDEX)[0]
        ]
        expected = [
            (number, position - 1, one.input_ids[position])
            for number, one in enumerate(rows, start=1)
            for position in np.nonzero(one.supervised)[0]
        ]
        assert predicted == expected


def test_each_branch_with_its_trunk_is_its_row():
    rng = random.Random(1)
    for _ in range(200):
        rows = random_rows(rng)
        packed = pack_branches(rows)
        for number, one in enumerate(rows, start=1):
            path = (packed.branch_ids == 0) | (packed.branch_ids == number)
            assert packed.input_ids[path].tolist() == list(one.input_ids)
            assert packed.position_ids[path].tolist() == list(range(len(one.input_ids)))
        assert (packed.input_ids == A).sum() == rows[0].input_ids.count(A)  # the sound stands there once


def test_rows_share_their_audio_when_they_are_alike_through_it():
    first, second = row([1, A, 5, 6], 3), row([1, A, 7, 8], 3)
    other_opening, text, more_text = row([2, A, 5, 6], 3), row([1, 5, 6], 2, 0), row([3, 5, 6], 2, 0)
    parts = split_by_audio([first, other_opening, text, second, more_text], A)
    assert parts == [[first, second], [other_opening], [text, more_text]]


def test_rows_that_answer_before_their_last_clip_do_not_share_it():
    def turns(last):
        return Tokens([1, A, 5, 6, 7, A, A, 8, last], [False] * 3 + [True] * 2 + [False] * 3 + [True], 2)

    rows = [turns(3), turns(4)]
    assert split_by_audio(rows, A) == [[rows[0]], [rows[1]]]  # the second clip lies behind an answer
    at_once = [row([1, A, 3], 2), row([1, A, 4], 2)]
    assert split_by_audio(at_once, A) == [[at_once[0]], [at_once[1]]]  # the last audio token predicts the answer
    for one in [*rows, *at_once]:
        assert (pack_branches([one]).input_ids == A).sum() == one.input_ids.count(A)


# ---------------------------------------------------------------------------------------------------------------- masks


def sees(clip, branch, i, j):
    """The rule, as it is written."""
    if i == j:
        return True
    return clip[j] != PADDING and j <= i and clip[i] == clip[j] and (branch[j] == 0 or branch[j] == branch[i])


def test_who_sees_whom_is_the_rule():
    rng = random.Random(2)
    for _ in range(20):
        packs = [join([pack_branches(random_rows(rng)) for _ in range(rng.randint(1, 3))]) for _ in range(3)]
        batch = pad_sequences(packs, 0)
        clip, branch = batch["clip_ids"], batch["branch_ids"]
        found = visible(clip, branch)
        for b in range(3):
            S = clip.shape[1]
            expected = [[sees(clip[b].tolist(), branch[b].tolist(), i, j) for j in range(S)] for i in range(S)]
            assert found[b].tolist() == expected


class Config:
    """What the mask reads of a language model's config."""

    model_type = "strange"
    _attn_implementation = "sdpa"
    layer_types = None
    sliding_window = None

    def __init__(self, **changes):
        self.__dict__ |= changes


@pytest.fixture
def packed():
    rows = [row([1, A, A, *range(2, 10), 3, 4], 11), row([1, A, A, 7, 8, 9], 5)]
    return pad_sequences([pack_branches(rows)], 0)


def mask_of(packed, **config):
    return branch_mask(
        Config(**config), packed["clip_ids"], packed["branch_ids"], packed["position_ids"], torch.float32
    )


def test_a_window_is_cut_by_position_and_not_by_place(packed):
    mask = mask_of(packed, sliding_window=4)[0, 0]
    position, full = packed["position_ids"][0], visible(packed["clip_ids"], packed["branch_ids"])[0]
    near = position[:, None] - position[None] < 4
    assert torch.equal(mask, full & near)
    second_branch = int((packed["branch_ids"][0] == 2).nonzero()[0])
    assert mask[second_branch, 2]  # the trunk's last token is near, though the first branch stands between them


def test_each_type_of_layer_has_its_mask(packed):
    full = mask_of(packed)
    assert torch.equal(full, mask_of(packed, layer_types=["full_attention"] * 2, sliding_window=3))
    both = mask_of(packed, layer_types=["full_attention", "sliding_attention"], sliding_window=3)
    assert torch.equal(both["full_attention"], full) and both["sliding_attention"].sum() < full.sum()


def test_attention_that_cannot_take_the_mask_is_told(packed):
    with pytest.raises(ValueError, match=r"strange has layers of type \['full_attention', 'linear_attention'\]"):
        mask_of(packed, layer_types=["full_attention", "linear_attention"])
    with pytest.raises(ValueError, match="'flash_attention_2' cannot take the mask of shared audio; use sdpa, eager"):
        mask_of(packed, _attn_implementation="flash_attention_2")


def test_eager_attention_adds_its_mask_and_no_row_is_empty(packed):
    see = visible(packed["clip_ids"], packed["branch_ids"])
    for dtype in (torch.float32, torch.bfloat16):
        added = as_mask(see, "eager", dtype)
        assert added.dtype == dtype and torch.equal(added == 0, see) and torch.isfinite(added).all()
    assert see.any(-1).all()


# ----------------------------------------------------------------------------------------------------------------- bins


def test_bins_hold_everything_once_and_no_more_than_fits():
    rng = random.Random(3)
    for _ in range(300):
        lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 30))]
        capacity = rng.randint(1, 60)
        bins = best_fit(lengths, capacity)
        assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
        assert all(members == sorted(members) for members in bins) and bins == sorted(bins, key=min)
        for members in bins:
            assert len(members) == 1 or sum(lengths[index] for index in members) <= capacity


def test_a_sequence_goes_where_it_leaves_least_room():
    assert best_fit([18, 16, 13, 1], 30) == [[0], [1, 2, 3]]
    assert best_fit([50, 1, 1], 10) == [[0], [1, 2]]


def test_joined_sequences_are_told_apart_and_padding_belongs_to_none():
    one, other = pack_branches([row([1, A, 2, 3], 3)]), pack_branches([row([1, A, 4], 2)])
    batch = pad_sequences([join([one, other]), other], pad_token_id=7)
    assert batch["clip_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0] + [PADDING] * 4]
    assert batch["input_ids"][1].tolist() == [1, A, 4, 7, 7, 7, 7]
    assert batch["shift_labels"][1, 3:].tolist() == [IGNORE_INDEX] * 4
