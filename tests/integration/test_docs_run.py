"""The commands that the documentation shows are run, on a tiny checkpoint and tones, and its pages are filled in."""

import ast
import importlib
import importlib.util
import shlex
from pathlib import Path

import pytest
import stand_ins
import yaml
from guards.repository import ROOT, blocks, commands
from test_recipes_run import run, small_checkpoint
from tiny import RATE, tones

from audiollm.audio import write

PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a finished run and the recordings that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    small_checkpoint(tmp_path)
    (tmp_path / "recordings").mkdir()
    for name, samples in zip(("kitchen", "street", "garden"), tones(3), strict=True):
        write(tmp_path / f"recordings/{name}.wav", samples, RATE)
        (tmp_path / f"recordings/{name}.txt").write_text("a bell, then a knock\n")
    (tmp_path / "rows.csv").write_text("audio,question,answer\nrecordings/street.wav,What?,A tram.\n")
    write(tmp_path / "clip.wav", tones(1)[0], RATE)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_commands_of_a_page_run(page, workplace):
    for line in commands(page.read_text()):
        words = shlex.split(line)
        elsewhere = "--format" in words or (words[:2] == ["audiollm", "push"] and "--dry-run" not in words)
        if words[0] == "audiollm" and not elsewhere:  # tests/unit/test_formats_native.py, test_export.py
            assert run(*words[1:], *instead_of_the_hub(words, workplace)).strip(), line  # it ends well, and says so


def instead_of_the_hub(words: list[str], folder: Path) -> list[str]:
    """Stand-ins for what a recipe would fetch, and nothing trained where its rows are not there."""
    if words[1] != "train" or not words[2].startswith("whisper_qwen"):
        return []
    llm = "Qwen/Qwen2.5-7B" if "qlora" in words[2] else "Qwen/Qwen3-0.6B"
    parts = {"encoder": "openai/whisper-small", "llm": llm}
    said = [f"model.{part}.checkpoint={stand_ins.folder_for(name, folder)}" for part, name in parts.items()]
    rows = [
        f"stages.{stage}.data.{split}=[rows.csv]"
        for stage in ("align", "instruct")
        for split in ("train", "validation")
    ]
    said += [*rows, "evaluate=[]"]
    return said if "--dry-run" in words else [*said, "--dry-run"]


def test_every_page_is_filled_in_and_the_navigation_names_it():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    listed = {page for entry in yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"] for page in entry.values()}
    assert listed == {page.name for page in PAGES}
    for page in PAGES:
        filled = tables.on_page_markdown(page.read_text())
        assert "<!-- table" not in filled, page


def test_the_parts_that_a_page_writes_pass_the_kit(tmp_path, monkeypatch):
    encoder, connector, tests = blocks((ROOT / "docs/writing_a_part.md").read_text(), ("python",))
    (tmp_path / "loudness.py").write_text(f"{encoder}\n{connector}")
    (tmp_path / "test_of_loudness.py").write_text(tests)
    monkeypatch.syspath_prepend(str(tmp_path))
    example = importlib.import_module("test_of_loudness")
    for name in ("test_my_encoder", "test_my_connector"):
        getattr(example, name)()


def test_what_the_pages_call_tested_is_a_test():
    for one in yaml.safe_load((ROOT / "docs/support.yaml").read_text()):
        if one["test"]:
            path, _, name = one["test"].partition("::")
            tree = ast.parse((ROOT / path).read_text())
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, one
