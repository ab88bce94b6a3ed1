"""From a checkpoint to answers: load, generate in batches, stream. Every answer of this package is made here.

Not here: the conversation that a person has with a model (chat/), what an answer is worth (evaluation/).
Shapes: B prompts of a batch, S prompt tokens, T new tokens.
"""

import json
import logging
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import TextIteratorStreamer
from transformers.generation import StoppingCriteria, StoppingCriteriaList

from audiollm.audio import AudioError
from audiollm.conversation import Message, RowError, parse_messages
from audiollm.models.checkpoint import is_small_checkpoint, use_adapter
from audiollm.models.configuration import AudioTextConfig
from audiollm.models.freezing import set_lora_scale
from audiollm.models.locate import CheckpointError, damaged_file, resolve_checkpoint, type_of
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.native.loading import is_native, load_native
from audiollm.models.parts import Built
from audiollm.models.processing import AudioLLMProcessor, PromptWriter
from audiollm.models.prompts import TokenizerAlone, load_prompts
from audiollm.models.varlen import leave_cudnn_out

log = logging.getLogger(__name__)

__all__ = [
    "Answer",
    "CheckpointError",
    "Listener",
    "Prompt",
    "PromptWriter",
    "TokenizerAlone",
    "load",
    "load_prompts",
    "pick_device",
    "pick_dtype",
    "resolve_checkpoint",
]

Prompt = str | Sequence[Message | Mapping[str, Any]]
"""A question, or messages: our own, or dictionaries as transformers has them. It ends with the user's turn."""
Messages = Sequence[Message]
Item = TypeVar("Item")
Result = TypeVar("Result")

