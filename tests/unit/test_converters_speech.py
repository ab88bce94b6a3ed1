"""Speech to be written down or translated: what is odd in these sets, one by one."""

import json
from pathlib import Path

import pytest
from archives.speech import write_tsv
from converters import examples, write_parquet, write_sound
from test_converters import converted, disk_form, hub_form

from audiollm.conversation import Row
from audiollm.curation.dataset import Draw, Dropped, Item
from audiollm.curation.prepare import prepare
from audiollm.data.sources import load_rows
from audiollm.resources import import_converter


def item_of(name: str, changes: dict | None = None, *, example: int = 0, config: str | None = None, **options) -> Item:
    """What a converter makes of a row of its docstring, with some columns changed."""
    converter = import_converter(name)
    return converter.convert(examples(converter)[example] | (changes or {}), Draw(0, name, config=config), **options)


def answers(item: Item) -> dict[str, str]:
    """Task -> answer."""
    return {ask.task: ask.answer for ask in item.asks}


def of_split(rows: list[Row], split: str, task: str) -> list[str]:
    """The answers to the questions of a task."""
    return [row.target for row in rows if (row.split, row.task) == (split, task)]


# --- LibriSpeech, MLS, People's Speech --------------------------------------------------------------------------------


def test_a_transcript_in_capitals_is_made_small_unless_capitals_are_wanted():
    assert item_of("librispeech").transcript == answers(item_of("librispeech"))["asr"] == "go do you hear"
    assert item_of("librispeech", case="as_is").transcript == "GO DO YOU HEAR"


def test_a_line_of_librispeech_whose_name_leads_out_is_left_out_and_the_others_are_made(tmp_path):
    folder = tmp_path / "LibriSpeech" / "dev-clean" / "1" / "2"
    write_sound(folder / "1-2-0000.flac", 1)
    (folder / "1-2.trans.txt").write_text("../../../../../x HELLO\n1-2-0000 GO\n")
    prepare("librispeech", tmp_path / "out", {"source": str(tmp_path), "split": "validation"})
    assert [row.target for row in load_rows(str(tmp_path / "out" / "validation.jsonl"))] == ["go"]
    assert "leads out of its folder" in (tmp_path / "out" / "dropped.jsonl").read_text()


@pytest.mark.parametrize(("language", "code"), [("dutch", "nl"), ("portuguese", "pt"), ("polish", "pl")])
def test_the_question_and_the_row_tell_the_language_of_mls(language, code):
    [ask] = item_of("mls", language=language).asks
    assert language.capitalize() in ask.question and ask.language == code


def test_the_folders_of_an_mls_archive_tell_the_language_of_each(tmp_path):
    for language, text in (("mls_french", "il pleut"), ("mls_polish_opus", "pada deszcz")):
        suffix = "opus" if "opus" in language else "flac"
        write_sound(tmp_path / language / "dev" / "audio" / "12" / "34" / f"12_34_000001.{suffix}", 1)
        (tmp_path / language / "dev" / "transcripts.txt").write_text(f"12_34_000001\t{text}\n", encoding="utf-8")
    rows = converted("mls", tmp_path, tmp_path / "out", split="validation")
    assert [(row.language, row.target) for row in rows] == [("fr", "il pleut"), ("pl", "pada deszcz")]
    assert [Path(row.clips[0].audio).suffix for row in rows] == [".flac", ".opus"]


def test_an_old_mirror_of_mls_whose_column_is_text_is_refused_by_name(tmp_path):
    converter = import_converter("mls")
    rows = [
        {"text" if key == "transcript" else key: value for key, value in row.items()} for row in examples(converter)
    ]
    with pytest.raises(ValueError, match=r"no column 'transcript'.*text"):
        converted("mls", write_parquet(tmp_path / "hub", converter, rows), tmp_path / "out")


