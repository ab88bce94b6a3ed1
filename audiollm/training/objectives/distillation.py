"""Distillation: the model that hears learns to say what the same language model says where it reads the words instead.

    student   <audio> What is said?   ─► logits ─┐  at each token of the answer
    teacher   a dog   What is said?   ─► logits ─┴► KL(teacher ‖ student) at a temperature

The teacher is the language model without LoRA, in evaluation mode, and no graph of it is kept. As in Ultravox the KL
is not multiplied by the square of the temperature, and each row's last prediction can count more. Unlike there, all is
a sum over supervised tokens divided by their number in the whole optimizer step, so `end_of_turn_weight` adds to one
token of a row, and does not stand beside the mean of all.
Not here: the teacher's tokens (data/dataset.py), their batch (data/collate.py).
Shapes: B sequences, S tokens, K supervised tokens, D width, V vocabulary.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from audiollm.conversation import Row
from audiollm.models.chunked_loss import sum_in_chunks
from audiollm.models.freezing import without_lora
from audiollm.models.modeling import IGNORE_INDEX
from audiollm.training.objectives.base import Heard, Objective, ObjectiveSettings, model_arguments

PREFIX = "teacher_"


class DistillationSettings(ObjectiveSettings):
    """What the teacher reads, and how its opinion counts."""

    teacher_text: Literal["transcript", "description"] = "transcript"
    """Field of the audio part that the teacher reads in the place of the sound: the words spoken, or the scene."""
    temperature: PositiveFloat = 2.0
    """Divides both sides' logits; more lets the less likely tokens count for more."""
    end_of_turn_weight: NonNegativeFloat = 0.0
    """Added to the weight 1 of each row's last prediction, so that the model learns where an answer ends."""


class Distillation(Objective):
    """KL of the model that hears from the one that reads; a sum over supervised tokens."""

    Settings = DistillationSettings
    needs = "answers about clips with the words that the teacher reads (a `transcript`, or what `teacher_text` says)"
    needs_text = True
    needs_hidden = True

    def __init__(self, settings: DistillationSettings, *, model: Any, processor: Any) -> None:
        super().__init__(settings, model=model, processor=processor)
        self.teacher_text = settings.teacher_text
        self.temperature = settings.temperature
        self.end_of_turn_weight = settings.end_of_turn_weight

    @classmethod
    def has_items(cls, settings: DistillationSettings, rows: Sequence[Row]) -> bool:
        """Whether any answer is about clips that are all told in words."""
        return any(
            all(getattr(clip, settings.teacher_text) for clip in row.clips)
            and any(message.role == "assistant" and message.loss for message in row.messages)
            for row in rows
            if row.clips
        )

    @classmethod
    def refusal(cls, settings: DistillationSettings, train: Collection[str]) -> str | None:
        """A teacher must not move while it is learned from."""
        if "llm" in train:
            return "has the language model for its teacher, which must be frozen; take `llm` out of `train:`"
        return None

    def count(self, batch: Mapping[str, Any]) -> int:
        """Supervised tokens."""
        return int((batch["shift_labels"] != IGNORE_INDEX).sum())

    def forward(self, heard: Heard, batch: Mapping[str, Any], num_items: Tensor) -> Tensor:
        """Nats a supervised token."""
        assert heard.hidden_BSD is not None
        model: Any = heard.model
        student_KD = heard.hidden_BSD[batch["shift_labels"] != IGNORE_INDEX]
        teacher_KD = self.read(model, batch).to(student_KD.device)
        if len(student_KD) != len(teacher_KD):
            raise ValueError(
                f"the model that hears has {len(student_KD)} supervised tokens, and its teacher {len(teacher_KD)}; "
                "both must be given the same answers in the same order"
            )
        weights_K = torch.ones(len(student_KD), device=student_KD.device)
        if len(student_KD):
            weights_K = weights_K + self.end_of_turn_weight * batch["teacher_ends"]
        loss = divergence(model.project, teacher_KD, weights_K, self.temperature)
        vocabulary = model.config.get_text_config().vocab_size
        return sum_in_chunks(loss, student_KD, vocabulary, list(model.lm_head.parameters())) / num_items

    @torch.no_grad()
    def read(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """The teacher's hidden states at the supervised tokens [K, D]."""
        given = {name.removeprefix(PREFIX): value for name, value in batch.items() if name.startswith(PREFIX)}
        if not given and not model.model.trains_on_ranks:
            return torch.empty(0, model.config.get_text_config().hidden_size)
        if not given:  # the other ranks run a language model that may be sharded
            given["input_ids"] = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        labels_BS = given.get("shift_labels", torch.full_like(given["input_ids"], IGNORE_INDEX))
        trained = model.model.training
        model.model.eval()
        with without_lora(model):
            hidden_BSD = model.model(**model_arguments(given), use_cache=False).last_hidden_state
        model.model.train(trained)
        return hidden_BSD[labels_BS != IGNORE_INDEX]


def divergence(
    project: Callable[[Tensor], Tensor], teacher_KD: Tensor, weights_K: Tensor, temperature: float
) -> Callable[[Tensor, slice], Tensor]:
    """The weighted sum of KL(teacher ‖ student) over some tokens, from the student's hidden states there."""

    def loss(student_D: Tensor, place: slice) -> Tensor:
        with torch.no_grad():
            teacher_V = F.log_softmax(project(teacher_KD[place]).float() / temperature, dim=-1)
        student_V = F.log_softmax(project(student_D).float() / temperature, dim=-1)
        return (F.kl_div(student_V, teacher_V, reduction="none", log_target=True).sum(-1) * weights_K[place]).sum()

    return loss
