"""The traps of data sets of what is meant, felt and asked."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from converters import examples, tone, write_sound
from test_converters import converted, disk_form, hub_form

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Draw, Dropped, Item
from audiollm.curation.instructions import SIMILAR_EMOTIONS
from audiollm.curation.joining import stems_of
from audiollm.curation.prepare import prepare
from audiollm.data.sources import load_rows
from audiollm.resources import import_converter


def made(name: str, row: dict, **options) -> Item:
    """What a converter makes of a row."""
    return import_converter(name).convert(row, Draw(0, name), **options)


def first(name: str, **changed) -> dict:
    """The first example of a set, with something changed."""
    return examples(import_converter(name))[0] | changed


def answers(item: Item, task: str) -> list[str]:
    """What is answered where a task is asked."""
    return [ask.answer for ask in item.asks if ask.task == task]


# ---- Spoken-SQuAD ----------------------------------------------------------------------------------------------------


def test_the_sentences_of_a_spoken_paragraph_are_joined_in_the_order_of_their_numbers(tmp_path):
    order = [9, 0, 2, 10]
    for number in order:
        write_sound(tmp_path / "dev_wav" / f"0_0_{number}.wav", number)
    write_sound(tmp_path / "dev_wav" / "0_1_0.wav", 20)
    qa = {"question": "Which?", "answers": [{"text": "a bell"}]}
    paragraphs = [{"qas": [qa]}, {"qas": [qa]}, {"qas": [qa]}]
    (tmp_path / "spoken_test-v1.1.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    converter = import_converter("spoken_squad")
    several, one, none = [row for _, row in converter.read(Archive(tmp_path, ""), "test")]
    samples, rate = made("spoken_squad", several).audio
    np.testing.assert_allclose(samples, np.concatenate([tone(n) for n in sorted(order)]), atol=1e-3)
    assert rate == 16_000
    assert made("spoken_squad", one).audio == tmp_path / "dev_wav" / "0_1_0.wav"
    with pytest.raises(Dropped, match="not there"):
        made("spoken_squad", none)


def test_other_answers_to_a_question_about_a_spoken_paragraph_are_references(tmp_path):
    write_sound(tmp_path / "dev_wav" / "0_0_0.wav", 0)
    texts = [{"text": text} for text in ("a bell", "a bell", "a golden bell")]
    data = [{"paragraphs": [{"qas": [{"question": "What?", "answers": texts}]}]}]
    (tmp_path / "spoken_test-v1.1.json").write_text(json.dumps({"data": data}))
    (row,) = converted("spoken_squad", tmp_path, tmp_path / "out", split="test")
    assert (row.target, row.references) == ("a bell", ("a golden bell",))


def test_a_paragraph_of_several_recordings_says_that_it_wants_to_be_written(tmp_path):
    for number in (0, 1):
        write_sound(tmp_path / "dev_wav" / f"0_0_{number}.wav", number)
    data = [{"paragraphs": [{"qas": [{"question": "What?", "answers": [{"text": "a bell"}]}]}]}]
    (tmp_path / "spoken_test-v1.1.json").write_text(json.dumps({"data": data}))
    with pytest.raises(ValueError, match="audio=embed or flac"):
        converted("spoken_squad", tmp_path, tmp_path / "1", split="test")
    (row,) = converted("spoken_squad", tmp_path, tmp_path / "2", split="test", audio="flac")
    assert row.clips[0].duration == 2.0


# ---- LibriSQA --------------------------------------------------------------------------------------------------------


def test_part_two_of_librisqa_is_answered_with_the_text_of_an_option_and_not_its_letter(tmp_path):
    free, chosen = [row for row in disk_form("librisqa", tmp_path, tmp_path / "out") if row.split == "train"]
    assert (free.task, free.question, free.choices) == ("aqa", "What did the boy bring home?", ())
    assert (chosen.task, chosen.target) == ("mcq", "By the river")
    assert chosen.choices == ("At the mill", "In church", "By the river", "On the road")
    assert chosen.question.count("By the river") == 1 and "C." not in chosen.question
    assert "Where did they meet?" in chosen.question
    assert chosen.clips[0].transcript == "they met by the river"


@pytest.mark.parametrize("text", ["Why?\nA. It rained\nB. It snowed\nC. It was late\nD. Nobody knew",
                                  "Why? (A) It rained (B) It snowed (C) It was late (D) Nobody knew",
                                  "Why? A: It rained B: It snowed C: It was late D: Nobody knew"])  # fmt: skip
def test_options_of_librisqa_are_told_apart_however_they_are_written(text):
    ask = import_converter("librisqa").chosen(Draw(0), text, "B. It snowed")
    assert (ask.answer, ask.choices) == ("It snowed", ("It rained", "It snowed", "It was late", "Nobody knew"))


@pytest.mark.parametrize("text", ["Why? A. It rained B. It snowed", "Why?", "A. x B. y C. z D. w A. x", "A. B. C. D."])
def test_a_row_of_librisqa_without_four_options_is_left_out(text):
    with pytest.raises(Dropped, match="four options"):
        import_converter("librisqa").chosen(Draw(0), text, "A")


def test_an_utterance_of_librisqa_is_found_by_its_name_in_whichever_folder(tmp_path):
    write_sound(tmp_path / "elsewhere" / "14-208-0000.wav", 0)
    stems_of.cache_clear()
    row = first("librisqa", speech_path=r"D:\LibriSpeech\14-208-0000.flac")
    assert made("librisqa", row, recordings=tmp_path).audio == tmp_path / "elsewhere" / "14-208-0000.wav"
    with pytest.raises(Dropped, match="not there"):
        made("librisqa", first("librisqa", speech_path="14-208-0007.flac"), recordings=tmp_path)


# ---- MELD ------------------------------------------------------------------------------------------------------------


def test_apostrophes_of_windows_are_apostrophes():
    assert made("meld", first("meld")).transcript == "I can't believe you did that!"
    assert made("meld", first("meld", Utterance="\u0093I can\u2019t\u0094\u0085")).transcript == '"I can\'t"…'


def test_a_table_of_meld_in_windows_1252_is_read_like_one_in_utf_8(tmp_path):
    texts = {}
    for encoding in ("cp1252", "utf-8"):
        folder = tmp_path / encoding
        write_sound(folder / "dev_splits_complete" / "dia2_utt5.wav", 0)
        header = "Utterance,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
        text = f"{header}“I can’t!”,joy,positive,2,5\n"
        (folder / "dev_sent_emo.csv").write_bytes(text.encode(encoding))
        ((_, row),) = import_converter("meld").read(Archive(folder, ""), "validation")
        texts[encoding] = made("meld", row).transcript
    assert texts == {"cp1252": '"I can\'t!"', "utf-8": '"I can\'t!"'}


def test_clips_of_meld_are_found_as_films_too_and_each_split_in_its_own_folder(tmp_path):
    csv = "Utterance,Emotion,Sentiment,Dialogue_ID,Utterance_ID\nHi,joy,positive,0,0\nBye,sadness,negative,0,1\n"
    for name, folder in (("train", "train_splits"), ("test", "output_repeated_splits_test")):
        (tmp_path / f"{name}_sent_emo.csv").write_text(csv)
        (tmp_path / "MELD.Raw" / folder).mkdir(parents=True)
        (tmp_path / "MELD.Raw" / folder / "dia0_utt0.mp4").touch()
    read = import_converter("meld").read
    for name, folder in (("train", "train_splits"), ("test", "output_repeated_splits_test")):
        audios = [row["audio"] for _, row in read(Archive(tmp_path, ""), name)]
        assert audios == [tmp_path / "MELD.Raw" / folder / f"dia0_utt{n}" for n in ("0.mp4", "1.wav")]


def test_a_clip_of_meld_that_is_missing_is_counted_and_the_others_are_made(tmp_path):
    csv = "Utterance,Emotion,Sentiment,Dialogue_ID,Utterance_ID\nHi,joy,positive,0,0\nBye,sadness,negative,110,7\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "dev_sent_emo.csv").write_text(csv)
    write_sound(tmp_path / "in" / "dev" / "dia0_utt0.wav", 0)
    prepare("meld", tmp_path / "out", {"source": str(tmp_path / "in"), "split": "validation"})
    rows = load_rows([str(tmp_path / "out" / "validation.jsonl")], strict=True)
    assert {row.source_id for row in rows} == {"dia0_utt0"}
    (dropped,) = (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()
    assert json.loads(dropped)["cause"] == "broken recording"


def test_emotion_and_sentiment_of_meld_are_words_and_options():
    item = made("meld", first("meld", Emotion="Surprise", Sentiment="Negative"))
    assert answers(item, "emotion") == answers(item, "emotion_mcq") == ["surprise"]
    assert answers(item, "sentiment") == answers(item, "sentiment_mcq") == ["negative"]
    (choices,) = [ask.choices for ask in item.asks if ask.task == "sentiment_mcq"]
    assert sorted(choices) == ["negative", "neutral", "positive"]


# ---- IEMOCAP ---------------------------------------------------------------------------------------------------------


def test_excited_is_happy_where_four_emotions_are_asked_for():
    assert answers(made("iemocap", first("iemocap", major_emotion="excited")), "emotion") == ["happy"]
    kept = made("iemocap", first("iemocap", major_emotion="excited"), emotions="all")
    assert answers(kept, "emotion") == answers(kept, "emotion_mcq") == ["excited"]


def test_frustration_is_left_out_where_four_emotions_are_asked_for():
    row = first("iemocap", major_emotion="frustrated")
    with pytest.raises(Dropped):
        made("iemocap", row)
    assert answers(made("iemocap", row, emotions="all"), "emotion") == ["frustrated"]


@pytest.mark.parametrize("label", ["xxx", "oth", "other"])
def test_a_turn_on_whose_emotion_people_did_not_agree_is_left_out(label):
    with pytest.raises(Dropped):
        made("iemocap", first("iemocap", major_emotion=label), emotions="all")


def test_the_four_options_of_iemocap_are_the_four_emotions():
    (choices,) = [ask.choices for ask in made("iemocap", first("iemocap")).asks if ask.choices]
    assert sorted(choices) == ["angry", "happy", "neutral", "sad"]


ONE_EMOTION = {
    "crema_d": ({"audio": Path("1001_DFA_SAD_XX.wav")}, {}, {"fear"}),
    "ravdess": ({"audio": Path("03-01-04-01-01-01-01.wav")}, {}, {"fearful", "surprised"}),
    "meld": ({"Emotion": "sadness"}, {}, {"fear", "surprise"}),
    "iemocap": ({"major_emotion": "sad"}, {"emotions": "all"}, {"fear", "surprise"}),
}


@pytest.mark.parametrize("name", ONE_EMOTION)
def test_an_emotion_stands_beside_those_it_is_taken_for(name):
    changed, options, alike = ONE_EMOTION[name]
    converter, chosen = import_converter(name), Counter()
    for seed in range(100):
        asks = converter.convert(first(name, **changed), Draw(seed, name), **options).asks
        (choices,) = [ask.choices for ask in asks if ask.task == "emotion_mcq"]
        assert alike <= set(choices)
        chosen.update(set(choices) - alike)
    assert len(chosen) > 3  # beside the right one, others by turns


@pytest.mark.parametrize("name", ["crema_d", "ravdess", "meld", "iemocap"])
def test_every_emotion_of_a_set_has_others_that_are_alike(name):
    converter = import_converter(name)
    known = converter.CODES if name == "iemocap" else converter.EMOTIONS
    labels = set(known.values() if isinstance(known, dict) else known)
    for label in labels:
        assert (SIMILAR_EMOTIONS[label] & labels) - {label}, label


def test_the_actors_of_one_session_of_iemocap_are_for_testing(tmp_path):
    rows = hub_form("iemocap", tmp_path, tmp_path / "out")
    assert {(row.source_id[:5], row.split) for row in rows} == {("Ses01", "train"), ("Ses05", "test")}
    assert made("iemocap", first("iemocap"), test_session=1).split == "test"


def test_the_gender_of_a_turn_is_that_of_its_speaker_and_not_of_the_one_who_wears_the_markers(tmp_path):
    rows = disk_form("iemocap", tmp_path, tmp_path / "out")
    said = {row.source_id: row.target for row in rows if row.task == "gender"}
    assert said == {"Ses01F_impro01_M001.wav": "male", "Ses05M_script01_1_F002.wav": "female"}


# ---- CREMA-D, RAVDESS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clip", "actors"),
    [("crema_d", "{}_TIE_SAD_LO.wav", range(1001, 1092)), ("ravdess", "03-01-04-01-01-02-{:02d}.wav", range(1, 25))],
)
def test_no_actor_is_both_in_training_and_in_the_test(name, clip, actors):
    splits = {actor: made(name, {"audio": Path(clip.format(actor))}).split for actor in actors}
    assert set(splits.values()) == {"train", "test"}
    assert sorted(splits, key=lambda actor: (splits[actor] == "test", actor)) == list(actors)
    assert 0.1 < list(splits.values()).count("test") / len(actors) < 0.25
    middle = actors[len(actors) // 2]
    assert made(name, {"audio": Path(clip.format(middle))}, first_test_actor=middle).split == "test"


@pytest.mark.parametrize(
    ("label", "emotion"), [("Anger", "anger"), ("happiness", "happy"), ("SAD", "sad"), ("Fearful", "fear")]
)
def test_a_clip_of_crema_d_without_a_name_has_its_label_and_stays_where_the_source_has_it(label, emotion):
    for path in (None, "file_7.wav"):
        item = made("crema_d", {"audio": {"bytes": b"", "path": path}, "label": label})
        assert (answers(item, "emotion"), item.split) == ([emotion], None) and item.source_id


@pytest.mark.parametrize("row", [{}, {"label": None}, {"label": "calm"}, {"label": 3}])
def test_a_clip_of_crema_d_of_which_nothing_tells_the_emotion_is_left_out(row):
    with pytest.raises(Dropped, match="neither its name nor its label"):
        made("crema_d", {"audio": {"bytes": b"", "path": None}, **row})


def test_the_held_out_actors_of_ravdess_are_men_and_women():
    items = [made("ravdess", {"audio": Path(f"03-01-04-01-01-02-{actor:02d}.wav")}) for actor in range(1, 25)]
    assert {answers(item, "gender")[0] for item in items if item.split == "test"} == {"male", "female"}


@pytest.mark.parametrize(
    ("name", "clip", "emotion"),
    [
        ("crema_d", "1001_DFA_ANG_XX.wav", "anger"),
        ("crema_d", "1001_IEO_NEU_XX.wav", "neutral"),
        ("ravdess", "03-01-01-01-01-01-01.wav", "neutral"),
        ("ravdess", "03-01-06-01-02-01-12.wav", "fearful"),
        ("ravdess", "03-01-08-02-02-02-24.wav", "surprised"),
    ],
)
def test_the_emotion_is_that_of_the_name_whether_it_is_a_path_or_a_column_of_the_hub(name, clip, emotion):
    for audio in (Path("archive") / clip, {"bytes": b"", "path": clip}):
        item = made(name, {"audio": audio})
        assert answers(item, "emotion") == answers(item, "emotion_mcq") == [emotion]
        assert item.source_id == Path(clip).stem


@pytest.mark.parametrize(("actor", "gender"), [("01", "male"), ("12", "female"), ("23", "male")])
def test_actors_of_ravdess_with_odd_numbers_are_men(actor, gender):
    item = made("ravdess", {"audio": Path(f"03-01-06-01-02-01-{actor}.wav")})
    assert answers(item, "gender") == [gender]
    assert item.transcript == "Dogs are sitting by the door."


@pytest.mark.parametrize(
    "audio", [{"bytes": b"RIFF", "path": None}, Path("me_DFA_ANG_XX.wav"), {"bytes": b"", "path": "7.wav"}]
)
def test_a_clip_of_ravdess_that_does_not_say_who_speaks_is_left_out_rather_than_put_into_either_split(audio):
    with pytest.raises(Dropped, match="no actor"):
        made("ravdess", {"audio": audio})


def test_the_file_of_a_row_of_ravdess_tells_what_its_audio_does_not():
    item = made("ravdess", {"file": "Actor_12/03-01-06-01-02-01-12.wav", "audio": {"bytes": b"", "path": "7.wav"}})
    assert answers(item, "emotion") == ["fearful"] and item.source_id == "03-01-06-01-02-01-12"


def test_songs_of_ravdess_are_left_out():
    with pytest.raises(Dropped, match="sung"):
        made("ravdess", {"audio": Path("03-02-03-01-01-01-01.wav")})


def test_an_archive_of_ravdess_that_holds_its_clips_twice_gives_each_once(tmp_path):
    rows = disk_form("ravdess", tmp_path, tmp_path / "out")
    assert len(list((tmp_path / "archive").rglob("*.wav"))) == 4
    assert len([row for row in rows if row.task == "gender"]) == 2


# ---- SLURP -----------------------------------------------------------------------------------------------------------


def test_each_recording_of_a_command_is_a_clip_of_its_own(tmp_path):
    rows = disk_form("slurp", tmp_path, tmp_path / "out")
    assert {row.split for row in rows} == {"train", "validation", "test"}
    assert {(row.source_id, row.task) for row in rows if row.split == "train"} == {
        (name, task) for name in ("audio-1502-headset", "audio-1502") for task in ("intent", "slots")
    }


def command(**changed) -> dict:
    """A row of SLURP about one recording."""
    return first("slurp", audio=Path("a.flac"), recording={"file": "a.flac"}) | changed


def test_a_recording_of_slurp_that_was_not_said_as_written_is_left_out_and_one_without_a_status_is_kept():
    assert made("slurp", command()).source_id == "a"
    assert made("slurp", command(recording={"file": "a.flac", "status": "correct"})).source_id == "a"
    with pytest.raises(Dropped):
        made("slurp", command(recording={"file": "a.flac", "status": "wrong"}))


def test_the_intent_is_scenario_and_action_in_words():
    assert answers(made("slurp", command()), "intent") == ["play music"]
    item = made("slurp", command(scenario="iot", action="hue_lightoff", intent="something_else"))
    assert answers(item, "intent") == ["iot hue lightoff"]


def test_slots_are_types_in_words_and_all_the_words_that_they_span():
    assert answers(made("slurp", command()), "slots") == ["music genre: jazz; time: half past nine"]
    assert answers(made("slurp", command(entities=[])), "slots") == []
