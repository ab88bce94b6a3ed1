"""What a checkpoint holds, and how it is written and read.

 config.json               sizes, bases, placeholder id            processor and tokenizer files, generation_config.json
 model.safetensors         tensors of each part that is not an untouched public base
 adapter/                  LoRA in PEFT's own layout, which plain `peft` loads on the base language model
 encoder_adapter/          the same of the encoder
 objectives.safetensors    heads of the objectives that trained it, such as CTC's
 recipe.yaml               the resolved recipe of the run
 checkpoint.json           which parts are stored here, and which were trained by which stage

An untouched base is a name, a revision and a fingerprint, checked when it is loaded.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig

from audiollm.models.configuration import PARTS, AudioLLMConfig
from audiollm.models.encoders import SideBySide, encoder_of
from audiollm.models.encoders.registry import CLASS
from audiollm.models.freezing import (
    AUDIO_TOWER,
    CONFIGS,
    attach_lora,
    detach_lora,
    has_lora,
    part_of,
    set_lora_scale,
)  # fmt: skip
from audiollm.models.listening import LISTENING
from audiollm.models.locate import damaged_file
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.parts import assemble, base_of, check_fingerprint, head_of, load_causal
from audiollm.models.quantize import check_scheme, quantize_linears

MANIFEST = "checkpoint.json"
WEIGHTS = "model.safetensors"
ADAPTER = "adapter"
ADAPTERS = {"lora": ADAPTER, "encoder_lora": "encoder_adapter"}
"""The folder of each LoRA."""
HEADS = "objectives.safetensors"
RESUME_FILES = ("*.pt", "*.pth", "trainer_state.json", "global_step*", "latest", "zero_to_fp32.py")


def is_small_checkpoint(path: Any) -> bool:
    """Whether a folder was written by `save_checkpoint`."""
    return isinstance(path, str | os.PathLike) and (Path(path) / MANIFEST).is_file()


def stored_parts(model: AudioLLMForConditionalGeneration, trained: set[str]) -> list[str]:
    """The parts whose tensors must lie in the checkpoint: made from scratch, or trained by any stage."""
    bases = model.config.bases or {}
    if model.config.quantize and ("llm" in trained or "llm" not in bases):
        raise ValueError(
            f"the language model is no named base and is held in {model.config.quantize}, which would be saved for "
            "its weights; load the checkpoint with quantize='none' to save it"
        )
    there = {part_of(name) for name, _ in model.named_parameters()} - ADAPTERS.keys()
    return [part for part in PARTS if part in there and (part in trained or part not in bases)]


def stored_tensors(
    model: AudioLLMForConditionalGeneration, parts: list[str], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors of these parts by their names without LoRA; a tied output layer is left out."""
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {}) if model.config.tie_word_embeddings else set()
    return {
        name.replace(".base_layer.", "."): tensor.detach().to("cpu").contiguous()
        for name, tensor in state.items()
        if part_of(name) in parts and name not in tied
    }


def adapter_tensors(
    model: AudioLLMForConditionalGeneration, state: Mapping[str, Tensor], part: str = "lora"
) -> dict[str, Tensor]:
    """LoRA tensors by the names that plain PEFT gives them on the model that the adapter is for."""
    return {
        peft_name(model, name, part): tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if part_of(name) == part
    }


def peft_name(model: AudioLLMForConditionalGeneration, name: str, part: str = "lora") -> str:
    """A parameter of the language model, or of the encoder, as plain PEFT names it."""
    own = model.llm_prefix if part == "lora" else AUDIO_TOWER
    return peft_prefix(model, part) + name.removeprefix(own).replace(".default.", ".")


def peft_prefix(model: AudioLLMForConditionalGeneration, part: str) -> str:
    """What plain PEFT puts before the names of a model's parameters."""
    return model.peft_prefix if part == "lora" else "base_model.model."


