"""Runs a converter that describes a data set: reads its source in chunks, in several processes, and writes rows.

    parts/train-00003.jsonl, 00003.json     what one chunk gave, and its figures; these come last, and say "done"
    train.jsonl or train-00003.parquet      the parts, when all are there; -00003_01 goes on where 500 MB were full
    dropped.jsonl                           what was left out: place, reason, detail

Stopped and started again, chunks that are done are kept. Machines share the chunks by turns (`shard: 2/8`) without
talking to each other. Not here: converters that make their own sound (prepare.py calls them as they are).
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt
from tqdm import tqdm

from audiollm.audio import AudioError
from audiollm.conversation import Message, Row, RowError, TextPart
from audiollm.curation.dataset import Converted, DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import unheard as unheard_one
from audiollm.curation.joining import files_of
from audiollm.curation.mapped import MapSettings, converter_of, with_splits
from audiollm.curation.origins import Chunk, NoSuchSplit, open_origin, rows_of
from audiollm.curation.processes import workers
from audiollm.curation.writing import AudioMode, JsonlPart, ParquetPart, clip_of
from audiollm.files import whole, write_whole
from audiollm.models.settings import nearest
from audiollm.resources import import_converter

ROWS_A_CHUNK = 1000
BROKEN = "broken recording"
NOT_A_ROW = "not as the set's rows are"
UNANSWERED = "questions without an answer"
TROUBLE = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
)  # what `convert` raises at a row of another form


@contextmanager
def nothing_left_behind(out: Path, *own: str) -> Iterator[None]:
    """Where what is done here fails, and nothing was made, remove what it began in `out`; a run has that for itself.

    own: names of the parts' folder and of what says how they are made. Made is a chunk that is done, which is gone on
    with, or anything of another name. What was there before stays.
    """
    before = set(out.iterdir())
    try:
        yield
    except BaseException:
        begun = set(out.iterdir()) - before
        if all(path.name in own and not any(path.glob("[0-9]*.json")) for path in begun):
            for path in begun:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


class Job(NamedTuple):
    """One chunk, and all that a worker needs for it."""

    converter: str
    chunk: Chunk
    parts: Path
    out: Path
    audio: AudioMode
    seed: int
    held_out: bool
    config: str | None
    unheard: float
    options: Mapping[str, Any]


@dataclass
class Figures:
    """What a chunk gave."""

    read: int = 0
    first: int = 0  # the number of its first row in the split
    written: Counter[str] = field(default_factory=Counter)  # split -> rows
    dropped: list[tuple[str, str, str]] = field(default_factory=list)  # place, reason, detail

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        content = {"read": self.read, "first": self.first, "written": self.written, "dropped": self.dropped}
        write_whole(path, json.dumps(content, ensure_ascii=False))


def load_figures(path: Path) -> Figures:
    """What `save` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    dropped = [tuple(drop) for drop in content["dropped"]]
    return Figures(content["read"], content.get("first", -1), Counter(content["written"]), dropped)


def find(spec: str) -> Any:
    """The converter of a name, or of the JSON of a mapping."""
    return converter_of(MapSettings.model_validate_json(spec)) if spec.startswith("{") else import_converter(spec)


def called(converter: Any) -> str:
    """Its name."""
    return str(converter.__name__).rpartition(".")[2]


