"""What is easily done wrong with sounds that have captions and tags."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from converters import ARCHIVES, examples, write_csv, write_json, write_sound
from test_converters import converted, disk_form, hub_form

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Draw, Dropped
from audiollm.curation.families import COMMON, FAMILIES, deniable
from audiollm.curation.prepare import prepare
from audiollm.data.licences import allows
from audiollm.data.sources import load_rows
from audiollm.resources import import_converter


def with_drops(name: str, source: Path, out: Path) -> tuple[list[str], list[str]]:
    """The answers that are made of a folder, and why others are not."""
    prepare(name, out, {"source": str(source)})
    causes = [json.loads(line)["cause"] for line in (out / "dropped.jsonl").read_text().splitlines()]
    return [row.target for row in load_rows([str(out / "train.jsonl")], strict=True)], causes


def asked_of(name: str, row: dict, **options) -> list[tuple[str, str, str]]:
    """Task, question, answer, of many draws."""
    converter = import_converter(name)
    asks = [ask for seed in range(60) for ask in converter.convert(row, Draw(seed, name), **options).asks]
    return [(ask.task, ask.question, ask.answer) for ask in asks]


def denied(name: str, row: dict, **options) -> str:
    """All questions about something that is not there, in one text."""
    return "\n".join(
        question for task, question, answer in asked_of(name, row, **options) if (task, answer) == ("existence", "no")
    )


def test_the_captions_of_one_audiocaps_clip_become_one_question(tmp_path):
    train, validation, test = hub_form("audiocaps", tmp_path, tmp_path / "out", audio="flac")
    for row in (train, validation, test):
        assert row.target == "A dog barks twice while rain falls"
        assert row.references == ("Barking over steady rain",)


def test_two_parts_of_one_video_are_two_clips_of_audiocaps(tmp_path):
    one, two = examples(import_converter("audiocaps"))
    rows = [{k: v for k, v in row.items() if k not in ("audio", "audio_length")} for row in (one, two)]
    rows[1] |= {"start_time": 200}
    write_csv(tmp_path / "a" / "train.csv", rows)
    for number, row in enumerate(rows):
        write_sound(tmp_path / "a" / "wav" / f"{row['youtube_id']}_{row['start_time']}.wav", number)
    made = converted("audiocaps", tmp_path / "a", tmp_path / "out", split="train")
    assert [row.target for row in made] == [one["caption"], two["caption"]]
    assert len({row.clips[0].audio for row in made}) == 2


def test_an_audiocaps_clip_that_is_gone_from_youtube_is_counted(tmp_path):
    write_csv(
        tmp_path / "a" / "train.csv",
        [
            {"audiocap_id": 1, "youtube_id": "is_there-01", "start_time": 30, "caption": "Rain"},
            {"audiocap_id": 2, "youtube_id": "is_gone-012", "start_time": 30, "caption": "Wind"},
        ],
    )
    write_sound(tmp_path / "a" / "wav" / "Yis_there-01.wav", 0)
    made = with_drops("audiocaps", tmp_path / "a", tmp_path / "out")
    assert made == (["Rain"], ["its recording is not there"])


def test_a_clotho_clip_is_one_question_with_four_other_captions_in_the_hub_and_on_disk(tmp_path):
    five = tuple(examples(import_converter("clotho"))[0]["raw_text"])
    hub = hub_form("clotho", tmp_path / "1", tmp_path / "embedded", audio="embed")
    for row in hub + disk_form("clotho", tmp_path / "2", tmp_path / "paths"):
        assert (row.target, *row.references) == five
        assert row.source_id == "Rain on a tin roof.wav"


def test_the_parts_of_clotho_are_not_mixed(tmp_path):
    made = disk_form("clotho", tmp_path, tmp_path / "out")
    places = {row.split: Path(row.clips[0].audio).parent.name for row in made}
    assert places == {"train": "development", "validation": "validation", "test": "evaluation"}


def write_wavcaps(folder: Path, blacklist: dict[str, list[str]]) -> Path:
    """Clip 7 in FreeSound and another one in SoundBible, and a clip of AudioSet."""
    clips = {"FreeSound/fsd": "7", "SoundBible/sb": "7", "AudioSet_SL/as": "Yabc.wav"}
    for number, (name, clip) in enumerate(clips.items()):
        source = name.partition("/")[0]
        items = [{"id": clip, "caption": f"Of {source}.", "duration": 1.0}]
        write_json(folder / "json_files" / f"{name}_final.json", {"num_captions_per_audio": 1, "data": items})
        write_sound(folder / "mnt" / f"{source}_flac" / f"{clip.removesuffix('.wav')}.flac", number)
    write_json(folder / "json_files" / "blacklist" / "blacklist_exclude_test_ac.json", blacklist)
    return folder


def test_wavcaps_leaves_out_what_is_on_its_black_list(tmp_path):
    source = write_wavcaps(tmp_path / "a", {"FreeSound": ["7"], "AudioSet": ["Yabc.wav"]})
    made = with_drops("wavcaps", source, tmp_path / "out")
    assert made == (["Of SoundBible."], ["on the black list of evaluation clips"] * 2)


def test_wavcaps_keeps_what_is_on_its_black_list_if_that_is_wanted(tmp_path):
    source = write_wavcaps(tmp_path / "a", {"FreeSound": ["7"], "AudioSet": ["Yabc.wav"]})
    assert len(converted("wavcaps", source, tmp_path / "out", blacklist=False)) == 3


def test_wavcaps_does_not_go_on_silently_without_a_black_list(tmp_path):
    source = write_wavcaps(tmp_path / "a", {})
    (source / "json_files" / "blacklist" / "blacklist_exclude_test_ac.json").unlink()
    with pytest.raises(ValueError, match="blacklist"):
        converted("wavcaps", source, tmp_path / "out")


def test_equal_numbers_in_two_collections_of_wavcaps_are_two_recordings(tmp_path):
    made = converted("wavcaps", write_wavcaps(tmp_path / "a", {}), tmp_path / "out")
    assert {(row.target, row.source_id, Path(row.clips[0].audio).parent.name) for row in made} == {
        ("Of FreeSound.", "7", "FreeSound_flac"),
        ("Of SoundBible.", "SoundBible-7", "SoundBible_flac"),
        ("Of AudioSet_SL.", "abc", "AudioSet_SL_flac"),
    }


def test_the_second_list_of_freesound_in_wavcaps_does_not_double_its_clips(tmp_path):
    source = write_wavcaps(tmp_path / "a", {})
    again = {"data": [{"id": "7", "caption": "Of FreeSound.", "duration": 1.0}]}
    write_json(source / "json_files" / "FreeSound" / "fsd_final_2s.json", again)
    assert len(converted("wavcaps", source, tmp_path / "out")) == 3


def test_a_wavcaps_clip_without_recording_is_counted(tmp_path):
    source = write_wavcaps(tmp_path / "a", {})
    (source / "mnt" / "FreeSound_flac" / "7.flac").unlink()
    made = with_drops("wavcaps", source, tmp_path / "out")
    assert made == (["Of AudioSet_SL.", "Of SoundBible."], ["its recording is not there"])


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("Male speech, man speaking", "male speech or man speaking"),
        ("Dishes, pots, and pans", "dishes or pots and pans"),
        ("Bee, wasp, etc.", "bee or wasp"),
        ("Motor vehicle (road)", "motor vehicle (road)"),
        ("Roaring cats (lions, tigers)", "roaring cats (lions or tigers)"),
        ("Inside, large room or hall", "inside (large room or hall)"),
        ("Boat, Water vehicle", "boat or water vehicle"),
        ("Christmas music", "Christmas music"),
    ],
)
def test_a_name_of_audioset_is_readable_and_has_no_comma(label, words):
    assert import_converter("audioset").readable(label) == words


def test_the_tags_of_audioset_can_be_told_apart_by_commas():
    first, second = examples(import_converter("audioset"))
    for row in (first, second):
        ((_, _, answer), *_) = asked_of("audioset", row)
        assert len(answer.split(", ")) == len(row["human_labels"])


def test_audioset_does_not_ask_whether_a_room_is_heard():
    row = examples(import_converter("audioset"))[0]
    existence = [question for task, question, _ in asked_of("audioset", row) if task == "existence"]
    assert existence and not any("inside" in question for question in existence)


def test_a_wider_or_narrower_tag_of_audioset_does_not_deny_a_sound():
    for tags in (["Bark"], ["Animal"], ["Roaring cats (lions, tigers)"]):
        text = denied("audioset", {"video_id": "a", "audio": "a.wav", "human_labels": tags})
        assert "piano" in text and not any(name in text for name in (" dog", " cat", " owl"))


TAGS = ["Animal", "Domestic animals, pets", "Dog", "Bark"]


def kinds_denied(name: str, row: dict, alike: set[str], common: set[str], **options) -> Counter:
    """How often each kind of sound is asked for where it is not, of many draws."""
    converter = import_converter(name)
    kinds = Counter()
    for seed in range(300):
        asks = converter.convert(row, Draw(seed, name), **options).asks
        (question,) = [ask.question for ask in asks if (ask.task, ask.answer) == ("existence", "no")]
        found = [kind for kind, some in (("alike", alike), ("common", common)) if named_in(question, some)]
        kinds[found[0] if found else "any"] += 1
    return kinds


def named_in(question: str, labels: set[str]) -> bool:
    """Whether one of these is asked for, as words of its own."""
    return any(re.search(rf"(?<!\w){re.escape(label)}(?!\w)", question) for label in labels)


def test_audioset_denies_by_turns_what_is_alike_what_is_common_and_any_other():
    row = {"video_id": "a", "audio": "a.wav", "human_labels": TAGS}
    kinds = kinds_denied("audioset", row, {"cat", "horse", "sheep", "frog", "owl"}, {"speech", "music", "vehicle"})
    assert all(kinds[kind] > 40 for kind in ("alike", "common", "any")), kinds


def test_audioset_denies_nothing_that_a_tag_may_mean():
    absent, alike = deniable(["vehicle", "helicopter", "siren"])
    assert alike == ["train", "church bell", "doorbell"] and not {"car", "vehicle", "siren"} & set(absent)
    assert deniable(["singing"])[0].count("speech") == deniable(["singing"])[0].count("music") == 0
    assert "guitar" not in deniable(["music"])[0] and "speech" in deniable(["bark"])[0]


def test_the_common_sounds_of_audioset_may_all_be_asked_for():
    assert set(COMMON) <= set(deniable(["silence"])[0])
    for _, members in FAMILIES:
        for one, words in members.items():  # or a sound that is tagged would be denied
            assert any(word in one for word in words.split()), one


COMMON_ON_DISK = {
    "fsd50k": ({"labels": "Meow,Cat,Animal"}, {"dog", "insect", "frog"}, {"piano"}),
    "vggsound": ({"label": "church bell ringing"}, {"police car (siren)", "smoke detector beeping"}, {"raining"}),
}


@pytest.mark.parametrize("name", COMMON_ON_DISK)
def test_a_sound_that_is_common_in_the_table_is_denied_more_often(name, tmp_path):
    row, alike, common = COMMON_ON_DISK[name]
    write_sound(tmp_path / "a_30000_40000.wav", 0)
    row = {"fname": "1", "audio": "a.wav", "youtube_id": "a", "start_seconds": "30", "common": (*common,)} | row
    options = {"recordings": tmp_path} if name == "vggsound" else {}
    kinds = kinds_denied(name, row, alike, common, **options)
    assert kinds["common"] > 80 and kinds["any"] > 40 and kinds["alike"] > 20, kinds
    assert kinds_denied(name, {**row, "common": ()}, alike, common, **options)["common"] < 40


def read_all(name: str, folder: Path) -> list[dict]:
    """The rows of an archive, of all splits."""
    converter = import_converter(name)
    return [row for split in converter.SET.splits for _, row in converter.read(Archive(folder, ""), split)]


def test_what_is_common_is_told_by_the_whole_table_of_the_archive(tmp_path):
    labels = ["raining", "thunder", "raining", "dog howling", "dog howling", "dog howling"]
    rows = [["id", "1", label, "test" if number else "train"] for number, label in enumerate(labels)]
    (tmp_path / "vggsound.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    # no "dog howling": a sound that is asked for nowhere
    assert [row["common"] for row in read_all("vggsound", tmp_path)] == [("raining", "thunder")] * 6
    ARCHIVES["fsd50k"](tmp_path / "f", examples(import_converter("fsd50k")))
    made = read_all("fsd50k", tmp_path / "f")
    assert made and all(row["common"] == ("dog",) for row in made if "Dog" in row["labels"])


def test_fsd50k_keeps_its_three_parts_apart(tmp_path):
    made = disk_form("fsd50k", tmp_path, tmp_path / "out")
    folders = {(row.split, Path(row.clips[0].audio).parent.name) for row in made}
    assert folders == {
        ("train", "FSD50K.dev_audio"), ("validation", "FSD50K.dev_audio"), ("test", "FSD50K.eval_audio"),
    }  # fmt: skip
    assert sum(row.task == "tagging" for row in made) == 6


def test_a_row_of_fsd50k_whose_split_is_none_or_which_has_no_label_is_counted(tmp_path):
    rows = examples(import_converter("fsd50k"))
    rows = [rows[0], rows[0] | {"fname": "1", "split": "nosplit"}, rows[0] | {"fname": "2", "labels": ""}]
    ARCHIVES["fsd50k"](tmp_path / "a", rows)
    prepare("fsd50k", tmp_path / "out", {"source": str(tmp_path / "a")})
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [one["cause"] for one in dropped if "dev.csv" in one["origin"]] == [
        "not as the set's rows are",
        "an empty label",
        "an empty label",
    ]  # the second is in two splits of the archive
    assert dropped[0]["detail"] == "split: 'nosplit' is none of the set's"
    made = load_rows([str(tmp_path / "out" / name) for name in ("train.jsonl", "test.jsonl")])
    assert {row.source_id for row in made if row.split == "train"} == {"64760"}


def test_a_caption_without_words_is_passed_over_and_the_next_one_answers():
    draw, row = Draw(0, "clotho"), examples(import_converter("clotho"))[0]
    [ask] = import_converter("clotho").convert(row | {"raw_text": [" ", "Rain falls.", "", "It rains."]}, draw).asks
    assert (ask.answer, ask.references) == ("Rain falls.", ("It rains.",))
    with pytest.raises(Dropped, match="no caption"):
        import_converter("clotho").convert(row | {"raw_text": ["", " "]}, draw)


def test_the_labels_of_fsd50k_are_words(tmp_path):
    made = [row.target for row in disk_form("fsd50k", tmp_path, tmp_path / "out") if row.task == "tagging"]
    assert set(made) == {
        "bark, dog, domestic animals and pets, animal",
        "sink (filling or washing), domestic sounds and home sounds",
    }


def test_fsd50k_denies_no_animal_where_there_is_just_an_animal():
    row = {"fname": "1", "audio": "a.wav", "labels": "Animal"}
    assert "piano" in denied("fsd50k", row)
    assert not any(name in denied("fsd50k", row) for name in ("dog", "cat", "frog", "insect"))
    assert "dog" in denied("fsd50k", row | {"labels": "Meow,Cat,Domestic_animals_and_pets,Animal"})


def test_a_clip_of_fsd50k_has_the_licence_of_its_uploader(tmp_path):
    rows = examples(import_converter("fsd50k"))[:1]
    write_csv(tmp_path / "a" / "FSD50K.ground_truth" / "dev.csv", rows)
    write_sound(tmp_path / "a" / "FSD50K.dev_audio" / "64760.wav", 0)
    write_json(
        tmp_path / "a" / "FSD50K.metadata" / "dev_clips_info_FSD50K.json",
        {"64760": {"title": "dog", "license": "http://creativecommons.org/licenses/by-nc/3.0/"}},
    )
    made = converted("fsd50k", tmp_path / "a", tmp_path / "out", split="train")
    assert {row.license for row in made} == {"cc-by-nc-3.0"}
    license_of = import_converter("fsd50k").license_of
    assert license_of("http://creativecommons.org/publicdomain/zero/1.0/") == "cc0-1.0"
    assert license_of("") is None


def test_clips_of_fsd50k_whose_licence_nothing_tells_are_not_let_in_for_commerce(tmp_path):
    made = disk_form("fsd50k", tmp_path, tmp_path / "out")  # without FSD50K.metadata
    assert {row.license for row in made} == {"other"} and not allows("other", "commercial")


def test_a_label_of_vggsound_with_commas_is_one_label_and_the_first_line_is_a_row(tmp_path):
    made = disk_form("vggsound", tmp_path, tmp_path / "out")
    assert {row.split: row.target for row in made if row.task == "sound"} == {
        "train": "playing violin or fiddle", "test": "dog howling",
    }  # fmt: skip


def test_vggsound_does_not_set_two_sounds_of_dogs_against_each_other(tmp_path):
    write_sound(tmp_path / "a_30000_40000.wav", 0)
    row = {"youtube_id": "a", "start_seconds": "30", "label": "dog howling", "split": "test"}
    asks = asked_of("vggsound", row, recordings=tmp_path)
    assert any("cat meowing" in question for _, question, _ in asks)
    assert not any("dog barking" in question for _, question, _ in asks)


def test_etc_is_left_out_of_a_label_of_vggsound(tmp_path):
    write_sound(tmp_path / "a_000030.wav", 0)
    row = {"youtube_id": "a", "start_seconds": "30", "label": "bee, wasp, etc. buzzing", "split": "test"}
    assert ("sound", "bee or wasp buzzing") in {(t, a) for t, _, a in asked_of("vggsound", row, recordings=tmp_path)}


def test_a_folder_for_recordings_that_is_none_is_refused_and_no_row_is_blamed(tmp_path):
    ARCHIVES["vggsound"](tmp_path / "in", examples(import_converter("vggsound")))
    with pytest.raises(ValueError, match=r"^recordings=.*nope is no folder") as error:
        prepare("vggsound", tmp_path / "out", {"source": str(tmp_path / "in"), "recordings": str(tmp_path / "nope")})
    assert "row" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_vggsound_clip_without_recording_is_left_out_by_name(tmp_path):
    write_sound(tmp_path / "other.wav", 0)
    row = {"youtube_id": "a", "start_seconds": "30", "label": "raining", "split": "test"}
    with pytest.raises(Dropped, match="its recording is not there"):
        import_converter("vggsound").convert(row, Draw(0, "vggsound"), recordings=tmp_path)
