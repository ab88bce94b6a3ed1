"""Prepared rows for others: a data set of the Hugging Face hub, or a folder of an object store, with a card.

    README.md                           what it is, its licences, how it was made; tells `datasets` which files are what
    train-00000.parquet ...             rows with their sound in them, as `audiollm prepare` made them
    train.jsonl, clips/00000/*.flac     or beside them; for the hub alone, as JSONL is not read in an object store

Uploaded are rows, the recordings that they name, and the card. What says where on this machine a set came from stays
here (prepared.json, dropped.jsonl), and so does whatever else is in the folder.
Not here: checkpoints (export/push.py), making rows (prepare.py), reading them (data/sources.py).
"""

import fnmatch
import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import yaml
from pyarrow import parquet

from audiollm.conversation import Row, RowError
from audiollm.curation.prepare import MANIFEST
from audiollm.data import licences
from audiollm.data.hub import in_store, is_stored, refuse_password, require_store, within_reach
from audiollm.data.sources import open_source, rows_of

CARD = "README.md"
END_BYTES = 2**16  # by which files of the same size are compared
COUNTED = ("task", "source", "license")
HUB_LICENCES = frozenset((
    "apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "odbl", "odc-by", "pddl", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "cdla-sharing-1.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "gfdl", "mpl-2.0", "isc",
    "unknown", "other",
))  # fmt: skip
"""Names that the hub takes in a card; any other licence is `other` there, and stands in the text."""
TEXTS = ("id", "task", "source", "source_id", "split", "language", "license")
_PART = ["type", "text", "audio", "transcript", "description"]
FEATURES = [
    *({"name": name, "dtype": "string"} for name in TEXTS),
    {"name": "messages", "list": [
        {"name": "role", "dtype": "string"},
        {"name": "content", "list": [
            *({"name": name, "dtype": "string"} for name in _PART),
            *({"name": name, "dtype": "float64"} for name in ("start", "end", "duration")),
        ]},
        {"name": "loss", "dtype": "bool"},
    ]},
    {"name": "references", "list": "string"}, {"name": "choices", "list": "string"},
    {"name": "answer", "dtype": "string"},
]  # fmt: skip
"""Columns of rows in JSONL, each of which has only some: `datasets` would take those of the first ones for all."""
SECRET = re.compile(r"token|secret|password|key|credential", re.IGNORECASE)


class Hub(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> Any:
        """Make the repository, if it is not there."""
        ...

    def list_repo_files(self, repo_id: str, *, repo_type: str) -> list[str]:
        """The files that are there."""
        ...

    def upload_folder(
        self, *, repo_id: str, repo_type: str, folder_path: str, allow_patterns: list[str], commit_message: str
    ) -> Any:
        """Upload files of a folder in one commit; what is there already is not sent."""
        ...


@dataclass
class PreparedRows:
    """What a folder holds, and what its card tells."""

    folder: Path
    manifests: list[Mapping[str, Any]]
    splits: dict[str, list[str]] = field(default_factory=dict)
    """Split -> patterns of its files."""
    rows: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str | None] = field(default_factory=Counter)
    licences: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)
    """(license, source) -> rows."""
    recordings: set[str] = field(default_factory=set)
    """Patterns of the recordings that rows in JSONL name."""

    @property
    def patterns(self) -> list[str]:
        """Of the files with rows."""
        return [pattern for patterns in self.splits.values() for pattern in patterns]

    @property
    def is_parquet(self) -> bool:
        """Whether all sound is in the rows."""
        return all(pattern.endswith(".parquet") for pattern in self.patterns)

    def files(self) -> dict[str, int]:
        """What others are given: name -> bytes; the card comes last, so that a set that has one is whole."""
        wanted = [*self.patterns, *sorted(self.recordings)]
        found = {
            name: os.path.getsize(path)
            for path in sorted(glob.glob(f"{glob.escape(str(self.folder))}/**", recursive=True))
            if os.path.isfile(path)
            and any(fnmatch.fnmatch(name := os.path.relpath(path, self.folder), pattern) for pattern in wanted)
        }
        return found | {CARD: (self.folder / CARD).stat().st_size}


