"""How much memory a stage takes on one device, from shapes alone: what is held, and what a micro-batch adds.

  held          weights, and for what trains a gradient and the optimizer's state, all part by part
  kept          what the forward pass keeps for the backward pass, by token (`kept_by_layer` says what that is); with
                activations computed again that is what goes into each layer; of a connector see paper.py
  worked with   a layer in the backward pass, what a teacher reads, or a chunk of logits; a quantised layer's weight in
                bfloat16

Attention clip by clip keeps no matrix of tokens by tokens. CUDA's own share is in CARDS_GIB. Not here: several devices.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from audiollm.data.dataset import Recordings, num_samples
from audiollm.models.chunked_loss import CHUNK_VALUES
from audiollm.models.encoders import SideBySide
from audiollm.models.freezing import part_of
from audiollm.models.modeling import connector_between, is_trainable
from audiollm.models.native.modeling import NativeAudioLLM
from audiollm.models.quantize import can_be_quantized
from audiollm.models.two_towers import AudioTextModel
from audiollm.recipe_trainer import MUON
from audiollm.training.muon import matrices
from audiollm.training.paper import WITH_VALUES, kept_by_connector

GIB, MIB = 2**30, 2**20
MOST = 8191
"""Recordings of a micro-batch above which `largest` does not look."""
CARDS_GIB = {"24 GB": 22.0, "80 GB": 76.0}
"""What a card has for tensors once the driver, CUDA's context and the allocator's fragments have taken theirs."""
COMPARED = {"qwen2_audio", "audioflamingo3", "musicflamingo", "glmasr", "granite_speech", "granite_speech_plus"}
"""Models that transformers has itself whose estimate was compared with what a step takes, their encoder frozen."""
STATE_BYTES = {
    "sgd": 0, "lomo": 0, "lion_8bit": 1, "paged_lion_8bit": 1, "adamw_torch_4bit": 1, "rmsprop_bnb_8bit": 1,
    "adamw_bnb_8bit": 2, "adamw_8bit": 2, "paged_adamw_8bit": 2, "adamw_torch_8bit": 2, "ademamix_8bit": 3,
    "paged_ademamix_8bit": 3, "lion_32bit": 4, "paged_lion_32bit": 4, "rmsprop": 4, "rmsprop_bnb": 4,
    "rmsprop_bnb_32bit": 4, "adagrad": 4, MUON: 4, "schedule_free_sgd": 4, "ademamix": 12, "paged_ademamix_32bit": 12,
    "grokadamw": 12,
}  # fmt: skip
"""Optimizer state by its name in bytes a parameter; Adam's two moments (8) for the others."""
SMALL = 4096
"""Tensors of fewer values are not worth 8 bits to bitsandbytes: their state is four times as large."""
MARGIN = 1.1
"""On what is kept: norms of heads, masks, what is small."""
LOGIT_BYTES = 16
"""A logit in bfloat16, in float32, its log-probability, and the gradients of them."""
TAUGHT_BYTES = 24
"""The same of a student and its teacher: the teacher's log-probability, both sides' logits divided, the divergence."""


def needs_bitsandbytes(optim: str) -> bool:
    """Whether an optimizer of TrainingArguments comes from bitsandbytes."""
    return bool(re.search("bnb|8bit|paged|lion|ademamix", optim)) and not re.search("torch|galore", optim)


