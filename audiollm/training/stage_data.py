"""The rows of a stage: read once for several stages, chosen by task and limit, counted by source.

Not here: files of rows (data/sources.py), what is shared by the rows of a recording (data/dataset.py).
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from audiollm.conversation import Row
from audiollm.data import licences
from audiollm.data.dataset import Recordings, group_rows, with_sound
from audiollm.data.hub import PREFIX, HubDataset
from audiollm.data.mixture import Loaded, Mixture, Part
from audiollm.data.sampling import tempered
from audiollm.data.sources import Problems, load_rows, missing_file, of_tasks
from audiollm.data.streams import open_stream
from audiollm.recipe import Recipe, SourceSettings, StageSettings

LOOKED_AT = 100
"""Recordings of each stream that tell whether an objective finds something to learn."""


@dataclass
class StageData:
    """The rows of a stage."""

    train: list[Row]
    counts: list[tuple[int, float]]  # (rows, weight) of each source
    validation: list[Row]
    problems: Problems
    num_read: int  # rows that were read, before tasks and limits were looked at
    mixture: Mixture | None = None  # of rows that stay on disk; `train` then holds the first of them
    temperature: float | None = None
    licences: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)  # (licence, source) -> rows

    @classmethod
    def load(cls, recipe: Recipe, stage: StageSettings) -> "StageData":
        """Read and check the rows; ValueError if nothing is left to train on."""
        problems = Problems()
        num_read = 0
        sources = [*stage.data.train, *stage.data.validation]
        streamed = any(source.stream for source in stage.data.train)
        for source in stage.data.validation if streamed else sources:
            rows, found = read_rows(origin(source), source.format, source.audio == "sound")
            num_read += len(rows) + found.count
            problems.extend(found)
        if streamed:
            return cls.streaming(recipe, stage, problems, num_read)
        parts = [chosen_rows(source) for source in stage.data.train]
        validation = [row for source in stage.data.validation for row in chosen_rows(source)]
        for source, rows in zip(stage.data.train, parts, strict=True):
            if not rows:
                raise ValueError(f"{source.path} has no rows to train on; {problems.summary()}")
        counts = [(len(rows), source.weight) for source, rows in zip(stage.data.train, parts, strict=True)]
        every = [row for rows in parts for row in rows]
        temperature = stage.data.temperature
        return cls(every, counts, validation, problems, num_read, None, temperature, licences.count(every))

    @classmethod
    def streaming(cls, recipe: Recipe, stage: StageSettings, problems: Problems, num_read: int) -> "StageData":
        """Sources some of which stay on disk: an index of each is made once."""
        parts: list[Part] = []
        of = Counter[tuple[str | None, str | None]]()
        for source in stage.data.train:
            if source.stream:
                stream, found = open_stream(
                    origin(source),
                    Path(recipe.cache),
                    format=source.format,
                    tasks=source.tasks,
                    limit=source.limit,
                    audio=source.audio,
                )
                num_read += stream.num_rows + found.count
                parts.append(stream)
                of.update({(license, where): rows for license, where, rows in stream.content.licences})
            else:
                rows, found = read_rows(origin(source), source.format, source.audio == "sound")
                num_read += len(rows) + found.count
                chosen = chosen_rows(source)
                parts.append(Loaded(group_rows(chosen)))
                of.update(licences.count(chosen))
                if not len(parts[-1]):
                    raise ValueError(f"{source.path} has no rows to train on; {found.summary()}")
            problems.extend(found)
        weights = [source.weight for source in stage.data.train]
        mixture = Mixture(parts, weights, recipe.seed, stage.data.temperature)
        first = [row for part in parts for number in range(min(len(part), LOOKED_AT)) for row in part[number]]
        validation = [row for source in stage.data.validation for row in chosen_rows(source)]
        return cls(first, [], validation, problems, num_read, mixture, None, of)

    def sources(self, recordings: Recordings) -> list[tuple[int, float]]:
        """(recordings, weight) of each source in memory, as they are mixed."""
        return tempered(count_groups(recordings, self.counts), self.temperature)


def origin(source: SourceSettings) -> str | HubDataset:
    """Where the rows of a source come from."""
    if source.path.startswith(PREFIX):
        return HubDataset(source.path, source.config, source.split, source.revision, source.stream)
    return source.path


@lru_cache(maxsize=8)
def read_rows(path: str | HubDataset, format: str | None, with_audio: bool) -> tuple[list[Row], Problems]:
    """The rows of a source, read once for several stages; `with_audio` leaves out those whose recording is missing."""
    problems = Problems()
    if with_audio:
        every, found = read_rows(path, format, False)
        looked_up: dict[str, bool] = {}
        missing = {id(row): error for row in every if (error := missing_file(row, looked_up))}
        for error in missing.values():
            problems.add(error)
        rows = [row for row in every if id(row) not in missing]
    else:
        rows, found = load_rows(path, format=format, problems=problems), Problems()
    if rows and problems.count:  # without rows, an error tells the problems
        what = "with their recording" if with_audio else "as rows should be"
        print(f"{path}: {len(rows):,} {what}, the others are left out: {problems.summary()}")
    problems.extend(found)
    return rows, problems


def chosen_rows(source: SourceSettings) -> list[Row]:
    """The rows of one source of a mixture, with its tasks, its limit, and its sound as asked for."""
    rows, _ = read_rows(origin(source), source.format, source.audio == "sound")
    if source.tasks is not None:
        rows = of_tasks(rows, source.tasks, source.path)
    return with_sound(rows[: source.limit], source.audio)


def count_groups(recordings: Recordings, counts: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """(recordings, weight) of each source, from (rows, weight): a recording belongs to the source of its first row."""
    if not counts:
        return []
    if len(counts) == 1:
        return [(len(recordings), counts[0][1])]
    ends, total = [], 0
    for rows, _ in counts:
        total += rows
        ends.append(total)
    found = [0] * len(counts)
    position = {id(row): number for number, row in enumerate(recordings.rows)}
    for group in recordings.groups:
        first = position[id(group[0])]
        found[next(i for i, end in enumerate(ends) if first < end)] += 1
    return [(number, weight) for number, (_, weight) in zip(found, counts, strict=True)]


def by_task(rows: list[Row], with_text: bool) -> dict[str, list[Row]]:
    """Validation rows by task; in one set where no text is generated."""
    if not with_text:
        return {"all": rows} if rows else {}
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task or "all", []).append(row)
    return tasks
