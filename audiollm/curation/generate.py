"""Questions and answers by a language model, out of what is known about recordings in words.

    rows ─► words of each recording ─► template ─► asks ─► writer ─► FILE.cache/results.jsonl ─► checked ─► FILE

`questions`: some question/answer pairs a recording, as JSON, which is asked for once more where it is none.
`targets`: what the model itself answers to a row's question when it reads the description in place of the sound; a
model trained on these need not unlearn its own way of speaking (as DeSTA does). Results are kept by the hash of all
that they depend on, so what was asked is not asked again. Not here: reaching a model (writers.py).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import field as default
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import yaml
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from tqdm import tqdm

from audiollm.conversation import Message, Row, TextPart, write_rows
from audiollm.curation.leaks import leaks
from audiollm.curation.mapped import first_of
from audiollm.curation.processes import alone_in
from audiollm.curation.writers import Ask, Failure, Writer, Written
from audiollm.data.sources import Problems, load_rows, paths_of
from audiollm.models.settings import Settings, nearest

FOLDER = Path(__file__).with_name("templates")
PLACES = ("description", "transcript", "task", "count", "question")
PLACE = re.compile(r"\{([A-Za-z_]+)\}")
DESCRIBING = frozenset({"caption", "music_caption", "captioning", "audio_caption", "tagging", "tags_music"})
TRANSCRIBING = frozenset({"asr", "transcribe", "transcription"})
FAILURES_IN_A_ROW = 5
MILLION = 1_000_000

NO_WORDS = "nothing is known about the recording in words"
NOT_ONE_CLIP = "not about one recording"
SEVERAL_TURNS = "a conversation of several turns"
NO_RESULT = "no result from the model"
NOT_JSON = "not a JSON list"
NO_FIELDS = "a field is missing"
EMPTY = "empty"
TOO_LONG = "answer longer than the template allows"
CUT_OFF = "cut off at the template's max_new_tokens"
LEAK = "tells of the written description"
DUPLICATE = "question asked twice"
GIVES_ANSWER = "question holds its answer"
TOO_MANY = "more than asked for"


class Field(Settings):
    """One thing that the model writes for each pair."""

    name: str
    """Key in the JSON object; `question` and `answer` are needed, others go to the row's `extra`."""
    type: Literal["string"] = "string"
    """What it is."""
    description: str = ""
    """Said to the model."""


class Template(Settings):
    """A prompt file, templates/NAME.yaml or the user's own."""

    mode: Literal["questions", "targets"]
    """Pairs for a recording, or an answer to each row's own question."""
    task: str
    """Task of the rows that are written."""
    system: str = ""
    """System message."""
    user: str
    """Question to the model; {description} {transcript} {task} {count} {question} are filled in. A line with one of
    which nothing is known is left out."""
    fields: tuple[Field, ...] = (Field(name="question"), Field(name="answer"))
    """What each pair consists of; said at the end of the question to the model."""
    max_answer_words: PositiveInt = 50
    """A longer answer is dropped."""
    max_new_tokens: PositiveInt = 1024
    """Longest text of the model, in tokens."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy; `targets` are always greedy."""
    top_p: PositiveFloat = 1.0
    """Draw among the most probable tokens that together have this share."""


class Words(NamedTuple):
    """What is known about a recording."""

    description: str
    transcript: str


class Unit(NamedTuple):
    """A recording (`questions`) or a row (`targets`), and the first and the second way to ask about it."""

    row: Row
    place: int  # of the recording or row, from 1
    asks: tuple[Ask, ...]