# The sampling settings of a base model's own generation config would only raise warnings in a greedy search.
GREEDY = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one prompt, or why it could not be asked."""

    text: str
    num_new_tokens: int = 0
    """Tokens that the model wrote, the end of turn not counted."""
    truncated: bool = False
    """The model would have gone on: `max_new_tokens` ended the answer."""
    error: str | None = None
    """A clip of the prompt could not be read; `text` is empty then."""


class Listener:
    """A model and its processor, ready to answer prompts about sound."""

    def __init__(
        self, model: AudioLLMForConditionalGeneration, processor: AudioLLMProcessor, *, name: str = "model"
    ) -> None:
        self.model = model
        self.processor = processor
        self.name = name

    def answer(
        self, prompts: Sequence[Prompt], *, batch_size: int = 16, max_new_tokens: int = 256, **generation: Any
    ) -> Iterator[Answer]:
        """Answer the prompts, in their order; greedily, unless `generation` (arguments of `generate`) says otherwise.

        A prompt is a question or messages: [{"role": "user", "content": [{"type": "audio", "audio": ...}, ...]}].
        A prompt with a clip that cannot be read gets an `Answer` with its `error`, and the others are not disturbed.
        """
        if isinstance(prompts, str) or (prompts and isinstance(prompts[0], Mapping | Message)):
            raise ValueError("answer() takes a list of prompts; put this one in a list: answer([prompt])")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; it must be at least 1")
        if generation.get("num_return_sequences", 1) != 1:
            raise ValueError("num_return_sequences must be 1: each prompt has one answer; ask twice for two")
        parsed = [parse_messages(prompt) for prompt in prompts]
        batches = (parsed[start : start + batch_size] for start in range(0, len(parsed), batch_size))
        for batch, heard in one_ahead(self._hear, batches):
            yield from self._answer_batch(batch, heard, max_new_tokens=max_new_tokens, **generation)

    def stream(self, messages: Prompt, *, max_new_tokens: int = 256, **generation: Any) -> Generator[str, None, None]:
        """The answer to one prompt in pieces, as they are generated; closing the iterator stops the model.

        AudioError if a clip cannot be read. Joined, the pieces are the text of `answer`, white space around it aside.
        """
        parsed = parse_messages(messages)
        [waveforms] = self._hear([parsed])
        if isinstance(waveforms, ValueError):
            raise waveforms
        inputs = self._collate([(parsed, waveforms)])
        pieces = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = _Stop()
        failures: list[BaseException] = []

        def generate() -> None:
            try:
                self._generate(
                    inputs,
                    streamer=pieces,
                    stopping_criteria=StoppingCriteriaList([stop]),
                    max_new_tokens=max_new_tokens,
                    **generation,
                )
            except BaseException as failure:  # any: it is raised again in the thread of the caller
                failures.append(failure)
                pieces.end()

        thread = Thread(target=generate, name="audiollm-stream", daemon=True)
        thread.start()
        try:
            yield from (piece for piece in pieces if piece)
        finally:
            stop.requested.set()
            thread.join()
        if failures:
            raise failures[0]

    def _hear(self, prompts: Sequence[Messages]) -> list[list[np.ndarray] | ValueError]:
        """The samples of each prompt's clips, or the error of the first that cannot be read; each clip read once."""
        heard: dict[Hashable, np.ndarray] = {}

        def waveforms(messages: Messages) -> list[np.ndarray]:
            clips = [clip for message in messages for clip in message.clips]
            for clip in clips:
                if clip.key not in heard:
                    heard[clip.key] = clip.load(self.processor.sampling_rate)
                    self.processor.refuse_longer(clip, len(heard[clip.key]))
            return [heard[clip.key] for clip in clips]

        results: list[list[np.ndarray] | ValueError] = []
        for messages in prompts:
            try:
                results.append(waveforms(messages))
            except (AudioError, RowError) as error:
                results.append(error)
        return results

    def _answer_batch(
        self,
        prompts: Sequence[Messages],
        heard: Sequence[list[np.ndarray] | ValueError],
        *,
        max_new_tokens: int,
        **generation: Any,
    ) -> Iterator[Answer]:
        """One answer a prompt; those that could not be heard do not enter the batch."""
        ready = [
            (messages, sound)
            for messages, sound in zip(prompts, heard, strict=True)
            if not isinstance(sound, ValueError)
        ]
        answers: Iterator[Answer] = iter(())
        if ready:
            new_BT = self._generate(self._collate(ready), max_new_tokens=max_new_tokens, **generation)
            answers = iter([self._read(new_T, max_new_tokens) for new_T in new_BT.tolist()])
        for sound in heard:
            yield Answer(text="", error=str(sound)) if isinstance(sound, ValueError) else next(answers)

    def _collate(self, prompts: Sequence[tuple[Messages, list[np.ndarray]]]) -> dict[str, Tensor]:
        """The inputs of `generate`, padded on the left, where the model is."""
        inputs = self.processor.collate_prompts(prompts)
        return {
            name: value.to(self.model.device) if isinstance(value, Tensor) else value for name, value in inputs.items()
        }

    def _generate(self, inputs: Mapping[str, Tensor], **generation: Any) -> Tensor:
        """New token ids [B, T]; after the end of an answer there is padding."""
        settings = GREEDY | {"eos_token_id": sorted(self._ends())} | generation
        model: Any = self.model  # the annotations of `generate` in transformers do not fit its use
        try:
            with _listening(model):
                ids_BS = model.generate(**inputs, **settings)
        except torch.OutOfMemoryError as error:
            B, S = inputs["input_ids"].shape
            raise ValueError(
                f"{self.model.device} has too little memory for {B} prompts of {S} tokens at once; "
                "use a smaller batch size or shorter clips"
            ) from error
        return ids_BS[:, inputs["input_ids"].shape[1] :]

    def _read(self, new_ids: list[int], max_new_tokens: int) -> Answer:
        """One row of `_generate` as an answer."""
        ends = self._ends()
        length = next((index for index, token in enumerate(new_ids) if token in ends), len(new_ids))
        text = self.processor.decode_answer(new_ids[:length])
        return Answer(text, num_new_tokens=length, truncated=length >= max_new_tokens)

    def _ends(self) -> set[int]:
        """Tokens that end an answer: the template's end of turn, and those that the language model itself names."""
        named = self.model.generation_config.eos_token_id
        named = named if isinstance(named, list) else [named]
        return {end for end in (*named, *self.processor.stop_token_ids) if end is not None}


