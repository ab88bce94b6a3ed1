"""Which parts of a model train: encoder, connector, lora, llm; and LoRA on the language model alone."""

import re
from collections.abc import Collection, Iterator
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from audiollm.models.configuration import PARTS
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.native.table import HOME, native_part
from audiollm.models.parts import check_fingerprint, head_of, load_causal

NEVER_TRAINED = ("model.audio_tower.embed_positions.weight", "model.audio_tower.audio_bos_eos_token.weight")
"""A fixed sinusoid, in every Whisper; and what Qwen2.5-Omni has and does not use."""


def part_of(name: str) -> str:
    """The part that a parameter of the model belongs to, by its name."""
    if ".lora_" in name:
        return "lora"
    if name.startswith(HOME):
        return native_part(name)
    if name.startswith("model.audio_tower."):
        return "encoder"
    if name.startswith("model.connector."):
        return "connector"
    return "llm"


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
        parameter.requires_grad_(part_of(name) in parts and not name.endswith(NEVER_TRAINED))
    counts = {part: sum(p.numel() for _, p in named_parameters_of(model, part) if p.requires_grad) for part in parts}
    for part, count in counts.items():
        if count == 0:
            way_out = "; add a `lora:` block" if part == "lora" else ""
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
) -> LoraConfig:
    """Add LoRA to the language model alone; ValueError if it has one, or no module matches the targets."""
    if has_lora(model):
        raise ValueError("the language model has LoRA already; merge it first")
    if model.llm_prefix.startswith(HOME) and (found := matching_layers(model, target_modules)):
        target_modules = sorted(found)  # PEFT alone would rename some, and look for them in the experts of a layer
    scale: Any = alpha  # PEFT says int, and takes any number
    config = LoraConfig(r=r, lora_alpha=scale, lora_dropout=dropout, target_modules=target_modules, bias="none")
    attach_lora(model, config)
    return config


def attach_lora(model: AudioLLMForConditionalGeneration, config: LoraConfig) -> None:
    """Inject LoRA layers as the config says, in the connector's type; the base weights stay where they are."""
    language_model = model.model.language_model
    try:
        inject_adapter_in_model(config, language_model)
    except ValueError as error:
        modules = language_model.named_modules()
        linear = sorted({name.rsplit(".", 1)[-1] for name, module in modules if isinstance(module, nn.Linear)})
        targets = config.target_modules
        wanted = sorted(targets) if isinstance(targets, set) else targets
        raise ValueError(
            f"lora.target_modules={wanted!r} matches nothing in the language model; "
            f"its linear layers are: {', '.join(linear)}"
        ) from error
    for _, parameter in named_parameters_of(model, "lora"):
        parameter.data = parameter.data.to(model.trained_dtype)
    model.lora_config = config
    model.train(model.training)  # what was added too


def require_lora(
    model: AudioLLMForConditionalGeneration,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: str | list[str] = "all-linear",
) -> None:
    """ValueError if the LoRA that the language model has is not the one that is asked for."""
    there = model.lora_config
    asked = {"r": (r, there.r), "alpha": (alpha, there.lora_alpha), "dropout": (dropout, there.lora_dropout)}
    differing = [f"{key}={want} (the model's: {has})" for key, (want, has) in asked.items() if want != has]
    adapted, wanted = adapted_layers(model), matching_layers(model, target_modules)
    if adapted != wanted:
        found = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in adapted}))
        differing.append(f"target_modules={target_modules!r} (the model's: {found})")
    if differing:
        raise ValueError(
            f"lora: the model has LoRA already, and not as asked: {'; '.join(differing)}; "
            "leave the `lora:` block out to train the LoRA that is there"
        )


def adapted_layers(model: AudioLLMForConditionalGeneration) -> set[str]:
    """The language model's layers that have LoRA, by name."""
    return {name for name, module in model.model.language_model.named_modules() if isinstance(module, LoraLayer)}


def matching_layers(model: AudioLLMForConditionalGeneration, targets: str | list[str]) -> set[str]:
    """The language model's linear layers that `target_modules` means: all, a pattern, or names and endings of names."""
    names = (
        name.removesuffix(".base_layer")
        for name, module in model.model.language_model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    )
    if targets == "all-linear":
        return set(names)
    if isinstance(targets, str):
        return {name for name in names if re.fullmatch(targets, name)}
    return {name for name in names if any(name == target or name.endswith(f".{target}") for target in targets)}


def has_lora(model: AudioLLMForConditionalGeneration) -> bool:
    """Whether LoRA layers are attached."""
    return any(isinstance(module, LoraLayer) for module in model.modules())


def merge_lora(model: AudioLLMForConditionalGeneration) -> None:
    """Add each LoRA product to its base weight and take the LoRA layers out; the language model counts as trained.

    Where the base is quantised, its weights from before that are loaded and merged into: what comes out is not.
    """
    if model.config.quantize:
        merge_into_unquantized(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    model.lora_config = None
    model.trained_parts = {*model.trained_parts, "llm"}


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
