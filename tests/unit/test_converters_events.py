"""Questions about sound events: what is made out of labels and times, and the traps of each set."""

import json
from collections import Counter
from pathlib import Path

import pytest
from converters import ARCHIVES, SOUNDS, examples, write_csv, write_parquet, write_sound
from test_converters import converted, disk_form, words

from audiollm.curation.dataset import Draw, Dropped
from audiollm.curation.instructions import (
    classify,
    commonest,
    count,
    grounding,
    multiple_choice,
    order,
    words_of,
    yes_and_no,
)
from audiollm.curation.origins import ParquetOrigin
from audiollm.curation.prepare import checked_options, prepare
from audiollm.data.hub import HubDataset
from audiollm.data.sources import load_rows
from audiollm.resources import import_converter

LABELS = [f"sound{number:02}" for number in range(40)]


def draws(number: int) -> list[Draw]:
    """Those of as many rows."""
    return [Draw(0, "x", row) for row in range(number)]


def label_in(question: str, labels: list[str]) -> str:
    """The one label that a question names."""
    (found,) = [label for label in labels if label in question]
    return found


# ---- questions out of labels


def test_a_multiple_choice_has_the_right_answer_once_and_no_option_twice():
    for draw in draws(200):
        ask = multiple_choice(draw, "sound", "sound07", [*LABELS, "sound03", "sound07"])
        assert ask.task == "sound_mcq" and ask.answer == "sound07"
        assert ask.choices.count("sound07") == 1 and len(set(ask.choices)) == len(ask.choices) == 4
        assert all(choice in ask.question for choice in ask.choices)


def test_a_multiple_choice_of_few_labels_has_fewer_options():
    ask = multiple_choice(Draw(0, "x"), "sound", "sound00", LABELS[:3])
    assert sorted(ask.choices) == LABELS[:3]


def test_yes_and_no_are_balanced_and_no_never_names_what_is_there():
    answers = Counter()
    for draw in draws(200):
        present = draw.sample(LABELS, 3)
        for ask in yes_and_no(draw, present, LABELS, similar={label: LABELS for label in LABELS}):
            answers[ask.answer] += 1
            assert (label_in(ask.question, LABELS) in present) == (ask.answer == "yes")
    assert answers == {"yes": 200, "no": 200}


def test_where_nothing_is_absent_only_yes_is_asked():
    assert [ask.answer for ask in yes_and_no(Draw(0, "x"), LABELS, LABELS)] == ["yes"]


def test_what_is_absent_is_by_turns_alike_popular_or_any():
    kinds = Counter()
    for draw in draws(300):
        ask = yes_and_no(draw, ["sound39"], LABELS, similar={"sound39": ["sound38"]}, common=LABELS[:10])[1]
        label = label_in(ask.question, LABELS)
        kinds["alike" if label == "sound38" else "popular" if label in LABELS[:10] else "any"] += 1
    assert all(kinds[kind] > 50 for kind in ("alike", "popular", "any"))


