"""Pretrained encoders out of checkpoints: the tower of a whole model alone, and what a feature extractor says.

Not here: which class a checkpoint belongs to (registry.py, models/parts.py).
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from transformers import AutoConfig
from transformers.feature_extraction_utils import FeatureExtractionMixin

from audiollm.models.encoders.registry import ENCODERS, audio_config_of
from audiollm.models.settings import Settings

log = logging.getLogger(__name__)

FRONT_END = "front_end"
"""The key under which an encoder's config keeps what its feature extractor says, in that one's words."""
SettingsT = TypeVar("SettingsT", bound=Settings)


def tower_config(checkpoint: str, revision: str | None = None) -> Any:
    """The encoder's config of a checkpoint, or the part of a whole model's, with what its feature extractor says."""
    config = audio_config_of(AutoConfig.from_pretrained(checkpoint, revision=revision or "main"), checkpoint)
    kind = ENCODERS[config.model_type].FrontEnd
    if kind is not None and FRONT_END not in config.to_dict():
        setattr(config, FRONT_END, read_front_end(kind, checkpoint, revision))
    return config


def load_tower(cls: Any, checkpoint: str, revision: str | None = None, *, within: str = "", library: Any = None) -> Any:
    """The encoder `cls` with a checkpoint's weights, be it the encoder's own or a whole model's; no others are read.

    `within`: where the encoder stands in the whole. `library`: transformers' own class, where the library knows older
    names of weights by its name. ValueError if a weight is missing: the library would make it up.
    """
    names = {rf"^{prefix}{within}\.": "" for prefix in ("", r"model\.")} if within else None
    read, found = (library or cls).from_pretrained(
        checkpoint, revision=revision or "main", config=tower_config(checkpoint, revision), dtype="auto",
        key_mapping=names, output_loading_info=True,
    )  # fmt: skip
    refuse_missing(found["missing_keys"], checkpoint, cls)
    return around(cls, read.config, read.state_dict())


def refuse_missing(names: Iterable[str], checkpoint: str, cls: type[Any]) -> None:
    """ValueError if a checkpoint lacks weights of an encoder, but for counters that nothing reads."""
    missing = sorted(name for name in names if not name.endswith("num_batches_tracked"))
    if missing:
        raise ValueError(
            f"{checkpoint} has no weights for {', '.join(missing[:3])} ...; it is not a checkpoint of {cls.__name__}"
        )


def around(cls: Any, config: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """An encoder of these very tensors, without making any of its own."""
    with torch.device("meta"):
        encoder = cls(config)
    encoder.load_state_dict(weights, assign=True)
    assert not any(tensor.is_meta for tensor in (*encoder.parameters(), *encoder.buffers()))
    return encoder.eval()


def front_end(kind: type[SettingsT], config: Mapping[str, Any]) -> SettingsT:
    """The settings of an encoder's front end that its config carries; the published ones where it does not."""
    return kind.model_validate(config.get(FRONT_END) or {})


def read_front_end(kind: type[SettingsT], checkpoint: str, revision: str | None = None) -> dict[str, Any]:
    """What a checkpoint's feature extractor says of these settings."""
    said = extractor_settings(checkpoint, revision)
    return kind.model_validate({key: said[key] for key in kind.model_fields if key in said}).model_dump()


def extractor_settings(checkpoint: str, revision: str | None = None) -> dict[str, Any]:
    """What a checkpoint's feature extractor says, in its preprocessor_config.json; nothing where there is none."""
    try:
        said, _ = FeatureExtractionMixin.get_feature_extractor_dict(checkpoint, revision=revision or "main")
    except OSError:
        log.warning("%s has no preprocessor_config.json; its front end is taken to be the published one", checkpoint)
        return {}
    return dict(said)
