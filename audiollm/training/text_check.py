"""What a stage forgets: the loss on rows of text alone, before its first step and after its last.

It is measured through the trainer, so it goes under every way to share a model over ranks; all of them measure the same
rows. The figures are lines of the trainer's log, so a stage that goes on knows what was measured before it began.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from audiollm.conversation import Row
from audiollm.data.dataset import Recordings
from audiollm.recipe import Recipe
from audiollm.training.objectives.base import ObjectiveSettings
from audiollm.training.objectives.language_modeling import LanguageModeling
from audiollm.training.stage_data import read_rows

Figures = dict[str, tuple[float, float]]
"""Name of the rows -> nats a supervised token, before and after a stage."""


def text_rows(recipe: Recipe) -> dict[str, list[Row]]:
    """The rows of each of the recipe's checks; RecipeError if they hold sound or nothing that is answered."""
    found = {}
    for index, check in enumerate(recipe.text_check):
        key = f"text_check.{index}.path"
        rows = read_rows(check.path, None, False)[0][: check.limit]
        heard = next((row for row in rows if row.clips), None)
        if heard is not None:
            raise recipe.error(key, f"is {check.path}, which holds sound ({heard.origin}); give rows of text alone")
        if not LanguageModeling.has_items(None, rows):
            raise recipe.error(key, f"is {check.path}, in which nothing is answered; give rows with answers")
        found[check.title] = rows
    return found


class TextCheck(TrainerCallback):
    """Measures each set of rows when a stage begins and when it ends."""

    def __init__(self, stage: str, trainer: Any, sets: Mapping[str, Sequence[Row]]) -> None:
        self.stage = stage
        self.trainer = trainer
        like: Recordings = trainer.recordings
        self.sets = {
            name: Recordings(rows, like.renderer, share_audio=like.share_audio, limits=like.limits)
            for name, rows in sets.items()
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure; what is measured later, where a stage goes on, would not be from before it."""
        if state.global_step == 0:
            self.measure()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the weights that stay, and tell both figures; a stage that was asked to stop is not at its end."""
        if state.global_step < state.max_steps:
            return
        self.measure()
        for name, (before, after) in text_figures(state.log_history, self.sets).items():
            if state.is_world_process_zero:
                print(f"stage {self.stage}: text alone, {name}: {before:.3f} nats a token before, {after:.3f} after")

    def measure(self) -> None:
        """Log nats a supervised token; nothing that is drawn at random later changes by it."""
        stage_model = self.trainer.stage_model
        asked = {"words": LanguageModeling(ObjectiveSettings(), model=stage_model.model, processor=None)}
        self.trainer.model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a data loader draws a seed
            found = {name: self.trainer.validate(recordings, asked) for name, recordings in self.sets.items()}
        self.trainer.log({entry(name): float(sums / items.clamp(min=1)) for name, (sums, items) in found.items()})


def entry(name: str) -> str:
    """What the log calls the figure of these rows."""
    return f"text_{name}_loss"


def text_figures(history: list[dict[str, Any]], names: Iterable[str]) -> Figures:
    """Before and after, from a stage's log; nothing for rows that were measured once alone."""
    series = {name: [line[entry(name)] for line in history if entry(name) in line] for name in names}
    return {name: (values[0], values[-1]) for name, values in series.items() if len(values) > 1}
