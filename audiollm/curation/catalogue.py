"""The catalogue of converters: what each data set is, where it lies, and what may be done with it."""

import dataclasses
from typing import Any

from audiollm.curation.dataset import DataSet
from audiollm.curation.running import find
from audiollm.resources import packaged_files


def catalogue() -> dict[str, dict[str, Any]]:
    """Converter -> what it says of its set."""
    return {name: about(name) for name in packaged_files("data_prep")}


def about(name: str) -> dict[str, Any]:
    """What a converter says of its set."""
    converter = find(name)
    if hasattr(converter, "SET"):
        told: DataSet = converter.SET
        return dataclasses.asdict(told)
    return {"title": converter.DESCRIPTION, "license": converter.LICENSE.lower(), "tasks": tuple(converter.TASKS)}


def lines() -> list[tuple[str, str, str, str, str]]:
    """Name, what, tasks, licence and source of each."""
    found = []
    for name, told in catalogue().items():
        source = " or ".join(filter(None, (told.get("hub"), "a folder" if told.get("original") else "")))
        found.append((name, told["title"], ", ".join(told["tasks"]), told["license"], source or "made on the spot"))
    return found


def as_markdown() -> str:
    """The table of data_prep/README.md."""
    head = ("name", "what", "tasks", "licence of the rows", "source")
    rows = [(f"`{name}`", what, tasks, licence, source) for name, what, tasks, licence, source in lines()]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)) + "\n"


def print_catalogue() -> None:
    """A line for each, and where to read more."""
    width = max(len(name) for name, *_ in lines())
    for name, what, _, licence, source in lines():
        print(f"{name:{width}}  {what} ({licence}; {source})")