@dataclass
class Cost:
    """What was asked of the model."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    untold: int = 0
    """Results of which the endpoint did not tell the tokens."""

    def add(self, written: Written) -> None:
        """Count one result."""
        self.requests += 1
        self.prompt_tokens += written.prompt_tokens or 0
        self.completion_tokens += written.completion_tokens or 0
        self.untold += written.prompt_tokens is None or written.completion_tokens is None

    def price(self, prompt: float, completion: float) -> float:
        """The sum, for prices per million tokens."""
        return (self.prompt_tokens * prompt + self.completion_tokens * completion) / MILLION

    def __str__(self) -> str:
        known = f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        return f"{self.requests:,} requests, {known}" + (f" ({self.untold:,} untold)" if self.untold else "")


@dataclass
class Generated:
    """What a run gave."""

    rows: int = 0
    units: int = 0
    """Recordings or rows that were asked about."""
    retried: int = 0
    """Recordings about which the first text was no JSON."""
    dropped: Counter[str] = default(default_factory=Counter)
    """Reason -> rows, recordings or pairs that were left out."""
    problems: Problems = default(default_factory=Problems)
    """Rows that could not be read."""
    now: Cost = default(default_factory=Cost)
    """What this run asked."""
    total: Cost = default(default_factory=Cost)
    """What the written file took, earlier runs included."""

    def summary(self, prices: tuple[float, float] | None = None) -> str:
        """A few lines for people; prices are per million prompt and completion tokens."""
        lines = [f"{self.rows:,} rows from {self.units:,} asked about"]
        if self.retried:
            lines.append(f"{self.retried:,} asked twice, since the first text was {NOT_JSON}")
        lines += [f"left out: {count:,} x {reason}" for reason, count in sorted(self.dropped.items())]
        for name, cost in (("asked now", self.now), ("in all", self.total)):
            at_least = "at least " if cost.untold else ""
            lines.append(f"{name}: {cost}" + (f", {at_least}{cost.price(*prices):.4f}" if prices else ""))
        return "\n".join(lines + ([self.problems.summary()] if self.problems.count else []))


def generate(
    source: Any,
    out: Path,
    template: str,
    writer: Writer,
    *,
    count: PositiveInt = 5,
    seed: int = 0,
    limit: PositiveInt | None = None,
    format: str | None = None,
) -> Generated:
    """Write rows by a language model, and say what became of the rest; given again, only what is missing is asked.

    count: pairs for each recording. limit: recordings (for `targets`: rows) to ask about, from the first.
    """
    refuse_own_input(source, out)
    chosen = load_template(template)
    result = Generated()
    rows = load_rows(source, format=format, problems=result.problems)
    if not rows:
        raise ValueError(f"no row could be read; {result.problems.summary()}")
    named = Named(Path(template).stem, chosen, writer, count, seed)
    folder = out.with_name(f"{out.name}.cache")
    with open_cache(folder) as cache, Ledger(folder / "dropped.jsonl", result.dropped) as ledger:
        planned = named.questions(rows, ledger) if chosen.mode == "questions" else named.targets(rows, ledger)
        units = list(islice(planned, limit))
        result.units = len(units)
        failures = ask_all([unit.asks[0] for unit in units], cache, writer, result.now)
        again = [unit.asks[1] for unit in units if len(unit.asks) > 1 and is_no_list(cache.get(unit.asks[0].key))]
        failures |= ask_all(again, cache, writer, result.now)
        result.retried = len(again)
        used = {ask.key for ask in chain((unit.asks[0] for unit in units), again)}
        for key in sorted(used):
            if written := cache.get(key):
                result.total.add(written)
        made = named.rows_of(units, cache, failures, ledger)
        if (first := next(made, None)) is None:
            told = f"{result.summary()}{way_out(result.dropped, failures)}"
            raise ValueError(f"no row could be written; {told}\nleft out, one by one: {ledger.path}")
        result.rows = write_rows(out, chain([first], made))
    return result


def way_out(dropped: Mapping[str, int], failures: Mapping[str, str]) -> str:
    """What to do where nothing could be written, as far as that is known."""
    lines = [f"the first request that failed: {next(iter(failures.values()))}"] if failures else []
    if NO_WORDS in dropped:
        lines.append(
            "to be known in words: write `description` or `transcript` into the audio part of a row, or give rows with "
            f"answers of a task that tells them ({', '.join(sorted(DESCRIBING | TRANSCRIBING))}); "
            "`audiollm generate --list` says what each template reads"
        )
    return "".join(f"\n{line}" for line in lines)


def refuse_own_input(source: Any, out: Path) -> None:
    """ValueError where the output is a file that is read."""
    if out.suffix != ".jsonl":
        raise ValueError(f"--out: {out} is to be a .jsonl file, one row a line")
    for one in source if isinstance(source, list | tuple) else [source]:
        if isinstance(one, str | Path) and out.exists() and out.resolve() in {p.resolve() for p in paths_of(str(one))}:
            raise ValueError(f"--out: {out} is one of the files that are read; name another, outside of the pattern")


def templates() -> dict[str, Path]:
    """The templates of the package by name."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.yaml"))}


