"""Native architectures that others serve without any code of ours: one small class each, and one line in the table.

A class says why a model does not match, or how its tensors and its configuration are called there; nothing is
approximated, so a model that hears a little otherwise is refused.
Not here: the folder with our own code (folder.py). What vLLM and SGLang make of a folder is not run here.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from audiollm.models.configuration import AudioLLMConfig
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.processing import AudioLLMProcessor
from audiollm.models.rendering import without_todays_date
from audiollm.models.settings import nearest

CONNECTOR = "model.connector."
HEAD = "lm_head.weight"


class Format(ABC):
    """What `audiollm export --format NAME` asks of an architecture."""

    name: ClassVar[str]
    serves: ClassVar[str]
    """Who reads the folder, in words."""

    @abstractmethod
    def why_not(self, config: AudioLLMConfig) -> str | None:
        """Why a model is not of this architecture; None if it is."""

    @abstractmethod
    def tensors(self, model: AudioLLMForConditionalGeneration) -> dict[str, Tensor]:
        """The model's tensors by their names there."""

    @abstractmethod
    def config(self, model: AudioLLMForConditionalGeneration) -> Any:
        """The configuration there."""

    @abstractmethod
    def write(self, model: AudioLLMForConditionalGeneration, processor: AudioLLMProcessor, folder: Path) -> None:
        """The files of a folder: configuration, weights, processor, tokenizer."""


class Native(Format):
    """An architecture of transformers: a tower, a projector of linear layers, a Qwen2. Its own class writes it."""

    encoder: ClassVar[str]
    projector: ClassVar[dict[str, str]]
    """Layers of our connector, and theirs."""
    model_class: ClassVar[Any]
    processor_class: ClassVar[Any]

    @abstractmethod
    def connector(self, width: int) -> dict[str, Any]:
        """What the connector's block must say, before a language model of this width."""

    def why_not(self, config: AudioLLMConfig) -> str | None:
        """Why a model is not of this architecture; None if it is."""
        return (
            unlike_encoder(config, self.encoder)
            or unlike_connector(config, self.connector(config.text_config.hidden_size))
            or unlike_llm(config, "qwen2")
            or no_room(config)
        )

    def tensors(self, model: AudioLLMForConditionalGeneration) -> dict[str, Tensor]:
        """The model's tensors by their names there; encoder and language model have the same ones. None is shared."""
        state = model.state_dict()
        return {self.name_of(name): tensor for name, tensor in state.items()} | {HEAD: state[HEAD].clone()}

    def name_of(self, name: str) -> str:
        """model.connector.output.weight -> model.multi_modal_projector.linear_2.weight."""
        if not name.startswith(CONNECTOR):
            return name
        layer, _, rest = name.removeprefix(CONNECTOR).partition(".")
        return f"model.multi_modal_projector.{self.projector[layer]}.{rest}"

    def config(self, model: AudioLLMForConditionalGeneration) -> Any:
        """The configuration there; the output layer is written out, since it is never tied."""
        made = self.model_class.config_class(
            audio_config=model.config.audio_config.to_dict(),
            text_config={**model.config.text_config.to_dict(), "tie_word_embeddings": False},
            tie_word_embeddings=False,
        )
        made.audio_token_id = model.config.placeholder_id
        return made

    def write(self, model: AudioLLMForConditionalGeneration, processor: AudioLLMProcessor, folder: Path) -> None:
        """By the library's own class, which refuses a tensor that is missing or has another shape."""
        with torch.device("meta"):
            native = self.model_class(self.config(model))
        native.load_state_dict(self.tensors(model), assign=True)
        native.generation_config = model.generation_config
        native.to(model.dtype).save_pretrained(folder)
        self.processor_class(
            whisper_features(model.config.audio_config),
            processor.tokenizer,
            chat_template=native_template(processor),
            audio_token=processor.audio_token,
        ).save_pretrained(folder)


class AudioFlamingo3(Native):
    """Its tower, and two layers with gelu between them. One clip a prompt; longer ones are read in windows of 30 s."""

    name = "audioflamingo3"
    serves = "transformers (AudioFlamingo3ForConditionalGeneration), one clip a prompt; vLLM and SGLang, not run here"
    encoder = "audioflamingo3_encoder"
    projector: ClassVar[dict[str, str]] = {"input": "linear_1", "output": "linear_2"}
    model_class = AudioFlamingo3ForConditionalGeneration
    processor_class = AudioFlamingo3Processor

    def connector(self, width: int) -> dict[str, Any]:
        """The mlp connector on every frame, as wide as the language model."""
        return {"name": "mlp", "stack": 1, "hidden_size": width, "activation": "gelu", "norm": "none"}