@dataclass(frozen=True)
class Held:
    """A part as it lies in memory, in bytes."""

    parameters: int = 0
    trainable: int = 0
    types: tuple[str, ...] = ()
    weights: float = 0
    gradients: float = 0
    optimizer: float = 0

    @property
    def total(self) -> float:
        """Bytes of all of it."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Load:
    """What the heaviest recording of a stage brings: tokens in its sequence, supervised ones, and encoder frames.

    `read`: tokens of what a teacher reads in its place.
    """

    tokens: int
    supervised: int
    frames: int
    seconds: float
    read: int = 0


def held(
    model: Any, heads: nn.Module, optim: str, in_bfloat16: Collection[str], quantize: str | None
) -> dict[str, Held]:
    """Each part of a model whose trainable parameters are selected, and the heads of the stage's objectives."""
    of_muon = matrices(model) if optim == MUON else set()
    of_others = "adamw_torch" if optim == MUON else optim
    linears = set()
    if quantize:
        linears = {f"{model.llm_prefix}{name}" for name, _ in linear_layers(model.model.language_model)}
    parts: dict[str, Held] = {}
    for name, parameter in model.named_parameters():
        part, owner = part_of(name), name.removesuffix(".weight").removesuffix(".base_layer")
        type_, size = ("float32", 4.0) if part not in in_bfloat16 else ("bfloat16", 2.0)
        of_linear = owner in linears and name.endswith(".weight")
        if quantize and of_linear and can_be_quantized(parameter.shape[-1], quantize):
            type_, size = quantize, quantized_bytes(quantize, parameter)
        state_of = MUON if parameter in of_muon else of_others
        parts[part] = add(parts.get(part, Held()), parameter, type_, size, state_of)
    for parameter in heads.parameters():
        parts["heads"] = add(parts.get("heads", Held()), parameter, "float32", 4.0, of_others)
    return parts


def add(part: Held, parameter: torch.Tensor, type_: str, size: float, optim: str) -> Held:
    """The part with one more parameter."""
    n, trains = parameter.numel(), parameter.requires_grad
    return Held(
        part.parameters + n,
        part.trainable + n * trains,
        part.types if type_ in part.types else (*part.types, type_),
        part.weights + n * size,
        part.gradients + 4 * n * trains,
        part.optimizer + state_bytes(optim, parameter) * trains,
    )


def quantized_bytes(quantize: str, weight: torch.Tensor) -> float:
    """Bytes a value: int8 has a float32 scale a row; nf4 one in 8 bits for 64 values, and a float32 for 256 scales."""
    return 1 + 4 / weight.shape[-1] if quantize == "int8" else 0.5 + 1 / 64 + 4 / (64 * 256)


def state_bytes(optim: str, parameter: torch.Tensor) -> float:
    """Bytes that an optimizer keeps for a parameter."""
    n, shape = parameter.numel(), parameter.shape
    if "adafactor" in optim or optim == "adalomo":  # a row and a column instead of a matrix
        return 4.0 * (n if len(shape) < 2 else n / shape[-1] + n / shape[-2])
    size = STATE_BYTES.get(optim, 8)
    if "8bit" in optim:
        return size * n * (4.0 if n < SMALL else 1 + 4 / 256)  # a scale for 256 values
    return float(size * n)


