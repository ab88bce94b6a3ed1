"""The model of a stage: the audio language model and the stage's objectives, as one module that a trainer can wrap."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.splice import Kept
from audiollm.models.two_towers import AudioTextModel
from audiollm.training.objectives import Objective
from audiollm.training.objectives.base import Heard, model_arguments


class StageModel(nn.Module):
    """Its forward gives the weighted sum of the objectives, and each one's value."""

    def __init__(self, model: AudioLLMForConditionalGeneration, objectives: Mapping[str, Objective]) -> None:
        super().__init__()
        self.model: Any = model
        self.objectives: Any = nn.ModuleDict(objectives)

    @property
    def config(self) -> Any:
        """The audio language model's; the trainer looks here."""
        return self.model.config

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.model.activation_checkpointing_enable(**kwargs)

    def forward(
        self, batch: Mapping[str, Any], num_items: Tensor, others: Mapping[str, Objective] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`num_items` [K] float: the count of each objective, in order, over the whole optimizer step.

        `others`: objectives that the model is measured by, in place of its own.
        """
        asked: Mapping[str, Any] = self.objectives if others is None else others
        heard = self.listen(batch, asked.values())
        values = {}
        for number, (name, objective) in enumerate(asked.items()):
            if objective.needs_frames and objective.count(batch) == 0:
                values[name] = objective.nothing(heard)
            else:
                values[name] = objective(heard, batch, num_items[number].clamp(min=1))
        total: Any = sum(asked[name].weight * value for name, value in values.items())
        if torch.is_grad_enabled() and not total.requires_grad:  # text alone, in a stage that trains what listens
            total = total + self.nothing()
        return total, {name: value.detach() for name, value in values.items()}

    def nothing(self) -> Tensor:
        """Zero, with a gradient of zero."""
        return next(parameter for parameter in self.parameters() if parameter.requires_grad).sum() * 0.0

    def listen(self, batch: Mapping[str, Any], objectives: Collection[Objective]) -> Heard:
        """What the parts make of the batch as far as the objectives ask for it; a batch of text has no sound."""
        base: Any = self.model if isinstance(self.model, AudioTextModel) else self.model.model
        heard = Heard(self.model)
        if any(objective.needs_hidden for objective in objectives):
            heard.hidden_BSD = base(**model_arguments(batch), use_cache=False).last_hidden_state
        if any(objective.needs_frames for objective in objectives):
            if "input_values" in batch or "audio_frames" in batch:
                names = ("audio_frames", "audio_frames_mask", "audio_is_cached")
                kept = Kept(*(batch[name] for name in names)) if "audio_frames" in batch else None
                frames = base.get_audio_frames(batch.get("input_values"), batch.get("input_values_mask"), kept)
                heard.frames_NTC, heard.mask_NT = frames
            elif base.trains_on_ranks:
                heard.frames_NTC, heard.mask_NT = base.get_audio_frames(*base.silent_clip())
        if heard.frames_NTC is not None and any(objective.needs_vectors for objective in objectives):
            heard.vectors_NKD, heard.vectors_mask_NK = base.connect(heard.frames_NTC, heard.mask_NT)
        return heard

    def weighted(self, values: Tensor) -> float:
        """The stage's loss from the value [K] of each objective."""
        return sum(float(o.weight) * float(value) for o, value in zip(self.objectives.values(), values, strict=True))

    def counts(self, batch: Mapping[str, Any], others: Mapping[str, Objective] | None = None) -> Tensor:
        """Items of each objective, or of others, in a batch [K] float, on the CPU."""
        asked = self.objectives if others is None else others
        return torch.tensor([float(objective.count(batch)) for objective in asked.values()])