def test_a_recording_of_peoples_speech_without_words_is_left_out_and_counted(tmp_path):
    converter = import_converter("peoples_speech")
    rows = [*examples(converter), *examples(converter)]
    rows[1]["text"] = " "
    source = write_parquet(tmp_path / "hub", converter, rows)
    prepare("peoples_speech", tmp_path / "out", {"source": str(source), "split": "test"})
    dropped = [json.loads(line)["cause"] for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert len(list(load_rows([str(tmp_path / "out" / "*.parquet")]))) == 1 and dropped == ["no answer"]


# --- GigaSpeech -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tagged", "written"),
    [
        ("WELL <COMMA> GO ON <PERIOD>", "well, go on."),
        ("WHO <QUESTIONMARK> ME <EXCLAMATIONPOINT>", "who? me!"),
        ("<NOISE> IT IS <SIL> COLD <PERIOD>", "it is cold."),
    ],
)
def test_tags_of_gigaspeech_become_punctuation_or_nothing(tagged, written):
    assert answers(item_of("gigaspeech", {"text": tagged}))["asr"] == written


@pytest.mark.parametrize("text", ["<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>", "<MUSIC> <PERIOD>", ""])
def test_an_utterance_of_gigaspeech_without_words_is_dropped(text):
    with pytest.raises(Dropped, match="no words"):
        item_of("gigaspeech", {"text": text})


def test_a_topic_of_gigaspeech_is_one_however_many_spaces_it_has():
    """Its 29 class names have doubles that differ in spaces alone."""
    asked = [
        answers(item_of("gigaspeech", {"category": name})) for name in ("News  and  Politics", "News and Politics")
    ]
    assert asked[0] == asked[1] and asked[0]["topic"] == asked[0]["topic_mcq"] == "news and politics"


@pytest.mark.parametrize("category", ["N/A", "audiobook", None])
def test_what_is_no_topic_is_not_asked_for(category):
    assert set(answers(item_of("gigaspeech", {"category": category}))) == {"asr"}


def test_a_topic_of_gigaspeech_stands_beside_two_that_are_near():
    converter = import_converter("gigaspeech")
    assert len(converter.TOPICS) == 23 and all(len(near) > 2 for near in converter.SIMILAR.values())
    row = examples(converter)[0] | {"category": "Science and Technology"}
    for seed in range(100):
        (ask,) = [ask for ask in converter.convert(row, Draw(seed, "x")).asks if ask.choices]
        assert len(converter.SIMILAR["science and technology"] & set(ask.choices)) >= 3  # itself and two


def test_topics_can_be_left_out():
    assert set(answers(item_of("gigaspeech"))) == {"asr", "topic", "topic_mcq"}
    assert set(answers(item_of("gigaspeech", topics=False))) == {"asr"}


# --- Common Voice -----------------------------------------------------------------------------------------------------


def test_a_quote_in_common_voice_is_a_character_and_swallows_no_line(tmp_path):
    [row, _] = examples(import_converter("common_voice"))
    texts = ['"An open quote', 'He said 5" wide', "the last"]
    write_tsv(
        tmp_path / "en" / "train.tsv", [row | {"sentence": text, "path": f"{n}.mp3"} for n, text in enumerate(texts)]
    )
    for number in range(3):
        write_sound(tmp_path / "en" / "clips" / f"{number}.mp3", number)
    assert of_split(converted("common_voice", tmp_path, tmp_path / "out", split="train"), "train", "asr") == texts


def test_only_what_a_reader_tells_is_asked():
    assert set(answers(item_of("common_voice"))) == {"asr", "gender", "age", "accent", "language_id"}
    assert set(answers(item_of("common_voice", example=1))) == {"asr", "language_id"}


def test_the_spelling_and_the_names_of_common_voice_become_those_of_people():
    told = answers(item_of("common_voice"))
    assert (told["gender"], told["age"], told["language_id"]) == ("female", "forties", "English")
    assert answers(item_of("common_voice", {"gender": "male"}))["gender"] == "male"
    assert "gender" not in answers(item_of("common_voice", {"gender": "do_not_wish_to_say"}))


def test_the_column_of_accents_has_two_names_and_no_lists():
    [row, _] = examples(import_converter("common_voice"))
    older = {key: value for key, value in row.items() if key != "accents"} | {"accent": "scotland"}
    converter = import_converter("common_voice")
    assert answers(converter.convert(older, Draw(0)))["accent"] == "scotland"
    assert "accent" not in answers(item_of("common_voice", {"accents": "England English|Scottish English"}))


