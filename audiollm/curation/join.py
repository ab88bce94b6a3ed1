"""Recordings that a set names and does not bring: found by name in a folder of the user's.

A name fits a file of that stem, whatever its suffix and the folder it lies in. Not here: other tools' text-only rows.
"""

from functools import lru_cache
from pathlib import Path

from audiollm.curation.dataset import Dropped
from audiollm.data.formats import RECORDINGS


def recording_of(folder: Path, *names: str) -> Path:
    """The recording of the first name that there is; Dropped where there is none, or several of one name."""
    stems = stems_of(folder)
    for name in names:
        found = stems.get(name, ())
        if len(found) > 1:
            raise Dropped("several recordings of its name")
        if found:
            return found[0]
    raise Dropped("its recording is not there")


def of_youtube(folder: Path, video: str, start_s: float | None = None, end_s: float | None = None) -> Path:
    """The recording of a video, or of the part of it from one second to another, as the usual downloaders name it."""
    names = [video, f"Y{video}"]
    if start_s is not None:
        starts = [f"{start_s:g}", f"{round(start_s)}", f"{round(start_s * 1000)}", f"{round(start_s):06d}"]
        ends = [] if end_s is None else [f"{end_s:g}", f"{round(end_s)}", f"{round(end_s * 1000)}"]
        parts = [f"{video}_{start}" for start in starts]
        parts += [f"{video}_{start}_{end}" for start, end in zip(starts, ends, strict=False)]
        parts += [f"[{video}]-[{start}-{end}]" for start, end in zip(starts, ends, strict=False)]
        names = [*parts, *(f"Y{part}" for part in parts if not part.startswith("[")), *names]
    return recording_of(folder, *names)


@lru_cache(maxsize=4)
def stems_of(folder: Path) -> dict[str, list[Path]]:
    """The recordings in a folder and those in it, by name without suffix; ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"recordings={folder} is no folder; give the one with the recordings of the set")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in RECORDINGS:
            found.setdefault(path.stem, []).append(path)
    if not found:
        raise ValueError(f"recordings={folder} holds no recording")
    return found
