"""The table of objectives: one file and one line adds one.

An objective says which fields of a clip feed it (`targets`, run where batches are made), owns its head, and gives a sum
with the number of items that it runs over. The step divides by the number of the whole optimizer step.
"""

from typing import Any

from audiollm.models.two_towers import AudioTextModel
from audiollm.training.objectives.base import Objective
from audiollm.training.objectives.contrastive import Contrastive
from audiollm.training.objectives.ctc import CTC
from audiollm.training.objectives.distillation import Distillation
from audiollm.training.objectives.language_modeling import LanguageModeling
from audiollm.training.objectives.towers import Towers

OBJECTIVES: dict[str, type[Objective]] = {
    "language_modeling": LanguageModeling,
    "contrastive": Contrastive,
    "ctc": CTC,
    "distillation": Distillation,
}

OBJECTIVES_OF_TOWERS: dict[str, type[Objective]] = {"contrastive": Towers}
"""What goes by that name for two towers, whose model has the heads."""

__all__ = ["OBJECTIVES", "OBJECTIVES_OF_TOWERS", "Objective", "build_objective", "objectives_of"]


def objectives_of(is_two_towers: bool) -> dict[str, type[Objective]]:
    """The table for a kind of model."""
    return OBJECTIVES_OF_TOWERS if is_two_towers else OBJECTIVES


def build_objective(name: str, settings: dict[str, Any], *, model: Any, processor: Any) -> Objective:
    """The objective of a recipe's block; ValueError for an unknown name or setting."""
    table = objectives_of(isinstance(model, AudioTextModel))
    if name not in table:
        raise ValueError(f"unknown objective {name!r}; known: {', '.join(sorted(table))}")
    cls = table[name]
    return cls(cls.Settings.model_validate(settings), model=model, processor=processor)
