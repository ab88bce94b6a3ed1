"""Native architectures that others serve without any code of ours: one small class each, and one line in the table.

A class says why a model does not match, or how its tensors and its configuration are called there; nothing is
approximated, so a model that hears a little otherwise is refused.
Not here: the folder with our own code (folder.py). What vLLM and SGLang make of a folder is not run here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    WhisperFeatureExtractor,
)

from audiollm.models.configuration import AudioLLMConfig
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.processing import AudioLLMProcessor
from audiollm.models.rendering import without_todays_date
from audiollm.models.settings import nearest

CONNECTOR = "model.connector."


class Format:
    """What `audiollm export --format NAME` asks of an architecture."""

    name: ClassVar[str]
    serves: ClassVar[str]
    """Who reads the folder, in words."""

    def why_not(self, config: AudioLLMConfig) -> str | None:
        """Why a model is not of this architecture; None if it is."""
        raise NotImplementedError

    def tensors(self, model: AudioLLMForConditionalGeneration) -> dict[str, Tensor]:
        """The model's tensors by their names there."""
        raise NotImplementedError

    def config(self, model: AudioLLMForConditionalGeneration) -> Any:
        """The configuration there."""
        raise NotImplementedError

    def write(self, model: AudioLLMForConditionalGeneration, processor: AudioLLMProcessor, folder: Path) -> None:
        """The files of a folder: configuration, weights, processor, tokenizer."""
        raise NotImplementedError


class AudioFlamingo3(Format):
    """Its tower, which hears whole windows of 30 s and pools by two, and two layers with gelu before a Qwen2."""

    name = "audioflamingo3"
    serves = "transformers (AudioFlamingo3ForConditionalGeneration), vLLM, SGLang"
    projector: ClassVar[dict[str, str]] = {"input": "linear_1", "output": "linear_2"}

    def why_not(self, config: AudioLLMConfig) -> str | None:
        """Why a model is not of this architecture; None if it is."""
        encoder, text = config.audio_config.to_dict(), config.text_config
        if encoder["model_type"] != "audioflamingo3_encoder":
            return f"its encoder is {encoder['model_type']}, which hears clips otherwise than audioflamingo3_encoder"
        if own := sorted(set(encoder) - set(type(config.audio_config)().to_dict())):
            return f"its encoder is listened to by settings of our own ({', '.join(own)})"
        wanted = {"name": "mlp", "stack": 1, "hidden_size": text.hidden_size}
        if (difference := differing(config.connector_config, wanted)) is not None:
            return difference
        return unlike_llm(config, "qwen2") or no_room(config)

    def tensors(self, model: AudioLLMForConditionalGeneration) -> dict[str, Tensor]:
        """The model's tensors by their names there; encoder and language model have the same ones."""
        return {self.name_of(name): tensor for name, tensor in model.state_dict().items()}

    def name_of(self, name: str) -> str:
        """model.connector.input.weight -> model.multi_modal_projector.linear_1.weight."""
        if not name.startswith(CONNECTOR):
            return name
        layer, _, rest = name.removeprefix(CONNECTOR).partition(".")
        return f"model.multi_modal_projector.{self.projector[layer]}.{rest}"

    def config(self, model: AudioLLMForConditionalGeneration) -> Any:
        """The configuration there; the output layer is written out, since it is never tied."""
        text = {**model.config.text_config.to_dict(), "tie_word_embeddings": False}
        return AudioFlamingo3Config(
            audio_config=model.config.audio_config.to_dict(),
            text_config=text,
            audio_token_id=model.config.audio_token_id,
            tie_word_embeddings=False,
        )

    def write(self, model: AudioLLMForConditionalGeneration, processor: AudioLLMProcessor, folder: Path) -> None:
        """By the library's own class, which refuses a tensor that is missing or has another shape."""
        with torch.device("meta"):
            native: Any = AudioFlamingo3ForConditionalGeneration(self.config(model))
        native.load_state_dict(self.tensors(model), assign=True)
        native.generation_config = model.generation_config
        native.to(model.dtype).save_pretrained(folder)
        AudioFlamingo3Processor(
            whisper_features(model.config.audio_config),
            processor.tokenizer,
            chat_template=native_template(processor),
            audio_token=processor.audio_token,
        ).save_pretrained(folder)


FORMATS: dict[str, Format] = {format.name: format for format in (AudioFlamingo3(),)}
"""Architectures that a model can be written as."""

UNLIKE: dict[str, str] = {
    "voxtral": "its projector has no biases, it hears 30 s whatever a clip's length, and its processor takes "
    "Mistral's own tokenizers alone; no parts here are like that",
    "qwen2_audio": "its projector is one linear layer behind a tower that pads every clip to 30 s; "
    "no connector here is like that",
}
"""Architectures that nothing made of the parts here is equal to, and why."""


def find_format(name: str) -> Format:
    """An architecture by its name; ValueError names the known ones, or says why nothing here can match."""
    if name in UNLIKE:
        raise ValueError(f"--format {name}: {UNLIKE[name]}; without --format the code travels along")
    if name not in FORMATS:
        raise ValueError(f"--format: {name!r} is not a native architecture; {nearest(name, [*FORMATS, *UNLIKE])}")
    return FORMATS[name]


def differing(connector: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """What a connector's block says otherwise than it should; how it was initialised does not matter any more."""
    has = {key: value for key, value in connector.items() if key in wanted or (value and key != "init")}
    for key in [*wanted, *has]:
        if has.get(key) != wanted.get(key):
            return f"its connector has {key}={has.get(key)}, and {key}={wanted.get(key)} is needed"
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
