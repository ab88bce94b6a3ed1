"""What every objective is, and what those share that are fed by the words of a clip."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from audiollm.conversation import AudioPart, Row
from audiollm.models.settings import Settings

ARGUMENTS = (
    "input_ids", "position_ids", "branch_ids", "clip_ids", "attention_mask", "shift_labels",
    "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",
    "input_values", "input_values_mask", "audio_frames", "audio_frames_mask", "audio_is_cached", "features",
)  # fmt: skip
"""What of a batch the whole model reads; the model without its vocabulary projection reads all but the labels."""


class ObjectiveSettings(Settings):
    """What an objective's block in a recipe may say; a bare number is its weight."""

    weight: NonNegativeFloat = 1.0
    """Factor of this loss in the sum of the stage."""


@dataclass
class Heard:
    """What the model made of a batch, computed once and only as far as the objectives ask for it."""

    model: nn.Module  # AudioLLMForConditionalGeneration
    frames_NTC: Tensor | None = None  # encoder output
    mask_NT: Tensor | None = None
    vectors_NKD: Tensor | None = None  # connector output
    vectors_mask_NK: Tensor | None = None
    hidden_BSD: Tensor | None = None  # what goes into the vocabulary projection


class Objective(nn.Module, ABC):
    """A loss over a batch: a sum, and the number of items that it is a sum over."""

    Settings: ClassVar[type[ObjectiveSettings]] = ObjectiveSettings
    needs: ClassVar[str] = ""  # in words, for a stage whose rows have nothing for it
    needs_text: ClassVar[bool] = False  # rendered conversations
    needs_frames: ClassVar[bool] = False  # the encoder's output
    needs_hidden: ClassVar[bool] = False  # the language model's output
    needs_vectors: bool = False  # the connector's output
    teacher_text: str | None = None  # the field of a clip that a teacher reads in its place

    def __init__(self, settings: Any, *, model: Any, processor: Any) -> None:
        super().__init__()
        self.weight = settings.weight

    @classmethod
    @abstractmethod
    def has_items(cls, settings: Any, rows: Sequence[Row]) -> bool:
        """Whether the rows of a stage hold anything that this objective can learn."""

    @classmethod
    def refusal(cls, settings: Any, train: Collection[str]) -> str | None:
        """Why the objective cannot teach a stage that trains these parts; None where it can."""
        return None

    def targets(self, clips: Sequence[AudioPart]) -> dict[str, Tensor]:
        """Tensors that this objective needs in the batch, from what is known about its clips."""
        return {}

    @abstractmethod
    def count(self, batch: Mapping[str, Any]) -> int:
        """Items of this objective in a batch."""

    def nothing(self, heard: Heard) -> Tensor:
        """Zero, for a batch without items: every parameter has its gradient, also where the other ranks have items."""
        return sum((parameter.sum() for parameter in self.parameters()), torch.zeros(())) * 0.0

    @abstractmethod
    def forward(self, heard: Heard, batch: Mapping[str, Any], num_items: Tensor) -> Tensor:
        """The sum of the loss over the batch divided by `num_items`, the count over the whole step."""


class WordsSettings(ObjectiveSettings):
    """Settings of an objective that is fed by the words of a clip; each names its default."""

    target: Literal["transcript", "description"]
    """Field of the audio part: the words spoken, or the scene in words."""


class WordsObjective(Objective):
    """An objective over clips and their words; a clip without words is left out."""

    needs_frames = True

    def __init__(self, settings: WordsSettings, *, model: Any, processor: Any) -> None:
        super().__init__(settings, model=model, processor=processor)
        self.target = settings.target
        self.tokenizer = processor.tokenizer

    @classmethod
    def has_items(cls, settings: WordsSettings, rows: Sequence[Row]) -> bool:
        """Whether any clip has its words."""
        return any(getattr(clip, settings.target) for row in rows for clip in row.clips)

    def nothing(self, heard: Heard) -> Tensor:
        """Zero, from one clip and made-up words, so that this rank runs the same modules as those that have words."""
        if heard.frames_NTC is None or heard.mask_NT is None:
            return super().nothing(heard)
        made_up = self.targets([AudioPart("", transcript="a", description="a")])
        batch = {name: tensor.to(heard.frames_NTC.device) for name, tensor in made_up.items()}
        sides = (heard.frames_NTC, heard.mask_NT, heard.vectors_NKD, heard.vectors_mask_NK)
        one = Heard(heard.model, *(None if side is None else side[:1] for side in sides))
        return self(one, batch, torch.ones((), device=heard.frames_NTC.device)) * 0.0

    def word_ids(self, clips: Sequence[AudioPart], padding: int) -> tuple[Tensor, Tensor]:
        """Token ids of each clip's words [N, U], `padding` after the end, and their numbers [N]."""
        texts = [getattr(clip, self.target) or "" for clip in clips]
        ids = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        padded = torch.full((len(ids), max([1, *map(len, ids)])), padding)
        for number, tokens in enumerate(ids):
            padded[number, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        return padded, torch.tensor([len(tokens) for tokens in ids])


def model_arguments(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch the model without its vocabulary projection reads."""
    return {name: batch[name] for name in ARGUMENTS if name in batch and name != "shift_labels"}


def width_of(model: Any) -> int:
    """C, the width of the encoder's frames."""
    return int(model.model.audio_tower.width(model.config.audio_config.to_dict()))
