"""A data set without code: which column is what, in one line or in a short YAML.

    audiollm prepare --map "audio=clip text=label task=sound" --source FOLDER_OR_HUB_ID

    name: bells                # bells.yaml:  audiollm prepare bells.yaml
    source: my/bells           # a folder with a table and recordings, or Parquet, or OWNER/NAME of the hub
    audio: clip
    text: label                # the answer
    task: sound                # its phrasings are asked, unless `question` names a column or says one
    labels: [bell, horn]       # also multiple choice and yes or no

Not here: running (running.py), formats that are recognised by themselves (data/formats.py).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import classify
from audiollm.curation.prompts import tasks
from audiollm.models.settings import Settings, nearest


class MapSettings(Settings):
    """Which column of a source is what."""

    name: str = "mapped"
    """`source` of the rows, and part of their ids."""
    source: str | None = None
    """Folder, or OWNER/NAME on the hub."""
    audio: str
    """Column of the sound: path, bytes, or as the hub has it."""
    text: str
    """Column of the answer."""
    task: str
    """Task of the rows; one that has phrasings, where there is no question."""
    question: str | None = None
    """Column of the question."""
    choices: str | None = None
    """Column with the options of a multiple choice, a list."""
    labels: tuple[str, ...] = ()
    """All answers there are, where these are classes: then multiple choice and yes or no are asked too."""
    id: str | None = None
    """Column that names the recording; its path or number, if not said."""
    start: str | None = None
    """Column with the second at which the clip begins in its recording."""
    end: str | None = None
    """Column with the second at which it ends."""
    language: str | None = None
    """Language of the answers."""
    license: str = "unknown"
    """Of the rows."""
    splits: dict[str, list[str]] = {"train": ["train"]}  # noqa: RUF012  (pydantic copies it)
    """Ours -> the source's."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are read."""
        named = (self.audio, self.text, self.question, self.choices, self.id, self.start, self.end)
        return tuple(dict.fromkeys(name for name in named if name is not None))


def is_map(text: str) -> bool:
    """Whether this is a mapping, and not the name of a converter."""
    return "=" in text or text.endswith((".yaml", ".yml"))


def read_map(text: str) -> MapSettings:
    """Settings out of `audio=clip text=label ...` or of a YAML file; ValueError names a wrong one."""
    if "=" not in text:
        given = yaml.safe_load(Path(text).read_text(encoding="utf-8"))
        where = text
    else:
        given = dict(word.partition("=")[::2] for word in text.split())
        where = "--map"
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: is a mapping such as `audio: clip`, and not {type(given).__name__}")
    try:
        settings = MapSettings.model_validate(given)
    except ValueError as error:
        raise ValueError(f"{where}: {first_of(error)}") from None
    if settings.question is None and settings.task not in tasks():
        raise ValueError(
            f"{where}: no phrasings for the task {settings.task!r}; {nearest(settings.task, tasks())}, or name the "
            "column of the question"
        )
    return settings


def first_of(error: Any) -> str:
    """The first finding of pydantic in words."""
    finding = error.errors()[0]
    key = ".".join(map(str, finding["loc"]))
    return f"{key} {'is missing' if finding['type'] == 'missing' else finding['msg'].removeprefix('Value error, ')}"


def converter_of(settings: MapSettings) -> Any:
    """What a module of data_prep/ would have."""

    def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        pattern = [f"{name}.{suffix}" for name in settings.splits[split] for suffix in ("csv", "tsv", "jsonl", "json")]
        path = archive.find(*pattern, *(["*.csv", "*.tsv", "*.jsonl", "*.json"] if len(settings.splits) == 1 else []))
        table = path.relative_to(archive.folder).as_posix()
        tables = {".csv": ",", ".tsv": "\t"}
        rows = archive.table(table, delimiter=tables[path.suffix]) if path.suffix in tables else archive.list(table)
        for place, row in rows:
            if isinstance(name := row.get(settings.audio), str):
                row[settings.audio] = archive.recording(name)
            yield place, row

    def convert(row: dict[str, Any], draw: Draw) -> Item:
        answer = row[settings.text]
        if answer is None or not str(answer).strip():
            raise Dropped("no answer")
        start, end = (None if name is None else float(row[name]) for name in (settings.start, settings.end))
        name = str(row[settings.id]) if settings.id else name_of(row[settings.audio], draw)
        return Item(row[settings.audio], name, list(asked(settings, row, str(answer), draw)), start, end)

    about = DataSet(
        title=settings.name, license=settings.license, tasks=(settings.task,), columns=settings.columns,
        splits=settings.splits, language=settings.language,
        original=f"a table (csv, tsv, jsonl) with the columns {', '.join(settings.columns)}",
    )  # fmt: skip
    return SimpleNamespace(
        __name__=f"data_prep.{settings.name}", SET=about, read=read, convert=convert,
        SPEC=settings.model_dump_json(), SOURCE=settings.source,
    )  # fmt: skip


def asked(settings: MapSettings, row: Mapping[str, Any], answer: str, draw: Draw) -> Iterator[Ask]:
    """The questions about one recording."""
    if settings.question is None and settings.labels:
        yield from classify(draw, settings.task, answer, settings.labels)
        return
    question = draw.phrase(settings.task) if settings.question is None else str(row[settings.question])
    choices = row[settings.choices] if settings.choices else ()
    if isinstance(choices, str):
        choices = json.loads(choices)
    if choices and answer not in choices:
        raise Dropped("the answer is not among the choices")
    yield Ask(settings.task, question, answer, choices=tuple(map(str, choices)))


def name_of(sound: Any, draw: Draw) -> str:
    """What to call a recording that has no name of its own."""
    path = sound.get("path") if isinstance(sound, Mapping) else sound
    return Path(path).name if isinstance(path, str | Path) else f"{draw.getrandbits(64):016x}"
