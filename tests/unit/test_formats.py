"""Properties of foreign formats: each shape is recognised as one format, and becomes the row that it means."""

from typing import Any

import pytest

from audiollm.conversation import AudioPart, RowError, TextPart, parse_row
from audiollm.data.formats import ASK_FOR_SCENE, ASK_FOR_WORDS, FORMATS, converter, detect, detect_all, with_recording

OURS: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": "Birds."},
    ]
}
TEXT_ONLY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Birds."}]
}
SWIFT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "<audio>Who?"}, {"role": "assistant", "content": "Birds."}],
    "audios": ["a.wav"],
}
SWIFT_QUERY: dict[str, Any] = {"query": "<audio>Who?", "response": "Birds.", "audios": ["a.wav"]}
FACTORY: dict[str, Any] = {
    "conversations": [{"from": "human", "value": "<audio>Who?"}, {"from": "gpt", "value": "Birds."}],
    "audios": ["a.wav"],
}
NVIDIA: dict[str, Any] = {
    "id": 7,
    "sound": "a.wav",
    "duration": 3.0,
    "conversations": [{"from": "human", "value": "<sound>\nWho?"}, {"from": "gpt", "value": "Birds."}],
}
TABLE: dict[str, Any] = {"audio": "a.wav", "question": "Who?", "answer": "Birds."}
LTU: dict[str, Any] = {
    "instruction": "Who?",
    "input": "",
    "audio_id": "a.wav",
    "dataset": "as",
    "task": "open",
    "output": "Birds.",
}
SALMONN: dict[str, Any] = {"path": "a.wav", "text": "Birds.", "task": "QA", "Q": "Who?"}
DESTA: dict[str, Any] = {
    "id": "a.wav", "dataset": "x", "seed_description": None, "prompt": "Who?", "response": "Birds.",
    "messages": [
        {"role": "user", "content": "<|AUDIO|>\nWho?", "audios": [{"audio": "a.wav", "text": None}]},
        {"role": "assistant", "content": "Birds."},
    ],
}  # fmt: skip
SIFT: dict[str, Any] = {
    "id": "17", "task": "closed_ended", "data_source": "mls",
    "messages": [
        {"role": "user", "content": [{"text": None, "audio_path": "a.wav"}, {"text": "Who?", "audio_path": None}]},
        {"role": "assistant", "content": [{"text": "Birds.", "audio_path": None}]},
    ],
}  # fmt: skip
OPENAI: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "c291bmQ=", "format": "wav"}},
            {"type": "text", "text": "Who?"},
        ]},
        {"role": "assistant", "content": "Birds."},
    ],
}  # fmt: skip
MCQ: dict[str, Any] = {
    "audio_path": "a.wav",
    "question_text": "Who?",
    "multi_choice": ["Birds.", "Cars."],
    "answer": "A",
}
AUDIOLLMS: dict[str, Any] = {"context": "a.wav", "instruction": "Who?", "answer": "Birds.", "other_attributes": {}}
SHAPES: dict[str, dict[str, Any]] = {
    "rows": OURS,
    "ms-swift": SWIFT,
    "llama-factory": FACTORY,
    "nvidia": NVIDIA,
    "ltu": LTU,
    "salmonn": SALMONN,
    "desta": DESTA,
    "sift": SIFT,
    "openai": OPENAI,
    "mcq": MCQ,
    "audiollms": AUDIOLLMS,
    "table": TABLE,
}


def converted(raw: dict[str, Any], format: str | None = None) -> Any:
    return parse_row(converter(format or detect(raw))(raw))


def two_turns(first: str, second: str, *audios: str) -> dict[str, Any]:
    turns = [("user", first), ("assistant", "One <audio>."), ("user", second), ("assistant", "Two.")]
    return {"messages": [{"role": role, "content": text} for role, text in turns], "audios": list(audios)}


@pytest.mark.parametrize("name", FORMATS)
def test_each_shape_is_recognised_and_means_the_same_row(name: str) -> None:
    assert detect(SHAPES[name]) == name
    row, ours = converted(SHAPES[name]), parse_row(OURS)
    assert (row.target, row.clips[0].audio) == (ours.target, b"sound" if name == "openai" else "a.wav")
    assert row.question == ("Who?\nChoose one of: Birds.; Cars." if name == "mcq" else "Who?")
    assert len(row.messages) == 2 and len(row.messages[0].content) == 2


