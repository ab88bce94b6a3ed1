"""Which parts of a model train: encoder, connector, llm, and LoRA on the language model or on the encoder.

`lora` is the language model's; `encoder_lora` is the encoder's, which has files and settings of its own.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from audiollm.models.configuration import PARTS
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.native.table import HOME, native_part
from audiollm.models.parts import check_fingerprint, head_of, load_causal

AUDIO_TOWER = "model.audio_tower."
PREFIXES = {
    AUDIO_TOWER: "encoder", "model.connector.": "connector",
    "audio_tower.": "encoder", "text_tower.": "text", "projection.": "projection",
}  # fmt: skip
"""Beginnings of parameters' names, and their part; the last three are of two towers."""
NAMES = {"lora": "language model", "encoder_lora": "encoder"}
"""What each LoRA is on, in words."""
CONFIGS = {"lora": "lora_config", "encoder_lora": "encoder_lora_config"}
"""The attribute of a model that holds the config of each LoRA."""
NEVER_TRAINED = (".embed_positions.weight", ".audio_bos_eos_token.weight")
"""A fixed sinusoid, in every Whisper; and what Qwen2.5-Omni has and does not use."""


def part_of(name: str) -> str:
    """The part that a parameter of the model belongs to, by its name."""
    if ".lora_" in name:
        return "encoder_lora" if name.startswith(AUDIO_TOWER) else "lora"
    if name.startswith(HOME):
        return native_part(name)
    return next((part for prefix, part in PREFIXES.items() if name.startswith(prefix)), "llm")


def is_fixed(name: str) -> bool:
    """Whether a parameter never trains, whatever its part does."""
    return part_of(name) == "encoder" and name.endswith(NEVER_TRAINED)


def named_parameters_of(model: nn.Module, part: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of one part."""
    return ((name, parameter) for name, parameter in model.named_parameters() if part_of(name) == part)


def select_trainable(model: AudioLLMForConditionalGeneration, parts: Collection[str]) -> dict[str, int]:
    """Let these parts train and freeze the rest; returns the number of trainable parameters by part.

    ValueError for an unknown part, or one that the model does not have (LoRA that was never added).
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"unknown part {part!r}; known: {', '.join(PARTS)}")
    if "llm" in parts and model.config.quantize:
        raise ValueError(f"train: llm is held in {model.config.quantize}, which cannot train; train `lora` on it")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in parts and not is_fixed(name))
    counts = {part: sum(p.numel() for _, p in named_parameters_of(model, part) if p.requires_grad) for part in parts}
    for part, count in counts.items():
        if count == 0:
            way_out = f"; add a `{part}:` block" if part.endswith("lora") else ""
            raise ValueError(f"train: {part} has no parameters here{way_out}")
    model.train(model.training)
    return counts


def add_lora(
    model: AudioLLMForConditionalGeneration,
    *,
    r: int,
    alpha: int | float,
    dropout: float = 0.0,
    target_modules: str | list[str] = "all-linear",
    part: str = "lora",
) -> LoraConfig:
    """Add LoRA to the language model, or to the encoder (`part="encoder_lora"`), alone.

    ValueError if it has one, or no module matches the targets.
    """
    if has_lora(model, part):
        raise ValueError(f"the {NAMES[part]} has LoRA already; merge it first")
    if model.llm_prefix.startswith(HOME):
        if part == "encoder_lora":
            raise ValueError("encoder_lora is for models that are put together here; train `encoder` of this one")
        if found := matching_layers(model, target_modules):
            target_modules = sorted(found)  # PEFT alone would rename some, and look for them in the experts of a layer
    scale: Any = alpha  # PEFT says int, and takes any number
    config = LoraConfig(r=r, lora_alpha=scale, lora_dropout=dropout, target_modules=target_modules, bias="none")
    attach_lora(model, config, part)
    return config


def attach_lora(model: AudioLLMForConditionalGeneration, config: LoraConfig, part: str = "lora") -> None:
    """Inject LoRA layers as the config says, in the connector's type; the base weights stay where they are."""
    adapted = adapted_module(model, part)
    try:
        inject_adapter_in_model(config, adapted)
    except ValueError as error:
        modules = adapted.named_modules()
        linear = sorted({name.rsplit(".", 1)[-1] for name, module in modules if isinstance(module, nn.Linear)})
        targets = config.target_modules
        wanted = sorted(targets) if isinstance(targets, set) else targets
        raise ValueError(
            f"{part}.target_modules={wanted!r} matches nothing in the {NAMES[part]}; "
            f"its linear layers are: {', '.join(linear)}"
        ) from error
    for _, parameter in named_parameters_of(model, part):
        parameter.data = parameter.data.to(model.trained_dtype)
    setattr(model, CONFIGS[part], config)
    model.train(model.training)  # what was added too


