"""Ways of asking: a pool of phrasings for each task, one a line in prompts/TASK.txt.

The lines after `# held out` are never drawn for training: asked in a test, they show whether a model understood the
question or knows its words by heart. `{label}`, `{language}` ... are filled in by what asks.
Not here: questions that are made from labels (instructions.py), who draws (dataset.py).
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).with_name("prompts")
HELD_OUT = "# held out"


class Pool(NamedTuple):
    """The phrasings of a task."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


@cache
def pool(task: str) -> Pool:
    """The phrasings of a task; ValueError where there are none."""
    file = FOLDER / f"{task}.txt"
    if not file.is_file():
        raise ValueError(f"there are no phrasings for the task {task!r}; known: {', '.join(tasks())}")
    training, _, held_out = file.read_text(encoding="utf-8").partition(HELD_OUT)
    return Pool(_lines(training), _lines(held_out))


def tasks() -> list[str]:
    """The tasks that have a pool."""
    return sorted(file.stem for file in FOLDER.glob("*.txt"))


def _lines(text: str) -> tuple[str, ...]:
    """Lines with something in them; `\\n` in one stands for a line break."""
    return tuple(line.strip().replace("\\n", "\n") for line in text.splitlines() if line.strip())
