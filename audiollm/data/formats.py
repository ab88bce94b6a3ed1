"""Rows as other tools write them, turned into ours: one entry of FORMATS for each shape.

Not here: opening files (data/sources.py), checking the result (`parse_row` in conversation.py). A converter changes the
shape only: what it does not know stays beside `messages`. Placeholders such as `<audio>` are looked for in foreign
formats alone, and not in the assistant's words: there they are the format's own way to say where a clip stands.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from audiollm.conversation import AUDIO_FIELDS, TIME_FIELDS, RowError, not_among, seconds_of

Raw = Mapping[str, Any]
Converter = Callable[[Raw], dict[str, Any]]

# Columns of tables. The first name of each is the one that decides when a table has several of them.
AUDIO_COLUMNS = (
    "audio",
    "audio_path",
    "audio_file",
    "audio_filepath",
    "path",
    "file_name",
    "filename",
    "file",
    "clip",
    "wav",
)
QUESTION_COLUMNS = ("question", "prompt", "instruction", "query", "question_text", "questiontext")
ANSWER_COLUMNS = ("answer", "response", "output", "caption", "label", "category")
TRANSCRIPT_COLUMNS = ("transcript", "transcription", "sentence", "text")
RARE_COLUMNS = ("answer", "captions", "gt", "trans")  # X-ARES' and lmms-lab's: answers where no other column is one
SAYS_WORDS = re.compile(r"asr|transcri|speech.?recogn", re.IGNORECASE)  # a task whose answers are the words spoken
OFFSET = "offset"  # where a clip begins, in manifests of NeMo and Lhotse; with `duration` it tells the end
CLIP_COLUMNS = (*TIME_FIELDS, OFFSET, "transcript", "description")  # what may be known about the clip
RECORDINGS = frozenset((".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".webm", ".aif", ".aiff"))
CHOICES_COLUMNS = ("choices", "multi_choice")
SAY_WHICH = "say which it is (`format` in a recipe, --from for a command)"
DESTA_TAG = "<|AUDIO|>"
ASK_FOR_WORDS = "Transcribe the speech."
ASK_FOR_SCENE = "What do you hear?"
SALMONN_ASKS = {
    "asr": ASK_FOR_WORDS,
    "asr_zh": ASK_FOR_WORDS,
    "asr_de": ASK_FOR_WORDS,
    "lyrics_recognition": "Write down the words of the song.",
    "phone_recognition": "Write down the phonemes of the speech.",
    "translation_ec": "Translate the speech into Chinese.",
    "translation_ce": "Translate the speech into English.",
    "translation_en2ja": "Translate the speech into Japanese.",
    "translation_en2de": "Translate the speech into German.",
    "summary": "Sum up what is said.",
    "keywords": "Name three keywords of what is said.",
    "speech_query": "Answer the question that is asked.",
    "speech_audio_query": "Answer the question that is asked, by what is heard behind it.",
    "audiocaption": ASK_FOR_SCENE,
    "audiocaption_v2": ASK_FOR_SCENE,
    "audiocaption_zh": "What do you hear? Answer in Chinese.",
    "audiocaption_de": "What do you hear? Answer in German.",
    "audio_speech_description": "Describe the speech and the sounds behind it.",
    "fluent_speech_audio": "Describe the speech and the sounds behind it in one sentence.",
    "audio_story_telling": "Tell a story that fits the audio.",
    "audio_time": "List the sounds with the times at which they begin and end.",
    "music_description": "Describe the music.",
    "emotion_recognition": "What is the emotion of the speaker? Answer in one word.",
    "gender_recognition": "What is the gender of the speaker?",
    "speaker_verification": "Is it one person who speaks? Answer yes or no.",
    "speech_separation": "Write down what each person says.",
    "speaker_diarization_asr": "Write down who speaks, in turn, and what is said.",
    "count_audio": "How many pieces of speech are there?",
    "count_word": "How many words are said?",
    "slot_filling": "According to the speech, what is the {}?",
    "time_QA": "When does the word {!r} begin and end?",
}
"""What rows of SALMONN are asked that have a task and no question; {} is filled with their `Q`."""

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Format(NamedTuple):
    """`recognise` looks at the shape of one raw row; `convert` gives the dict that `parse_row` reads, or RowError."""

    recognise: Callable[[Raw], bool]
    convert: Converter


def detect(raw: Raw) -> str:
    """The name of the one format that this row has; RowError when it is none or several."""
    names = [name for name, format in FORMATS.items() if format.recognise(raw)]
    if len(names) == 1:
        return names[0]
    fields = ", ".join(map(repr, list(raw)[:12])) or "nothing"
    if names:
        raise RowError("", "", f"this could be {' or '.join(names)} (it has {fields}); {SAY_WHICH}")
    if _columns(map(_plain, raw), AUDIO_COLUMNS):
        raise RowError("", "", f"there is no column for the answer (it has {fields}); name it 'answer'")
    known = ", ".join(FORMATS)
    raise RowError(
        "",
        "",
        f"no known format has the fields {fields}; a table has columns audio, question and answer, "
        f"a conversation has messages; or {SAY_WHICH} ({known})",
    )


def detect_all(raws: Iterable[Raw]) -> str:
    """The one format of a file with rows; a row that has none is left for `convert` to explain, if there are others."""
    names: dict[str, None] = {}
    unknown: RowError | None = None
    for raw in raws:
        try:
            names.setdefault(detect(raw))
        except RowError as error:
            unknown = unknown or error
    for theirs in ("ms-swift", "openai", "sift"):
        if names.keys() == {"rows", theirs}:  # without audio, their rows look like ours
            return theirs
    if len(names) == 1:
        return next(iter(names))
    if names:
        raise RowError("", "", f"holds rows of several formats ({', '.join(names)}); split it, or {SAY_WHICH}")
    assert unknown, "a file without rows has no format"
    raise unknown


def convert_rows(raw: Raw) -> dict[str, Any]:
    """Our own rows, as they are."""
    return dict(raw)


def convert_ms_swift(raw: Raw) -> dict[str, Any]:
    """`messages` with `<audio>` in the texts, or `query`, `response`, `system`, `history`; and beside them `audios`."""
    turns = [_turn("system", raw["system"])] if raw.get("system") else []
    if "messages" in raw:
        turns = [*turns, *raw["messages"]] if turns and isinstance(raw["messages"], list) else raw["messages"]
    else:
        for question, answer in [*_pairs(raw.get("history"), "history"), (raw.get("query"), raw.get("response"))]:
            turns += [_turn("user", question), _turn("assistant", answer)]
    row = _without(raw, "messages", "audio", "audios", "query", "response", "system", "history", "rejected_response")
    if raw.get("rejected_response"):
        row["rejected"] = raw["rejected_response"]
    return row | _with_clips(raw, turns, raw.get("audios") or raw.get("audio"), tag="<audio>")


def convert_llama_factory(raw: Raw) -> dict[str, Any]:
    """`conversations` with `from` and `value`, or `messages`; `<audio>` in the texts and `audios` beside them."""
    if "conversations" not in raw:
        return convert_ms_swift(raw)
    turns = [_turn("system", raw["system"])] if raw.get("system") else []
    turns += _sharegpt_turns(raw["conversations"], "conversations")
    row = _without(raw, "conversations", "audio", "audios", "system", "chosen", "rejected")
    if raw.get("chosen") and raw.get("rejected"):
        turns += _sharegpt_turns([raw["chosen"]], "chosen")
        row["rejected"] = _sharegpt_turns([raw["rejected"]], "rejected")[0]["content"]
    return row | _with_clips(raw, turns, raw.get("audios") or raw.get("audio"), tag="<audio>")


def as_usual(raw: Raw, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A row with LLaMA-Factory's usual names, where its entry in dataset_info.json says that it has others.

    `columns`: usual name -> the row's; `tags`: names of roles and texts in a conversation.
    """
    columns = entry.get("columns") or {}
    if entry.get("formatting", "alpaca") == "alpaca":
        usual = {"prompt": "instruction", "query": "input", "response": "output"}
        named = {name: raw.get(columns.get(name, own)) for name, own in usual.items()}
        asked = "\n".join(str(text) for text in (named["prompt"], named["query"]) if not _is_blank(text))
        rest = {
            name: raw[columns.get(name, name)]
            for name in ("system", "history", "audios")
            if columns.get(name, name) in raw
        }
        return rest | {"query": asked, "response": named["response"]}
    tags = {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "system_tag": "system",
    }
    tags |= entry.get("tags") or {}
    roles = {tags["user_tag"]: "human", tags["assistant_tag"]: "gpt", tags["system_tag"]: "system"}
    turns = []
    for turn in _as_list(raw.get(columns.get("messages", "conversations"))):
        role = turn.get(tags["role_tag"]) if isinstance(turn, Mapping) else None
        said = turn.get(tags["content_tag"]) if isinstance(turn, Mapping) else turn
        turns.append({"from": roles.get(str(role), role), "value": said})
    rest = {name: raw[columns.get(name, name)] for name in ("system", "audios") if columns.get(name, name) in raw}
    return rest | {"conversations": turns}