def test_the_query_form_of_ms_swift_means_the_same_row() -> None:
    assert detect(SWIFT_QUERY) == "ms-swift"
    assert converted(SWIFT_QUERY) == parse_row(OURS)


def test_system_and_history_of_ms_swift_come_first() -> None:
    row = converted(
        SWIFT_QUERY | {"system": "Listen.", "history": [["Hi <audio>", "Hello."]], "audios": ["0.wav", "a.wav"]}
    )
    said = [(message.role, message.text) for message in row.messages]
    assert said[:3] == [("system", "Listen."), ("user", "Hi"), ("assistant", "Hello.")]
    assert [clip.audio for clip in row.clips] == ["0.wav", "a.wav"]
    assert converted(SWIFT | {"system": "Listen."}).messages[0].text == "Listen."
    with pytest.raises(RowError, match=r"history\[0\]: must be a question and its answer"):
        converted(SWIFT_QUERY | {"history": ["Hi"]})


@pytest.mark.parametrize("name", ["ms-swift", "llama-factory"])
def test_messages_beside_audios_are_read_under_both_names(name: str) -> None:
    assert converted(SWIFT, name) == parse_row(OURS)


def test_clips_stand_where_their_tags_stood() -> None:
    row = converted(two_turns("Compare <audio> with <audio>.", "And\n<audio>\nthis?", "1", "2", "3"))
    first, _, second, _ = (message.content for message in row.messages)
    assert first == (TextPart("Compare"), AudioPart("1"), TextPart("with"), AudioPart("2"), TextPart("."))
    assert second == (TextPart("And"), AudioPart("3"), TextPart("this?"))
    assert row.messages[1].text == "One <audio>."  # the assistant's words are not looked at


def test_without_tags_the_clips_open_the_first_question() -> None:
    row = converted(two_turns("Compare.", "And now?", "1", "2"))
    assert row.messages[0].content == (AudioPart("1"), AudioPart("2"), TextPart("Compare."))
    assert row.messages[2].content == (TextPart("And now?"),)


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (SWIFT | {"audios": ["1", "2"]}, "the texts have 1 <audio> and the row 2 audios"),
        (two_turns("<audio><audio>", "", "1"), "the texts have 2 <audio> and the row 1 audios"),
        (FACTORY | {"audios": []}, "the texts have 1 <audio> and the row 0 audios"),
        (NVIDIA | {"sound": ["1", "2", "3"]}, "the texts have 1 <sound> and the row 3 audios"),
    ],
)
def test_tags_and_audios_must_agree_in_number(raw: dict[str, Any], cause: str) -> None:
    with pytest.raises(RowError, match=r"^audios: ") as caught:
        converted(raw)
    assert cause in caught.value.cause


def test_a_single_audio_may_stand_outside_a_list() -> None:
    assert converted({"messages": SWIFT["messages"], "audio": "a.wav"}) == parse_row(OURS)


def test_our_rows_are_never_searched_for_tags() -> None:
    raw = {"messages": [{"role": "user", "content": "What is <audio>?"}, {"role": "assistant", "content": "A tag."}]}
    assert converted(raw).question == "What is <audio>?"
    filled = {"messages": [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "<audio>?"}]}]}
    filled["messages"].append({"role": "assistant", "content": "A tag."})
    row = converted(filled | {"audios": [b"sound"]})
    assert row.messages[0].content == (AudioPart(b"sound"), TextPart("<audio>?"))


def test_rows_of_ms_swift_and_openai_without_audio_are_read_like_their_neighbours() -> None:
    assert detect_all([TEXT_ONLY, SWIFT, TEXT_ONLY]) == "ms-swift"
    assert detect_all([TEXT_ONLY, OPENAI]) == "openai" and converted(TEXT_ONLY, "openai") == parse_row(TEXT_ONLY)
    assert converted(TEXT_ONLY, "ms-swift") == parse_row(TEXT_ONLY)
    lost = {"messages": SWIFT["messages"]}
    with pytest.raises(RowError, match="1 <audio> and the row 0 audios"):
        converted(lost, "ms-swift")