@dataclass(frozen=True)
class Published:
    """What was uploaded, or would be."""

    rows: PreparedRows
    target: str
    files: dict[str, int]
    """Name -> bytes."""
    kept: int
    """Files that were there."""
    uploaded: bool

    def summary(self) -> str:
        """A line for each kind of file, the licences, what stays here, and how it is read."""
        folder = self.rows.folder
        lines = []
        for pattern in (*self.rows.patterns, *sorted(self.rows.recordings), CARD):
            sizes = [size for name, size in self.files.items() if fnmatch.fnmatch(name, pattern)]
            lines.append(f"{sum(sizes) / 2**20:10.1f} MiB  {pattern}: {len(sizes):,} file{'s' * (len(sizes) != 1)}")
        told = sorted({license or "not said" for license, _ in self.rows.licences})
        lines.append(f"licences of the rows: {', '.join(told)}")
        left = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in self.files)
        lines.append(f"stays here: {', '.join(left)}")
        if not self.uploaded:
            return "\n".join(
                [*lines, f"{folder}: would be uploaded to {self.target}; nothing was; card: {folder / CARD}"]
            )
        kept = f", and {self.kept:,} were there" if self.kept else ""
        lines.append(f"{folder}: {len(self.files) - self.kept:,} files uploaded to {self.target}{kept}; {self._use()}")
        return "\n".join(lines)

    def _use(self) -> str:
        return f"it is read as {address_of(self.target)}" if self.rows.is_parquet else how_to_read(self.target)


def address_of(target: str) -> str:
    """What a recipe calls a data set in Parquet."""
    return target if is_stored(target) else f"hf://datasets/{target}"


def how_to_read(repo: str) -> str:
    """The way to rows whose recordings lie beside them."""
    return f"`hf download {repo} --repo-type dataset --local-dir DIR` brings rows and recordings"


def is_prepared(folder: str | Path) -> bool:
    """Whether `audiollm prepare` made a folder."""
    return any(Path(folder).expanduser().glob("prepared*.json"))


def publish(
    folder: str | Path, target: str, *, private: bool = False, dry_run: bool = False, hub: Hub | None = None
) -> Published:
    """Upload a folder that `audiollm prepare` made; a card is made where there is none, and can be changed before.

    target: OWNER/NAME on the hub, or an address that fsspec knows (s3://bucket/folder). hub: an object with the methods
    above; huggingface_hub's own, with the login of this machine, if None. ValueError for a folder that is not complete,
    for rows that name recordings outside of it, and for a target that holds rows of another set.
    """
    check_target(target, private)
    rows = prepared_rows(Path(folder).expanduser())
    if is_stored(target) and not rows.is_parquet:
        raise ValueError(f"{folder} has rows in JSONL, which are not read in an object store; make it with audio=embed")
    _write_card(rows, target)
    files, kept = rows.files(), 0
    if not dry_run and is_stored(target):
        kept = store(rows.folder, files, target)
    elif not dry_run:
        upload(hub or default_hub(), rows, files, target, private)
    return Published(rows, target, files, kept, not dry_run)


def check_target(target: str, private: bool = False) -> None:
    """ValueError for what is neither OWNER/NAME nor an address, or where `private` says nothing."""
    if is_stored(target):
        refuse_password(target)
        require_store(target)
        if private:
            raise ValueError(f"--private is for the Hub; who may read {target} is a setting of its store")
    elif target.count("/") != 1 or not all(target.split("/")):
        raise ValueError(f"{target!r} is no name on the Hub, and no address; write OWNER/NAME or s3://BUCKET/FOLDER")


# ---- what is in the folder -------------------------------------------------------------------------------------------


def prepared_rows(folder: Path) -> PreparedRows:
    """What a folder holds, all of whose rows are looked at; their sound in Parquet is not read."""
    found = PreparedRows(folder, [manifest for _, manifest in _manifests(folder)])
    for manifest in found.manifests:
        for pattern, number in manifest["rows"].items():
            split = re.sub(r"(-\*|-\d{5}-of-\d{5})?\.(jsonl|parquet)$", "", pattern)
            if pattern not in found.splits.setdefault(split, []):
                found.splits[split].append(pattern)
            found.rows[split] += number
    if not found.rows:
        raise ValueError(f"{folder} holds no rows; there is nothing to upload")
    for split, patterns in found.splits.items():
        counted = sum(_look(found, path) for pattern in patterns for path in sorted(folder.glob(pattern)))
        if counted != found.rows[split]:
            told = f"{counted:,} rows of {split}, and {MANIFEST} says {found.rows[split]:,}"
            raise ValueError(f"{folder} holds {told}; make it again with --overwrite")
    return found


