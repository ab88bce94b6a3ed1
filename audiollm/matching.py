"""Two towers at work: clips and texts to unit vectors, in batches. How near a clip is to a text is their product.

Not here: what that is worth on rows (evaluation/retrieval.py), answers in words (inference.py).
Shapes: N clips or texts, E shared width.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from audiollm.audio import AudioError
from audiollm.conversation import AudioPart, RowError
from audiollm.inference import Listener, one_ahead, pick_device, pick_dtype
from audiollm.inference import load as load_listener
from audiollm.models.configuration import AudioTextConfig
from audiollm.models.locate import CheckpointError, damaged_file, resolve_checkpoint, type_of
from audiollm.models.towers_processing import AudioTextProcessor
from audiollm.models.two_towers import AudioTextModel


class Matcher:
    """Two towers and their processor, ready to compare clips with texts."""

    def __init__(self, model: AudioTextModel, processor: AudioTextProcessor) -> None:
        self.model = model
        self.processor = processor

    def embed_clips(
        self, clips: Sequence[AudioPart], *, batch_size: int = 64, advance: Callable[[int], Any] = lambda count: None
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Unit vectors [N, E] of clips in their order, and why some could not be heard: those are NaN.

        `advance` is told how many more are done.
        """
        order = sorted(
            range(len(clips)), key=lambda number: -clips[number].seconds()
        )  # like lengths, the longest first
        found_NE = np.full((len(clips), self.model.config.projection_width), np.nan, np.float32)
        problems: dict[int, str] = {}
        for numbers, (sounds, failed) in one_ahead(lambda batch: self._hear(clips, batch), batches(order, batch_size)):
            problems |= failed
            heard = [number for number in numbers if number not in failed]
            if heard:
                found_NE[heard] = self._run(self.model.get_audio_embeds, **self.processor(audio=sounds))
            advance(len(numbers))
        return found_NE, problems

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        """Unit vectors [N, E] of texts in their order; ValueError for one that the text tower has no positions for."""
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        found_NE = np.zeros((len(texts), self.model.config.projection_width), np.float32)
        for numbers in batches(order, batch_size):
            inputs = self.processor(text=[texts[number] for number in numbers])
            found_NE[numbers] = self._run(self.model.get_text_embeds, **inputs)
        return found_NE

    def _hear(self, clips: Sequence[AudioPart], numbers: Sequence[int]) -> tuple[list[np.ndarray], dict[int, str]]:
        """The samples of those clips that can be read, and what is wrong with the others."""
        sounds, failed = [], {}
        for number in numbers:
            try:
                sounds.append(clips[number].load(self.processor.sampling_rate))
            except (AudioError, RowError) as error:
                failed[number] = str(error)
        return sounds, failed

    @torch.inference_mode()
    def _run(self, embed: Callable[..., torch.Tensor], **inputs: torch.Tensor) -> np.ndarray:
        """One batch through one tower."""
        on_device = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        return embed(**on_device).cpu().numpy()


def batches(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """So many at a time."""
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def load(
    checkpoint: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
) -> Matcher:
    """Load two towers: the folder of a stage, of a whole run (its last finished stage), or a name on the Hub.

    CheckpointError, a ValueError, if there is nothing to load. The projection stays in the type that it was saved in.
    """
    device = pick_device(device)
    folder = resolve_checkpoint(checkpoint, revision=revision)
    if type_of(folder) != AudioTextConfig.model_type:
        raise CheckpointError(f"{folder} holds no two towers; audiollm.load opens an audio language model")
    try:
        processor = AudioTextProcessor.from_pretrained(folder)
        model = AudioTextModel.from_pretrained(folder, dtype=pick_dtype(dtype, device))
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        damage = damaged_file(folder)
        cause = f"{damage}; copy it again, or train the stage again" if damage else error
        raise CheckpointError(f"{folder}: the checkpoint cannot be read: {cause}") from error
    return Matcher(model.to(device).eval(), processor)


def load_either(
    checkpoint: str | Path, *, device: str = "auto", dtype: str = "auto", **of_language_model: Any
) -> Listener | Matcher:
    """Whatever kind of model a checkpoint holds; the arguments are those of `inference.load`."""
    folder = resolve_checkpoint(checkpoint)
    if type_of(folder) != AudioTextConfig.model_type:
        return load_listener(folder, device=device, dtype=dtype, **of_language_model)
    for name, value in of_language_model.items():
        if value is not None:
            raise ValueError(f"{name}={value} is about a language model, and {folder} holds two towers; leave it out")
    return load(folder, device=device, dtype=dtype)
