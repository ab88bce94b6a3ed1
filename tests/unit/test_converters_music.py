"""What is special about each data set of music."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from archives.music import without_sound
from converters import ARCHIVES, RATE, SOUNDS, examples, tone, write_csv, write_json, write_sound
from pyarrow import parquet
from test_converters import converted, disk_form, hub_form

from audiollm.audio import encode
from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Draw, Dropped, Item
from audiollm.resources import import_converter


def item_of(name: str, index: int = 0, changed: dict[str, Any] | None = None, **options) -> Item:
    """What a converter makes of a row of its example."""
    converter = import_converter(name)
    return converter.convert(examples(converter)[index] | (changed or {}), Draw(0, name), **options)


def answers(item: Item) -> dict[str, str]:
    """Task -> the answer to the last question of it."""
    return {ask.task: ask.answer for ask in item.asks}


def recordings(name: str, folder: Path) -> dict[str, Any]:
    """The option for the recordings of the example."""
    options = SOUNDS[name](folder / "sounds", examples(import_converter(name))) or {}
    return {key: Path(value) for key, value in options.items()}


# MusicCaps


def test_aspects_written_as_a_python_list_are_read_with_their_apostrophes(tmp_path):
    item = item_of("musiccaps", **recordings("musiccaps", tmp_path))
    assert answers(item)["tags_music"] == "slow tempo, children's choir, no percussion"


def test_aspects_that_are_broken_off_cost_one_row(tmp_path):
    with pytest.raises(Dropped, match="no list"):
        item_of("musiccaps", 0, {"aspect_list": "['slow"}, **recordings("musiccaps", tmp_path))


def test_clips_of_audioset_evaluation_are_for_testing(tmp_path):
    made = disk_form("musiccaps", tmp_path, tmp_path / "out")
    assert {row.source_id: row.split for row in made} == {"-0Ab1cDeFg2": "test", "h_Ij3kLmNo4": "train"}


def test_a_video_that_was_not_cut_is_cut_by_its_times_when_that_is_said(tmp_path):
    option = recordings("musiccaps", tmp_path)
    as_found, of_whole = item_of("musiccaps", **option), item_of("musiccaps", **option, whole=True)
    assert (as_found.start, as_found.end) == (None, None)
    assert (of_whole.start, of_whole.end) == (30.0, 40.0)


def test_a_video_that_nobody_downloaded_is_left_out(tmp_path):
    option = recordings("musiccaps", tmp_path)
    with pytest.raises(Dropped, match="not there"):
        item_of("musiccaps", 0, {"ytid": "gone_video1"}, **option)


def test_a_copy_of_musiccaps_that_brings_the_recordings_needs_no_others(tmp_path):
    sound = {"bytes": encode(tone(1), RATE), "path": "1.wav"}
    row = {"audio": sound, "caption": "A fast beat.", "youtube_id": "h_Ij3kLmNo4", "start_time": 0, "end_time": 10}
    parquet.write_table(pyarrow.Table.from_pylist([row | {"aspect_list": "['techno']"}]), tmp_path / "train.parquet")
    made = converted("musiccaps", tmp_path, tmp_path / "out")
    assert [(row.target, row.source_id, row.split) for row in made] == [
        ("A fast beat.", "h_Ij3kLmNo4", "train"), ("techno", "h_Ij3kLmNo4", "train"),
    ]  # fmt: skip
    assert all(len(row.clips[0].load(RATE)) == RATE for row in made)


def test_musiccaps_without_recordings_says_where_to_give_them(tmp_path):
    ARCHIVES["musiccaps"](tmp_path / "in", examples(import_converter("musiccaps")))
    with pytest.raises(ValueError, match="no recording in the source; give recordings=FOLDER"):
        converted("musiccaps", tmp_path / "in", tmp_path / "out")


# LP-MusicCaps


def test_predicted_attributes_are_never_used(tmp_path):
    (row,) = hub_form("lp_musiccaps", tmp_path, tmp_path / "out", split="train")
    assert row.target == "A slow choir piece."
    assert row.references == ("A choir sings at a slow tempo.", "Choral music, unhurried.")
    about = import_converter("lp_musiccaps").SET
    assert not {"caption_attribute_prediction", "pseudo_attribute"} & {*about.columns, *about.needs}


def test_tracks_of_magnatagatune_are_found_by_their_path(tmp_path):
    write_sound(tmp_path / "f" / "some_song-30-59.mp3", 1)
    captions = {f"caption_{kind}": f"A {kind}." for kind in ("writing", "summary", "paraphrase")}
    row = captions | {"track_id": "2", "path": "f/some_song-30-59.mp3"}
    item = import_converter("lp_musiccaps").convert(row, Draw(0), recordings=tmp_path)
    assert (item.audio, item.source_id) == (tmp_path / "f" / "some_song-30-59.mp3", "2")


def test_a_track_without_captions_is_left_out(tmp_path):
    empty = {f"caption_{kind}": "" for kind in ("writing", "summary", "paraphrase")}
    with pytest.raises(Dropped, match="no caption"):
        item_of("lp_musiccaps", 0, empty, recordings=tmp_path)


# MusicBench


def test_tempo_key_and_chords_are_their_values_and_not_sentences():
    made = answers(item_of("musicbench"))
    assert (made["tempo"], made["key"], made["chords"]) == ("112", "E major", "E, B/D#")


def test_a_tempo_that_is_told_in_italian_is_asked_as_a_number():
    assert answers(item_of("musicbench", 0, {"prompt_bpm": "This song is in Adagio.", "bpm": 67.0}))["tempo"] == "67"


@pytest.mark.parametrize(
    "changed", [{"bpm": None, "chords": [], "key": None}, {"bpm": None, "chords": ["N"], "keyprob": [0.1]}]
)
def test_what_was_not_found_in_the_music_is_not_asked(changed):
    assert set(answers(item_of("musicbench", 0, changed))) == {"music_caption"}


def test_training_leaves_out_what_musiccaps_tests_on():
    of_test = {"is_audioset_eval_mcaps": True, "trains": True}
    with pytest.raises(Dropped, match="MusicCaps tests on it"):
        item_of("musicbench", 0, of_test)
    assert item_of("musicbench", 0, of_test, musiccaps_test=True).asks
    assert item_of("musicbench", 0, of_test | {"trains": False}).asks


def test_changed_copies_of_a_clip_go_by_the_id_of_its_video():
    assert item_of("musicbench").source_id == item_of("musicbench", 0, {"location": "data/-0Ab1cDeFg2.wav"}).source_id
    assert item_of("musicbench").source_id == "-0Ab1cDeFg2"


def test_a_broken_json_line_costs_one_row(tmp_path):
    (tmp_path / "datashare").mkdir()
    row = json.dumps(without_sound(examples(import_converter("musicbench"))[0]))
    (tmp_path / "MusicBench_train.json").write_text(f'{row}\n{{"location": \n')
    archive = Archive(tmp_path, "")
    assert len(list(import_converter("musicbench").read(archive, "train"))) == 1
    assert len(archive.bad) == 1


# MusicQA


def test_all_conversations_about_a_recording_are_one_item(tmp_path):
    made = disk_form("musicqa", tmp_path, tmp_path / "out", split="train")
    assert [(row.question, row.target) for row in made] == [
        ("Is there singing?", "No, the music is instrumental."),
        ("Describe the audio", "A harpsichord plays fast."),
    ]


def test_questions_about_musiccaps_are_taken_when_that_is_said(tmp_path):
    rows = examples(import_converter("musicqa"))
    of_musiccaps = [without_sound(row) | {"audio_name": "000001.wav"} for row in rows]
    write_json(tmp_path / "FinetuneMusicQA.json", [without_sound(row) for row in rows])
    write_json(tmp_path / "PretrainMusicQA.json", of_musiccaps)
    (tmp_path / "audios").mkdir()
    musicqa = import_converter("musicqa")
    read = [row for _, row in musicqa.read(Archive(tmp_path, ""), "train")]
    finetune, pretrain = (
        next(row | {"conversation": [row["conversation"]]} for row in read if row["audio_name"] == name)
        for name in ("005342.wav", "000001.wav")
    )
    assert musicqa.convert(finetune, Draw(0)).asks and musicqa.convert(pretrain, Draw(0), musiccaps=True).asks
    with pytest.raises(Dropped, match="MusicCaps"):
        musicqa.convert(pretrain, Draw(0))


# MUSIC-AVQA


@pytest.mark.parametrize("modality", ["Visual", "Audio-Visual"])
def test_a_question_about_what_is_seen_is_left_out(tmp_path, modality):
    with pytest.raises(Dropped, match="seen"):
        item_of("music_avqa", 0, {"type": f'["{modality}", "Counting"]'}, **recordings("music_avqa", tmp_path))


def test_a_deleted_question_is_left_out(tmp_path):
    with pytest.raises(Dropped, match="deleted"):
        item_of("music_avqa", 0, {"question_deleted": 1}, **recordings("music_avqa", tmp_path))


def test_slots_are_filled_in_order_with_words(tmp_path):
    (ask,) = item_of("music_avqa", 1, **recordings("music_avqa", tmp_path)).asks
    assert (ask.question, ask.answer) == ("Is the acoustic guitar more rhythmic than the violin?", "no")


def test_a_slot_without_a_value_is_never_asked(tmp_path):
    with pytest.raises(Dropped, match="slots"):
        item_of("music_avqa", 1, {"templ_values": '["violin"]'}, **recordings("music_avqa", tmp_path))


def test_counts_are_digits_and_the_video_is_a_recording(tmp_path):
    (ask,) = item_of("music_avqa", **recordings("music_avqa", tmp_path)).asks
    assert (ask.question, ask.answer) == ("How many musical instruments were heard throughout the recording?", "2")
    (ask,) = item_of("music_avqa", 0, {"anser": "more than ten"}, **recordings("music_avqa", tmp_path)).asks
    assert ask.answer == "more than 10"


# NSynth


@pytest.mark.parametrize(
    ("pitch", "name", "other"),
    [(60, "C4", ()), (21, "A0", ()), (69, "A4", ()), (22, "A#0", ("Bb0",)), (108, "C8", ()), (61, "C#4", ("Db4",))],
)
def test_a_midi_number_is_a_note_name_with_its_octave(pitch, name, other):
    (ask,) = (ask for ask in item_of("nsynth", 0, {"pitch": pitch}).asks if ask.task == "pitch")
    assert (ask.answer, ask.references) == (name, other)


def test_families_and_qualities_are_words():
    made = item_of("nsynth", 0, {"instrument_family_str": "synth_lead"})
    assert made.asks[0].answer == "synth lead"
    assert answers(made)["aqa"] == "dark, fast decay"


def test_how_the_instrument_was_made_is_a_choice_of_three():
    ask = [ask for ask in item_of("nsynth").asks if ask.task == "instrument_mcq"][-1]
    assert ask.answer == "synthetic" and set(ask.choices) == {"acoustic", "electronic", "synthetic"}


def test_a_note_without_noted_qualities_is_not_asked_for_them():
    assert "aqa" not in answers(item_of("nsynth", 0, {"qualities_str": []}))


def test_similar_families_are_families():
    nsynth = import_converter("nsynth")
    assert set(nsynth.SIMILAR) == set(nsynth.FAMILIES) == set().union(*nsynth.SIMILAR.values())


# GTZAN


def gtzan_item(path: str | None, **options) -> Item:
    return item_of("gtzan", 0, {"audio": {"bytes": b"", "path": path}}, **options)


def test_a_piece_is_in_the_same_part_by_its_number_wherever_it_lies():
    assert [gtzan_item(f"blues.{number:05d}.wav").split for number in (0, 79, 80, 99)] == [
        "train", "train", "test", "test",
    ]  # fmt: skip
    on_disk = item_of("gtzan", 0, {"audio": Path("genres_original/blues/blues.00080.wav")})
    assert (on_disk.split, on_disk.source_id) == ("test", "blues.00080") == ("test", gtzan_item("80.wav").source_id)
    assert gtzan_item("blues.00050.wav", test_from=50).split == "test"


def test_a_piece_without_a_name_has_its_label_and_stays_where_the_source_has_it():
    item = gtzan_item(None)
    assert (item.asks[0].answer, item.split) == ("blues", None) and item.source_id


def test_a_piece_without_a_label_has_the_genre_of_its_name_and_without_both_none():
    item = item_of("gtzan", 0, {"label": None, "audio": {"bytes": b"", "path": "hiphop.00081.wav"}})
    assert (item.asks[0].answer, item.source_id, item.split) == ("hip-hop", "hiphop.00081", "test")
    for path in (None, "00081.wav"):
        with pytest.raises(Dropped, match="neither its label nor its name"):
            item_of("gtzan", 0, {"label": None, "audio": {"bytes": b"", "path": path}})


def test_a_genre_is_written_as_people_write_it():
    assert item_of("gtzan", 0, {"label": "hiphop", "audio": "hiphop.00001.wav"}).asks[0].answer == "hip-hop"


def test_a_piece_of_gtzan_whose_label_is_a_bare_number_is_left_out():
    with pytest.raises(Dropped, match="one of the ten"):
        item_of("gtzan", 0, {"label": 3, "audio": "disco.00001.wav"})


def test_the_other_name_of_the_folder_is_found_and_what_macs_leave_is_not(tmp_path):
    for name in ("blues.00000.wav", "._blues.00000.wav"):
        write_sound(tmp_path / "Data" / "genres_original" / "blues" / name, 1)
    rows = [row for _, row in import_converter("gtzan").read(Archive(tmp_path, ""), "train")]
    assert [(row["label"], row["audio"].name) for row in rows] == [("blues", "blues.00000.wav")]


# All


def test_archives_are_read_in_an_enclosing_folder(tmp_path):
    for name in ("musiccaps", "music_avqa"):
        rows = examples(import_converter(name))
        if name == "musiccaps":
            write_csv(tmp_path / name / "unpacked" / "musiccaps-public.csv", rows)
        else:
            write_json(tmp_path / name / "unpacked" / "data" / "json" / "avqa-train.json", rows)
        assert len(list(import_converter(name).read(Archive(tmp_path / name, ""), "train"))) == len(rows)