def load_template(name_or_file: str) -> Template:
    """A template of the package by name, or a file; ValueError names what is wrong with it."""
    is_file = name_or_file.endswith((".yaml", ".yml"))
    if not is_file and name_or_file not in templates():
        raise ValueError(
            f"there is no template {name_or_file!r}; {nearest(name_or_file, templates())}, or a .yaml file"
        )
    path = Path(name_or_file) if is_file else templates()[name_or_file]
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no YAML in UTF-8 ({' '.join(str(error).split())})") from None
    if not isinstance(given, Mapping):
        raise ValueError(f"{path}: is a mapping such as `mode: questions`, and not {type(given).__name__}")
    try:
        template = Template.model_validate(given)
    except ValueError as error:
        raise ValueError(f"{path}: {first_of(error)}") from None
    check_places(template, path)
    return template


def check_places(template: Template, path: Path) -> None:
    """ValueError for a place that nothing fills, or a field without which there is no pair."""
    for place in PLACE.findall(template.user + template.system):
        if place not in PLACES:
            raise ValueError(f"{path}: user: nothing fills {{{place}}}; {nearest(place, PLACES)}")
    if PLACE.search(template.system):
        raise ValueError(f"{path}: system: {{...}} is filled in under `user` alone; move it there")
    if not {"description", "transcript"} & set(PLACE.findall(template.user)):
        raise ValueError(f"{path}: user: names neither {{description}} nor {{transcript}}; write one into it")
    missing = {"question", "answer"} - {field.name for field in template.fields}
    if template.mode == "questions" and missing:
        raise ValueError(f"{path}: fields: lacks {', '.join(sorted(missing))}; add it")
    if template.mode == "targets" and "question" not in PLACE.findall(template.user):
        raise ValueError(f"{path}: user: lacks {{question}}, the row's own; write it there")


