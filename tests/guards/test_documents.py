"""What the documents show can be used as it stands: recipes load, rows are rows, links lead somewhere."""

import json
import re

import yaml
from repository import ROOT, blocks, text_files

from audiollm.conversation import parse_row
from audiollm.recipe import load_recipe

DOCUMENTS = [(path, text) for path, text in text_files() if path.suffix == ".md"]


def test_recipes_in_the_documents_load(tmp_path):
    shown = [block for _, text in DOCUMENTS for block in blocks(text, ("yaml",)) if "stages" in yaml.safe_load(block)]
    assert shown
    for block in shown:
        (tmp_path / "recipe.yaml").write_text(block)
        load_recipe(tmp_path / "recipe.yaml")


def test_rows_in_the_documents_are_rows():
    shown = [json.loads(block) for _, text in DOCUMENTS for block in blocks(text, ("json",))]
    assert shown
    for row in shown:
        assert not parse_row(row, origin="document").extra


def test_links_between_the_documents_lead_somewhere():
    for path, text in DOCUMENTS:
        for target, _, anchor in (link.partition("#") for link in re.findall(r"(?<!!)\[[^]]+\]\(([^)\s]+)\)", text)):
            if "://" not in target:
                file = (ROOT / path.parent / target) if target else ROOT / path
                assert file.exists(), f"{path}: {target}"
                assert not anchor or anchor in anchors(file.read_text()), f"{path}: {target}#{anchor}"


def anchors(text: str) -> set[str]:
    """The names under which a Markdown file's headings can be linked to."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
