"""The table of encoders by the `model_type` of their config; families enter themselves when `encoders` is imported.

Not here: the families (one file each).
"""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from audiollm.models.plugins import find_class

ENCODERS: dict[str, type[Any]] = {}
"""Name -> class."""
CLASS = "encoder_class"
"""The key under which a config keeps the name that its `model_type` does not tell: a user's `package.module:Class`."""


def encoder_class(name: str) -> type[Any]:
    """The class for an encoder's name; ValueError names the known ones."""
    return find_class(name, ENCODERS, "encoder")


def names_itself(name: str) -> bool:
    """Whether a config says by its `model_type` that it is this encoder's; else it keeps the name under CLASS."""
    return name in ENCODERS and ENCODERS[name].config_class.model_type == name


def encoder_of(config: Mapping[str, Any]) -> type[Any]:
    """The class that an encoder's config, as a plain dictionary, belongs to."""
    return encoder_class(config.get(CLASS) or config["model_type"])


def encoder_config(config: Any) -> Any:
    """A dictionary becomes the config object of its `model_type`, or of a user's own encoder."""
    if not isinstance(config, dict):
        return config
    if CLASS in config:
        return encoder_class(config[CLASS]).config_class(**config)
    return AutoConfig.for_model(**config)


def audio_config_of(config: Any, name: str) -> Any:
    """The encoder's own config: all of it, or the part of a whole model's; ValueError where there is none."""
    for found in (config, *(getattr(config, key, None) for key in ("audio_config", "encoder_config"))):
        if getattr(found, "model_type", None) in ENCODERS:
            return found
    raise ValueError(f"{name} is a {config.model_type!r} model, not an encoder; known: {', '.join(sorted(ENCODERS))}")