def convert_nvidia(raw: Raw) -> dict[str, Any]:
    """`conversations` with `from` and `value`; `<sound>` in the texts and `sound`, a path or several, beside them."""
    turns = _sharegpt_turns(raw.get("conversations"), "conversations")
    return _without(raw, "conversations", "sound") | _with_clips(raw, turns, raw.get("sound"), tag="<sound>")


def convert_ltu(raw: Raw) -> dict[str, Any]:
    """LTU's and GAMA's: `instruction`, perhaps `input`, `audio_id` (a path), `output`; `dataset` it is from."""
    _require(raw, "instruction", "audio_id", "output")
    asked = [text for text in (raw["instruction"], raw.get("input")) if not _is_blank(text)]
    row = _without(raw, "instruction", "input", "audio_id", "output", "dataset")
    known = {"source": raw.get("dataset"), "source_id": raw["audio_id"] if isinstance(raw["audio_id"], str) else None}
    return known | row | _asked(raw["audio_id"], "\n".join(map(str, asked)), raw["output"])


def convert_salmonn(raw: Raw) -> dict[str, Any]:
    """SALMONN's annotations: `path` and perhaps `expand_wav` (heard after it), `text`, `task`, `Q` for a question."""
    _require(raw, "path", "text")
    task = raw.get("task") or "asr"
    clips = [{"type": "audio", "audio": path} for path in (raw["path"], *_as_list(raw.get("expand_wav")))]
    if SALMONN_ASKS.get(str(task)) == ASK_FOR_WORDS and len(clips) == 1:
        clips[0]["transcript"] = raw["text"]
    turns = [{"role": "user", "content": [*clips, _text(_asked_by_salmonn(task, raw.get("Q")))]}]
    row = _without(raw, "path", "expand_wav", "text", "Q") | {"task": task}
    return row | {"messages": [*turns, _turn("assistant", raw["text"])]}


