"""Runs converters: `audiollm prepare NAME`, and the `prepare:` block of a recipe.

A converter is a module of data_prep/ with NAME, LICENSE, TASKS, DESCRIPTION and `prepare(out, **options) -> Converted`.
Beside what it writes lies `prepared.json`, which says how it was made: a folder that is complete is not made again, and
one that was made otherwise is not touched unless that is asked for.

Not here: the converters (data_prep/), finding them (resources.py).
"""

import difflib
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from audiollm.resources import import_converter, packaged_files

MANIFEST = "prepared.json"


@dataclass(frozen=True)
class Converted:
    """What a converter did: rows written to each file, and items left out, by reason."""

    written: Mapping[str, int]
    dropped: Mapping[str, int] = field(default_factory=dict)


def prepare_all(steps: Mapping[str, tuple[str | Path, Mapping[str, Any]]]) -> float:
    """Make what is not there yet: converter -> (folder, options). Returns the seconds that it takes or once took.

    Of several processes (torchrun), the first one makes it and the others wait.
    """
    seconds = 0.0
    for name, (out, options) in steps.items():
        given = {key: value for key, value in options.items() if key != "out"}
        if int(os.environ.get("RANK", 0)):
            seconds += _wait_for(name, Path(out), given)
        else:
            seconds += prepare(name, out, given)
    return seconds


def prepare(name: str, out: str | Path, options: Mapping[str, Any], *, overwrite: bool = False) -> float:
    """Make the rows of one data set in a folder, and say so; returns the seconds that it took, now or earlier.

    ValueError for an option that the converter does not have, and for a folder that holds something else.
    """
    out, converter = Path(out), import_converter(name)
    settings = checked_options(converter, options)
    wanted = {"converter": name, "options": _as_text(settings), "digest": digest(converter, settings)}
    found = _manifest(out)
    if _is_done(found, wanted):
        print(f"{name}: {out} is there already ({_in_words(found)})")
        return float(found["seconds"])
    _make_room(out, found, wanted, overwrite)
    _write_manifest(out, wanted)
    started = time.monotonic()
    converted = converter.prepare(out, **settings)
    seconds = round(time.monotonic() - started, 1)
    made = sorted(path.name for path in out.iterdir() if path.name != MANIFEST)
    figures = {"rows": dict(converted.written), "dropped": dict(converted.dropped), "seconds": seconds, "made": made}
    _write_manifest(out, wanted | figures)
    print(f"{name}: {out} made in {seconds:.0f} s ({_in_words(figures)})")
    return seconds


def catalogue() -> dict[str, str]:
    """Converter -> what its first docstring line says of it."""
    lines = {}
    for name, path in packaged_files("data_prep").items():
        source = path / "__init__.py" if path.is_dir() else path
        text = source.read_text(encoding="utf-8")
        lines[name] = text.removeprefix('"""').splitlines()[0].removesuffix('"""') if text.startswith('"""') else ""
    return lines


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """`clips=100 seed=1` as a mapping; values are read as YAML."""
    options = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise ValueError(f"{word!r} is not an option; write it as NAME=VALUE")
        options[key] = yaml.safe_load(value)
    return options


def checked_options(converter: ModuleType, options: Mapping[str, Any]) -> dict[str, Any]:
    """The converter's options with their defaults filled in; ValueError names a wrong one and the nearest right one."""
    name = converter.__name__.rpartition(".")[2]
    known = dict(list(inspect.signature(converter.prepare).parameters.items())[1:])  # the first is the folder
    settings = {}
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{name} has no option {key!r}; {hint}")
    for key, parameter in known.items():
        value = options.get(key, parameter.default)
        if value is inspect.Parameter.empty:
            raise ValueError(f"{name} needs the option {key!r}; give {key}=VALUE")
        try:
            settings[key] = TypeAdapter(parameter.annotation).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{name}: {key}={value!r} does not fit: {error.errors()[0]['msg']}") from None
    return settings


def digest(converter: ModuleType, settings: Mapping[str, Any]) -> str:
    """Stands for the converter's source and its options: what it makes changes only if this does."""
    file = Path(inspect.getfile(converter))
    sources = sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]
    content = [source.read_bytes() for source in sources]
    content.append(json.dumps(_as_text(settings), sort_keys=True).encode())
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]


def _as_text(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in a form that JSON has."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}


def _manifest(out: Path) -> dict[str, Any]:
    file = out / MANIFEST
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
    except ValueError:
        raise ValueError(f"{file} is damaged; remove the folder {out}, and give the command again") from None


def _is_done(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return "seconds" in found and found["digest"] == wanted["digest"]


def _make_room(out: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], overwrite: bool) -> None:
    """Leave a folder that can be written into, or raise ValueError where that would destroy something."""
    ways_out = "remove it, or give another folder"
    again = f"{ways_out}; --overwrite makes it anew"
    if not found and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty, and nothing says what made it; {ways_out}")
    if "seconds" in found and not overwrite:
        raise ValueError(f"{out} was made {_difference(found, wanted)}; {again}")
    for name in found.get("made", []):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How a folder was made otherwise than it is wanted now."""
    if found["converter"] != wanted["converter"]:
        return f"by the converter {found['converter']!r}"
    old, new = found["options"], wanted["options"]
    changed = [f"{key}={old.get(key)} instead of {value}" for key, value in new.items() if old.get(key) != value]
    return f"with {', '.join(changed)}" if changed else "by another version of the converter"


def _write_manifest(out: Path, content: Mapping[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / f"{MANIFEST}.tmp"
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(out / MANIFEST)


def _in_words(figures: Mapping[str, Any]) -> str:
    rows = ", ".join(f"{Path(file).stem} {count:,}" for file, count in figures["rows"].items())
    dropped = "".join(f"; {count:,} left out: {reason}" for reason, count in figures["dropped"].items())
    return f"rows: {rows}{dropped}"


def _wait_for(name: str, out: Path, options: Mapping[str, Any]) -> float:
    """Wait until another process has made a folder."""
    converter = import_converter(name)
    wanted = {"digest": digest(converter, checked_options(converter, options))}
    while not _is_done(found := _manifest(out), wanted):
        time.sleep(1)
    return float(found["seconds"])