def test_sharegpt_roles_become_ours() -> None:
    turns = [
        ("system", "Listen."),
        ("human", "<audio>Who?"),
        ("gpt", "Birds."),
        ("user", "Sure?"),
        ("assistant", "Yes."),
    ]
    row = converted({"conversations": [{"from": role, "value": text} for role, text in turns], "audios": ["a.wav"]})
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert converted(FACTORY | {"system": "Listen."}).messages[0].text == "Listen."


@pytest.mark.parametrize("role", ["function_call", "observation", None])
def test_a_role_that_we_do_not_have_is_named(role: str | None) -> None:
    raw = {"conversations": [*FACTORY["conversations"], {"from": role, "value": "{}"}], "audios": ["a.wav"]}
    with pytest.raises(RowError, match=rf"conversations\[2\]\.from: unknown role {role!r}"):
        converted(raw)


def test_a_worse_answer_is_kept() -> None:
    assert converted(SWIFT | {"rejected_response": "Cars."}).rejected == "Cars."
    pair = {"chosen": {"from": "gpt", "value": "Birds."}, "rejected": {"from": "gpt", "value": "Cars."}}
    row = converted({"conversations": FACTORY["conversations"][:1], "audios": ["a.wav"]} | pair)
    assert (row.target, row.rejected) == ("Birds.", "Cars.")


def test_pictures_are_refused() -> None:
    with pytest.raises(RowError, match="images: this model only listens"):
        converted(SWIFT | {"images": ["a.png"]})


@pytest.mark.parametrize("audio", ["audio", "path", "file", "file_name", "audio_path", "clip", "wav"])
@pytest.mark.parametrize("question", ["question", "Prompt", "instruction", "QuestionText"])
@pytest.mark.parametrize("answer", ["answer", "text", "Response", "label", "transcript"])
def test_common_names_of_columns_are_understood(audio: str, question: str, answer: str) -> None:
    row = converted({audio: "a.wav", question: "Who?", answer: "Birds."})
    assert (row.clips[0].audio, row.question, row.target) == ("a.wav", "Who?", "Birds.")


@pytest.mark.parametrize("column", ["transcript", "sentence", "text"])
def test_a_table_of_transcripts_asks_for_the_words(column: str) -> None:
    row = converted({"path": "a.wav", column: "hello there"})
    assert (row.question, row.target, row.task) == (ASK_FOR_WORDS, "hello there", "asr")
    assert row.clips[0].transcript == "hello there"


def test_a_table_without_questions_asks_for_the_scene_or_what_it_is_told() -> None:
    raw = {"path": "a.wav", "caption": "Rain."}
    assert converted(raw).question == ASK_FOR_SCENE
    assert parse_row(converter("table", question="Which weather?")(raw)).question == "Which weather?"
    with pytest.raises(RowError, match="a question is given for tables"):
        converter("rows", question="Which weather?")


def test_other_columns_are_kept_in_their_place() -> None:
    row = converted(
        TABLE | {"id": 3, "split": "test", "start": "0.5", "end": "2", "speaker": "f1", "take": "", "task": "aqa"}
    )
    assert (row.id, row.split, row.task, row.extra) == ("3", "test", "aqa", {"speaker": "f1"})
    assert (row.clips[0].start, row.clips[0].end) == (0.5, 2.0)
    clip = converted(TABLE | {"transcript": "42", "Description": "a voice"}).clips[0]
    assert (clip.transcript, clip.description) == ("42", "a voice")
    with pytest.raises(RowError, match=r"start: must be a number of seconds, and is 'soon'"):
        converted(TABLE | {"start": "soon"})


def test_the_first_name_decides_between_columns_and_others_are_refused() -> None:
    row = converted({"audio": "a.wav", "path": "other.wav", "answer": "Birds.", "label": "bird", "question": "Who?"})
    assert (row.clips[0].audio, row.target) == ("a.wav", "Birds.")
    with pytest.raises(
        RowError, match="columns 'path' and 'Wav' could all be the audio; rename the right one to 'audio'"
    ):
        converted({"path": "a.wav", "Wav": "b.wav", "answer": "Birds."})
    with pytest.raises(RowError, match="columns 'label' and 'text' could all be the answer"):
        converted({"audio": "a.wav", "text": "hello", "label": "angry"})