class Named(NamedTuple):
    """A template under its name, and how it is used: makes asks of rows, and rows of results."""

    name: str
    template: Template
    writer: Writer
    pairs_asked: int
    seed: int

    def questions(self, rows: Sequence[Row], ledger: "Ledger") -> Iterator[Unit]:
        """One unit a recording, with all that its rows know."""
        for number, (known, group) in enumerate(by_recording(rows, ledger), start=1):
            row = group[0]
            if not any(known):
                ledger.drop(row, NO_WORDS)
                continue
            asks = tuple(self.ask(known, row, "", attempt) for attempt in (0, 1))
            yield Unit(row, number, asks)

    def targets(self, rows: Sequence[Row], ledger: "Ledger") -> Iterator[Unit]:
        """One unit a row that asks something about a recording of which something is known."""
        number = 0
        for known, group in by_recording(rows, ledger):
            for row in group:
                number += 1
                if not any(known):
                    ledger.drop(row, NO_WORDS)
                elif any(message.role == "assistant" for message in row.prompt):
                    ledger.drop(row, SEVERAL_TURNS)
                elif not row.question.strip():
                    ledger.drop(row, EMPTY, "it asks nothing")
                else:
                    yield Unit(row, number, (self.ask(known, row, row.question, 0),))

    def ask(self, known: Words, row: Row, question: str, attempt: int) -> Ask:
        """The request about a recording; its key is the hash of all on which the result depends."""
        template, greedy = self.template, self.template.mode == "targets"
        own = [message.text for message in row.messages if message.role == "system"] if greedy else []
        system = "\n\n".join(filter(None, (template.system.strip(), *own)))
        user = filled(
            template.user,
            {**known._asdict(), "task": template.task, "count": str(self.pairs_asked), "question": question.strip()},
        )
        if not greedy:
            user += "\n\n" + form_asked_for(template.fields, self.pairs_asked)
            user += "\nThe first attempt was no such list: write the list alone." if attempt else ""
        temperature = 0.0 if greedy else template.temperature
        seed = self.seed if temperature else None  # a greedy text has no use for one
        content = [self.writer.identity, template.model_dump(), system, user, seed, attempt]
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Ask(key, system, user, template.max_new_tokens, temperature, template.top_p, int(key[:7], 16))

    def rows_of(
        self, units: Iterable[Unit], cache: "Cache", failures: Mapping[str, str], ledger: "Ledger"
    ) -> Iterator[Row]:
        """The rows of all results that hold what they should."""
        for unit in units:
            last, written = unit.asks[0], cache.get(unit.asks[0].key)
            if len(unit.asks) > 1 and is_no_list(written):
                last, written = unit.asks[1], cache.get(unit.asks[1].key)
            if written is None:
                ledger.drop(unit.row, NO_RESULT, failures.get(last.key, ""))
            elif self.template.mode == "targets":
                yield from self.target(unit, written, ledger)
            else:
                yield from self.pairs(unit, last, written, ledger)

    def target(self, unit: Unit, written: Written, ledger: "Ledger") -> Iterator[Row]:
        """The row with the model's own answer in place of the one it had."""
        answer = without_thoughts(written.text)
        reason = CUT_OFF if written.truncated else self.objection("", answer)
        if reason:
            ledger.drop(unit.row, reason, answer)
            return
        messages = (*unit.row.prompt, Message("assistant", (TextPart(answer),)))
        extra = {**unit.row.extra, "generated": self.told(unit.asks[0])}
        yield replace(
            unit.row, messages=messages, task=self.template.task, references=(), choices=(), answer=None,
            rejected=None, extra=extra,
        )  # fmt: skip

    def pairs(self, unit: Unit, ask: Ask, written: Written, ledger: "Ledger") -> Iterator[Row]:
        """A row for each pair that passes the filter."""
        listed = list_in(written.text)
        if listed is None:
            ledger.drop(unit.row, CUT_OFF if written.truncated else NOT_JSON, written.text)
            return
        seen: set[tuple[str, ...]] = set()
        kept = 0
        for item in listed:
            pair = pair_of(item, self.template.fields)
            if pair is None:
                reason: str | None = NO_FIELDS
            else:
                asked = tuple(words_in(pair["question"]))
                reason = self.objection(pair["question"], pair["answer"]) or (DUPLICATE if asked in seen else None)
                reason = reason or (TOO_MANY if kept == self.pairs_asked else None)
            if reason or pair is None:
                ledger.drop(unit.row, str(reason), json.dumps(item, ensure_ascii=False))
                continue
            seen.add(asked)
            kept += 1
            yield self.pair_row(unit, kept, pair, ask)

    def pair_row(self, unit: Unit, number: int, pair: dict[str, str], ask: Ask) -> Row:
        """A pair as a row about the unit's recording."""
        row, (clip,) = unit.row, unit.row.clips
        others = {name: text for name, text in pair.items() if name not in ("question", "answer")}
        return Row(
            messages=(
                Message("user", (clip, TextPart(pair["question"]))),
                Message("assistant", (TextPart(pair["answer"]),)),
            ),
            id=f"{row.id or unit.place}-{self.name}-{number}",
            task=self.template.task, source=row.source, source_id=row.source_id, split=row.split,
            language=row.language, license=row.license, origin=row.origin,
            extra={"generated": {**self.told(ask), **({"fields": others} if others else {})}},
        )  # fmt: skip

    def told(self, ask: Ask) -> dict[str, str]:
        """Where a row's words come from."""
        return {"template": self.name, "model": self.writer.name, "hash": ask.key}

    def objection(self, question: str, answer: str) -> str | None:
        """Why a pair is not kept; an answer alone has no question."""
        if not words_in(answer) or (self.template.mode == "questions" and not words_in(question)):
            return EMPTY
        if leaks(answer) or leaks(question):
            return LEAK
        if len(words_in(answer)) > self.template.max_answer_words:
            return TOO_LONG
        return GIVES_ANSWER if holds(question, answer) else None