def require_lora(
    model: AudioLLMForConditionalGeneration,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: str | list[str] = "all-linear",
    part: str = "lora",
) -> None:
    """ValueError if the LoRA that is there is not the one that is asked for."""
    there = getattr(model, CONFIGS[part])
    asked = {"r": (r, there.r), "alpha": (alpha, there.lora_alpha), "dropout": (dropout, there.lora_dropout)}
    differing = [f"{key}={want} (the model's: {has})" for key, (want, has) in asked.items() if want != has]
    adapted, wanted = adapted_layers(model, part), matching_layers(model, target_modules, part)
    if adapted != wanted:
        found = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in adapted}))
        differing.append(f"target_modules={target_modules!r} (the model's: {found})")
    if differing:
        raise ValueError(
            f"{part}: the model has LoRA already, and not as asked: {'; '.join(differing)}; "
            f"leave the `{part}:` block out to train the LoRA that is there"
        )


def adapted_module(model: AudioLLMForConditionalGeneration, part: str = "lora") -> Any:
    """What the LoRA of a part is on."""
    return model.encoder if part == "encoder_lora" else model.model.language_model


def adapted_layers(model: AudioLLMForConditionalGeneration, part: str = "lora") -> set[str]:
    """The layers that have LoRA, by name."""
    return {name for name, module in adapted_module(model, part).named_modules() if isinstance(module, LoraLayer)}


def matching_layers(model: AudioLLMForConditionalGeneration, targets: str | list[str], part: str = "lora") -> set[str]:
    """The linear layers that `target_modules` means: all, a pattern, or names and endings of names."""
    names = (
        name.removesuffix(".base_layer")
        for name, module in adapted_module(model, part).named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    )
    if targets == "all-linear":
        return set(names)
    if isinstance(targets, str):
        return {name for name in names if re.fullmatch(targets, name)}
    return {name for name in names if any(name == target or name.endswith(f".{target}") for target in targets)}


def has_lora(model: AudioLLMForConditionalGeneration, part: str = "lora") -> bool:
    """Whether LoRA layers are attached to the language model, or to the encoder."""
    if getattr(model, CONFIGS[part]) is None:
        return False
    return any(isinstance(module, LoraLayer) for module in adapted_module(model, part).modules())


def set_lora_scale(model: AudioLLMForConditionalGeneration, scale: float) -> None:
    """Multiply what LoRA adds by `scale`, beside its alpha / r: 1 is LoRA's own, 0 the base without it.

    It goes where the model goes: what is merged, saved and exported follows it. ValueError without LoRA.
    """
    if scale < 0:
        raise ValueError(f"lora_scale={scale:g}; it must be 0 (the base alone) or more")
    if not has_lora(model):
        raise ValueError(f"lora_scale={scale:g}: this model has no LoRA that it could scale; leave it out")
    for module in adapted_module(model).modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", scale)
    model.lora_scale = scale


@contextmanager
def without_lora(model: AudioLLMForConditionalGeneration) -> Iterator[None]:
    """The base alone for a while; nothing changes where there is no LoRA."""
    if not has_lora(model):
        yield
        return
    scale = model.lora_scale
    set_lora_scale(model, 0.0)
    try:
        yield
    finally:
        set_lora_scale(model, scale)


def detach_lora(model: AudioLLMForConditionalGeneration, part: str = "lora") -> None:
    """Take the LoRA layers out; the base layers stay."""
    adapted = adapted_module(model, part)
    for name, module in list(adapted.named_modules()):
        if isinstance(module, LoraLayer):
            adapted.set_submodule(name, module.get_base_layer())
    vars(adapted).pop("peft_config", None)  # else peft takes the next one for a second adapter
    setattr(model, CONFIGS[part], None)
    if part == "lora":
        model.lora_scale = 1.0


def merge_lora(model: AudioLLMForConditionalGeneration, part: str = "lora") -> None:
    """Add each LoRA product to its base weight and take the LoRA layers out; what it was on counts as trained.

    Where the language model is quantised, its weights from before that are loaded and merged into.
    """
    if part == "lora" and model.config.quantize:
        merge_into_unquantized(model)
    for module in adapted_module(model, part).modules():
        if isinstance(module, LoraLayer):
            module.merge()
    detach_lora(model, part)
    model.trained_parts = {*model.trained_parts, "llm" if part == "lora" else "encoder"}


@torch.no_grad()
def merge_into_unquantized(model: AudioLLMForConditionalGeneration) -> None:
    """Put the unquantised base, with each LoRA product added, in place of a quantised language model with LoRA."""
    before: Any = model.model.language_model
    base = (model.config.bases or {}).get("llm")
    if base is None or model.llm_prefix.startswith(HOME):
        raise ValueError("the language model was quantised when it was loaded; merge it loaded with quantize='none'")
    causal, found = load_causal(base["checkpoint"], base["revision"], model.lm_head.weight.dtype)
    check_fingerprint(base, found)
    causal.to(model.lm_head.weight.device).requires_grad_(False)
    for name, module in before.named_modules():
        if isinstance(module, LoraLayer):
            weight = causal.base_model.get_submodule(name).weight
            product: Any = module
            weight.copy_(weight.float() + product.get_delta_weight("default").float())
    model.model.language_model, model.lm_head = causal.base_model.eval(), head_of(causal)
    model.model.language_model.set_attn_implementation(before.config._attn_implementation)
    model.config.quantize = None
    model.tie_weights()