def test_an_empty_question_in_a_table_is_refused() -> None:
    with pytest.raises(RowError, match="question: the question is empty"):
        converted(TABLE | {"question": ""})


def test_the_answer_to_a_choice_is_one_of_the_choices() -> None:
    row = converted(TABLE | {"choices": ["Birds.", "Cars."]})
    assert (row.choices, row.answer) == (("Birds.", "Cars."), "Birds.")
    for right in ("Cars.", 1, "B", "(b)", "B."):
        assert converted(MCQ | {"answer": right}).answer == "Cars."
    assert converted(MCQ | {"multi_choice": '["Birds.", "Cars."]'}).choices == ("Birds.", "Cars.")
    assert converted(MCQ | {"question_text": "Birds. or Cars.?"}).question == "Birds. or Cars.?"
    for wrong in ("Dogs.", 2, "C", -1, None, True):
        with pytest.raises(RowError, match=r"answer: .* is not among the choices"):
            converted(MCQ | {"answer": wrong})


def test_what_foreign_rows_know_about_a_recording_is_kept() -> None:
    ltu = converted(LTU | {"input": "Say it in one word."})
    assert ltu.question == "Who?\nSay it in one word." and (ltu.source, ltu.source_id) == ("as", "a.wav")
    heard = converted(SALMONN | {"task": "asr", "Q": None, "expand_wav": []})
    assert heard.question == ASK_FOR_WORDS and heard.clips[0].transcript == "Birds."
    assert [clip.audio for clip in converted(SALMONN | {"expand_wav": ["b.wav"]}).clips] == ["a.wav", "b.wav"]
    audios = [{"audio": "a.wav", "text": "tweet"}]
    told = DESTA["messages"][0] | {"audios": audios}
    desta = converted(DESTA | {"seed_description": "a bird", "messages": [told, DESTA["messages"][1]]})
    assert (desta.clips[0].transcript, desta.clips[0].description, desta.source) == ("tweet", "a bird", "x")
    assert converted(SIFT).source == "mls"
    assert converted({"audio_filepath": "a.wav", "duration": 2.5, "text": "hello"}).clips[0].duration == 2.5
    with pytest.raises(RowError, match=r"audios: a text has 1 <\|AUDIO\|> and its message 2 audios"):
        converted(DESTA | {"messages": [told | {"audios": audios * 2}, DESTA["messages"][1]]})


MANIFEST: dict[str, Any] = {"audio_filepath": "a.wav", "offset": 1.5, "duration": 2.25, "text": "hello"}


def test_an_offset_is_where_the_clip_begins_and_with_a_duration_tells_its_end() -> None:
    def cut(**changes: Any) -> tuple[float | None, float | None]:
        row = converted({name: value for name, value in (MANIFEST | changes).items() if value is not None})
        assert row.extra == {} and row.clips[0].transcript == "hello"
        return row.clips[0].start, row.clips[0].end

    assert cut() == cut(offset="1.5", duration="2.25") == cut(start=1.5, end=3.75) == (1.5, 3.75)
    assert cut(offset=0) == (0.0, 2.25)  # the file may be longer
    assert cut(duration=None) == (1.5, None)
    assert cut(offset=None) == cut(offset="") == (None, None)
    assert cut(offset=0.1, duration=0.2) == (0.1, 0.3)


@pytest.mark.parametrize(
    ("changes", "field", "cause"),
    [
        ({"offset": "soon"}, "offset", "must be a number of seconds, and is 'soon'"),
        ({"offset": -1}, "offset", "0 or later"),
        ({"offset": float("nan")}, "offset", "0 or later"),
        ({"duration": "long"}, "duration", "must be a number of seconds"),
        ({"start": 1.0}, "offset", "start is 1.0, and by offset 1.5; leave one of them out"),
        ({"end": 3.0}, "offset", "end is 3.0, and by offset and duration 3.75"),
    ],
)
def test_a_wrong_offset_and_one_that_another_column_denies_are_refused(changes: Any, field: str, cause: str) -> None:
    with pytest.raises(RowError) as caught:
        converted(MANIFEST | changes)
    assert caught.value.field == field and cause in caught.value.cause


