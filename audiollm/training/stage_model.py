"""The model of a stage: the audio language model and the stage's objectives, as one module that a trainer can wrap."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.training.objectives import Objective
from audiollm.training.objectives.base import Heard


class StageModel(nn.Module):
    """Its forward gives the weighted sum of the objectives, and each one's value."""

    def __init__(self, model: AudioLLMForConditionalGeneration, objectives: Mapping[str, Objective]) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)

    @property
    def config(self) -> Any:
        """The audio language model's; the trainer looks here."""
        return self.model.config

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the language model's activations in the backward pass."""
        self.model.gradient_checkpointing_enable(**kwargs)

    def forward(self, batch: Mapping[str, Any], num_items: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`num_items` [K] float: the count of each objective, in order, over the whole optimizer step."""
        heard = Heard(self.model)
        if any(objective.needs_frames for objective in self.objectives.values()):
            heard.frames_NTC, heard.mask_NT = self.model.model.get_audio_frames(
                batch["input_values"], batch["input_values_mask"]
            )
        values = {
            name: objective(heard, batch, num_items[number].clamp(min=1))
            for number, (name, objective) in enumerate(self.objectives.items())
        }
        total = sum(self.objectives[name].weight * value for name, value in values.items())
        return total, {name: value.detach() for name, value in values.items()}

    def counts(self, batch: Mapping[str, Any]) -> Tensor:
        """Items of each objective in a batch [K] float, on the CPU."""
        return torch.tensor([float(objective.count(batch)) for objective in self.objectives.values()])
