"""Every converter on a row in the exact form of its set, from Parquet and from the original archive."""

from pathlib import Path

import archives  # noqa: F401  (which enters the layouts)
import pytest
from converters import ARCHIVES, CONVERTERS, SOUNDS, examples, write_parquet

from audiollm.conversation import Row
from audiollm.curation.catalogue import as_markdown
from audiollm.curation.prepare import prepare
from audiollm.curation.prompts import pool, tasks
from audiollm.data.sources import load_rows
from audiollm.resources import import_converter, packaged_folder


def converted(name: str, source: Path, out: Path, **options) -> list[Row]:
    """The rows that a converter makes of a folder, by id."""
    prepare(name, out, {"source": str(source), **options})
    files = [str(path) for path in sorted(out.glob("*.[jp]*")) if path.suffix in (".jsonl", ".parquet")]
    assert str(out / "dropped.jsonl") not in files
    return sorted(load_rows(files, strict=True, check_files=True), key=lambda row: str(row.id))


def words(rows: list[Row]) -> list[tuple]:
    """What is asked and answered."""
    return [(row.id, row.task, row.question, row.target, row.references, row.source_id, row.split) for row in rows]


def hub_form(name: str, folder: Path, out: Path, **options) -> list[Row]:
    """The rows that are made of the example as Parquet."""
    converter = import_converter(name)
    rows = examples(converter)
    options |= (SOUNDS[name](folder / "sounds", rows) or {}) if name in SOUNDS else {}
    return converted(name, write_parquet(folder / "hub", converter, rows), out, **options)


def disk_form(name: str, folder: Path, out: Path, **options) -> list[Row]:
    """The rows that are made of the example as an archive."""
    rows = examples(import_converter(name))
    options |= (SOUNDS[name](folder / "sounds", rows) or {}) if name in SOUNDS else {}
    options |= ARCHIVES[name](folder / "archive", rows) or {}
    return converted(name, folder / "archive", out, **options)


@pytest.mark.parametrize("name", CONVERTERS)
def test_the_example_of_a_set_becomes_rows_with_sound(name, tmp_path):
    about = import_converter(name).SET
    make = disk_form if about.hub is None else hub_form
    made = make(name, tmp_path, tmp_path / "out", audio="flac")
    assert {row.task for row in made} <= set(about.tasks)
    assert len({row.id for row in made}) == len(made)
    for row in made:
        assert row.clips[0].load(16_000).size == pytest.approx(row.clips[0].duration * 16_000, abs=16)
        assert row.source == name and row.source_id and row.license


@pytest.mark.parametrize("name", [name for name in sorted(ARCHIVES) if import_converter(name).SET.hub])
def test_the_archive_and_the_hub_give_the_same_questions_and_answers(name, tmp_path):
    hub = hub_form(name, tmp_path / "1", tmp_path / "embedded", audio="embed")
    disk = disk_form(name, tmp_path / "2", tmp_path / "paths")
    assert words(hub) == words(disk)
    assert all(isinstance(row.clips[0].audio, bytes) for row in hub)
    assert all(isinstance(row.clips[0].audio, str) for row in disk)


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_converter_says_what_it_is(name):
    converter = import_converter(name)
    assert ARCHIVES.keys() >= {name} or converter.SET.hub
    assert bool(converter.SET.original) == hasattr(converter, "read") == (name in ARCHIVES)
    assert converter.SET.citation and converter.SET.license == converter.SET.license.lower()
    assert len([line for line in Path(converter.__file__).read_text().splitlines() if line]) <= 60


@pytest.mark.parametrize("task", tasks())
def test_a_pool_has_ways_of_asking_for_training_and_others_for_testing(task):
    training, held_out = pool(task)
    assert len(training) >= 20 and len(held_out) >= 5
    assert len({*training, *held_out}) == len(training) + len(held_out)


def test_the_page_of_the_data_sets_has_the_table_of_the_catalogue():
    """After a change: python -c 'from audiollm.curation.catalogue import as_markdown; print(as_markdown())'."""
    page = (packaged_folder("data_prep") / "README.md").read_text(encoding="utf-8")
    assert as_markdown() in page
