"""What an answer is worth: labels, options, things named, words; and how sure a score is."""

import math

import numpy as np
import pytest

from audiollm.evaluation.metrics import (
    Count,
    chosen_option,
    confidence_interval,
    exact,
    exact_option,
    exact_yes_no,
    f1,
    final_answer,
    is_better,
    normalise,
    things_named,
    total,
    transcript_form,
    wer,
    yes_or_no,
)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("  The  Dog. ", "dog"),
        ("dog_bark", "dog bark"),
        ("It's a bird!", "its bird"),
        ("It’s a bird!", "its bird"),
        ("C# minor", "c# minor"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("5-6", "5 6"),
        ("3.5 s.", "3.5 s"),
        ("50%", "50%"),
        ("A", "a"),
        ("**Rain**", "rain"),
        ("हिन्दी", "हिन्दी"),
        ("ＤＯＧ", "dog"),
        ("...", ""),
    ],
)
def test_normalising_drops_what_does_not_change_a_label(text, form):
    assert normalise(text) == form


def test_normalising_twice_changes_nothing():
    for text in ("The A", "a the an", "O'Neil's -5.5 %", "x . 5", "1.2.3"):
        assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>A dog? No.</think>\nYes.", "Yes."),
        ("<think>never closed", ""),
        ("orphaned thought</think> rain", "rain"),
        ("rain", "rain"),
    ],
)
def test_thoughts_are_no_part_of_the_answer(text, answer):
    assert final_answer(text) == answer


def test_exact_accepts_any_reference_and_nothing_else():
    assert exact("the Dog.", ["cat", "a dog"]) == Count(1, 1)
    assert exact("dog barking", ["cat", "dog"]) == Count(0, 1)
    assert exact("", ["dog"]) == Count(0, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes.", "yes"),
        ("No, there is no dog.", "no"),
        ("Yes, no doubt", "yes"),
        ("There is no dog", "no"),
        ("either yes or no", None),
        ("maybe", None),
        ("nothing yesterday", None),
        ("", None),
    ],
)
def test_yes_and_no_are_read_as_words(text, said):
    assert yes_or_no(text) == said


def test_an_unreadable_answer_to_a_yes_no_question_is_wrong():
    assert exact_yes_no("maybe", ["no"]).got == 0
    assert exact_yes_no("No, it is silent.", ["no"]).got == 1


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("dog", "dog"),
        ("The answer is dog barking.", "dog barking"),
        ("It is a cat, not a dog", None),
        ("It is a bird", None),
        ("B", "dog barking"),
        ("(c)", "cat"),
        ("The answer is Dog", "dog"),
        ("hotdog", None),
        ("", None),
    ],
)
def test_an_option_is_named_by_whole_words_and_the_longest_wins(text, option):
    assert chosen_option(text, ["a dog", "dog barking", "cat"]) == option


def test_one_is_not_found_in_twelve():
    assert chosen_option("12", ["1", "12"]) == "12"


def test_options_of_the_same_words_in_another_order_differ():
    options = ["first neutral, then angry", "first angry, then neutral"]
    assert exact_option(options[0], options[0], options).got == 1
    assert exact_option(options[0], options[1], options).got == 0


def test_an_option_that_stands_twice_can_still_be_right():
    assert exact_option("dog", "dog", ["dog", "dog", "cat"]).got == 1


def test_a_letter_as_the_right_answer_is_its_option():
    assert exact_option("rain", "B", ["dog", "rain"]).got == 1


def test_things_named_are_split_at_the_words_between_them():
    assert things_named("A dog, then the rain over speech with wind; and a bell.") == {
        "dog",
        "rain",
        "speech",
        "wind",
        "bell",
    }
    assert things_named("A sand storm") == {"sand storm"}


def test_f1_counts_things_not_words_and_takes_the_best_reference():
    assert f1("rain and a dog", ["A dog, then rain."]).got == 1
    assert f1("a dog", ["A dog, then rain."]).got == pytest.approx(2 / 3)
    assert f1("a dog", ["rain", "dog"]).got == 1
    assert f1("", ["rain"]).got == 0


def test_word_errors_are_pooled_over_the_corpus_and_not_averaged():
    counts = [wer("a", ["a b c"], "de"), wer("x", ["y"], "de")]
    assert counts == [Count(2, 3), Count(1, 1)]
    assert total(counts) == 0.75


def test_an_empty_transcript_is_all_deletions():
    assert wer("", ["turn the light on"], "en") == Count(4, 4)


def test_words_said_to_silence_are_insertions():
    assert wer("hello there", ["um"], "en") == Count(2, 0)


def test_the_english_normaliser_is_applied_once():
    assert transcript_form("Double oh seven", "en") == "007"
    assert wer("double oh seven", ["007"], "en-GB").got == 1  # "007" alone becomes "7": twice would hide the difference


def test_other_languages_keep_their_words():
    assert transcript_form("Um zwei Uhr, O'Neil!", "de") == "um zwei uhr o neil"
    assert transcript_form("two", None) == "two"


def test_languages_without_spaces_are_counted_by_the_character():
    assert wer("你好", ["你们好"], "zh") == Count(1, 3)


def test_wer_matches_jiwer_on_a_corpus():
    import jiwer

    rng = np.random.default_rng(0)
    said, right = ([" ".join(rng.choice(list("abcdef"), rng.integers(1, 9))) for _ in range(50)] for _ in range(2))
    counts = [wer(one, [other], "de") for one, other in zip(said, right, strict=True)]
    assert total(counts) == pytest.approx(jiwer.wer(right, said))


def test_lower_is_better_for_word_errors_alone():
    assert is_better("wer", 0.1, than=0.2) and not is_better("wer", 0.2, than=0.2)
    assert is_better("exact", 0.2, than=0.1) and not is_better("exact", 0.1, than=0.2)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_the_interval_has_the_width_that_statistics_expect():
    counts = [Count(float(index % 10 < 7), 1) for index in range(1000)]
    low, high = confidence_interval(counts, range(1000))
    width = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert low == pytest.approx(0.7 - width, abs=0.006)
    assert high == pytest.approx(0.7 + width, abs=0.006)


def test_questions_about_one_recording_count_as_one_piece_of_evidence():
    counts = [Count(float(index % 2), 1) for index in range(100) for _ in range(10)]
    alone = confidence_interval(counts, range(1000))
    grouped = confidence_interval(counts, [index // 10 for index in range(1000)])
    assert grouped[1] - grouped[0] == pytest.approx((alone[1] - alone[0]) * math.sqrt(10), rel=0.15)


def test_a_perfect_score_is_not_certain():
    low, high = confidence_interval([Count(1, 1)] * 400, range(400))
    assert (round(low, 3), high) == (0.990, 1)
    low, high = confidence_interval([Count(0, 5)] * 400, range(400))
    assert (low, round(high, 3)) == (0, 0.010)


def test_the_interval_of_word_errors_resamples_errors_and_words_together():
    counts = [Count(1, 10), Count(9, 10)] * 200
    low, high = confidence_interval(counts, range(400))
    assert low < 0.5 < high and high - low == pytest.approx(2 * 1.96 * 0.4 / math.sqrt(400), rel=0.15)


def test_the_interval_is_the_same_every_time():
    counts = [Count(float(index % 3 > 0), 1) for index in range(90)]
    assert confidence_interval(counts, range(90)) == confidence_interval(counts, range(90))
