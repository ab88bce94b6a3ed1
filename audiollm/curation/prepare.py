"""Runs converters: `audiollm prepare NAME`, and the `prepare:` block of a recipe.

A converter is a module of data_prep/ that describes a data set (`SET`, see dataset.py) and is run by running.py, or one
that makes its own sound: NAME, LICENSE, TASKS, DESCRIPTION and `prepare(out, **options) -> Converted`. Beside what it
writes lies `prepared.json`, which says how it was made: a folder that is complete is not made again, one that was begun
is gone on with, and one that was made otherwise is not touched unless that is asked for.

Not here: the converters (data_prep/), finding them (resources.py).
"""

import difflib
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from audiollm.curation import running
from audiollm.curation.dataset import Converted
from audiollm.curation.mapped import is_map, read_map
from audiollm.curation.processes import alone_in
from audiollm.files import write_whole

MANIFEST = "prepared.json"
TABLES = frozenset((".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".yaml"))
LONG_TABLE = 16 * 2**20
MOST_NAMED = 5  # tables that were changed
CHANGES_NOTHING = frozenset(("num_proc", "workers"))
"""Options that say how fast rows are made, and not which."""
OFF = {"unheard": 0.0}
"""Options that came later, at the value that changes nothing: what was made before them is still as it is wanted."""


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

    name: of a converter, or a mapping of columns (mapped.py): a YAML file, or `audio=COLUMN text=COLUMN task=TASK`.
    ValueError for an option that the converter does not have, and for a folder that holds something else.
    """
    spec = read_map(name, options.get("source")).model_dump_json() if is_map(name) else name
    out, converter = Path(out), running.find(spec)
    name = running.called(converter)
    settings = checked_options(converter, options)
    wanted = {"converter": name, "options": _as_text(settings), **identity(converter, settings)}
    file = out / manifest_name(settings.get("shard"))
    parts = out / running.parts_name(settings.get("shard"))
    if not _is_done(figures := _manifest(file), wanted):
        with alone_in(out, file.stem):
            if not _is_done(figures := _manifest(file), wanted):  # nor was it made just now
                _require_room(file, parts, figures, wanted, overwrite)
                if parts.exists() and figures.get("digest") != wanted["digest"]:
                    shutil.rmtree(parts)
                with (
                    _replacing(file, parts, figures.get("made", ())),
                    running.nothing_left_behind(out, file.name, parts.name),
                ):
                    return _made(spec, converter, file, settings, wanted)
    print(f"{name}: {out} is there already ({_in_words(figures)})")
    return float(figures["seconds"])


def _made(spec: str, converter: ModuleType, file: Path, settings: Mapping[str, Any], wanted: dict[str, Any]) -> float:
    """Make the rows, and write the manifest before and after; returns the seconds that it took."""
    out = file.parent
    _write_manifest(file, wanted)
    started = time.monotonic()
    converted = _convert(spec, converter, out, settings)
    seconds = round(time.monotonic() - started, 1)
    made = running.made_by(out, settings.get("shard"))
    made = sorted(name for name in made if name != file.name and not name.startswith("."))
    figures = {"rows": dict(converted.written), "dropped": dict(converted.dropped), "seconds": seconds, "made": made}
    _write_manifest(file, wanted | figures)
    print(f"{running.called(converter)}: {out} made in {seconds:.0f} s ({_in_words(figures)})")
    return seconds


def manifest_name(shard: str | None) -> str:
    """Several machines that share a data set write into one folder: each says what it made."""
    return f"prepared-{shard.replace('/', '-of-')}.json" if shard else MANIFEST


def _convert(spec: str, converter: ModuleType, out: Path, settings: Mapping[str, Any]) -> Converted:
    if hasattr(converter, "prepare"):
        made: Converted = converter.prepare(out, **settings)
        return made
    own = _keywords(converter.convert)
    options = {key: value for key, value in settings.items() if key in own}
    return running.run(spec, out, options, **{key: value for key, value in settings.items() if key not in own})


def _keywords(function: Any) -> dict[str, inspect.Parameter]:
    """The parameters that are given by their names."""
    parameters = inspect.signature(function, eval_str=True).parameters
    return {key: each for key, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}


def options_of(converter: ModuleType) -> dict[str, inspect.Parameter]:
    """The options of a converter."""
    if hasattr(converter, "prepare"):
        return dict(list(inspect.signature(converter.prepare).parameters.items())[1:])  # the first is the folder
    return _keywords(running.run) | _keywords(converter.convert)


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
    known = options_of(converter)
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


def identity(converter: ModuleType, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`digest` stands for the converter's code, its options and the tables that it reads: what it makes changes if this
    does. `tables` stands for each table, by name."""
    file = Path(inspect.getfile(converter.convert if hasattr(converter, "convert") else converter))
    sources = sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]
    content = [source.read_bytes() for source in sources] + [getattr(converter, "SPEC", "").encode()]
    that_matter = {
        key: value for key, value in settings.items() if key not in CHANGES_NOTHING and not is_off(key, value)
    }
    content.append(json.dumps(_as_text(that_matter), sort_keys=True).encode())
    tables = {table.name: _identity(table) for table in _tables(settings.get("source"))}
    content += tables.values()
    return {"digest": _digest(b"\0".join(content)), "tables": {name: _digest(one) for name, one in tables.items()}}


def is_off(key: str, value: Any) -> bool:
    """Whether an option has the value at which it changes nothing."""
    return key in OFF and OFF[key] == value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _tables(source: Any) -> list[Path]:
    """The files with rows that a source on disk is, or that lie in it; not in the folders within, which may be many."""
    path = Path(os.path.expanduser(str(source))) if source else None
    if path is None or not path.exists():  # a data set of the hub
        return []
    files = [path] if path.is_file() else path.iterdir()
    return sorted(one for one in files if one == path or (one.suffix.lower() in TABLES and one.is_file()))


def _identity(table: Path) -> bytes:
    """Another one if a file with rows was changed: its content, or where that is long its size and time."""
    about = table.stat()
    content = [about.st_mtime_ns] if about.st_size > LONG_TABLE else [hashlib.sha256(table.read_bytes()).hexdigest()]
    return json.dumps([table.name, about.st_size, *content]).encode()


def _as_text(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in a form that JSON has."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}


def _manifest(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
    except ValueError:
        raise ValueError(f"{file} is damaged; remove the folder {file.parent}, and give the command again") from None


def _is_done(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return "seconds" in found and found["digest"] == wanted["digest"]


@contextmanager
def _replacing(file: Path, parts: Path, made: Iterable[str]) -> Iterator[None]:
    """Set aside what was made before; it comes back where nothing new is made, and goes once that is complete."""
    out, aside = file.parent, file.with_name(f".before-{file.name}")
    for path in [out / name for name in made] + ([file] if made else []):
        if path.exists():
            target = aside / path.relative_to(out)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    try:
        yield
    except BaseException:
        if aside.exists() and not any(parts.glob("[0-9]*.json")):
            for path in aside.iterdir():
                if path.is_dir() and (out / path.name).is_dir():  # the clips, which other shards have too
                    shutil.copytree(path, out / path.name, dirs_exist_ok=True)
                else:
                    path.replace(out / path.name)
            shutil.rmtree(aside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _require_room(
    file: Path, parts: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], overwrite: bool
) -> None:
    """ValueError where to write into a folder would destroy something.

    What was made in part, and as is wanted now, stays: it is gone on with. So do the parts of other shards.
    """
    out = file.parent
    ways_out = "remove it, or give another folder"
    again = f"{ways_out}; --overwrite makes it anew"
    others = [path for path in out.iterdir() if not path.name.startswith(".") and not _is_of_a_shard(path, file)]
    if not found and others:
        raise ValueError(f"{out} is not empty, and nothing says what made it; {ways_out}")
    is_other = found.get("digest") != wanted["digest"]
    if found and is_other and not overwrite and ("seconds" in found or any(parts.glob("*"))):
        raise ValueError(f"{out} was {'made' if 'seconds' in found else 'begun'} {_difference(found, wanted)}; {again}")
    if other := next((path for path in out.glob("prepared-*-of-*.json") if _shards_of(path) != _shards_of(file)), None):
        raise ValueError(
            f"{out} is shared by {_shards_of(other)} shards ({other.name}), and not by {_shards_of(file)}; {ways_out}"
        )


def _is_of_a_shard(path: Path, file: Path) -> bool:
    """Whether another machine, which shares the data set with this one, may have made it."""
    return file.name != MANIFEST and any(path.parent.glob("prepared-*-of-*.json"))


def _shards_of(file: Path) -> str:
    """The n of prepared-i-of-n.json."""
    return file.stem.rpartition("-of-")[2]


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How a folder was made otherwise than it is wanted now."""
    if found["converter"] != wanted["converter"]:
        return f"by the converter {found['converter']!r}"
    old, new = found["options"], wanted["options"]
    old = OFF | old
    changed = [f"{key}={old.get(key)} instead of {value}" for key, value in new.items() if old.get(key) != value]
    if changed:
        return f"with {', '.join(changed)}"
    if "tables" not in found:  # made by an earlier release
        return "from other tables, or by another version of the converter"
    return (
        _changed_tables(found["tables"], wanted["tables"]) or "by another version of the converter, or of its mapping"
    )


def _changed_tables(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """What became of the tables of the source since, a few of them by name; empty where nothing did."""
    what = [f"{name} was changed" for name in new if old.get(name, new[name]) != new[name]]
    what += [f"{name} was added" for name in new if name not in old]
    what += [f"{name} was removed" for name in old if name not in new]
    more = f" and {len(what) - MOST_NAMED} tables more" if len(what) > MOST_NAMED else ""
    return f"from a source that is another now: {', '.join(what[:MOST_NAMED])}{more}" if what else ""


def _write_manifest(file: Path, content: Mapping[str, Any]) -> None:
    write_whole(file, json.dumps(content, indent=2) + "\n")


def _in_words(figures: Mapping[str, Any]) -> str:
    rows = ", ".join(f"{Path(file).stem} {count:,}" for file, count in figures["rows"].items())
    dropped = "".join(f"; {count:,} left out: {reason}" for reason, count in figures["dropped"].items())
    return f"rows: {rows or 'none'}{dropped}"


def _wait_for(name: str, out: Path, options: Mapping[str, Any]) -> float:
    """Wait until another process has made a folder."""
    converter = running.find(read_map(name, options.get("source")).model_dump_json() if is_map(name) else name)
    wanted = identity(converter, checked_options(converter, options))
    while not _is_done(found := _manifest(out / MANIFEST), wanted):
        time.sleep(1)
    return float(found["seconds"])