def by_recording(rows: Iterable[Row], ledger: "Ledger") -> Iterator[tuple[Words, list[Row]]]:
    """The rows about each recording, in the order of the first of them, and what they know together."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        if len(row.clips) == 1:
            groups.setdefault(row.group_key, []).append(row)
        else:
            ledger.drop(row, NOT_ONE_CLIP, f"it has {len(row.clips)}")
    for group in groups.values():
        yield words_known(group), group


def words_known(rows: Sequence[Row]) -> Words:
    """Descriptions and transcripts of a recording, each once; answers are such where the task is to give one."""
    descriptions: dict[str, None] = {}
    transcripts: dict[str, None] = {}
    for row in rows:
        [clip] = row.clips
        described = [clip.description, *((row.target, *row.references) if row.task in DESCRIBING else ())]
        spoken = [clip.transcript, *((row.target,) if row.task in TRANSCRIBING else ())]
        descriptions |= dict.fromkeys(text.strip() for text in described if text and text.strip())
        transcripts |= dict.fromkeys(text.strip() for text in spoken if text and text.strip())
    return Words(*("\n".join(texts) if len(texts) < 2 else listed(texts) for texts in (descriptions, transcripts)))


def listed(texts: Iterable[str]) -> str:
    """One text a line, under the line that announces them."""
    return "".join(f"\n- {text}" for text in texts)


def filled(text: str, values: Mapping[str, str]) -> str:
    """A template with its places filled, once: braces in the words stay. Lines about nothing are left out."""
    lines = [line for line in text.strip().splitlines() if all(values[place] for place in PLACE.findall(line))]
    return "\n".join(PLACE.sub(lambda found: values[found[1]], line) for line in lines)


def form_asked_for(fields: Sequence[Field], count: int) -> str:
    """The form of the result, told to the model."""
    about = "\n".join(f'- "{one.name}" ({one.type})' + f": {one.description}" * bool(one.description) for one in fields)
    return f"Write a JSON list of {count} objects and nothing else. Each object has:\n{about}"


def is_no_list(written: Written | None) -> bool:
    """Whether there is a text, and no list in it."""
    return written is not None and list_in(written.text) is None


def without_thoughts(text: str) -> str:
    """A text without what a model thinks aloud before it."""
    return re.sub(r"\A\s*<think>.*?(</think>|\Z)", "", text, flags=re.DOTALL).strip()


def list_in(text: str) -> list[Any] | None:
    """The first JSON list of objects in a text, in a fence, after words or as the value of an object; None if none."""
    text = without_thoughts(text)
    decoder = json.JSONDecoder()
    if re.fullmatch(r"\s*\[\s*\]\s*", text):
        return []
    position = 0
    while found := re.search(r"[\[{]", text[position:]):
        position += found.start()
        try:
            data, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position += 1
            # Inside a broken list there may be whole objects or lists; they are not what was asked for.
            if text[position - 1] == "[" and re.match(r"\s*\{", text[position:]):
                return None
            continue
        for one in (data, *(data.values() if isinstance(data, dict) else ())):
            if isinstance(one, list) and one and all(isinstance(item, dict) for item in one):
                return one
    return None


def pair_of(item: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, str] | None:
    """The fields of one object as texts; None where one is missing or is no text."""
    pair = {}
    for one in fields:
        value = item.get(one.name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        pair[one.name] = str(value).strip()
    return pair


def words_in(text: str) -> list[str]:
    """The words of a text in small letters; a Chinese or Japanese character counts as one."""
    return re.findall(r"[぀-ヿ㐀-鿿]|[^\W぀-ヿ㐀-鿿]+(?:['’][^\W]+)*", text.casefold())


def holds(question: str, answer: str) -> bool:
    """Whether an answer of two words or more stands in its question as it is."""
    asked, said = words_in(question), words_in(answer)
    return len(said) > 1 and f" {' '.join(said)} " in f" {' '.join(asked)} "


class Cache:
    """Results by key, one JSON line each; the file only grows. Only places are held in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, int] = {}
        path.touch()
        self.file = path.open("rb+")
        place, line = 0, b""
        for line in self.file:
            if parsed := _parsed(line):
                self.places[parsed[0]] = place
            place += len(line)
        self.torn = bool(line) and not line.endswith(b"\n")  # a run was stopped while it wrote

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def get(self, key: str) -> Written | None:
        """The result of a key, if there is one."""
        if key not in self.places:
            return None
        self.file.seek(self.places[key])
        parsed = _parsed(self.file.readline())
        return parsed[1] if parsed else None

    def add(self, key: str, written: Written) -> None:
        """Append a result, at once."""
        self.file.seek(0, 2)
        if self.torn:
            self.file.write(b"\n")
            self.torn = False
        self.places[key] = self.file.tell()
        line = json.dumps({"key": key, **written._asdict()}, ensure_ascii=False) + "\n"
        self.file.write(line.encode("utf-8", "replace"))
        self.file.flush()


