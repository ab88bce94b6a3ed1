"""A data set without code: which column is what, in one line or in a short YAML.

    audiollm prepare --map "audio=clip text=label task=sound" --source FOLDER_OR_HUB_ID

    name: bells                # bells.yaml:  audiollm prepare bells.yaml
    source: my/bells           # a folder with a table and recordings, or Parquet, or OWNER/NAME of the hub
    audio: clip
    text: label                # the answer
    task: sound                # its phrasings are asked, unless `question` names a column or says one
    labels: [bell, horn, dog]  # also multiple choice and yes or no
    similar: [[bell, horn]]    # labels that are like one another: half of the wrong options are of these
    splits: {train: [part1, part2], test: [part3]}     # files or splits of the source; their names tell, if not said

Not here: running (running.py), formats that are recognised by themselves (data/formats.py).
"""

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from pydantic import Field

from audiollm.conversation import RowError
from audiollm.curation.archives import MOST_CHARS, Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Dropped, Item
from audiollm.curation.instructions import classify
from audiollm.curation.origins import SUFFIXES, splits_told
from audiollm.curation.prompts import tasks
from audiollm.data.sources import separator_of
from audiollm.models.settings import Settings, nearest


class MapSettings(Settings):
    """Which column of a source is what."""

    name: str = "mapped"
    """`source` of the rows, and part of their ids; if not said, the name of the YAML file, or else of the source."""
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
    """All answers there are, where these are classes: then multiple choice and yes or no are asked too. A row with
    another answer is left out."""
    similar: tuple[tuple[str, ...], ...] = Field(default=(), exclude_if=lambda groups: not groups)
    """Groups of labels that are like one another, from which about half of the wrong options are drawn, and a third of
    what is asked for and not there."""
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
    splits: dict[str, list[str]] | None = None
    """Ours -> the source's: tables without their suffix, or splits of Parquet files. If not said, all that the names of
    the files tell (train, valid, dev, test ...)."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are read."""
        named = (self.audio, self.text, self.question, self.choices, self.id, self.start, self.end)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def alike(self) -> dict[str, set[str]]:
        """Label -> those that are like it."""
        found: dict[str, set[str]] = {}
        for group in self.similar:
            for label in group:
                found.setdefault(label, set()).update(group)
        return found


def is_map(text: str) -> bool:
    """Whether this is a mapping, and not the name of a converter."""
    return "=" in text or text.endswith((".yaml", ".yml"))


def read_map(text: str, source: str | None = None) -> MapSettings:
    """Settings out of `audio=clip text=label ...` or of a YAML file; ValueError names a wrong one.

    source: in place of the one that it says, and of its name where it says none.
    """
    if "=" not in text:
        given = _read_yaml(text)
        where = text
    else:
        given = dict(word.partition("=")[::2] for word in text.split())
        where = "--map"
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: is a mapping such as `audio: clip`, and not {type(given).__name__}")
    source = source or given.get("source")
    name = Path(text).stem if "=" not in text else Path(str(source)).resolve().name if source else ""
    try:
        settings = MapSettings.model_validate({"name": re.sub(r"\W+", "_", name) or "mapped"} | dict(given))
    except ValueError as error:
        raise ValueError(f"{where}: {first_of(error)}") from None
    if strange := [label for group in settings.similar for label in group if label not in settings.labels]:
        hint = nearest(strange[0], settings.labels) if settings.labels else "write `labels: [...]`, all that there are"
        raise ValueError(f"{where}: similar names {strange[0]!r}, which is none of the labels; {hint}")
    if settings.question is None and settings.task not in tasks():
        raise ValueError(
            f"{where}: no phrasings for the task {settings.task!r}; {nearest(settings.task, tasks())}; or name the "
            "column of the question: question=COLUMN"
        )
    return settings


