"""The model in the forms of transformers: configuration, modelling, processing. Names are imported when first used."""

from importlib import import_module
from typing import Any

HOMES = {
    "AudioLLMConfig": "configuration",
    "AudioLLMModel": "modeling",
    "AudioLLMForConditionalGeneration": "modeling",
    "AudioLLMProcessor": "processing",
    "AudioTextConfig": "configuration",
    "AudioTextModel": "two_towers",
    "AudioTextProcessor": "towers_processing",
    "build": "parts",
    "save_checkpoint": "checkpoint",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