def _parsed(line: bytes) -> tuple[str, Written] | None:
    """A line of the cache; None for one that was cut off."""
    try:
        data = json.loads(line)
        return str(data.pop("key")), Written(**data)
    except (ValueError, TypeError, LookupError, AttributeError):
        return None


@contextmanager
def open_cache(folder: Path) -> Iterator[Cache]:
    """The cache in a folder, for one run at a time."""
    with alone_in(folder):
        cache = Cache(folder / "results.jsonl")
        with cache.file:
            yield cache


class Ledger:
    """The file of what was left out, one object a line: origin, cause, detail; and how often each cause was met."""

    def __init__(self, path: Path, counts: Counter[str]) -> None:
        self.path, self.counts = path, counts
        self.file: TextIO = path.open("w", encoding="utf-8", errors="replace", newline="\n")

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *failure: object) -> None:
        self.file.close()

    def drop(self, row: Row, cause: str, detail: str = "") -> None:
        """Count one more."""
        self.counts[cause] += 1
        line = {"origin": row.origin, "row": row.id, "cause": cause, "detail": detail}
        self.file.write(json.dumps(line, ensure_ascii=False) + "\n")


def ask_all(asks: Iterable[Ask], cache: Cache, writer: Writer, cost: Cost) -> dict[str, str]:
    """Ask what is not in the cache, each once, and keep results as they come; key -> why there is no result."""
    missing = {ask.key: ask for ask in asks if ask.key not in cache}
    failures: dict[str, str] = {}
    in_a_row = 0
    for ask, result in tqdm(writer.write(missing.values()), total=len(missing), leave=False, disable=None):
        if isinstance(result, Failure):
            failures[ask.key] = result.cause
            in_a_row = in_a_row + 1 if result.others_too else 0
            if in_a_row == FAILURES_IN_A_ROW:
                raise ValueError(
                    f"{in_a_row} requests in a row failed, the last: {result.cause}; "
                    "what came before is kept, and the same command goes on from there"
                )
        else:
            in_a_row = 0
            cache.add(ask.key, result)
            cost.add(result)
    return failures