def _asked_by_salmonn(task: Any, question: Any) -> Any:
    """The question of a row, in the words of its task where these have a place for it, or else the task's own."""
    usual = SALMONN_ASKS.get(str(task))
    if usual is not None and "{" in usual and not _is_blank(question):
        return usual.format(question)
    if not _is_blank(question):
        return question
    if usual is None or "{" in usual:
        raise RowError("", "Q", f"is missing, and task {task!r} alone does not say what is asked; write the question")
    return usual


def convert_desta(raw: Raw) -> dict[str, Any]:
    """DeSTA's: `<|AUDIO|>` in the texts, `audios` with `audio` and `text` (what is said) in each message."""
    messages = []
    for turn in _messages_of(raw):
        named = _as_list(turn.get("audios")) if isinstance(turn, Mapping) else []
        clips = [
            {"type": "audio", "audio": one.get("audio")} | ({"transcript": one["text"]} if one.get("text") else {})
            for one in named
            if isinstance(one, Mapping)
        ]
        if raw.get("seed_description") and len(clips) == 1:
            clips[0]["description"] = raw["seed_description"]
        bare = _without(turn, "audios") if isinstance(turn, Mapping) else turn
        num_tags = bare["content"].count(DESTA_TAG) if _may_hold_clips(bare) else 0
        if num_tags != len(clips):
            raise RowError("", "audios", f"a text has {num_tags} {DESTA_TAG} and its message {len(clips)} audios")
        messages.append(_split(bare, DESTA_TAG, iter(clips)) if clips else bare)
    row = _without(raw, "messages", "seed_description", "prompt", "response", "dataset")
    return {"source": raw.get("dataset")} | row | {"messages": messages}