def load(
    checkpoint: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    quantize: str | None = None,
    adapter: str | Path | None = None,
    lora_scale: float | None = None,
) -> Listener:
    """Load a checkpoint: the folder of a stage, of a whole run (its last finished stage), or a name on the Hub.

    `device`: "auto" takes a GPU where there is one. `dtype`: "auto" is bfloat16 on CUDA and float32 elsewhere.
    `quantize`: "nf4" or "int8" holds the language model in 4 or 8 bits, "none" as it is; None as it was trained.
    `adapter`: another checkpoint on the same base and connector, whose LoRA and prompts take the place of this one's.
    `lora_scale`: multiplies what LoRA adds, beside alpha / r: 0 is the base, 1 all of it, None as it was trained.
    CheckpointError, a ValueError, if there is nothing to load.
    """
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    folder = resolve_checkpoint(checkpoint, revision=revision)
    if type_of(folder) == AudioTextConfig.model_type:
        raise CheckpointError(
            f"{folder} holds two towers, which compare sounds with texts and answer nothing; "
            "`audiollm evaluate` scores them, and audiollm.matching.load gives their vectors"
        )
    prompts = folder if adapter is None else resolve_checkpoint(adapter)
    try:
        if is_native(folder):
            built = load_native(folder, dtype=dtype, quantize=quantize)
        else:
            model = AudioLLMForConditionalGeneration.from_pretrained(folder, dtype=dtype, quantize=quantize)
            built = Built(model, AudioLLMProcessor.from_pretrained(prompts))
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        damage = damaged_file(folder)
        cause = f"{damage}; copy it again, or train the stage again" if damage else error
        raise CheckpointError(f"{folder}: the checkpoint cannot be read: {cause}") from error
    model = built.model
    if adapter is not None:
        use_adapter(model, folder, prompts)
    if lora_scale is not None:
        set_lora_scale(model, lora_scale)
    known = {*model.trained_parts, *(model.config.bases or {})}
    if is_small_checkpoint(folder) and "connector" not in known:
        log.warning("%s: its connector was never trained, so it cannot hear; a later stage can", folder)
    return Listener(model.to(device).eval(), built.processor, name=_name_of(prompts))


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device by its name; "auto" is the first GPU, if there is one. SDPA goes without cuDNN from here on."""
    leave_cudnn_out()
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is unknown; use auto, cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device}: PyTorch sees {torch.cuda.device_count()} CUDA devices here; use cpu or auto"
        )
    return chosen


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The floating-point type by its name; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    if str(dtype) == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(f"dtype {dtype!r} is unknown; use auto, float32, bfloat16 or float16")
    return chosen


def _name_of(folder: Path) -> str:
    """quickstart/instruct for the stage of a run, else the folder's own name."""
    folder = folder.resolve()
    in_run = (folder.parent / "recipe.yaml").is_file() or (folder.parent / "run.json").is_file()
    return f"{folder.parent.name}/{folder.name}" if in_run else folder.name


@contextmanager
def _listening(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and nothing kept for gradients; a model in training gets its mode back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


class _Stop(StoppingCriteria):
    """Ends a generation after the next token once it is requested from another thread."""

    def __init__(self) -> None:
        self.requested = Event()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.requested.is_set(), device=input_ids.device)


def one_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Each item with its result; the next one is made in a thread while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="audiollm-hear") as thread:
        waiting: tuple[Item, Future[Result]] | None = None
        for item in items:
            following = (item, thread.submit(function, item))
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting:
            yield waiting[0], waiting[1].result()
