"""A native model from its public checkpoint, or from one of ours that stands on it.

A public checkpoint stays where it is: ours hold what was trained, and its name, revision and fingerprint.
Not here: what a checkpoint of ours holds (models/checkpoint.py).
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig

from audiollm.models.checkpoint import MANIFEST, as_dtype, is_small_checkpoint, load_adapters, load_stored
from audiollm.models.freezing import part_of
from audiollm.models.native.modeling import NativeAudioLLM, NativeConfig
from audiollm.models.native.processing import NativeProcessor
from audiollm.models.native.table import NATIVES
from audiollm.models.parts import Built, base_of, check_fingerprint
from audiollm.models.quantize import check_scheme, quantize_linears


def is_native(folder: str | Path) -> bool:
    """Whether a folder holds a model of transformers that the table knows, or a checkpoint of one."""
    return model_type_of(folder) in (*NATIVES, NativeConfig.model_type)


def model_type_of(folder: str | Path) -> str | None:
    """What a folder's config.json says that it is."""
    file = Path(folder) / "config.json"
    return json.loads(file.read_text()).get("model_type") if file.is_file() else None


def load_native(
    folder: str | Path,
    *,
    base: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
    quantize: str | None = None,
    in_bfloat16: Collection[str] = (),
) -> Built:
    """The model and its processor, of a public checkpoint's folder or of a checkpoint of ours.

    `base`: name and revision by which a public one is to be known later; None takes the folder. `quantize`: "nf4",
    "int8" or "none" for its language model; None takes what it was trained with. `in_bfloat16`: parts that are held
    so if they were never trained. ValueError if a base here is not the one that was trained with.
    """
    folder = Path(folder)
    is_ours = is_small_checkpoint(folder)
    config: Any = NativeConfig.from_pretrained(folder) if is_ours else None
    known = config.bases["llm"] if is_ours else dict(base or {"checkpoint": str(folder), "revision": None})
    scheme = check_scheme(quantize if quantize is not None else config.quantize if is_ours else None)
    native = load_base(known, folder if not is_ours else None)
    found = base_of(known, native)
    if is_ours:
        check_fingerprint(known, found)
    config = NativeConfig(
        native_config=native.config, bases=dict.fromkeys(("encoder", "connector", "llm"), found), quantize=scheme
    )
    processor = NativeProcessor.from_pretrained(folder, native.config.model_type)
    model = wrapped(config, native, processor)
    manifest = json.loads((folder / MANIFEST).read_text()) if is_ours else {"stored_parts": [], "trained_parts": []}
    fill(model, folder, manifest, as_dtype(dtype) or torch.float32, in_bfloat16)
    return Built(model, processor)


def load_base(known: Mapping[str, Any], folder: Path | None) -> Any:
    """The model of transformers, with all of its weights in their own type."""
    where = folder or known["checkpoint"]
    revision = None if folder else known["revision"]
    model_type = AutoConfig.from_pretrained(where, revision=revision).model_type
    if model_type not in NATIVES:
        raise ValueError(f"{where} is a model of type {model_type!r}, which is not among {', '.join(NATIVES)}")
    return getattr(transformers, NATIVES[model_type].model_class).from_pretrained(
        where, revision=revision, dtype="auto"
    )


def wrapped(config: NativeConfig, native: Any, processor: NativeProcessor) -> NativeAudioLLM:
    """The module around a model, which knows a short silence by its processor."""
    silent = np.zeros(processor.sampling_rate // 10, np.float32)
    [features] = processor.features([silent])["features"]
    ids = [processor.audio_token_id] * processor.num_audio_tokens(len(silent))
    model = NativeAudioLLM(config, native, features, ids)
    if getattr(native, "_hf_peft_config_loaded", False):  # Granite Speech brings its own
        model.lora_config = next(iter(native.peft_config.values()))
    ends = native.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    native.generation_config.eos_token_id = sorted(
        {*(end for end in ends if end is not None), *processor.stop_token_ids}
    )
    if native.generation_config.pad_token_id is None:
        native.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model


def fill(
    model: Any, folder: Path, manifest: Mapping[str, Any], dtype: torch.dtype, in_bfloat16: Collection[str]
) -> None:
    """Put what was trained over the base, in the types that are asked for."""
    stored, scheme = manifest["stored_parts"], model.config.quantize
    half = {part for part in in_bfloat16 if part not in stored}
    half |= {"rest"} if half else set()  # which is never run
    if scheme is not None and "llm" not in stored:
        quantize_linears(model.model.language_model, scheme)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16 if part_of(name) in half else dtype)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.float32 if buffer.dtype == torch.float32 else dtype)
    if stored:
        load_stored(model, folder, stored)
    if scheme is not None and "llm" in stored:
        quantize_linears(model.model.language_model, scheme)
    load_adapters(model, folder)
    model.trained_parts = set(manifest["trained_parts"])


def native_config_of(folder: str | Path) -> Any:
    """The config of the model of transformers, in its own folder or name, or in a checkpoint of ours."""
    is_ours = is_small_checkpoint(folder)
    own = NativeConfig.from_pretrained(folder).native_config if is_ours else AutoConfig.from_pretrained(folder)
    return getattr(own, "thinker_config", own)


def on_paper(folder: Path) -> tuple[NativeAudioLLM, NativeProcessor]:
    """The model without weights, and its processor; what a checkpoint holds itself is of no base."""
    is_ours = is_small_checkpoint(folder)
    own = native_config_of(folder)
    stored = json.loads((folder / MANIFEST).read_text())["stored_parts"] if is_ours else []
    with torch.device("meta"):
        native = getattr(transformers, NATIVES[own.model_type].model_class)(own)
    native.tie_weights()
    processor = NativeProcessor.from_pretrained(folder, own.model_type)
    bases: dict[str, Any] = {part: {} for part in ("encoder", "connector", "llm") if part not in stored}
    return wrapped(NativeConfig(native_config=own, bases=bases), native, processor), processor
