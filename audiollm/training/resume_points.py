"""Resume points on disk: which is the newest that is whole. Not here: how they are written (trainer.py)."""

from pathlib import Path

from transformers.trainer_callback import TrainerState

from audiollm.models.locate import damaged_file

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
    return damaged_file(point)
