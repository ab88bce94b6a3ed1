"""The table of objectives: one file and one line adds one.

An objective says which fields of a clip feed it (`targets`, run where batches are made), owns its head, and gives a sum
with the number of items that it runs over. The step divides by the number of the whole optimizer step.
"""

from typing import Any

from audiollm.training.objectives.base import Objective
from audiollm.training.objectives.contrastive import Contrastive
from audiollm.training.objectives.ctc import CTC
from audiollm.training.objectives.distillation import Distillation
from audiollm.training.objectives.language_modeling import LanguageModeling

OBJECTIVES: dict[str, type[Objective]] = {
    "language_modeling": LanguageModeling,
    "contrastive": Contrastive,
    "ctc": CTC,
    "distillation": Distillation,
}

__all__ = ["OBJECTIVES", "Objective", "build_objective"]


def build_objective(name: str, settings: dict[str, Any], *, model: Any, processor: Any) -> Objective:
    """The objective of a recipe's block; ValueError for an unknown name or setting."""
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}; known: {', '.join(sorted(OBJECTIVES))}")
    cls = OBJECTIVES[name]
    return cls(cls.Settings.model_validate(settings), model=model, processor=processor)
