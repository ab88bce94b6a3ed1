"""How many audio tokens a clip of some samples becomes: the one function that rendering, packing and the model share.

Pure arithmetic on plain configuration dictionaries; no weights, so it works in data workers.
"""

from collections.abc import Mapping
from typing import Any

from audiollm.models.connectors import CONNECTORS
from audiollm.models.encoders import ENCODERS


def num_audio_tokens(audio_config: Mapping[str, Any], connector_config: Mapping[str, Any], num_samples: int) -> int:
    """Audio tokens for one clip of `num_samples` samples (> 0) at the model's sampling rate."""
    if num_samples <= 0:
        raise ValueError(f"a clip has {num_samples} samples; it needs at least one")
    encoder = ENCODERS[audio_config["model_type"]]
    connector = CONNECTORS[connector_config["name"]]
    settings = connector.Settings.model_validate({k: v for k, v in connector_config.items() if k != "name"})
    frames, rate = encoder.num_frames(audio_config, num_samples), encoder.frame_rate_hz(audio_config)
    return connector.num_tokens(settings, frames, rate)