def _manifests(folder: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """What the machines said that made a folder; ValueError where one is missing or has not done yet."""
    files = sorted(folder.glob("prepared*.json"))
    if not files:
        raise ValueError(f"{folder} was not made by `audiollm prepare` (there is no {MANIFEST})")
    found = [(file.name, json.loads(file.read_text(encoding="utf-8"))) for file in files]
    begun = next((name for name, manifest in found if "seconds" not in manifest), None)
    of = files[0].stem.rpartition("-of-")[2] if files[0].name != MANIFEST else "1"
    if begun is not None or int(of) != len(files):
        cause = f"{begun} was begun" if begun else f"{len(files)} of {of} shards are there"
        raise ValueError(f"{folder} is not complete ({cause}); give `audiollm prepare` again, and then push it")
    return found


def _look(found: PreparedRows, path: Path) -> int:
    """Count the rows of a file, and see that others can hear them."""
    if path.suffix == ".parquet":
        with parquet.ParquetFile(path) as file:
            known = [name for name in COUNTED if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=known):
                told = batch.to_pydict()
                _count(found, (told.get(name, [None] * len(batch)) for name in COUNTED))
            return int(file.metadata.num_rows)
    number = 0
    top = os.path.join(os.path.realpath(found.folder), "")
    for opened in open_source(str(path)):
        for row in rows_of(opened, "rows", None):
            if not isinstance(row, Row):
                raise row
            number += 1
            _count(found, ([row.task], [row.source], [row.license]))
            _require_form(row)
            found.recordings |= {_pattern_of(clip.audio, top, row) for clip in row.clips if isinstance(clip.audio, str)}
    return number


def _count(found: PreparedRows, columns: Iterable[list[str | None]]) -> None:
    tasks, sources, licenses = columns
    found.tasks.update(tasks)
    found.licences.update(zip(licenses, sources, strict=True))


def _require_form(row: Row) -> None:
    """RowError for fields that are not in FEATURES, for which `datasets` would read none of the rows."""
    others = [*row.extra, *(["rejected"] if row.rejected is not None else [])]
    if others:
        raise RowError(row.origin, "", f"has {', '.join(others)}, which the card cannot describe; take it out", row.id)


def _pattern_of(audio: str, top: str, row: Row) -> str:
    """The files of a row's kind: clips/*.flac; ValueError for what nobody else would hear."""
    path = os.path.realpath(audio)
    if not path.startswith(top):
        cause = f"{audio} is outside of the folder, and nobody else has it; make it with audio=embed or audio=flac"
        raise RowError(row.origin, "", cause, row.id)
    if not os.path.isfile(path):
        raise RowError(row.origin, "", f"{audio} is not there; make the folder again with --overwrite", row.id)
    first, _, rest = os.path.relpath(path, top).replace(os.sep, "/").partition("/")
    return f"{glob.escape(first)}/*{os.path.splitext(rest)[1]}" if rest else glob.escape(first)


# ---- the card --------------------------------------------------------------------------------------------------------


def _write_card(rows: PreparedRows, target: str) -> None:
    """Write it where there is none; ValueError where there is one of other files or rows than those that go up."""
    path, front = rows.folder / CARD, front_matter(rows)
    if not path.exists():
        path.write_text(card(rows, front, target), encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    told = yaml.safe_load(found[1]) if found else None
    is_of_these = isinstance(told, dict) and told.get("configs") == front["configs"]
    if not is_of_these or not all(manifest["digest"] in text for manifest in rows.manifests):
        cause = "does not have the `configs` and the digest of the rows that are there"
        raise ValueError(f"{path} {cause}; remove it, and it is made anew")


def front_matter(rows: PreparedRows) -> dict[str, Any]:
    """What the hub and `datasets` read."""
    names = sorted({licences.canonical(license or "") or "unknown" for license, _ in rows.licences})
    known = sorted({name if name in HUB_LICENCES else "other" for name in names})
    files = [
        {"split": split, "path": patterns[0] if len(patterns) == 1 else patterns}
        for split, patterns in rows.splits.items()
    ]
    front: dict[str, Any] = {"license": known[0] if len(known) == 1 else known}
    if known == ["other"]:
        front["license_name"] = ", ".join(names)
    front |= {"tags": ["audio", "audiollm"], "configs": [{"config_name": "default", "data_files": files}]}
    return front if rows.is_parquet else front | {"dataset_info": {"features": FEATURES}}


def card(rows: PreparedRows, front: Mapping[str, Any], target: str) -> str:
    """The whole card."""
    name = target.rstrip("/").rpartition("/")[2]
    sources = sorted(rows.licences.items(), key=lambda one: -one[1])
    sections = [
        f"---\n{yaml.safe_dump(dict(front), sort_keys=False)}---\n",
        f"# {name}\n\nQuestions about recordings and their right answers, made by `audiollm prepare`.\n",
        "## Use\n\n" + _use(rows, target),
        "## Rows\n\n" + _table(("split", "rows"), ((split, f"{number:,}") for split, number in rows.rows.items())),
        _table(("task", "rows"), ((task or "not said", f"{number:,}") for task, number in rows.tasks.most_common())),
        "## Sources and licences\n\n"
        + _table(
            ("source", "licence", "rows"),
            ((source or "not said", license or "not said", f"{number:,}") for (license, source), number in sources),
        )
        + "\nLicences are those of the rows; what is recorded may have others.\n" + _doubts(rows),
        "## How it was made\n\n" + "\n".join(map(_made, rows.manifests)),
    ]  # fmt: skip
    return "\n".join(sections)


def _use(rows: PreparedRows, target: str) -> str:
    words = (
        ""
        if is_stored(target)
        else f'```python\nfrom datasets import load_dataset\n\nrows = load_dataset("{target}")\n```\n'
    )
    if rows.is_parquet:
        recipe = f"`data: {{train: ['{address_of(target)}']}}`"
        return f"{words}\nIn a recipe of audiollm: {recipe}. Sound is in the rows (`audios`).\n"
    way = f"{how_to_read(target)}, and `DIR/{rows.patterns[0]}` goes into a recipe"
    return f"{words}\nRows name their recordings; {way}.\n"


def _doubts(rows: PreparedRows) -> str:
    found = [one for one in licences.refused(rows.licences, "research")] + licences.unknown(rows.licences)
    names = sorted({f"{one.source or 'not said'} ({one.license})" for one in found})
    return f"\nNot known, or not given, is the right to use: {', '.join(names)}.\n" if names else ""


def _made(manifest: Mapping[str, Any]) -> str:
    """One run of a converter; of this machine it tells nothing but the name of a folder."""
    options = {key: _told(key, value) for key, value in manifest["options"].items() if value not in (None, "")}
    words = " ".join(f"{key}={value}" for key, value in options.items())
    left_out = "".join(f"- left out: {number:,}, {cause}\n" for cause, number in manifest["dropped"].items())
    return f"- converter `{manifest['converter']}`, options `{words}`, digest `{manifest['digest']}`\n{left_out}"


def _told(key: str, value: Any) -> Any:
    """An option for everybody's eyes: no password, and no path on this machine."""
    if SECRET.search(key):
        return "(not told)"
    if not isinstance(value, str):
        return value
    value = " ".join(value.split()).replace("`", "'")
    if "://" in value:
        parts = urlsplit(value)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    is_path = os.path.isabs(value) or value.startswith(("~", ".")) or ("/" in value and os.path.exists(value))
    return os.path.basename(value.rstrip("/")) if is_path else value


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        list(head),
        ["---"] * len(head),
        *([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# ---- away with it ----------------------------------------------------------------------------------------------------


def default_hub() -> Hub:
    """huggingface_hub's own."""
    from huggingface_hub import HfApi

    api: Any = HfApi()
    return api


def upload(hub: Hub, rows: PreparedRows, files: Mapping[str, int], repo: str, private: bool) -> None:
    """One commit on the hub."""
    patterns = [*rows.patterns, *sorted(rows.recordings), CARD]
    with within_reach(repo):
        hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        there = hub.list_repo_files(repo, repo_type="dataset")
    _refuse_others(there, files, rows.patterns, repo)
    with within_reach(repo):
        hub.upload_folder(
            repo_id=repo, repo_type="dataset", folder_path=str(rows.folder), allow_patterns=patterns,
            commit_message="Upload by audiollm",
        )  # fmt: skip


def store(folder: Path, files: Mapping[str, int], target: str) -> int:
    """Write files into an object store; the number of those that were there already. A card is always sent.

    There already is a file of the same size and end, where Parquet tells what it holds.
    """
    with in_store(target) as (filesystem, top):
        there = _sizes(filesystem, top)
    _refuse_others(there, files, ["*.parquet"], target)
    with in_store(target) as (filesystem, top):
        same = [
            name
            for name, size in files.items()
            if name != CARD
            and there.get(name) == size
            and _ends_alike(filesystem, f"{top}/{name}", folder / name, size)
        ]
        for name in files:
            if name not in same:
                filesystem.makedirs(f"{top}/{name}".rpartition("/")[0], exist_ok=True)
                filesystem.put_file(str(folder / name), f"{top}/{name}")
        filesystem.invalidate_cache()
        there = _sizes(filesystem, top)
    if wrong := [name for name, size in files.items() if there.get(name) != size]:
        raise ValueError(f"{target}: {', '.join(wrong[:3])} did not arrive whole; give the same command again")
    return len(same)


def _ends_alike(filesystem: Any, there: str, here: Path, size: int) -> bool:
    start = max(0, size - END_BYTES)
    with here.open("rb") as file:
        file.seek(start)
        return bool(filesystem.cat_file(there, start, size) == file.read())


def _sizes(filesystem: Any, top: str) -> dict[str, int]:
    """What lies in a folder of an object store: name -> bytes."""
    return {
        path.removeprefix(top).lstrip("/"): about["size"] for path, about in filesystem.find(top, detail=True).items()
    }


def _refuse_others(there: Iterable[str], files: Mapping[str, int], patterns: Sequence[str], target: str) -> None:
    """ValueError for rows of another set, which would be read together with these."""
    others = [name for name in there if name not in files and any(fnmatch.fnmatch(name, one) for one in patterns)]
    if others:
        raise ValueError(f"{target} holds {', '.join(others[:3])} of another set; remove it there, or push elsewhere")