def convert_sift(raw: Raw) -> dict[str, Any]:
    """SIFT's: parts with `text` or `audio_path`, perhaps with a `type`; `data_source` is where it is from."""
    messages = [
        {**turn, "content": [ours for part in _parts(turn) for ours in _of_sift(part)]} if _parts(turn) else turn
        for turn in _messages_of(raw)
    ]
    known = {"source": raw.get("data_source"), "source_id": raw.get("id")}
    return known | _without(raw, "messages", "data_source") | {"messages": messages}


def convert_openai(raw: Raw) -> dict[str, Any]:
    """OpenAI's: parts of type `input_audio` with sound in base64, and of type `text`."""
    messages = [
        {**turn, "content": [_of_openai(part) for part in _parts(turn)]} if _parts(turn) else turn
        for turn in _messages_of(raw)
    ]
    return dict(raw) | {"messages": messages}


def convert_mcq(raw: Raw) -> dict[str, Any]:
    """Multiple choice: `question`, `choices` or `multi_choice`, `answer` as text, number from 0, or letter."""
    names = {_plain(name): name for name in raw}
    asked, audio = _column(names, QUESTION_COLUMNS), _column(names, AUDIO_COLUMNS)
    key = next((names[name] for name in CHOICES_COLUMNS if name in names), None)
    if not asked or not audio or not key:
        raise RowError("", "", "a multiple choice needs columns for the audio, the question, choices and the answer")
    choices = _listed(raw[key], key)
    right = _chosen(raw.get("answer"), choices)
    question = with_choices(raw[asked], choices)
    row = _without(raw, asked, audio, key, "answer") | {"choices": choices, "answer": right}
    return row | _asked(raw[audio], question, right)


def with_choices(question: Any, choices: Sequence[str]) -> Any:
    """A question that names its options: those after it, if it does not have all of them."""
    if not isinstance(question, str) or all(choice in question for choice in choices):
        return question
    return f"{question.rstrip()}{naming(choices)}"


def naming(choices: Sequence[str]) -> str:
    """What is put after a question that does not name its options."""
    return f"\nChoose one of: {'; '.join(choices)}"


def convert_audiollms(raw: Raw) -> dict[str, Any]:
    """The mirrors of AudioBench: `context` (sound), `instruction`, `answer`, perhaps `choices`."""
    _require(raw, "context", "instruction", "answer")
    names = {"context": "audio", "instruction": "question"}
    given = {names.get(name, name): value for name, value in raw.items() if name != "other_attributes"}
    if given.get("choices"):
        return convert_mcq(given)
    row = _without(given, "audio", "question", "answer", "choices")
    return row | _asked(given["audio"], given["question"], given["answer"])


