"""Fixtures of public data sets: the made-up rows of a converter's docstring, as Parquet and as an original archive."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from audiollm import audio as sound
from audiollm.resources import import_converter, packaged_files

RATE = 16_000
CONVERTERS = sorted(name for name in packaged_files("data_prep") if hasattr(import_converter(name), "SET"))
"""Those that describe a data set."""


def tone(number: int, seconds: float = 1.0) -> np.ndarray:
    """A sound of its own for each number."""
    times = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * (200 + 37 * number) * times)).astype(np.float32)


def examples(converter: ModuleType) -> list[dict[str, Any]]:
    """The rows in the docstring; AUDIO stands for the sound."""
    text = converter.__doc__ or ""
    rows = re.sub(r"\}\s*\n\s*\{", "}, {", text[text.index("{") : text.rindex("}") + 1])
    return list(eval(f"[{rows}]", {"__builtins__": {}, "AUDIO": AUDIO}))


AUDIO = "AUDIO"


def write_parquet(folder: Path, converter: ModuleType, rows: list[dict[str, Any]]) -> Path:
    """A folder as the hub has it: the rows as every split of the set."""
    (folder / "data").mkdir(parents=True)
    filled = [
        {k: {"bytes": sound.encode(tone(n), RATE), "path": f"{n}.flac"} if v is AUDIO else v for k, v in row.items()}
        for n, row in enumerate(rows)
    ]
    for names in converter.SET.splits.values():
        parquet.write_table(pyarrow.Table.from_pylist(filled), folder / "data" / f"{names[0]}-00000-of-00001.parquet")
    return folder


def write_sound(path: Path, number: int) -> None:
    """A recording of an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound.write(path.with_suffix(".flac"), tone(number), RATE)
    path.with_suffix(".flac").rename(path)  # what it is is told by its content


def write_csv(path: Path, rows: list[dict[str, Any]], *, header: bool = True, delimiter: str = ",") -> None:
    """A table of an archive, without the sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{key: value for key, value in row.items() if value is not AUDIO} for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        if header:
            writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, data: Any) -> None:
    """A JSON file of an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


Layout = Callable[[Path, list[dict[str, Any]]], dict[str, Any] | None]
ARCHIVES: dict[str, Layout] = {}
"""Converter -> what lays its rows out as the original archive has them; it may give options."""
SOUNDS: dict[str, Layout] = {}
"""Converter of a set that brings no sound -> what writes the recordings that it names; it gives the option for them."""


def archived(function: Layout) -> Layout:
    """Enter a layout under the function's name."""
    ARCHIVES[function.__name__] = function
    return function


def sounds(name: str) -> Callable[[Layout], Layout]:
    """Enter what writes the recordings of a set."""
    return lambda function: SOUNDS.setdefault(name, function)