def save_checkpoint(
    model: AudioLLMForConditionalGeneration,
    processor: Any,
    folder: str | Path,
    *,
    trained: set[str] | None = None,
    heads: Mapping[str, Tensor] | None = None,
    recipe: str = "",
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a small, complete checkpoint: to a temporary name, then renamed over what was there.

    `trained`: parts that this or an earlier stage changed, beside those that the model was loaded with.
    `heads`: tensors of the objectives that trained it. `recipe`: the resolved recipe. `state`: the model's tensors
    by name, where its own are sharded.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_checkpoint(model, processor, partial, trained=trained, heads=heads, state=state)
    if recipe:
        (partial / "recipe.yaml").write_text(recipe)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def copy_checkpoint(source: Path, folder: Path, *, recipe: str) -> None:
    """The checkpoint in a resume point as one of its own, without what only training goes on with."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*RESUME_FILES))
    (partial / "recipe.yaml").write_text(recipe)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def write_checkpoint(
    model: AudioLLMForConditionalGeneration,
    processor: Any,
    folder: Path,
    *,
    trained: set[str] | None = None,
    heads: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the files of a checkpoint into a folder that exists."""
    trained = set(model.trained_parts) | (trained or set())
    parts = stored_parts(model, trained)
    state = model.state_dict() if state is None else state
    save_file(stored_tensors(model, parts, state), folder / WEIGHTS, metadata={"format": "pt"})
    if heads:
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in heads.items()}
        save_file(on_cpu, folder / HEADS, metadata={"format": "pt"})
    for part in ADAPTERS:
        if has_lora(model, part):
            write_adapter(model, part, folder / ADAPTERS[part], state)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():  # two towers cannot
        model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    manifest = {"format": 1, "stored_parts": parts, "trained_parts": sorted(trained)}
    if has_lora(model):
        manifest["lora"] = {"alpha": model.lora_config.lora_alpha, "scale": model.lora_scale}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def write_adapter(
    model: AudioLLMForConditionalGeneration, part: str, folder: Path, state: Mapping[str, Tensor]
) -> None:
    """LoRA in PEFT's own layout."""
    folder.mkdir(exist_ok=True)
    save_file(adapter_tensors(model, state, part), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config, known = getattr(model, CONFIGS[part]), dict[str, Any](inference_mode=True)
    if part == "lora":
        scaled = config.lora_alpha * model.lora_scale  # so that plain PEFT adds as much
        known |= {"task_type": "CAUSAL_LM", "lora_alpha": scaled, "target_modules": model.lora_targets()}
    adapter = LoraConfig(**config.to_dict() | known)
    base = "llm" if part == "lora" else "encoder"
    adapter.base_model_name_or_path = (model.config.bases or {}).get(base, {}).get("checkpoint")
    adapter.save_pretrained(str(folder))


def load_small_checkpoint(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    config: AudioLLMConfig | None = None,
    quantize: str | None = None,
    in_bfloat16: Collection[str] = (),
    **_: Any,
) -> AudioLLMForConditionalGeneration:
    """The model of a folder that `save_checkpoint` wrote; needs nothing but the path and its public bases.

    `quantize`: how the language model is held, "nf4", "int8" or "none"; None takes what it was trained with.
    `in_bfloat16`: untouched bases ("encoder", "llm") that are held in bfloat16, whatever `dtype` says.
    Of a `config` only the attention counts, which the Auto classes write there. Other arguments of the library's
    `from_pretrained` say how to read a folder of its own kind, and mean nothing here.
    ValueError if a base on this machine is not the one that was trained with, or a tensor is missing.
    """
    folder = Path(path)
    manifest = json.loads((folder / MANIFEST).read_text())
    attention = attn_implementation or getattr(config, "_attn_implementation", None)
    config = AudioLLMConfig.from_pretrained(folder)
    config.quantize = check_scheme(config.quantize if quantize is None else quantize)
    wanted = as_dtype(dtype) or stored_dtype(folder)
    stored = manifest["stored_parts"]
    half = {part for part in in_bfloat16 if part not in stored}
    audio_tower = load_encoder(config, "encoder" in stored, torch.bfloat16 if "encoder" in half else wanted)
    causal = load_llm(config, "llm" in stored, torch.bfloat16 if "llm" in half else wanted)
    model = assemble(config, audio_tower=audio_tower, language_model=causal.base_model, lm_head=head_of(causal))
    model.model.connector.to(wanted)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    load_stored(model, folder, stored)
    if config.quantize and "llm" in stored:
        quantize_linears(model.model.language_model, config.quantize)
    load_adapters(model, folder)
    model.trained_parts = set(manifest["trained_parts"])
    if attention is not None:
        model.set_attn_implementation(attention)
    if device_map is not None:
        nn.Module.to(model, one_device(device_map))
    return model


def damaged_checkpoint(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where they are all there and whole."""
    for name in ("config.json", MANIFEST, WEIGHTS):
        if not (folder / name).is_file():
            return f"{name} is missing"
    return damaged_file(folder)


def one_device(device_map: Any) -> torch.device:
    """The device that a `device_map` means; ValueError for one that splits the model over several."""
    if isinstance(device_map, Mapping):
        places = set(device_map.values())
        if len(places) != 1:
            raise ValueError(f"device_map={dict(device_map)} splits the model; a checkpoint loads onto one device")
        device_map = places.pop()
    if device_map == "auto":
        device_map = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return torch.device(device_map)


def load_tensors(model: AudioLLMForConditionalGeneration, folder: Path, stored: list[str]) -> None:
    """Load the checkpoint's tensors and LoRA into a model; ValueError names what is missing or too much."""
    load_stored(model, folder, stored)
    load_adapters(model, folder)


def load_stored(model: AudioLLMForConditionalGeneration, folder: Path, stored: list[str]) -> None:
    """Load the tensors of the stored parts into a model; ValueError names what is missing or too much."""
    tensors = load_file(folder / WEIGHTS)
    expected = stored_tensors_names(model, stored)
    if expected != set(tensors):
        differing = sorted(expected ^ set(tensors))[:3]
        raise ValueError(f"{folder / WEIGHTS} does not fit its config.json: {', '.join(differing)} ...; it is damaged")
    names = {name.replace(".base_layer.", "."): name for name in model.state_dict()}
    model.load_state_dict({names[name]: tensor for name, tensor in tensors.items()}, strict=False)
    model.tie_weights()


def load_adapters(model: AudioLLMForConditionalGeneration, folder: Path) -> None:
    """Attach the LoRA that a checkpoint has, or refill what is attached."""
    for part, name in ADAPTERS.items():
        if (folder / name).is_dir():
            load_adapter(model, folder / name, part)


def load_adapter(model: AudioLLMForConditionalGeneration, folder: Path, part: str = "lora") -> None:
    """Attach LoRA as it was saved, or refill the LoRA that is attached."""
    if not has_lora(model, part):
        attach_saved_lora(model, folder, part)
    ours = {peft_name(model, name, part): name for name in model.state_dict() if part_of(name) == part}
    tensors = load_file(folder / "adapter_model.safetensors")
    model.load_state_dict({ours[name]: tensor for name, tensor in tensors.items()}, strict=False)


def attach_saved_adapters(model: AudioLLMForConditionalGeneration, folder: Path) -> None:
    """The LoRA layers that a checkpoint has, not yet filled."""
    for part, name in ADAPTERS.items():
        if (folder / name).is_dir():
            attach_saved_lora(model, folder / name, part)


def attach_saved_lora(model: AudioLLMForConditionalGeneration, folder: Path, part: str = "lora") -> None:
    """LoRA layers as they were saved, not yet filled."""
    config: Any = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    if not isinstance(config.target_modules, str):
        below = peft_prefix(model, part).removeprefix("base_model.model.")
        config.target_modules = {name.removeprefix(below) for name in config.target_modules}
    manifest = json.loads((folder.parent / MANIFEST).read_text())
    saved = manifest.get("lora") if part == "lora" else None
    if saved:
        config.lora_alpha = saved["alpha"]
    attach_lora(model, config, part)
    if saved:
        set_lora_scale(model, saved["scale"])


def use_adapter(model: AudioLLMForConditionalGeneration, folder: str | Path, other: str | Path) -> None:
    """Give the model of one checkpoint the LoRA of another, in place of its own if it has one; nothing else is loaded.

    ValueError, with the reason, unless the two are the same but for their LoRA: it was trained on what is there.
    """
    folder, other = Path(folder), Path(other)
    if not is_small_checkpoint(other) or not (other / ADAPTER).is_dir():
        raise ValueError(f"{other} has no adapter: it is no checkpoint of a stage that trained `lora`")
    if difference := differ(folder, other):
        raise ValueError(f"the adapter of {other} does not fit {folder}: {difference}")
    detach_lora(model)
    load_adapter(model, other / ADAPTER)


def differ(one: Path, other: Path) -> str:
    """What two checkpoints do not share beside their LoRA; empty where there is nothing."""
    if not is_small_checkpoint(one):
        return "that is a whole exported model, whose base cannot be compared; take the checkpoint that it came from"
    ours, theirs = (AudioLLMConfig.from_pretrained(folder) for folder in (one, other))
    for part in ("encoder", "llm"):
        each = [(config.bases or {}).get(part) or {} for config in (ours, theirs)]
        bases = [base.get("several", [base]) for base in each]
        prints = [[one.get("fingerprint") for one in several] for several in bases]
        if prints[0] != prints[1]:
            names = [" + ".join(one.get("checkpoint", "weights of its own") for one in several) for several in bases]
            return f"their bases differ, {part} is {names[0]} and {names[1]}"
    if ours.connector_config != theirs.connector_config:
        return f"their connectors differ, {ours.connector_config} and {theirs.connector_config}"
    with safe_open(one / WEIGHTS, framework="pt") as a, safe_open(other / WEIGHTS, framework="pt") as b:
        here, there = set(a.keys()), set(b.keys())
        changed = (name for name in sorted(here & there) if not torch.equal(a.get_tensor(name), b.get_tensor(name)))
        first = min(here ^ there, default="") or next(changed, "")
    return f"their weights differ in the {part_of(first)} ({first}), which trained in one of them" if first else ""


def stored_tensors_names(model: AudioLLMForConditionalGeneration, parts: list[str]) -> set[str]:
    """The names that `stored_tensors` gives."""
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {}) if model.config.tie_word_embeddings else set()
    names = (name for name in model.state_dict() if part_of(name) in parts and name not in tied)
    return {name.replace(".base_layer.", ".") for name in names}


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The type itself or by its name; None for "auto", which is the type that was saved."""
    if isinstance(dtype, str):
        return None if dtype == "auto" else getattr(torch, dtype)
    return dtype


def stored_dtype(folder: Path) -> torch.dtype:
    """The floating-point type in which most of a checkpoint was saved: that of its first tensor."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return file.get_tensor(next(iter(file.keys()))).dtype


def load_encoder(config: AudioLLMConfig, is_stored: bool, dtype: torch.dtype) -> Any:
    """An empty encoder for stored tensors, or the named base, checked."""
    audio_config = config.audio_config
    cls = encoder_of(audio_config.to_dict())
    if is_stored:
        return cls(audio_config).to(dtype)
    base = (config.bases or {})["encoder"]
    if "several" not in base:
        return load_base_encoder(audio_config.to_dict(), base, dtype)
    each = zip(audio_config.encoders, base["several"], strict=True)
    return SideBySide(audio_config, [load_base_encoder(one, named, dtype) for one, named in each])


def load_base_encoder(audio_config: Mapping[str, Any], base: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A named base, checked, listened to as the config says."""
    tower = encoder_of(audio_config).load(base["checkpoint"], base["revision"])
    check_fingerprint(base, base_of(base, tower))
    for key in (LISTENING, CLASS):
        if key in audio_config:
            setattr(tower.config, key, audio_config[key])
    return tower.to(dtype)


def load_llm(config: AudioLLMConfig, is_stored: bool, dtype: torch.dtype) -> Any:
    """An empty language model for stored tensors, or the named base, checked and quantised as the config says."""
    if is_stored:
        return AutoModelForCausalLM.from_config(config.text_config, dtype=dtype)
    base = (config.bases or {})["llm"]
    causal, found = load_causal(base["checkpoint"], base["revision"], dtype, config.quantize)
    check_fingerprint(base, found)
    return causal