def convert_table(raw: Raw, question: str | None = None) -> dict[str, Any]:
    """Columns for the audio, the question and the answer; without the second, `question` or what fits the answer.

    Manifests are tables too: `audio_filepath`, `offset` and `duration` in seconds, `text`.
    """
    names = {_plain(name): name for name in raw}
    audio, asked = _column(names, AUDIO_COLUMNS), _column(names, QUESTION_COLUMNS)
    answer = _answer_column(names, is_asked=asked is not None)
    if not audio or not answer:
        raise RowError(
            "", "", "a table needs a column for the audio and one for the answer; name them audio and answer"
        )
    task = raw[names["task"]] if "task" in names else None
    is_transcript = not asked and _is_transcript(_plain(answer), task)
    ask = raw[asked] if asked else question or _fitting(_plain(answer), task)
    if _is_blank(ask):
        raise RowError("", asked or "question", "the question is empty; write it, or take the column away")

    clip = {"type": "audio", "audio": raw[audio]} | _known_of_clip(raw, names)
    words = str(raw[answer]) if type(raw[answer]) in (int, float) else raw[answer]
    others = _without(raw, audio, asked, answer, *(names.get(name) for name in CLIP_COLUMNS))
    row = {name: value for name, value in others.items() if not _is_blank(value)}
    if _plain(answer) == "captions" and isinstance(words, (list, tuple)) and words:
        words, *row["references"] = words
    if is_transcript:
        clip["transcript"] = words
        row.setdefault("task", "asr")
    if row.get("choices"):
        row["answer"] = words
    return row | {"messages": [{"role": "user", "content": [clip, _text(ask)]}, _turn("assistant", words)]}


def _known_of_clip(raw: Raw, names: Mapping[str, str]) -> dict[str, Any]:
    """What columns tell about the clip, by our names; RowError for an offset that is wrong or denied by another one."""
    told = {name: raw[names[name]] for name in CLIP_COLUMNS if name in names and not _is_blank(raw[names[name]])}
    known = {name: _number(value, name) for name, value in told.items()}
    start = seconds_of(known.pop(OFFSET, None), OFFSET)
    if start is None:
        return known
    times = {"start": start}
    if duration := seconds_of(known.get("duration"), "duration"):
        times["end"] = round(start + duration, 6)  # in microseconds: 0.1 + 0.2 is 0.3
    for name, value in times.items():
        if known.setdefault(name, value) != value:
            by = OFFSET if name == "start" else f"{OFFSET} and duration"
            raise RowError("", OFFSET, f"{name} is {known[name]}, and by {by} {value}; leave one of them out")
    return known


def _answer_column(names: Mapping[str, str], is_asked: bool) -> str | None:
    """The column of the answer; one of a transcript is about the clip where a question has another answer."""
    all_names = ANSWER_COLUMNS + TRANSCRIPT_COLUMNS
    for known in (ANSWER_COLUMNS, RARE_COLUMNS, all_names) if is_asked else (all_names, RARE_COLUMNS):
        if (column := _column(names, known)) is not None:
            return column
    return None


def _is_transcript(answer: str, task: Any) -> bool:
    """Whether this column holds the words spoken. `text` and `trans` may hold others, if the task is another one."""
    says_words = bool(SAYS_WORDS.search(str(task)))
    if answer in ("text", "trans"):
        return says_words or _is_blank(task)
    return says_words if answer == "gt" else answer in TRANSCRIPT_COLUMNS


def _fitting(answer: str, task: Any) -> str:
    """What a table without questions asks; RowError where its answers may be the words spoken or something else."""
    if _is_transcript(answer, task):
        return ASK_FOR_WORDS
    if answer in ("text", "trans", "gt"):
        told = "no task says" if _is_blank(task) else f"task {task!r} does not say"
        way = "add it, or say it (`question` in a recipe, --question for check and join)"
        raise RowError("", "question", f"is missing, and {told} what {answer!r} answers; {way}")
    return ASK_FOR_SCENE