def typed(raw: dict[str, Any]) -> dict[str, Any]:
    """A row of SIFT whose parts say what they are."""
    messages = [
        turn | {"content": [{"type": "text" if part["text"] else "audio"} | part for part in turn["content"]]}
        for turn in raw["messages"]
    ]
    return raw | {"messages": messages}


def test_parts_of_sift_may_say_their_type_and_mean_the_same() -> None:
    assert detect(typed(SIFT)) == "sift" and converted(typed(SIFT)) == converted(SIFT)
    bare = [
        turn | {"content": [{name: value for name, value in part.items() if value} for part in turn["content"]]}
        for turn in typed(SIFT)["messages"]
    ]
    assert converted(SIFT | {"messages": bare}) == converted(SIFT)
    wordy = {"messages": bare[1:] and [{"role": "user", "content": "Who?"}, bare[1]]}
    assert detect_all([SIFT | {"messages": bare}, wordy]) == "sift"  # without a recording, it looks like ours
    assert converted(wordy, "sift") == parse_row(wordy)


@pytest.mark.parametrize(
    ("part", "cause"),
    [
        ({"type": "image", "audio_path": "a.wav"}, "unknown part 'image'"),
        ({"type": "audio", "audio_path": None}, "audio: missing"),
        ({"type": "text", "audio_path": "a.wav"}, "audio_path: is not a field here"),
        ({"audio_path": "a.wav", "volume": 2}, "volume: is not a field here"),
    ],
)
def test_nothing_that_a_part_of_sift_says_is_passed_over(part: dict[str, Any], cause: str) -> None:
    user = {"role": "user", "content": [part, {"text": "Who?"}]}
    with pytest.raises(RowError, match=cause):
        converted({"messages": [user, SIFT["messages"][1]]}, "sift")


def test_rows_of_salmonn_with_and_without_a_question_are_one_format_and_asked_by_their_task() -> None:
    captions = {"path": "a.wav", "text": "A dog barks.", "task": "audiocaption"}
    feeling, words = captions | {"task": "emotion_recognition"}, captions | {"task": "asr"}
    assert detect_all([captions, SALMONN, feeling, words, captions | {"expand_wav": ["b.wav"]}]) == "salmonn"
    for raw in (captions, feeling):
        row = converted(raw)
        assert row.question != ASK_FOR_WORDS and row.clips[0].transcript is None and row.task == raw["task"]
    assert "emotion" in converted(feeling).question
    for raw in (words, words | {"task": None}):
        row = converted(raw)
        assert (row.question, row.clips[0].transcript, row.task) == (ASK_FOR_WORDS, "A dog barks.", "asr")
    assert (
        converted(SALMONN | {"task": "slot_filling", "Q": "date"}).question
        == "According to the speech, what is the date?"
    )
    for task in ("QA", "slot_filling", "unheard_of", ["asr"]):
        with pytest.raises(RowError, match=r"Q: is missing, and task .* does not say what is asked"):
            converted(SALMONN | {"task": task, "Q": ""})


@pytest.mark.parametrize("column", ["text", "trans", "gt"])
def test_a_table_is_of_transcripts_only_if_its_task_does_not_say_another_thing(column: str) -> None:
    raw = {"audio": "a.wav", column: "hello there", "duration": 2.0}
    for task in ("asr", "ASR_en", "transcription", "speech recognition"):
        row = converted(raw | {"task": task})
        assert (row.question, row.clips[0].transcript, row.task) == (ASK_FOR_WORDS, "hello there", task)
    other = raw | {"task": "audiocaption"}
    with pytest.raises(
        RowError, match=rf"question: is missing, and task 'audiocaption' .*'{column}'.* or say it .*--question for"
    ):
        converted(other)
    told = parse_row(converter("table", question="What is heard?")(other))
    assert (told.question, told.target, told.clips[0].transcript) == ("What is heard?", "hello there", None)
    assert converted(other | {"question": "Who?"}).question == "Who?"
    if column == "gt":
        with pytest.raises(RowError, match="no task says what 'gt' answers"):
            converted(raw)
    else:
        assert converted(raw).question == ASK_FOR_WORDS