def linear_layers(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers without adapters' own, by their names without LoRA."""
    return [
        (name.removesuffix(".base_layer"), layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and ".lora_" not in name
    ]


def kept_by_layer(module: Any, size: int, *, casts: bool, keeps_inputs: bool = False, fused: bool = False) -> float:
    """Bytes a token that the mean layer of a transformer keeps for the backward pass; `size`: bytes of an activation.

    What its linear layers give, keys and values repeated for all heads; what the MLP's activation gives; what goes
    into layers that train or have LoRA (`keeps_inputs`: into all), once for layers that read the same unless each
    `casts` it; and what goes into the norms, in float32, twice where they train. `fused`, as Liger's kernels are, norms
    keep it as it comes, and what the activation gives is made again.
    """
    adapted = {name.partition(".lora_")[0] for name, _ in module.named_parameters() if ".lora_" in name}
    linears = linear_layers(module)
    width = {name.rpartition(".")[2]: layer.out_features for name, layer in linears}
    values, norms = 0.0, 0
    for name, layer in linears:
        own = name.rpartition(".")[2]
        values += max(layer.out_features, width.get("q_proj", 0) if own in ("k_proj", "v_proj") else 0)
        trains = keeps_inputs or name in adapted or layer.weight.requires_grad
        if trains and (casts or keeps_inputs or own not in ("k_proj", "v_proj", "up_proj")):
            values += layer.in_features
    values += sum(len(weight) for name, weight in module.named_parameters() if ".lora_A." in name)
    for name, parameter in module.named_parameters():
        if "norm" in name and name.endswith(".weight") and "layers." in name:
            of_heads = {"q_norm": "q_proj", "k_norm": "k_proj"}.get(name.split(".")[-2], "")
            norms += width.get(of_heads, len(parameter)) * (1 + parameter.requires_grad)
    activation, of_norm = (0, size) if fused else (max(width.values()), 4)
    return size * (values / depth_of(module) + activation) + of_norm * norms / depth_of(module)


@dataclass(frozen=True)
class Activations:
    """What a micro-batch takes beside what is held, in bytes: `kept`, `layer` and `read` for each of its recordings.

    The most is needed at the end of the forward pass, in the backward pass of a layer, or while a teacher reads.
    """

    kept: float
    layer: float
    read: float
    logits: Callable[[int], float]
    casts: float
    fixed: float

    def __call__(self, recordings: int) -> float:
        most = max(max(self.logits(recordings), self.read * recordings) + self.casts, self.layer * recordings)
        return self.kept * recordings + self.fixed + most


def activations(
    model: Any, trainer: Mapping[str, Any], load: Load, in_bfloat16: Collection[str], quantize: str | None
) -> Activations:
    """The activations of a stage whose trainable parameters are selected."""
    size = 2 if trainer.get("bf16") or trainer.get("fp16") else 4
    again = bool(trainer.get("activation_checkpointing") or trainer.get("gradient_checkpointing"))
    language_model, config = model.model.language_model, model.config.text_config
    again &= is_trainable(language_model)  # a frozen one stays in evaluation mode, where nothing is computed again
    linears = linear_layers(language_model)
    fused = bool(trainer.get("use_liger_kernel"))
    layer = kept_by_layer(language_model, size, casts=size == 2, keeps_inputs=quantize == "int8", fused=fused)
    if getattr(config, "_attn_implementation", None) == "eager":
        layer += config.num_attention_heads * load.tokens * (size + 4)
    every = config.hidden_size * (size if "llm" in in_bfloat16 else 4) if again else layer
    if again and quantize == "int8":  # bitsandbytes holds on to what goes into its layers
        every += size * sum(linear.in_features for _, linear in linears) / depth_of(language_model)
    kept = load.tokens * every * depth_of(language_model) + kept_by_listening(model, size, again, load)
    chunk = max(CHUNK_VALUES // config.vocab_size, 1)

    def logits(recordings: int) -> float:
        of_each = TAUGHT_BYTES if load.read else LOGIT_BYTES
        return of_each * config.vocab_size * min(chunk, load.supervised * recordings)

    copies = copied(model, size, load, in_bfloat16, quantize)
    fixed = 2 * max(linear.weight.numel() for _, linear in linears) if quantize and load.tokens else 0
    if model.lm_head.weight.requires_grad and load.supervised:
        fixed += 8 * model.lm_head.weight.numel()  # its gradient over the chunks so far, and of this one
    worked_with = load.tokens * layer * (1.5 if again else 0.5)
    of_teacher = load.read * layer  # which keeps nothing: a layer at a time
    return Activations(
        MARGIN * kept, MARGIN * worked_with, MARGIN * of_teacher, logits, copies * again, fixed + copies * (not again)
    )


def kept_by_listening(model: Any, size: int, again: bool, load: Load) -> float:
    """Bytes that encoder and connector keep of a recording; of a frozen encoder those that one layer works with."""
    encoder = model.encoder
    hears = any(p.requires_grad for p in encoder.parameters())
    layers = 1 if again or not hears else depth_of(encoder) + 1
    of_encoder = load.frames * kept_by_layer(encoder, size, casts=size == 2) * layers
    if isinstance(model, NativeAudioLLM):
        return of_encoder + load.frames * size * sum(map(of_linears, model.connectors))
    return of_encoder + of_connector(model, size, load, hears)


def of_connector(model: Any, size: int, load: Load, hears: bool) -> float:
    """Bytes that the connector keeps of a recording; of one that cannot be run on paper those of its linear layers."""
    if not load.frames:
        return 0.0
    connector, config = model.model.connector, model.config.audio_config.to_dict()
    trains = any(p.requires_grad for p in connector.parameters())
    sections = type(model.model.audio_tower).sections(config)
    try:
        return kept_by_connector(
            lambda: connector_between(model.config), load.frames, sections, bf16=size == 2, trains=trains, hears=hears
        )
    except WITH_VALUES:
        return load.frames * size * of_linears(connector)


def of_linears(module: nn.Module) -> int:
    """Values a frame that go into linear layers, and come out of them."""
    return sum(layer.in_features + layer.out_features for _, layer in linear_layers(module))


def copied(model: Any, size: int, load: Load, in_bfloat16: Collection[str], quantize: str | None) -> float:
    """Bytes of weights in bfloat16 beside their float32: where the arithmetic is in bfloat16, each use makes a copy.

    It is kept for the backward pass: of what trains, and of a frozen language model, through which gradients flow.
    """
    if size == 4:
        return 0.0
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if load.tokens and "llm" not in in_bfloat16:
        weights = [layer.weight for _, layer in linear_layers(model.model.language_model)]
        total += sum(weight.numel() for weight in weights if not weight.requires_grad) * (not quantize)
        total += model.lm_head.weight.numel() * (not model.lm_head.weight.requires_grad)
    return 2.0 * total


def depth_of(module: Any) -> int:
    """Layers of a transformer, or of the encoders that stand side by side."""
    if isinstance(module, SideBySide):
        return sum(map(depth_of, module.towers))
    return int(module.config.num_hidden_layers)


def heaviest(recordings: Recordings, model: Any) -> Load:
    """The recording of a stage that brings most tokens, its questions included; it is read.

    Of rows that stay on disk it is the one whose sound is longest, as no other is read.
    """
    processor: Any = recordings.renderer
    rate = processor.sampling_rate
    a_second = processor.num_audio_tokens(10 * rate) / 10

    def size(number: int) -> float:
        rows = recordings.groups[number]
        texts = sum(len(message.text) for row in rows for message in row.messages)
        if recordings.teacher_text is not None:
            texts += sum(len(getattr(clip, recordings.teacher_text) or "") for clip in rows[0].clips)
        return recordings.seconds(number) * a_second + texts / 4

    if isinstance(recordings.groups, list):
        heaviest = max(range(len(recordings)), key=size)
    else:
        heaviest = int(recordings.groups.seconds(np.arange(len(recordings))).argmax())
    example = recordings[0, heaviest]
    supervised = sum(int((sequence.shift_labels != -100).sum()) for sequence in example.sequences)
    samples = [num_samples(sound) for sound in example.sounds]
    frames = sum(frames_of(model, processor, number) for number in samples)
    read = sum(map(len, example.teacher))
    return Load(sum(map(len, example.sequences)), supervised, frames, sum(samples) / rate, read)


def assumed(model: Any, processor: Any, with_text: bool, taught: bool = False) -> Load:
    """A clip of 30 s with 100 tokens of text, half of them supervised: where the rows are not there yet.

    A teacher reads 100 tokens in place of the sound.
    """
    samples = 30 * processor.sampling_rate
    tokens = processor.num_audio_tokens(samples) + 100 if with_text else 0
    frames = frames_of(model, processor, samples)
    return Load(tokens, 50 if with_text else 0, frames, 30.0, 200 if taught else 0)


def frames_of(model: Any, processor: Any, samples: int) -> int:
    """Encoder frames of a clip; of a model that transformers has itself, those of its spectrogram, which are more."""
    if isinstance(model, NativeAudioLLM):
        [features] = processor.features([np.zeros(samples, np.float32)])["features"]
        sound = features["input_features"]
        return int(sound.numel() // min(sound.shape[-2:]))
    return int(type(model.encoder).num_frames(model.config.audio_config.to_dict(), samples))


def unknown(model: Any) -> str:
    """What it is for whose sake it is not known what a micro-batch adds; empty where that is known."""
    if isinstance(model, AudioTextModel):
        return "two towers"
    if isinstance(model, NativeAudioLLM) and model.config.native_config.model_type not in COMPARED:
        return f"a {model.kind.title} model"
    if isinstance(model, NativeAudioLLM) and is_trainable(model.encoder):
        return f"the encoder of a {model.kind.title} model, which trains here"
    return ""


def largest(card_gib: float, state: float, activations: Activations) -> int:
    """The most recordings of a micro-batch that fit a card, up to MOST; 0 if none does."""
    room = card_gib * GIB - state
    low, high = 0, 1
    while high <= MOST and activations(high) <= room:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if activations(middle) <= room else (low, middle)
    return low