def test_some_of_the_questions_of_common_voice_can_be_chosen(tmp_path):
    rows = disk_form("common_voice", tmp_path, tmp_path / "out", tasks=["asr", "age"], split="test")
    assert [row.task for row in rows] == ["asr", "age", "asr"]


def test_the_folder_tells_the_language_where_a_table_of_common_voice_does_not(tmp_path):
    row = {"client_id": "1", "path": "a.mp3", "sentence": "guten tag", "up_votes": "2", "down_votes": "0"}
    write_tsv(tmp_path / "cv-corpus-4" / "de" / "dev.tsv", [row | {"age": "", "gender": "", "accent": ""}])
    write_sound(tmp_path / "cv-corpus-4" / "de" / "clips" / "a.mp3", 0)
    rows = converted("common_voice", tmp_path, tmp_path / "out", split="validation")
    assert {row.language for row in rows} == {"de"} and of_split(rows, "validation", "language_id") == ["German"]


# --- CoVoST 2 ---------------------------------------------------------------------------------------------------------


def test_a_row_of_covost_is_asked_for_words_for_a_translation_and_for_both():
    item = item_of("covost2", config="en_de")
    asked = {ask.task: (ask.answer, ask.language) for ask in item.asks}
    said, translated = '"He came too late."', "Er kam zu spät."
    assert asked == {
        "asr": (said, "en"), "translation": (translated, "de"), "transcribe_translate": (f"{said}\n{translated}", "de")
    }  # fmt: skip
    named = {ask.task: ("English" in ask.question, "German" in ask.question) for ask in item.asks}
    assert named == {"asr": (True, False), "translation": (False, True), "transcribe_translate": (False, True)}


def test_every_language_of_covost_has_a_name():
    codes = "ar ca cy de en es et fa fr id it ja lv mn nl pt ru sl sv-SE ta tr zh-CN"
    assert import_converter("covost2").LANGUAGES.keys() >= set(codes.split())


def test_rows_of_covost_of_which_nothing_tells_the_languages_are_not_guessed():
    with pytest.raises(Dropped, match="give pair=en_de"):
        item_of("covost2")


def test_a_pair_may_have_codes_of_two_parts():
    assert [ask.language for ask in item_of("covost2", pair="zh-CN_en").asks] == ["zh-CN", "en", "en"]


@pytest.mark.parametrize(
    ("translation", "why"), [("", "no translation"), (" ", "no translation"), ("REMOVE", "marked")]
)
def test_a_row_of_covost_without_a_translation_is_dropped(translation, why):
    with pytest.raises(Dropped, match=why):
        item_of("covost2", {"translation": translation}, config="en_de")


def test_the_name_of_a_table_of_covost_tells_the_pair_and_a_backslash_in_it_is_no_letter(tmp_path):
    row = {"path": "a.mp3", "sentence": 'il dit \\"oui\\"', "translation": 'he says \\"yes\\"', "client_id": "1"}
    write_tsv(tmp_path / "covost_v2.fr_en.dev.tsv", [row])
    write_sound(tmp_path / "clips" / "a.mp3", 0)
    rows = converted("covost2", tmp_path, tmp_path / "out", split="validation")
    assert [(row.target, row.language) for row in rows][:2] == [('il dit "oui"', "fr"), ('he says "yes"', "en")]


# --- VoiceAssistant-400K ----------------------------------------------------------------------------------------------


def test_the_recording_asks_and_nothing_beside_it(tmp_path):
    [row] = hub_form("voice_assistant", tmp_path, tmp_path / "out")
    assert row.question == "" and len(row.clips) == 1
    assert row.clips[0].transcript == "How do I keep bread fresh?"
    assert row.target == "Keep it in a paper bag, away from the sun."


def test_codes_of_sound_are_neither_read_nor_needed(tmp_path):
    converter = import_converter("voice_assistant")
    assert "answer_snac" not in (*converter.SET.columns, *converter.SET.needs)
    rows = [{key: value for key, value in row.items() if key != "answer_snac"} for row in examples(converter)]
    assert converted("voice_assistant", write_parquet(tmp_path / "hub", converter, rows), tmp_path / "out")