def run(
    spec: str,
    out: Path,
    options: Mapping[str, Any],
    *,
    source: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    split: str | None = None,
    audio: Literal["auto", "paths", "embed", "flac"] = "auto",
    limit: PositiveInt | None = None,
    phrasings: Literal["training", "held_out"] = "training",
    seed: NonNegativeInt = 0,
    num_proc: PositiveInt = 1,
    shard: str | None = None,
    unheard: Annotated[float, Field(ge=0, le=1)] = 0.0,
) -> Converted:
    """Convert a data set, by the name of its converter or the JSON of a mapping, into a folder.

    source: a folder, or OWNER/NAME on the hub. split: one of those that the set has; all of them if not said.
    audio: paths (recordings stay where they are), embed (Parquet), flac (16 kHz); auto is paths for an archive on disk
    and embed for Parquet. limit: rows of the source, of each split. shard: "2/8" converts the second of eight parts.
    unheard: share of the recordings about which one more question is asked, that no recording answers.
    """
    source = source or getattr(find(spec), "SOURCE", None)
    spec = with_splits(spec, source, config, revision)
    converter = find(spec)
    if source in (None, converter.SET.hub):
        config, revision = config or converter.SET.config, revision or converter.SET.revision
    mine, of = parse_shard(shard)
    if options.get("recordings") is not None:
        next(files_of(Path(options["recordings"])))  # the error of a folder that is none is not that of a row
    parts = out / parts_name(shard)
    parts.mkdir(parents=True, exist_ok=True)
    bad: list[RowError] = []
    chunks = chunks_of(converter, source, split, bad, config=config, revision=revision, limit=limit)
    is_held_out = phrasings == "held_out"
    jobs = (
        Job(spec, chunk, parts, out, mode_of(audio, chunk, options), seed, is_held_out, config, unheard, options)
        for chunk in islice(chunks, mine - 1, None, of)
    )
    convert_all(jobs, num_proc, called(converter))
    lines = Figures(len(bad), dropped=[(error.origin, NOT_A_ROW, detail_of(error)) for error in bad])
    return joined(out, parts, lines, "" if of == 1 else f"-{mine:05d}-of-{of:05d}")


def parts_name(shard: str | None) -> str:
    """The folder for the chunks, which each machine has for itself."""
    mine, of = parse_shard(shard)
    return "parts" if of == 1 else f"parts-{mine}-of-{of}"


def made_by(out: Path, shard: str | None) -> list[str]:
    """What lies in a folder that one machine made: all of it, or its own where several share the set."""
    mine, of = parse_shard(shard)
    if of == 1:
        return [path.name for path in out.iterdir()]

    def is_own(number: str) -> bool:
        return number.isdigit() and int(number) % of == mine - 1  # chunks go round

    joined = [path.name for path in out.glob(f"*-{mine:05d}-of-{of:05d}.*")]
    parts = [path.name for path in out.glob("*.parquet") if is_own(path.stem.rpartition("-")[2].partition("_")[0])]
    return [*joined, *parts, *(f"clips/{path.name}" for path in out.glob("clips/*") if is_own(path.name))]


def mode_of(audio: Literal["auto", "paths", "embed", "flac"], chunk: Chunk, options: Mapping[str, Any]) -> AudioMode:
    """As asked for; else sound in Parquet stays there, and recordings stay where they are."""
    if audio != "auto":
        return audio
    return "embed" if chunk.rows is None and options.get("recordings") is None else "paths"


def chunks_of(
    converter: Any, source: str | None, split: str | None, bad: list[RowError],
    *, config: str | None, revision: str | None, limit: int | None,
) -> Iterator[Chunk]:  # fmt: skip
    """The chunks of all splits, numbered from 0; lines that are no rows go to `bad`, and missing splits are named."""
    name, dataset = called(converter), converter.SET
    numbers = count()
    missing: list[Exception] = []
    for wanted in splits_of(name, dataset, split):
        origin = open_origin(
            name, dataset, getattr(converter, "read", None), source, wanted,
            config=config, revision=revision, limit=limit, rows_a_chunk=ROWS_A_CHUNK,
        )  # fmt: skip
        try:
            for chunk in origin.chunks():
                yield chunk._replace(number=next(numbers))
        except NoSuchSplit as error:
            if hasattr(converter, "SPEC"):  # of a mapping the user said each split, or it was found there
                raise
            missing.append(error)
        bad.extend(origin.bad())
    if missing and (split is not None or len(missing) == len(dataset.splits)):
        raise missing[0]
    for lacking in missing:
        print(f"{name}: left out: {lacking}")


def parse_shard(shard: str | None) -> tuple[int, int]:
    """(2, 8) of "2/8"; (1, 1) where nothing is said."""
    if shard is None:
        return 1, 1
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    mine, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= mine <= of:
        raise ValueError(f"shard={shard} names no part; say I/N, such as 1/8 on the first of eight machines")
    return mine, of


