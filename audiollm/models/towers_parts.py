"""Make two towers from parts by name, or load them from a small checkpoint.

Not here: the model (two_towers.py), how a checkpoint is written (checkpoint.py, as for an audio language model).
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from audiollm.models.checkpoint import MANIFEST, as_dtype, load_encoder, load_stored, one_device, stored_dtype
from audiollm.models.configuration import AudioTextConfig
from audiollm.models.parts import Built, EncoderSpec, base_of, build_encoder, check_fingerprint, load_tokenizer
from audiollm.models.towers_processing import AudioTextProcessor
from audiollm.models.two_towers import AudioTextModel, projection_of, without_pooler


def build_towers(
    *,
    encoder: EncoderSpec,
    text: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    width: int = 512,
    temperature: float = 0.07,
    in_bfloat16: Collection[str] = (),
) -> Built:
    """Put two towers together; what has no checkpoint is made at random from its config.

    `encoder`: as `parts.build` takes it. `text`: {"checkpoint", "revision"} or {"config"} with a `tokenizer`, and
    "pooling". `in_bfloat16`: of "encoder" and "text", those that are held so if they come from a checkpoint.
    """
    types = {part: torch.bfloat16 if part in in_bfloat16 else torch.float32 for part in ("encoder", "text")}
    audio_tower, encoder_base = build_encoder(encoder, types["encoder"])
    tokenizer = tokenizer or load_tokenizer(text)
    text_tower, text_base = build_text(text, tokenizer, types["text"])
    config = AudioTextConfig(
        audio_config=audio_tower.config,
        text_config=text_tower.config,
        pooling=pooling_of(text, text_tower.config),
        projection_width=width,
        temperature=temperature,
        bases={name: base for name, base in (("encoder", encoder_base), ("text", text_base)) if base},
    )
    model: Any = assemble_towers(config, audio_tower, text_tower)
    processor: Any = AudioTextProcessor.from_parts(tokenizer, config)
    return Built(model, processor)


def build_text(
    spec: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> tuple[Any, dict[str, Any] | None]:
    """The text tower and, for a checkpoint, what identifies it."""
    config = text_config_of(spec, tokenizer)
    if spec.get("checkpoint") is None:
        return AutoModel.from_config(config, **without_pooler(config)).to(dtype), None
    return load_text(spec, config, dtype)


def text_config_of(spec: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> Any:
    """The config of a text tower, without its weights; ValueError for what is no model of text alone."""
    checkpoint = spec.get("checkpoint")
    if checkpoint is not None:
        config = AutoConfig.from_pretrained(checkpoint, revision=spec.get("revision"))
    else:
        assert tokenizer is not None
        sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        config = AutoConfig.for_model(**{**sizes, **spec["config"]})
    cause = "encodes and decodes" if config.is_encoder_decoder else ""
    cause = cause or ("does not read text alone" if config.get_text_config() is not config else "")
    if cause:
        raise ValueError(
            f"model.text: {checkpoint or 'the config'} is a {config.model_type}, which {cause}; give a model "
            "such as bert, roberta, mpnet or qwen3"
        )
    return config


def load_text(spec: Mapping[str, Any], config: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """A pretrained text tower, and what identifies it."""
    name, revision = spec["checkpoint"], spec.get("revision")
    tower: Any = AutoModel.from_pretrained(name, revision=revision, dtype="auto", **without_pooler(config))
    return tower.to(dtype), base_of(spec, tower)


def pooling_of(spec: Mapping[str, Any], text_config: Any) -> str:
    """What stands for a text: as the recipe says, or as the model reads."""
    causal = text_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return spec.get("pooling") or ("last" if causal else "mean")


def assemble_towers(config: AudioTextConfig, audio_tower: Any, text_tower: Any) -> AudioTextModel:
    """A model around towers that are there already, with a new projection; nothing is initialised twice."""
    with torch.device("meta"):
        model = AudioTextModel(config)
    model.audio_tower, model.text_tower, model.projection = audio_tower, text_tower, projection_of(config)
    model.tie_weights()
    return model.eval()


def load_towers(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    in_bfloat16: Collection[str] = (),
    **_: Any,
) -> AudioTextModel:
    """Two towers from the folder that `save_checkpoint` wrote; needs nothing but the path and its public bases.

    `in_bfloat16`: untouched bases ("encoder", "text") that are held in bfloat16, whatever `dtype` says. Other arguments
    of the library's `from_pretrained` say how to read a folder of its own kind, and mean nothing here.
    ValueError if a base on this machine is not the one that was trained with, or a tensor is missing.
    """
    folder = Path(path)
    manifest = json.loads((folder / MANIFEST).read_text())
    config = AudioTextConfig.from_pretrained(folder)
    wanted, stored = as_dtype(dtype) or stored_dtype(folder), manifest["stored_parts"]
    types = {p: torch.bfloat16 if p in in_bfloat16 and p not in stored else wanted for p in ("encoder", "text")}
    audio_config: Any = config
    audio_tower = load_encoder(audio_config, "encoder" in stored, types["encoder"])
    model: Any = assemble_towers(config, audio_tower, text_tower_of(config, "text" in stored, types["text"]))
    load_stored(model, folder, stored)
    model.trained_parts = set(manifest["trained_parts"])
    if device_map is not None:
        nn.Module.to(model, one_device(device_map))
    return model


def text_tower_of(config: AudioTextConfig, is_stored: bool, dtype: torch.dtype) -> Any:
    """An empty text tower for stored tensors, or the named base, checked."""
    if is_stored:
        return AutoModel.from_config(config.text_config, **without_pooler(config.text_config)).to(dtype)
    base = (config.bases or {})["text"]
    tower, found = load_text(base, config.text_config, dtype)
    check_fingerprint(base, found)
    return tower
