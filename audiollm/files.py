"""Files that appear under their names when they are complete, and not at all where that fails or is stopped.

Not here: folders of checkpoints (models/checkpoint.py), of runs (training/stages.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another name to write to, in a folder that is made; what lies there in the end gets its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        yield unfinished
        if unfinished.exists():
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """A file of this content, text in UTF-8."""
    with whole(path) as unfinished:
        unfinished.write_bytes(content if isinstance(content, bytes) else content.encode())