def splits_of(name: str, dataset: DataSet, wanted: str | None) -> list[str]:
    """The splits to convert; ValueError for one that the set does not have."""
    if wanted is not None and wanted not in dataset.splits:
        raise ValueError(f"{name} has no split {wanted!r}; {nearest(wanted, dataset.splits)}")
    return list(dataset.splits) if wanted is None else [wanted]


def convert_all(jobs: Iterator[Job], num_proc: int, name: str) -> None:
    """Convert chunks, several at a time."""
    with tqdm(desc=name, unit=" rows", leave=False, mininterval=1, disable=None) as bar:
        if num_proc == 1:
            for job in jobs:
                bar.update(convert_chunk(job))
            return
        waiting: set[Future[int]] = set()
        with workers(num_proc) as pool:
            for job in jobs:
                waiting.add(pool.submit(convert_chunk, job))
                if len(waiting) > 2 * num_proc:  # rows that wait are in memory
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    bar.update(sum(future.result() for future in done))
            bar.update(sum(future.result() for future in waiting))


def convert_chunk(job: Job) -> int:
    """Convert one chunk in whichever process, unless that was done; the number of rows of the source."""
    told = job.parts / f"{job.chunk.number:05d}.json"
    if told.is_file():
        return rows_done(told, job.chunk)
    figures = Figures(first=job.chunk.first)
    written: dict[str, list[JsonlPart | ParquetPart]] = {}
    for number, place, raw in rows_of(job.chunk, find(job.converter).SET):
        figures.read += 1
        try:
            rows, unanswered = rows_about(job, number, place, raw)
        except Dropped as error:
            figures.dropped.append((place, str(error), ""))
        except AudioError as error:
            figures.dropped.append((place, BROKEN, str(error)))
        except RowError as error:
            figures.dropped.append((place, NOT_A_ROW, detail_of(error)))
        else:
            if unanswered:
                figures.dropped.append((place, UNANSWERED, ", ".join(unanswered)))
            split = rows[0].split or job.chunk.split
            mine = written.setdefault(split, [])
            if not mine or mine[-1].is_full:
                mine.append(part_after(mine, job, split))
            mine[-1].write(rows)
            figures.written[split] += len(rows)
    for mine in written.values():
        mine[-1].close()
    figures.save(told)
    return figures.read


def part_after(before: Sequence[JsonlPart | ParquetPart], job: Job, split: str) -> JsonlPart | ParquetPart:
    """Another file for rows of a chunk; the one before is complete."""
    if before:
        before[-1].close()
    kind, suffix = (ParquetPart, "parquet") if job.audio == "embed" else (JsonlPart, "jsonl")
    further = f"_{len(before):02d}" if before else ""
    return kind(job.parts / f"{split}-{job.chunk.number:05d}{further}.{suffix}", job.out)


def rows_done(told: Path, chunk: Chunk) -> int:
    """How many rows a chunk has that is done; ValueError if it held others, as recordings had other sizes then."""
    done = load_figures(told)
    if done.first != chunk.first or (chunk.rows is not None and done.read != len(chunk.rows)):
        raise ValueError(
            f"{told} was made of {done.read} rows from {done.first} on, and holds others now: recordings were changed, "
            f"added or removed since; remove {told.parent}, and give the command again"
        )
    return done.read


def detail_of(error: RowError) -> str:
    """Which field of a row is wrong, where that is known, and how."""
    return ": ".join(filter(None, (error.field, error.cause)))