def test_what_stands_beside_a_recording_in_a_shard_of_x_ares_is_read() -> None:
    words = converted(with_recording({"trans": "hello", "speaker": "f1"}, b"sound"))
    assert (words.question, words.target, words.clips[0].audio) == (ASK_FOR_WORDS, "hello", b"sound")
    scene = converted(with_recording({"captions": ["Rain.", "Drops."]}, b"sound"))
    assert (scene.question, scene.target, scene.references) == (ASK_FOR_SCENE, "Rain.", ("Drops.",))


def test_several_captions_are_one_answer_and_further_right_ones() -> None:
    row = converted({"audio": "a.wav", "captions": ["Rain.", "It rains.", "Drops."]})
    assert (row.question, row.target, row.references) == (ASK_FOR_SCENE, "Rain.", ("It rains.", "Drops."))
    assert converted({"audio": "a.wav", "captions": "Rain."}).target == "Rain."
    with pytest.raises(RowError):
        converted({"audio": "a.wav", "captions": []})


def test_rare_names_of_columns_take_nothing_from_the_usual_ones() -> None:
    rare = {"captions": ["Rain."], "gt": "rain", "trans": "rains"}
    usual = ("answer", "response", "output", "caption", "label", "category")
    for answer in (*usual, "transcript", "transcription", "sentence", "text"):
        row = converted({"audio": "a.wav", answer: "Birds.", **rare})
        assert row.target == "Birds." and row.extra == rare
    for answer in usual:
        assert converted({"audio": "a.wav", "question": "Who?", answer: "Birds.", **rare}).target == "Birds."
    for answer in rare:
        assert converted({"audio": "a.wav", "question": "Who?", answer: "Birds."}).target == "Birds."
    with pytest.raises(RowError, match="'captions' and 'gt' and 'trans' could all be the answer"):
        converted({"audio": "a.wav", **rare})


@pytest.mark.parametrize("raw", [{}, {"question": "Who?", "answer": "Birds."}, {"foo": 1}])
def test_an_unknown_shape_says_which_setting_decides(raw: dict[str, Any]) -> None:
    with pytest.raises(RowError, match="--from for a command"):
        detect(raw)


def test_a_table_without_an_answer_is_told_the_column_that_is_missing() -> None:
    with pytest.raises(RowError, match=r"no column for the answer .*'audio'.*; name it 'answer'"):
        detect({"audio": "a.wav", "question": "Who?"})


def test_two_shapes_in_one_say_which_setting_decides() -> None:
    with pytest.raises(RowError, match=r"could be rows or llama-factory .* say which it is .`format` in a recipe"):
        detect(OURS | FACTORY)
    with pytest.raises(RowError, match=r"several formats \(rows, table\).* --from for a command"):
        detect_all([OURS, TABLE])
    assert detect_all([{"foo": 1}, TABLE]) == "table"
    with pytest.raises(RowError, match="unknown format 'swift'; known: rows, ms-swift"):
        converter("swift")


def is_read_or_refused(raw: dict[str, Any], name: str) -> bool:
    """Whether a row comes out, or a refusal that says why; any other exception is the test's failure."""
    try:
        return bool(converted(raw, name))
    except RowError as error:
        return bool(error.cause)


def test_a_row_of_another_format_is_read_or_refused_in_words() -> None:
    for name in FORMATS:
        for raw in (*SHAPES.values(), SWIFT_QUERY, TEXT_ONLY, {}):
            assert is_read_or_refused(raw, name), (name, raw)


def test_broken_rows_are_refused_in_words_in_every_format() -> None:
    broken: list[Any] = [None, 3, "text", [], [3], {}, [{}], [{"role": "user"}], [{"from": "human"}], [["a"]]]
    for name, raw in SHAPES.items():
        for key in (
            "messages",
            "conversations",
            "audios",
            "history",
            "query",
            "audio",
            "answer",
            "sound",
            "question",
            "context",
            "choices",
            "path",
        ):
            for value in broken:
                assert is_read_or_refused(raw | {key: value}, name), (name, key, value)
