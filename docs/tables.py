"""The tables that the documentation takes from the package when it is built.

    <!-- table: encoders -->        in a page becomes that table

`python docs/tables.py encoders` prints one. mkdocs calls `on_page_markdown`.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package of this checkout

import yaml

from audiollm.resources import about_recipe, packaged_files

DOCS = Path(__file__).parent
SUPPORT = yaml.safe_load((DOCS / "support.yaml").read_text())
"""What was tried together, on which language models, and the test that runs it; null where none does."""


def markdown(columns: tuple[str, ...], lines: Any) -> str:
    """A Markdown table."""
    rows = ["| " + " | ".join(map(str, line)) + " |" for line in (columns, ["---"] * len(columns), *lines)]
    return "\n".join(rows)


def recipes() -> str:
    """The recipes that come with the package."""
    found = ((f"`{name}`", about["about"], about.get("cost", "")) for name, about in every_recipe())
    return markdown(("recipe", "what", "cost"), found)


def every_recipe() -> list[tuple[str, dict[str, str]]]:
    """Name, and what each says of itself."""
    return [(name, about_recipe(path)) for name, path in packaged_files("recipes").items()]


def encoders() -> str:
    """The encoders by the name that a recipe gives them."""
    from audiollm.models.encoders import ENCODERS

    single = {name: cls for name, cls in sorted(ENCODERS.items()) if not name.startswith("audiollm_")}
    lines = [(f"`{name}`", str(cls.__doc__).strip().partition("\n")[0]) for name, cls in single.items()]
    return markdown(("name", "what"), lines)


def native() -> str:
    """Audio language models of transformers that train as they are."""
    from audiollm.models.native.table import support_table

    return support_table()


def support() -> str:
    """What was tried together, and by which test."""
    lines = [
        (
            one["what"],
            one["with"],
            one["models"],
            f"tested: `{one['test'].partition('::')[2]}`" if one["test"] else "untested",
        )
        for one in SUPPORT
    ]
    return markdown(("what", "with", "language models", ""), lines)


TABLES: dict[str, Callable[[], str]] = {
    "recipes": recipes,
    "encoders": encoders,
    "native": native,
    "support": support,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its tables filled in."""
    return re.sub(r"<!-- table: (\w+) -->", lambda found: TABLES[found.group(1)](), markdown)


if __name__ == "__main__":
    print(TABLES[sys.argv[1]]())
