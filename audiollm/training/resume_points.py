"""Resume points on disk: when there are more of them, and which is the newest that is whole.

Not here: how they are written (trainer.py).
"""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState

from audiollm.models.locate import damaged_file

PREFIX = "checkpoint-"
STATE = "trainer_state.json"


class MoreResumePoints(TrainerCallback):
    """Resume points beside those at each validation: every so many steps, or every share of all steps below 1."""

    def __init__(self, every: float) -> None:
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for one where it is due."""
        every = self.every if self.every >= 1 else max(round(self.every * state.max_steps), 1)
        if state.global_step % every == 0:
            control.should_save = True


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