def _asked(audio: Any, question: Any, answer: Any) -> dict[str, Any]:
    """A question about one clip, and its answer."""
    clip = {"type": "audio", "audio": audio}
    words = str(answer) if type(answer) in (int, float) else answer
    return {"messages": [{"role": "user", "content": [clip, _text(question)]}, _turn("assistant", words)]}


def _require(raw: Raw, *names: str) -> None:
    missing = [name for name in names if _is_blank(raw.get(name))]
    if missing:
        raise RowError("", missing[0], "is missing or empty")


def _messages_of(raw: Raw) -> list[Any]:
    messages = raw.get("messages")
    if not isinstance(messages, list):
        raise RowError("", "messages", "must be a list of messages")
    return messages


def _of_openai(part: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("type") != "input_audio":
        return part
    given = part.get("input_audio")
    if not isinstance(given, Mapping) or not isinstance(given.get("data"), str):
        raise RowError("", "input_audio", "has no `data`, the sound in base64")
    data = given["data"]
    return {"type": "audio", "audio": data if data.startswith("data:") else f"data:audio;base64,{data}"}


def _of_sift(part: Any) -> list[Any]:
    """The clip and the text of a part; other fields and a type that does not fit are left for `parse_row` to judge."""
    if not isinstance(part, Mapping):
        raise RowError("", "messages", "a part is an object with `text` or `audio_path`")
    others = _without(part, "type", "audio_path", "text")
    clips = [] if _is_blank(part.get("audio_path")) else [{"type": "audio", "audio": part["audio_path"]} | others]
    texts = [] if _is_blank(part.get("text")) else [_text(part["text"]) | ({} if clips else others)]
    fits = part.get("type") in (None, *(one["type"] for one in (*clips, *texts)))
    return [*clips, *texts] if fits else [part]


def _listed(value: Any, name: str) -> list[str]:
    """Options as a list; some sets have it as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise RowError("", name, "must be a list of options, or one as JSON text") from None
    if (
        not isinstance(value, (list, tuple))
        or not value
        or not all(isinstance(one, (str, int, float)) for one in value)
    ):
        raise RowError("", name, "must be a list of options")
    return [str(one) for one in value]


def _chosen(answer: Any, choices: Sequence[str]) -> str:
    """The right option, given as its text, its number from 0, or its letter."""
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return choices[answer]
    if isinstance(answer, str):
        if answer in choices:
            return answer
        letter = answer.strip().strip("().").upper()
        if len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(choices):
            return choices[ord(letter) - ord("A")]
    raise RowError("", "answer", not_among(answer))


def _is_desta(raw: Raw) -> bool:
    return _any_message(raw, lambda message: isinstance(message.get("audios"), list))


def _is_sift(raw: Raw) -> bool:
    return _any_part(raw, lambda part: "audio_path" in part or ("type" not in part and "text" in part))


def _is_openai(raw: Raw) -> bool:
    return _any_part(raw, lambda part: part.get("type") == "input_audio")


def _any_message(raw: Raw, fits: Callable[[Raw], bool]) -> bool:
    messages = raw.get("messages")
    return isinstance(messages, list) and any(isinstance(one, Mapping) and fits(one) for one in messages)


def _any_part(raw: Raw, fits: Callable[[Raw], bool]) -> bool:
    return _any_message(raw, lambda message: any(isinstance(part, Mapping) and fits(part) for part in _parts(message)))


def _is_mcq(raw: Raw) -> bool:
    if "messages" in raw or "conversations" in raw:
        return False
    names = set(map(_plain, raw))
    return bool(
        names & set(CHOICES_COLUMNS) and "answer" in names
        and _columns(names, AUDIO_COLUMNS) and _columns(names, QUESTION_COLUMNS)
    )  # fmt: skip


def _is_ms_swift(raw: Raw) -> bool:
    if "messages" not in raw:
        return "query" in raw and "response" in raw and not _columns(map(_plain, raw), AUDIO_COLUMNS)
    return bool(raw.get("audios") or raw.get("audio")) and not _has_parts(raw["messages"]) and not _is_desta(raw)


def _is_table(raw: Raw) -> bool:
    if "messages" in raw or "conversations" in raw or _is_mcq(raw) or _is_salmonn(raw):
        return False
    names = set(map(_plain, raw))
    answers = (*ANSWER_COLUMNS, *TRANSCRIPT_COLUMNS, *RARE_COLUMNS)
    return bool(_columns(names, AUDIO_COLUMNS) and _columns(names, answers))


def _is_ours(raw: Raw) -> bool:
    return "messages" in raw and not any(
        is_theirs(raw) for is_theirs in (_is_ms_swift, _is_desta, _is_sift, _is_openai)
    )


def _is_salmonn(raw: Raw) -> bool:
    needed = {"path", "text", "task"}
    return needed <= raw.keys() and ("Q" in raw or "expand_wav" in raw or raw.keys() == needed)


FORMATS: dict[str, Format] = {
    "rows": Format(_is_ours, convert_rows),
    "ms-swift": Format(_is_ms_swift, convert_ms_swift),
    "llama-factory": Format(lambda raw: "conversations" in raw and "sound" not in raw, convert_llama_factory),
    "nvidia": Format(lambda raw: "conversations" in raw and "sound" in raw, convert_nvidia),
    "ltu": Format(lambda raw: {"instruction", "audio_id", "output"} <= raw.keys(), convert_ltu),
    "salmonn": Format(_is_salmonn, convert_salmonn),
    "desta": Format(_is_desta, convert_desta),
    "sift": Format(_is_sift, convert_sift),
    "openai": Format(_is_openai, convert_openai),
    "mcq": Format(_is_mcq, convert_mcq),
    "audiollms": Format(lambda raw: {"context", "instruction", "answer"} <= raw.keys(), convert_audiollms),
    "table": Format(_is_table, convert_table),
}


def converter(name: str, question: str | None = None) -> Converter:
    """The converter of a format by its name; `question` is what tables without such a column ask."""
    name = "table" if name == "manifest" else name
    if name not in FORMATS:
        raise RowError("", "", f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    if name == "table":
        return partial(convert_table, question=question)
    if question is not None:
        raise RowError(
            "", "", f"a question is given for tables and folders, and rows of format {name} have theirs; leave it out"
        )
    return FORMATS[name].convert


def with_recording(raw: Raw, audio: bytes) -> dict[str, Any]:
    """A row of any format with this sound in place of each clip that it names; of one clip, where it names none."""
    messages = raw.get("messages")
    columns = [name for name in raw if _plain(name) in (*AUDIO_COLUMNS, "audio_id", "context")]
    if isinstance(messages, list) and _has_parts(messages):
        places = sum(_is_clip(part) for message in messages for part in _parts(message))
        silent = [
            message | {"content": [_without(part, *AUDIO_FIELDS) if _is_clip(part) else part for part in parts]}
            if (parts := _parts(message))
            else message
            for message in messages
        ]
        return {**raw, "messages": silent, "audios": [audio] * max(places, 1)}
    if "conversations" in raw and "sound" in raw:
        return {**raw, "sound": [audio] * len(_as_list(raw["sound"]))}
    if "messages" in raw or "conversations" in raw or ("query" in raw and "response" in raw and not columns):
        named = _as_list(raw.get("audios") or raw.get("audio"))
        return {**_without(raw, "audio"), "audios": [audio] * max(len(named), 1)}
    return {**raw, columns[0] if len(columns) == 1 else "audio": audio}


def _parts(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, list) else []


def _is_clip(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "audio"


def _with_clips(raw: Raw, turns: Any, audios: Any, tag: str) -> dict[str, Any]:
    """`messages` with each tag replaced by its clip; without any tag the clips open the first user message."""
    for medium in ("images", "videos"):
        if raw.get(medium):
            raise RowError("", medium, "this model only listens; leave such rows out")
    clips = [{"type": "audio", "audio": audio} for audio in _as_list(audios)]
    if _has_parts(turns):  # the parts already say where the clips stand
        return {"messages": turns, "audios": [clip["audio"] for clip in clips]}
    texts = [turn["content"] for turn in turns if _may_hold_clips(turn)]
    num_tags = sum(text.count(tag) for text in texts)
    if num_tags not in (0, len(clips)):
        cause = f"the texts have {num_tags} {tag} and the row {len(clips)} audios; write one {tag} for each, or none"
        raise RowError("", "audios", cause)
    left = iter(clips)
    if num_tags:
        return {"messages": [_split(turn, tag, left) if _may_hold_clips(turn) else turn for turn in turns]}
    first = next((index for index, turn in enumerate(turns) if _may_hold_clips(turn) and turn["role"] == "user"), None)
    if first is None or not clips:
        return {"messages": turns, "audios": clips}
    opened = {**turns[first], "content": [*clips, _text(turns[first]["content"])]}
    return {"messages": [*turns[:first], opened, *turns[first + 1 :]]}


def _split(turn: Raw, tag: str, clips: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The turn's text cut at its tags, a clip in the place of each; white space around a cut is dropped."""
    first, *others = turn["content"].split(tag)
    parts = [_text(first.strip())]
    for text in others:
        parts += [next(clips), _text(text.strip())]
    return {**turn, "content": [part for part in parts if part.get("text") != ""]} if others else dict(turn)


def _sharegpt_turns(data: Any, where: str) -> list[dict[str, Any]]:
    turns = []
    for index, turn in enumerate(_as_list(data)):
        role = turn.get("from") if isinstance(turn, Mapping) else None
        if role not in SHAREGPT_ROLES:
            known = ", ".join(SHAREGPT_ROLES)
            raise RowError("", f"{where}[{index}].from", f"unknown role {role!r}; known: {known}; leave such rows out")
        turns.append(_turn(SHAREGPT_ROLES[role], turn.get("value")))
    return turns


def _pairs(data: Any, where: str) -> list[Any]:
    pairs = _as_list(data)
    for index, pair in enumerate(pairs):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RowError("", f"{where}[{index}]", "must be a question and its answer, a list of two texts")
    return pairs


def _may_hold_clips(turn: Any) -> bool:
    return isinstance(turn, Mapping) and turn.get("role") != "assistant" and isinstance(turn.get("content"), str)


def _has_parts(messages: Any) -> bool:
    """Whether these messages are (or may be: JSON text, something wrong) lists of parts, and not plain texts."""
    if not isinstance(messages, list):
        return True
    return any(isinstance(message, Mapping) and isinstance(message.get("content"), list) for message in messages)


def _columns(names: Iterable[str], known: Sequence[str]) -> list[str]:
    present = set(names)
    return [name for name in known if name in present]


def _column(names: Mapping[str, str], known: Sequence[str]) -> str | None:
    """The column that is meant, as the table spells it; RowError when several could be and none has the first name."""
    present = _columns(names, known)
    if len(present) > 1 and present[0] != known[0]:
        told = " and ".join(repr(names[name]) for name in present)
        raise RowError("", "", f"columns {told} could all be the {known[0]}; rename the right one to {known[0]!r}")
    return names[present[0]] if present else None


def _plain(name: str) -> str:
    return str(name).strip().lower().replace(" ", "_")


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Any, column: str) -> Any:
    """Cells of a CSV are texts; what is no number is left for `parse_row` to refuse."""
    try:
        return float(value) if column in (*TIME_FIELDS, OFFSET) and isinstance(value, str) else value
    except ValueError:
        return value


def _turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _text(text: Any) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _without(raw: Raw, *names: str | None) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name not in names}
