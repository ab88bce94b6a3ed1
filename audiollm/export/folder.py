"""One folder for transformers: weights, configuration, processor and tokenizer, the code that reads them, a card.

    audiollm export runs/quickstart --to out          LoRA lies beside the weights; transformers loads both (needs peft)
    audiollm export runs/quickstart --to out --merge  LoRA is added to the weights; nothing but them is needed

An encoder's own LoRA is always added to its weights: a folder has one adapter.

Not here: the code that travels (travelling.py), folders of native architectures (formats.py), the card (card.py).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import save_file

from audiollm.export.card import folder_card, native_card
from audiollm.export.formats import Format, find_format
from audiollm.export.travelling import MODEL, PROCESSOR, auto_map, requirements, travelling_code
from audiollm.inference import load, resolve_checkpoint
from audiollm.models.configuration import AudioLLMConfig
from audiollm.models.encoders.registry import CLASS
from audiollm.models.freezing import adapted_layers, detach_lora, has_lora, merge_lora, part_of
from audiollm.models.modeling import AudioLLMForConditionalGeneration
from audiollm.models.native.loading import is_native
from audiollm.models.processing import AudioLLMProcessor

LANGUAGE_MODEL = "model.language_model."
PEFT_PREFIX = "base_model.model."


def export(
    checkpoint: str | Path, to: str | Path, *, merge: bool = False, format: str | None = None, dtype: str = "float32"
) -> Path:
    """Write a checkpoint as a folder for others, whole or not at all, and return the folder.

    `checkpoint`: the folder of a run or of one of its stages. `merge`: add LoRA to the weights that it adapts.
    `format`: a native architecture of transformers or vLLM (see formats.py), always merged. `dtype`: of the weights.
    ValueError where the folder is taken, the checkpoint is no such thing, or the architecture does not match.
    """
    to = Path(to)
    if to.exists() and (to.is_file() or any(to.iterdir())):
        raise ValueError(f"--to: {to} is there already, and is not empty; name another folder")
    native = None if format is None else find_format(format)
    source = resolve_checkpoint(checkpoint)
    if (source / f"{MODEL.file}.py").is_file():
        raise ValueError(f"{source} is an export already; export the checkpoint that it was made from")
    if is_native(source):
        return export_as_it_was(source, to, format, dtype)
    if native is not None:
        refuse_other_architectures(AudioLLMConfig.from_pretrained(source), native, source)
    listener = load(source, device="cpu", dtype=dtype, quantize="none")
    model, processor = listener.model, listener.processor
    if has_lora(model, "encoder_lora"):
        merge_lora(model, "encoder_lora")
    if has_lora(model) and (merge or native is not None):
        merge_lora(model)
    if native is not None:
        whole(to, lambda folder: write_native(model, processor, native, folder, source))
    else:
        whole(to, lambda folder: write_folder(model, processor, folder, source))
    return to


def export_as_it_was(source: Path, to: Path, format: str | None, dtype: str) -> Path:
    """A model that transformers has itself, trained here, in the form in which it came; LoRA is merged."""
    if format is not None:
        raise ValueError(f"--format {format}: {source} is a model that transformers has itself; leave --format out")
    listener = load(source, device="cpu", dtype=dtype, quantize="none")
    model: Any = listener.model
    processor: Any = listener.processor
    if getattr(model.native, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{source} has an adapter of its own that hears alone, which cannot be merged; push it as it is"
        )
    if has_lora(model):
        merge_lora(model)

    def write(folder: Path) -> None:
        model.native.save_pretrained(folder)
        processor.native.save_pretrained(folder)
        keep_recipe(source, folder)
        use = f"A {model.native.config.model_type} folder of transformers, with no code of its own."
        (folder / "README.md").write_text(native_card(source, model.native.config.model_type, use), encoding="utf-8")

    whole(to, write)
    return to


def refuse_other_architectures(config: AudioLLMConfig, native: Format, source: Path) -> None:
    """ValueError with the reason if a model is not of a native architecture."""
    reason = native.why_not(config)
    if reason is not None:
        raise ValueError(
            f"--format {native.name}: {source} does not match: {reason}; without --format the code travels along"
        )


def whole(to: Path, write: Callable[[Path], None]) -> None:
    """Let a folder be written under another name, and rename it when it is complete."""
    partial = to.with_name(to.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    if to.exists():
        to.rmdir()
    partial.rename(to)


def write_folder(
    model: AudioLLMForConditionalGeneration, processor: AudioLLMProcessor, folder: Path, source: Path
) -> None:
    """The files of an exported folder; LoRA that is attached becomes an adapter in it, and leaves the model."""
    own = own_modules(model.config)
    adapter = frozenset({"peft"} if has_lora(model) else ())
    if adapter:
        write_adapter(model, folder)
        detach_lora(model)
    model.config.bases = model.config.quantize = None  # every part lies here
    model.config.auto_map = auto_map(MODEL) | auto_map(PROCESSOR)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    name_processor(folder / "processor_config.json")
    code = travelling_code({MODEL.file: own | adapter, PROCESSOR.file: own})
    for name, text in code.items():
        (folder / name).write_text(text, encoding="utf-8")
    keep_recipe(source, folder)
    (folder / "README.md").write_text(folder_card(source, requirements(code)), encoding="utf-8")


def own_modules(config: AudioLLMConfig) -> frozenset[str]:
    """The modules of a user's own encoder and connector, which do not travel: who loads the folder has them too."""
    audio_config = config.audio_config.to_dict()
    encoders = [audio_config, *audio_config.get("encoders", ())]
    names = [config.connector_config["name"], *(one.get(CLASS) or "" for one in encoders)]
    return frozenset(name.partition(":")[0] for name in names if ":" in name)


def write_adapter(model: AudioLLMForConditionalGeneration, folder: Path) -> None:
    """LoRA in PEFT's layout for the whole model, which transformers finds beside the weights."""
    tensors = {
        PEFT_PREFIX + name.replace(".default.", "."): tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if part_of(name) == "lora"
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    layers = sorted(LANGUAGE_MODEL + name for name in adapted_layers(model))
    alpha = model.lora_config.lora_alpha * model.lora_scale
    settings = {**model.lora_config.to_dict(), "target_modules": layers, "lora_alpha": alpha, "inference_mode": True}
    LoraConfig(**{**settings, "task_type": None, "base_model_name_or_path": None}).save_pretrained(str(folder))


def name_processor(file: Path) -> None:
    """Say in processor_config.json which classes of the folder's code the processor and its front end are."""
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    settings["auto_map"] = auto_map(PROCESSOR, "AutoProcessor")
    settings["feature_extractor"]["auto_map"] = auto_map(PROCESSOR, "AutoFeatureExtractor")
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_native(
    model: AudioLLMForConditionalGeneration, processor: AudioLLMProcessor, native: Format, folder: Path, source: Path
) -> None:
    """The files of a native architecture: no code of ours among them."""
    native.write(model, processor, folder)
    keep_recipe(source, folder)
    use = f"A {native.name} folder, with no code of its own. Who reads it: {native.serves}."
    (folder / "README.md").write_text(native_card(source, native.name, use), encoding="utf-8")


def keep_recipe(source: Path, folder: Path) -> None:
    """The resolved recipe, where the checkpoint has one."""
    if (source / "recipe.yaml").is_file():
        shutil.copy(source / "recipe.yaml", folder)
