"""The files that the guards look at."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("audiollm", "data_prep", "recipes", "ds_configs")
FOLDERS = (*SHIPPED, "benchmarks", "tests", ".ci")


def text_files(*folders: str) -> Iterator[tuple[Path, str]]:
    """Every text file below these folders of the repository; without folders, all of it that is ours."""
    candidates = [path for folder in folders or FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    if not folders:
        candidates += [path for path in sorted(ROOT.iterdir()) if path.name not in ("LICENSE", ".git")]
    for path in candidates:
        if path.is_file() and "__pycache__" not in path.parts:
            try:
                yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Every Python file below these folders, parsed."""
    for path, text in text_files(*folders):
        if path.suffix == ".py":
            yield path, ast.parse(text)


def commands(text: str) -> Iterator[str]:
    """Each line of a Markdown file's shell blocks, continued lines joined."""
    for block in blocks(text, ("sh", "bash", "shell", "console", "")):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.strip().removeprefix("$ ")


def blocks(text: str, languages: tuple[str, ...]) -> Iterator[str]:
    """The code blocks of a Markdown file that are in one of these languages."""
    for number, part in enumerate(text.split("```")):
        language, _, body = part.partition("\n")
        if number % 2 and language.strip() in languages:
            yield body