def test_the_commonest_are_counted_among_those_that_may_be_asked_for():
    heard = [label for number, label in enumerate(LABELS) for _ in range(number // 2)] + ["speech"] * 99
    assert commonest(heard, LABELS) == tuple(
        f"sound{number}" for number in (38, 39, 36, 37, 34, 35, 32, 33, 30, 31)
    )  # two of each number: the first in the alphabet
    assert commonest(["speech"], LABELS) == ()


def test_the_count_is_the_number_of_events_of_that_label():
    events = [(label, start, start + 0.5) for start, label in enumerate(("dog", "car", "dog", "dog", "car", "bell"))]
    asked = {}
    for draw in draws(50):
        (ask,) = count(draw, events)
        asked[label_in(ask.question, ["dog", "car", "bell"])] = ask.answer
    assert asked == {"dog": "3", "car": "2", "bell": "1"}
    assert count(Draw(0, "x"), []) == []


def test_the_first_of_two_is_the_one_that_begins_earlier_and_is_not_always_named_first():
    events = [("thunder", 4.0, 5.0), ("kettle", 1.0, 9.0), ("whistle", 2.0, 2.5)]
    onsets = {label: onset for label, onset, _ in events}
    named_first = Counter()
    for draw in draws(200):
        (ask,) = order(draw, events)
        asked = sorted((label for label in onsets if label in ask.question), key=ask.question.index)
        assert len(asked) == 2 and ask.answer == min(asked, key=onsets.__getitem__)
        named_first[asked[0] == ask.answer] += 1
    assert 60 < named_first[True] < 140


@pytest.mark.parametrize(
    "events",
    [
        [("dog", 0.0, 1.0), ("dog", 3.0, 4.0), ("car", 2.0, 3.0)],
        [("dog", 1.0, 2.0), ("car", 1.0, 4.0)],
        [("dog", 0.0, 1.0)],
        [],
    ],
    ids=["heard twice", "same onset", "one", "none"],
)
def test_the_order_is_not_asked_where_it_is_not_clear(events):
    assert all(order(draw, events) == [] for draw in draws(20))


def test_all_spans_of_a_label_are_told_in_the_order_of_time():
    (ask,) = grounding(Draw(0, "x"), [("dog", 3.04, 4.0), ("dog", 0.5, 1.26)])
    assert ask.answer == "0.5-1.3 s; 3.0-4.0 s"


def test_the_same_row_gives_the_same_questions_and_another_row_others():
    made = [
        classify(Draw(seed, "x", row), "sound", "sound01", LABELS) for seed, row in ((0, 1), (0, 1), (0, 2), (1, 1))
    ]
    assert made[0] == made[1]
    assert made[0] != made[2] and made[0] != made[3]


def test_labels_are_words():
    assert words_of("dog_bark") == "dog bark" and words_of("Bus/tram") == "Bus or tram"


# ---- folds and classes


FOLDS = {
    "esc50": {"filename": "1-7-A-0.wav", "category": "dog", "audio": b""},
    "urbansound8k": {"slice_file_name": "7-3-0-0.wav", "fsID": 7, "class": "dog_bark", "audio": b""},
}


@pytest.mark.parametrize(("name", "folds", "default"), [("esc50", 5, 5), ("urbansound8k", 10, 10)])
def test_the_fold_for_testing_never_shares_a_split_with_training(name, folds, default):
    convert = import_converter(name).convert
    for options, test_fold in (({}, default), ({"test_fold": 2}, 2)):
        splits = {
            fold: convert(FOLDS[name] | {"fold": form(fold)}, Draw(0, "x"), **options).split
            for fold in range(1, folds + 1)
            for form in (int, str)  # of the hub, of a table
        }
        assert {fold for fold, split in splits.items() if split == "test"} == {test_fold}
        assert set(splits.values()) == {"train", "test"}
    with pytest.raises(ValueError, match=rf"test_fold={folds + 1} does not fit: .*less than or equal to {folds}"):
        checked_options(import_converter(name), {"test_fold": folds + 1})


@pytest.mark.parametrize(("name", "classes"), [("esc50", 50), ("urbansound8k", 10), ("vocalsound", 6)])
def test_every_class_has_others_that_are_alike(name, classes):
    converter = import_converter(name)
    assert len(converter.SIMILAR) == classes
    for label, alike in converter.SIMILAR.items():
        assert set(alike) - {label} and set(alike) <= set(converter.SIMILAR)
        assert "_" not in label


def choices_of(name: str, rows: int) -> list:
    """The multiple choices about as many rows."""
    converter = import_converter(name)
    labels = [label for label in converter.SIMILAR for _ in range(rows // len(converter.SIMILAR))]
    column = "category" if name == "esc50" else "class"
    made = (
        converter.convert(FOLDS[name] | {"fold": 1, column: label.replace(" ", "_")}, draw)
        for label, draw in zip(labels, draws(rows), strict=True)
    )
    return [ask for item in made for ask in item.asks if ask.choices]


def test_two_of_the_wrong_options_are_of_the_same_group():
    similar = import_converter("esc50").SIMILAR
    for ask in choices_of("esc50", 400):
        assert sum(choice in similar[ask.answer] for choice in ask.choices if choice != ask.answer) >= 2


@pytest.mark.parametrize("name", FOLDS)
def test_the_right_option_stands_at_every_place_equally_often(name):
    places = Counter(ask.choices.index(ask.answer) for ask in choices_of(name, 400))
    # 100 expected; 30 are 3.5 standard deviations of a fair draw
    assert all(70 <= places[place] <= 130 for place in range(4))


# ---- vocalsound


@pytest.mark.parametrize("answer", ["throatclearing", "Throat clearing", "Throat clearing.", "throat_clearing"])
def test_a_vocal_sound_has_one_name_however_it_is_written(answer):
    item = import_converter("vocalsound").convert({"audio": Path("f0003_0_x.wav"), "answer": answer}, Draw(0, "x"))
    assert item.asks[0].answer == "throat clearing"


def test_speakers_of_vocalsound_stay_in_the_split_of_their_table(tmp_path):
    for number, name in enumerate(("f0003_0_cough", "f0003_1_sigh", "m0004_0_sniff", "m0005_0_sneeze", "m0006_0_sigh")):
        write_sound(tmp_path / "in" / "audio_16k" / f"{name}.wav", number)
    for table, speaker in (("tr", "f0003"), ("val", "m0004"), ("te", "m0005")):
        rows = [{"id": speaker, "gender": "female", "age": 30, "country": "India, the south"}]
        write_csv(tmp_path / "in" / "meta" / f"{table}_meta.csv", rows, header=False)
    rows = converted("vocalsound", tmp_path / "in", tmp_path / "out")
    found = {(row.split, row.source_id, row.target) for row in rows if row.task == "vocal_sound"}
    assert found == {
        ("train", "f0003", "cough"),
        ("train", "f0003", "sigh"),
        ("validation", "m0004", "sniff"),
        ("test", "m0005", "sneeze"),
    }


def test_a_name_of_another_form_is_no_speaker():
    speaker_of = import_converter("vocalsound").speaker_of
    assert speaker_of({"path": "audio_12.wav", "bytes": b""}) == "audio_12"
    assert speaker_of({"path": "f0003_0_cough.wav", "bytes": b""}) == "f0003"
    assert speaker_of({"path": None, "bytes": b""}) == ""


# ---- clotho_aqa


def agreed(*answers: tuple[str, str]) -> str:
    """What is made of three people's answers."""
    row = {"question": " Is it raining? ", "answer": list(answers), "audio": "a.wav"}
    (ask,) = import_converter("clotho_aqa").convert(row, Draw(0, "x")).asks
    assert ask.task == "aqa" and ask.question == "Is it raining?"
    return ask.answer


def test_only_answers_count_whose_givers_were_sure():
    assert agreed(("no", "no"), ("no", "maybe"), ("yes", "yes")) == "yes"
    assert agreed(("yes", "Yes"), ("yes ", "YES"), ("no", "no")) == "yes"


def test_two_of_three_decide_and_case_does_not_matter():
    assert agreed(("Dog", "yes"), ("cat", "yes"), ("dog ", "yes")) == "dog"
    assert agreed(("yes", "yes"), ("Yes", "yes")) == "yes"


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([("yes", "no"), ("yes", "maybe")], "nobody was sure"),
        ([("yes", "yes"), ("no", "yes")], "no majority"),
        ([("a", "yes"), ("b", "yes"), ("c", "yes")], "no majority"),
    ],
)
def test_a_question_without_a_sure_majority_is_dropped(answers, reason):
    with pytest.raises(Dropped, match=reason):
        agreed(*answers)


def test_the_answers_to_one_question_are_one_row_and_names_are_read_as_latin_1(tmp_path):
    rows = [row for row in disk_form("clotho_aqa", tmp_path, tmp_path / "out") if row.split == "train"]
    assert [(row.source_id, row.question, row.target) for row in rows] == [
        ("Café in rain.wav", "Is it raining?", "yes"),
        ("Dogs.wav", "What is barking?", "dog"),
    ]


def test_the_copy_of_clotho_aqa_on_the_hub_has_splits_of_its_own_names(tmp_path):
    converter = import_converter("clotho_aqa")
    rows = examples(converter)
    SOUNDS["clotho_aqa"](tmp_path, rows)
    for ours, name in (("validation", "clotho_aqa_val_filtered"), ("test", "clotho_aqa_test_filtered")):
        write_parquet(tmp_path / ours, converter, rows)
        [file] = (tmp_path / ours / "data").glob("train-*")
        (tmp_path / "hub").mkdir(exist_ok=True)
        file.rename(tmp_path / "hub" / file.name.replace("train", name))
    rows = converted("clotho_aqa", tmp_path / "hub", tmp_path / "out", audio="flac")
    assert [(row.split, row.target) for row in rows] == [
        ("test", "yes"), ("test", "dog"), ("validation", "yes"), ("validation", "dog")
    ]  # fmt: skip


# ---- audiomcq


def mcq(**row):
    """The question that is made of a row of AudioMCQ."""
    (ask,) = import_converter("audiomcq").convert({"audio": b"", "audio_path": "a.wav"} | row, Draw(0, "x")).asks
    return ask


def test_both_namings_of_audiomcq_and_answers_by_number_give_the_same():
    choices = ["1", "2 ", "3", "4"]
    one = mcq(question="How many?", choices=choices, answer="2")
    assert one == mcq(question_text="How many?", multi_choice=choices, answer=1)
    assert one.task == "mcq" and one.answer == "2" and sorted(one.choices) == ["1", "2", "3", "4"]
    assert "How many?" in one.question


def test_the_right_choice_of_audiomcq_stands_at_every_place_equally_often():
    row = {"audio": b"", "audio_path": "a.wav", "question": "?", "choices": ["a gong", "a lyre", "a tuba", "a zither"]}
    row["answer"] = "a lyre"
    convert = import_converter("audiomcq").convert
    asks = [ask for draw in draws(400) for ask in convert(row, draw).asks]
    places = Counter(ask.choices.index(ask.answer) for ask in asks)
    # 100 expected; 30 are 3.5 standard deviations of a fair draw
    assert all(70 <= places[place] <= 130 for place in range(4))
    assert all(sorted(ask.choices, key=ask.question.rindex) == list(ask.choices) for ask in asks)
    assert convert(row, Draw(0, "x", 7)) == convert(row, Draw(0, "x", 7))


@pytest.mark.parametrize("answer", ["5", "", 4, -1, None, "same"])
def test_an_answer_that_is_not_exactly_one_of_the_choices_is_dropped(answer):
    with pytest.raises(Dropped, match="not exactly one of the choices"):
        mcq(question="How many?", choices=["1", "same", "same", "2"], answer=answer)


def test_questions_about_one_recording_name_it_and_not_themselves():
    item = import_converter("audiomcq").convert(
        {"id": 1, "audio_path": "audios/a.wav", "question": "?", "choices": ["x", "y"], "answer": "x", "audio": b""},
        Draw(0, "x"),
    )
    assert item.source_id == "audios/a.wav"


def test_a_repository_of_files_says_how_to_get_them(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"audio_path": "a.wav", "question": "?", "choices": ["x"], "answer": "x"}')
    parts = [HubDataset(f"hf://datasets/{tmp_path}", None, "train", None, True)]
    origin = ParquetOrigin("audiomcq", import_converter("audiomcq").SET, parts, "train", None)
    with pytest.raises(ValueError, match=r"does not lie in Parquet files; `hf download .* --source DIR: .*") as error:
        origin.files()
    assert "\n" not in str(error.value) and "stream" not in str(error.value)


# ---- tacos


EVENTS = [["A dog barks", "0.5", "1.2"], ["A car passes by.", "3.0", "7.25"], ["a dog barks.", "1.8", "2.4"]]


def tacos(**row) -> dict[str, str]:
    """Task -> answer of a row of TACOS."""
    row = {"filename": "7.mp3", "caption": "A dog, then a car.", "events": EVENTS, "audio": b""} | row
    return {ask.task: ask.answer for ask in import_converter("tacos").convert(row, Draw(0, "x")).asks}


def test_what_was_marked_once_is_not_counted():
    assert tacos()["count"] == "2"
    assert "count" not in tacos(events=EVENTS[:2])


def test_a_clip_without_timed_words_keeps_its_caption():
    assert tacos(events=[]) == {"caption": "A dog, then a car."}
    assert tacos(events=[[" ", "0", "1"]]) == {"caption": "A dog, then a car."}


def test_a_timed_text_is_part_of_a_sentence():
    as_label = import_converter("tacos").as_label
    assert as_label("A dog barks. ") == "a dog barks" and as_label("TV plays") == "TV plays"


def test_tacos_on_disk_brings_its_tables_together(tmp_path):
    source = tmp_path / "in"
    files = [{"filename": name} for name in ("1.mp3", "2.mp3", "3.mp3")]
    for number, row in enumerate(files):
        write_sound(source / "audio" / row["filename"], number)
    write_csv(source / "development_split.csv", files[:2])
    write_csv(source / "test_split.csv", files[2:])
    strong = [{"filename": f"{n}.mp3", "text": f"Sound {n}", "onset": n, "offset": n + 0.5} for n in (3, 1, 2)]
    write_csv(source / "annotations_strong.csv", strong)
    write_csv(source / "annotations_weak.csv", [row | {"text": f"About {row['filename'][0]}."} for row in files])
    write_csv(source / "metadata.csv", [{"filename": "1.mp3", "freesound_id": "11", "description": "two\nlines"}])
    rows = converted("tacos", source, tmp_path / "out")
    assert {(row.split, row.source_id, row.task, row.target) for row in rows} == {
        ("train", "11", "caption", "About 1."),
        ("train", "11", "grounding", "1.0-1.5 s"),
        ("train", "2.mp3", "caption", "About 2."),
        ("train", "2.mp3", "grounding", "2.0-2.5 s"),
        ("test", "3.mp3", "caption", "About 3."),
        ("test", "3.mp3", "grounding", "3.0-3.5 s"),
    }


# ---- all


@pytest.mark.parametrize("name", ["urbansound8k", "vocalsound", "clotho_aqa", "audiomcq", "tacos"])
def test_an_archive_may_lie_in_one_more_folder(name, tmp_path):
    ARCHIVES[name](tmp_path / "outer" / "inner", examples(import_converter(name)))
    outer = converted(name, tmp_path / "outer", tmp_path / "out1")
    inner = converted(name, tmp_path / "outer" / "inner", tmp_path / "out2")
    assert words(outer) == words(inner) and outer


def test_a_question_without_an_answer_is_left_out_of_its_recording_and_counted(tmp_path):
    ARCHIVES["tacos"](tmp_path / "in", [row | {"caption": ""} for row in examples(import_converter("tacos"))])
    prepare("tacos", tmp_path / "out", {"source": str(tmp_path / "in"), "split": "train"})
    assert {row.task for row in load_rows(str(tmp_path / "out" / "train.jsonl"))} == {"grounding", "order", "count"}
    [dropped] = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert (dropped["cause"], dropped["detail"]) == ("questions without an answer", "caption")
