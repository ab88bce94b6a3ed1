"""Files that appear under their names when they are complete, and not at all where that fails or is stopped.

Not here: folders of checkpoints (models/checkpoint.py), of runs (training/stages.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another name to write to, in a folder that is made; what lies there in the end gets its own."""
    unfinished = path.with_name(path.name + ".tmp")
    with made(path.parent):
        try:
            yield unfinished
            if unfinished.exists():
                unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder; one that is new and stays empty is not left behind, nor are those above it."""
    new_folders = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # the first that is not empty
            for one in new_folders:
                one.rmdir()


def write_whole(path: Path, content: str | bytes) -> None:
    """A file of this content, text in UTF-8."""
    with whole(path) as unfinished:
        unfinished.write_bytes(content if isinstance(content, bytes) else content.encode())