class Qwen2Audio(Native):
    """Its tower, and one layer. Its processor hears the first 30 s of a clip, and nothing of what follows."""

    name = "qwen2_audio"
    serves = (
        "transformers (Qwen2AudioForConditionalGeneration), the first 30 s of a clip; vLLM and SGLang, not run here"
    )
    encoder = "qwen2_audio_encoder"
    projector: ClassVar[dict[str, str]] = {"output": "linear"}
    model_class = Qwen2AudioForConditionalGeneration
    processor_class = Qwen2AudioProcessor

    def connector(self, width: int) -> dict[str, Any]:
        """The pooling connector without a pool: the tower has averaged pairs already, and has the norm."""
        return {"name": "pool_linear", "pool": 1, "norm": "none", "divide_by": 1.0}


class Ultravox(Format):
    """A Whisper at the clip's real length, eight frames stacked, and two layers with a gate: Ultravox's projector.

    vLLM reads such a folder by itself (ultravox.py there): checked by the names and shapes of its tensors, and not by
    running it. Sound of more than 30 s takes a token more there for each window.
    """

    name = "ultravox"
    serves = (
        "vLLM (UltravoxModel), not run here; it also needs ultravox_processing.py and ultravox_config.py out of one of "
        "Ultravox's own repositories beside these files, and trust_remote_code"
    )

    def why_not(self, config: AudioLLMConfig) -> str | None:
        """Why a model is not of this architecture; None if it is."""
        return unlike_encoder(config, "whisper") or unlike_connector(config, {"name": "swiglu", "remainder": "pad"})

    def tensors(self, model: AudioLLMForConditionalGeneration) -> dict[str, Tensor]:
        """The model's tensors by their names there."""
        names = {
            "model.audio_tower.": "audio_tower.",
            "model.language_model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
            f"{CONNECTOR}input_norm.": "multi_modal_projector.ln_pre.",
            f"{CONNECTOR}input.": "multi_modal_projector.linear_1.",
        }
        last = {"mid": ("ln_mid", "linear_2"), "out": ("linear_2", "ln_post")}[model.config.connector_config["norm"]]
        for ours, theirs in zip(("middle", "output"), last, strict=True):
            names[f"{CONNECTOR}{ours}."] = f"multi_modal_projector.{theirs}."
        return {
            theirs + name.removeprefix(ours): tensor
            for name, tensor in model.state_dict().items()
            for ours, theirs in names.items()
            if name.startswith(ours)
        }

    def config(self, model: AudioLLMForConditionalGeneration) -> dict[str, Any]:
        """The configuration there, as it lies in config.json."""
        block, text = model.config.connector_config, model.config.text_config.to_dict()
        return {
            "model_type": "ultravox",
            "architectures": ["UltravoxModel"],
            "audio_config": model.config.audio_config.to_dict(),
            "text_config": text,
            "audio_model_id": None,
            "text_model_id": None,
            "audio_token_index": model.config.audio_token_id,
            "ignore_index": -100,
            "stack_factor": block["stack"],
            "hidden_size": block["hidden_size"],
            "projector_act": "swiglu",
            "projector_ln_mid": block["norm"] == "mid",
            "num_projector_layers": 0,
            "vocab_size": text["vocab_size"],
            "dtype": str(model.dtype).removeprefix("torch."),
        }

    def write(self, model: AudioLLMForConditionalGeneration, processor: AudioLLMProcessor, folder: Path) -> None:
        """No class of transformers reads this, so the files are written one by one."""
        save_torch_state_dict(self.tensors(model), str(folder))
        (folder / "config.json").write_text(json.dumps(self.config(model), indent=2) + "\n", encoding="utf-8")
        model.generation_config.save_pretrained(folder)
        whisper_features(model.config.audio_config).save_pretrained(folder)
        processor.tokenizer.chat_template = native_template(processor)
        processor.tokenizer.save_pretrained(folder)
        about = {"auto_map": {"AutoProcessor": "ultravox_processing.UltravoxProcessor"}}
        (folder / "processor_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


FORMATS: dict[str, Format] = {format.name: format for format in (AudioFlamingo3(), Qwen2Audio(), Ultravox())}
"""Architectures that a model can be written as."""

UNLIKE: dict[str, str] = {
    "voxtral": "its projector has no biases, it hears 30 s whatever a clip's length, and its processor takes "
    "Mistral's own tokenizers alone; no parts here are like that",
}
"""Architectures that nothing made of the parts here is equal to, and why."""


def find_format(name: str) -> Format:
    """An architecture by its name; ValueError names the known ones, or says why nothing here can match."""
    if name in UNLIKE:
        raise ValueError(f"--format {name}: {UNLIKE[name]}; without --format the code travels along")
    if name not in FORMATS:
        raise ValueError(f"--format: {name!r} is not a native architecture; {nearest(name, [*FORMATS, *UNLIKE])}")
    return FORMATS[name]


def unlike_encoder(config: AudioLLMConfig, wanted: str) -> str | None:
    """An encoder of another family, or one that is listened to otherwise."""
    encoder = config.audio_config.to_dict()
    if encoder["model_type"] != wanted:
        return f"its encoder is {encoder['model_type']}, and {wanted} is needed, which hears a clip otherwise"
    if own := sorted(set(encoder) - set(type(config.audio_config)().to_dict())):
        return f"its encoder is listened to by settings of our own ({', '.join(own)})"
    return None


def unlike_connector(config: AudioLLMConfig, wanted: Mapping[str, Any]) -> str | None:
    """What the connector's block says otherwise than it should."""
    block = {**config.connector_config}
    if "hidden_size" in block and block["hidden_size"] is None:
        block["hidden_size"] = config.text_config.hidden_size
    for key, value in {**wanted, "mix_layers": False}.items():
        if block.get(key) != value:
            return f"its connector has {key}={block.get(key)}, and {key}={value} is needed"
    return None


def unlike_llm(config: AudioLLMConfig, *known: str) -> str | None:
    """A language model of another family."""
    found = config.text_config.model_type
    return None if found in known else f"its language model is {found}, and {' or '.join(known)} is needed"


def no_room(config: AudioLLMConfig) -> str | None:
    """A placeholder that the embedding table has no row for: those who serve look it up there."""
    rows = config.text_config.vocab_size
    if config.placeholder_id < rows:
        return None
    return f"its placeholder has the id {config.placeholder_id}, and the language model embeds {rows:,} tokens"


def whisper_features(audio_config: Any) -> WhisperFeatureExtractor:
    """The log-mel front end of a tower of Whisper's kind, which makes two mel frames into one."""
    window_s = audio_config.max_source_positions * 2 * 160 // 16_000
    return WhisperFeatureExtractor(feature_size=audio_config.num_mel_bins, chunk_length=window_s)


def native_template(processor: AudioLLMProcessor) -> str:
    """The chat template for a processor that hands it lists of parts, with our system prompt and settings in it.

    Parts are joined as they were in training: one line each, the placeholder where a clip is.
    """
    lines = ["{%- set said = namespace(messages=[]) -%}"]
    if processor.system_prompt is not None:
        opening = f"{{'role': 'system', 'content': {json.dumps(processor.system_prompt)}}}"
        lines.append(
            f"{{%- if messages[0].role != 'system' -%}}{{%- set said.messages = [{opening}] -%}}{{%- endif -%}}"
        )
    lines += [
        "{%- for message in messages -%}{%- if message.content is string -%}",
        "{%- set said.messages = said.messages + [message] -%}{%- else -%}",
        "{%- set parts = namespace(text='', before='') -%}{%- for part in message.content -%}",
        f"{{%- set piece = {json.dumps(processor.audio_token)} if part.type == 'audio' else part.text -%}}",
        "{%- set parts.text = parts.text + parts.before + piece -%}{%- set parts.before = '\\n' -%}{%- endfor -%}",
        "{%- set said.messages = said.messages + [dict(message, content=parts.text)] -%}",
        "{%- endif -%}{%- endfor -%}{%- set messages = said.messages -%}",
    ]
    for name, value in processor.chat_template_kwargs.items():
        written = "none" if value is None else json.dumps(value)
        lines.append(f"{{%- if {name} is not defined -%}}{{%- set {name} = {written} -%}}{{%- endif -%}}")
    return "".join(lines) + without_todays_date(str(processor.chat_template))