def _read_yaml(path: str) -> Any:
    """What a YAML file holds; ValueError names the line that is none."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: is no YAML ({error.problem}); write `key: value`, one a line") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no YAML in UTF-8 ({' '.join(str(error).split())})") from None


def with_splits(spec: str, source: str | None, config: str | None, revision: str | None) -> str:
    """The JSON of a mapping with the splits of its source, where it does not say them; other names as they are."""
    if not spec.startswith("{"):
        return spec
    settings = MapSettings.model_validate_json(spec)
    if settings.splits is None and source is not None:
        settings = settings.model_copy(update={"splits": splits_told(source, config, revision)})
    return settings.model_dump_json()


def first_of(error: Any) -> str:
    """The first finding of pydantic in words."""
    finding = error.errors()[0]
    key = ".".join(map(str, finding["loc"]))
    return f"{key} {'is missing' if finding['type'] == 'missing' else finding['msg'].removeprefix('Value error, ')}"


def converter_of(settings: MapSettings) -> Any:
    """What a module of data_prep/ would have."""

    splits = settings.splits or {"train": ["train"]}

    def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in tables_of(archive, splits[split], or_any=len(splits) == 1):
            for place, row in rows_in(archive, path):
                if problem := lead_to_recording(archive, row, settings.audio):
                    archive.bad.append(RowError(place, settings.audio, problem))
                else:
                    yield place, row

    def convert(row: dict[str, Any], draw: Draw) -> Item:
        answer = row[settings.text]
        if answer is None or not str(answer).strip():
            raise Dropped("no answer")
        if settings.labels and str(answer) not in settings.labels:
            raise Dropped("the answer is not among the labels")
        start, end = (None if name is None else float(row[name]) for name in (settings.start, settings.end))
        name = str(row[settings.id]) if settings.id else name_of(row[settings.audio], draw)
        return Item(row[settings.audio], name, list(asked(settings, row, str(answer), draw)), start, end)

    about = DataSet(
        title=settings.name, license=settings.license, tasks=(settings.task,), columns=settings.columns,
        splits=splits, language=settings.language,
        original=f"a table (csv, tsv, jsonl) with the columns {', '.join(settings.columns)}",
    )  # fmt: skip
    return SimpleNamespace(
        __name__=f"data_prep.{settings.name}", SET=about, read=read, convert=convert,
        SPEC=settings.model_dump_json(), SOURCE=settings.source,
    )  # fmt: skip


def tables_of(archive: Archive, names: Sequence[str], *, or_any: bool) -> list[Path]:
    """The tables of these names; of one name, those of the first suffix that there is."""
    found = [path for name in names for path in _of_first_suffix(archive.folder, name)]
    wanted = [f"{name}.{suffix}" for name in names for suffix in SUFFIXES]
    return found or [archive.find(*wanted, *([f"*.{suffix}" for suffix in SUFFIXES] if or_any else []))]


def _of_first_suffix(folder: Path, name: str) -> list[Path]:
    return next((found for suffix in SUFFIXES if (found := sorted(folder.glob(f"{name}.{suffix}")))), [])


def rows_in(archive: Archive, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table by its suffix."""
    table = glob.escape(path.relative_to(archive.folder).as_posix())
    if path.suffix == ".tsv":
        return archive.table(table, delimiter="\t", quotes=False)
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return archive.table(table, delimiter=separator_of(file.readline(MOST_CHARS)))
    return archive.list(table)


def lead_to_recording(archive: Archive, row: dict[str, Any], column: str) -> str | None:
    """Make the name of a recording its path; what is wrong with the name, if anything is."""
    name = row.get(column)
    if column in row and not name:
        return "is empty; write the path of the recording"
    if isinstance(name, str):
        row[column] = archive.recording(name)
        if row[column] is None:
            return (
                f"{name} leads out of {archive.folder}, by its path or as a link; put the recording itself into the "
                "folder, or give as --source one that holds both"
            )
    return None


def asked(settings: MapSettings, row: Mapping[str, Any], answer: str, draw: Draw) -> Iterator[Ask]:
    """The questions about one recording."""
    if settings.question is None and settings.labels:
        yield from classify(draw, settings.task, answer, settings.labels, similar=settings.alike)
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