class Watched(dict[str, Any]):
    """A row of a source that knows which of its columns was looked at last: the one that is wrong, if one is."""

    last = ""

    def __getitem__(self, name: str) -> Any:
        self.last = name
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping."""
        self.last = name
        return super().get(name, default)


def rows_about(job: Job, number: int, place: str, raw: dict[str, Any]) -> tuple[list[Row], list[str]]:
    """The rows about one recording, and the tasks of questions that have no answer in the source.

    Dropped, AudioError or RowError where there are no rows.
    """
    converter = find(job.converter)
    name, dataset = called(converter), converter.SET
    draw = Draw(job.seed, name, job.chunk.split, number, held_out=job.held_out, config=job.config)
    watched = Watched(raw)
    try:
        item: Item = converter.convert(watched, draw, **job.options)
    except TROUBLE as error:
        if isinstance(error, RowError | AudioError):
            raise
        if isinstance(error, KeyError) and error.args[0] in {*dataset.columns} - raw.keys():
            raise RowError(place, str(error), "is missing") from error
        is_empty = watched.last in raw and raw[watched.last] is None
        raise RowError(place, watched.last, "is empty" if is_empty else f"{type(error).__name__}: {error}") from error
    asks = [ask for ask in item.asks if ask.answer.strip()]
    if not asks:
        raise Dropped("no answer")
    unanswered = [ask.task for ask in item.asks if not ask.answer.strip()]
    home = job.chunk.file.parent if isinstance(job.chunk.file, Path) else None
    clip = clip_of(item, home, job.audio, job.out / "clips" / f"{job.chunk.number:05d}" / f"{number:08d}.flac")
    split = item.split or job.chunk.split
    whole = f"{name}-{job.chunk.split}-{number}"
    named = [(f"{whole}-{k}" if len(asks) > 1 else whole, ask) for k, ask in enumerate(asks, start=1)]
    if draw.random() < job.unheard:  # the last that is drawn, so that nothing else depends on it
        named.append((f"{whole}-unheard", unheard_one(draw)))
    rows = [
        Row(
            messages=(
                Message("user", (clip, TextPart(ask.question)) if ask.question else (clip,)),
                Message("assistant", (TextPart(ask.answer),)),
            ),
            id=row_id,
            task=ask.task,
            source=name,
            source_id=item.source_id,
            split=split,
            language=ask.language or dataset.language,
            license=item.license or dataset.license,
            references=ask.references,
            choices=ask.choices,
            answer=ask.answer if ask.choices else None,
            origin=place,
        )
        for row_id, ask in named
    ]
    return rows, unanswered


def joined(out: Path, parts: Path, lines: Figures, suffix: str) -> Converted:
    """Put the parts together, and say what became of the rows."""
    written, dropped = Counter[str](), list(lines.dropped)
    files: dict[str, list[Path]] = {}
    for told in sorted(parts.glob("[0-9]*.json")):
        figures = load_figures(told)
        dropped += figures.dropped
        for split, rows in figures.written.items():
            files.setdefault(split, []).extend(parts_of(split, told.stem, parts, out))
            written[split] += rows
    if suffix and not dropped and not files:
        shutil.rmtree(parts)
        print(f"{out}: nothing is left for the shard{suffix}; there are fewer chunks of rows than shards")
        return Converted({})
    if not written:
        cause = f"; the first: {': '.join(filter(None, dropped[0]))}" if dropped else ": the source holds no row"
        shutil.rmtree(parts)
        raise ValueError(f"{out}: no row could be made{cause}")
    names: dict[str, int] = {}
    for split, found in files.items():
        if found[0].suffix == ".parquet":
            for part in found:
                if part.parent == parts:
                    part.replace(out / part.name)
            names[f"{split}-*.parquet"] = written[split]
        else:
            concatenate(found, out / f"{split}{suffix}.jsonl")
            names[f"{split}{suffix}.jsonl"] = written[split]
    if dropped:
        text = "".join(
            json.dumps({"origin": place, "cause": reason, "detail": detail}, ensure_ascii=False) + "\n"
            for place, reason, detail in dropped
        )
        (out / f"dropped{suffix}.jsonl").write_text(text, encoding="utf-8")
    shutil.rmtree(parts)
    return Converted(names, Counter(reason for _, reason, _ in dropped))


def parts_of(split: str, number: str, parts: Path, out: Path) -> list[Path]:
    """What a chunk gave to a split; a shard may be in its place already, where joining was stopped."""
    names = (f"{split}-{number}.*", f"{split}-{number}_*.parquet")
    found = {path.name: path for folder in (out, parts) for name in names for path in folder.glob(name)}
    return [path for _, path in sorted(found.items())]


def concatenate(files: Sequence[Path], path: Path) -> None:
    """One file after another, byte for byte."""
    with whole(path) as unfinished, unfinished.open("wb") as out:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, out)
