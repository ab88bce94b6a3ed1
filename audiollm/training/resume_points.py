"""Resume points on disk: which is the newest that is whole. Not here: how they are written (trainer.py)."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_callback import TrainerState

PREFIX = "checkpoint-"
STATE = "trainer_state.json"


def newest_whole(folder: Path) -> str | None:
    """The newest resume point that can be read; damaged ones are named and passed over. None where there is none."""
    points = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    for point in sorted(points, key=lambda path: -int(path.name.removeprefix(PREFIX))):
        damage = damage_of(point)
        if damage is None:
            return str(point)
        print(f"the resume point {point} is damaged ({damage}) and is passed over")
    return None


def damage_of(point: Path) -> str | None:
    """What is wrong with a resume point; None where it is whole."""
    try:
        TrainerState.load_from_json(str(point / STATE))
    except (OSError, ValueError, TypeError) as error:
        return f"{STATE}: {error}"
    for file in sorted(point.rglob("*")):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):  # refuses a file that is not as long as its header says
                    pass
            elif file.suffix in (".pt", ".pth"):  # zip archives with checksums
                with zipfile.ZipFile(file) as archive:
                    broken = archive.testzip()
                    if broken:
                        return f"{file.name}: {broken} has a wrong checksum"
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
        except (SafetensorError, zipfile.BadZipFile, OSError, ValueError) as error:
            return f"{file.name}: {error}"
    return None
