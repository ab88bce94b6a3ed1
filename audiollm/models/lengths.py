"""How many audio tokens a clip of some samples becomes: the one function that rendering, packing and the model share.

Pure arithmetic on plain configuration dictionaries; no weights, so it works in data workers.
"""

from collections.abc import Mapping
from typing import Any

from audiollm.models.connectors import connector_class, connector_settings
from audiollm.models.encoders import encoder_of


def num_audio_tokens(audio_config: Mapping[str, Any], connector_config: Mapping[str, Any], num_samples: int) -> int:
    """Audio tokens for one clip of `num_samples` samples (> 0) at the model's sampling rate."""
    if num_samples <= 0:
        raise ValueError(f"a clip has {num_samples} samples; it needs at least one")
    encoder = encoder_of(audio_config)
    frames, rate = encoder.num_frames(audio_config, num_samples), encoder.frame_rate_hz(audio_config)
    return connector_class(connector_config["name"]).num_tokens(connector_settings(connector_config), frames, rate)
