"""Several encoders that hear the same clip: brought to the first one's frame rate, each normalised, joined in a frame.

    encoder: [{checkpoint: openai/whisper-large-v2}, {checkpoint: MIT/ast-finetuned-audioset-10-10-0.4593}]

Shapes: N clips, L samples, T frames at the first encoder's rate, U at another's, C width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from audiollm.models.encoders.base import SAMPLING_RATE
from audiollm.models.encoders.registry import encoder_config, encoder_of


class SideBySideConfig(PreTrainedConfig):
    """The configs of the encoders, in their order."""

    model_type = "audiollm_encoders"

    encoders: Any = None  # a list of dictionaries

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoders = [one if isinstance(one, dict) else one.to_dict() for one in self.encoders or []]
        super().__post_init__(**kwargs)


class SideBySide(PreTrainedModel):
    """[N, L] to frames [N, T, sum of C]: every encoder's, normalised without weights, side by side."""

    sampling_rate: ClassVar[int] = SAMPLING_RATE
    config_class = SideBySideConfig
    config: SideBySideConfig
    _supports_sdpa = True

    def __init__(self, config: SideBySideConfig, towers: Any = None) -> None:
        super().__init__(config)
        made = towers or [encoder_of(one)(encoder_config(one)) for one in config.encoders]
        self.towers = nn.ModuleList(made)

    @classmethod
    def frame_rate_hz(cls, config: Mapping[str, Any]) -> float:
        """Frames a second of the first encoder."""
        first = config["encoders"][0]
        return float(encoder_of(first).frame_rate_hz(first))

    @classmethod
    def num_frames(cls, config: Mapping[str, Any], num_samples: int) -> int:
        """Frames of the first encoder."""
        first = config["encoders"][0]
        return int(encoder_of(first).num_frames(first, num_samples))

    @classmethod
    def num_layers(cls, config: Mapping[str, Any]) -> int:
        """Layers of all encoders."""
        return sum(encoder_of(one).num_layers(one) for one in config["encoders"])

    @classmethod
    def sections(cls, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Widths of all that stands side by side."""
        return tuple(width for one in config["encoders"] for width in encoder_of(one).sections(one))

    @classmethod
    def width(cls, config: Mapping[str, Any]) -> int:
        """Width of a frame."""
        return sum(cls.sections(config))

    def forward(self, input_values: Tensor, input_values_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[N, L] float32 and its bool mask -> frames [N, T, C] (zero after a clip's end) and bool [N, T]."""
        configs = self.config.encoders
        rates = [encoder_of(config).frame_rate_hz(config) for config in configs]
        heard = [tower(input_values, input_values_mask) for tower in self.towers]
        mask_NT = heard[0][1]
        frames = [heard[0][0]] + [
            retime(frames_NUC, mask_NU.sum(-1), rate, mask_NT.shape[1], rates[0])
            for (frames_NUC, mask_NU), rate in zip(heard[1:], rates[1:], strict=True)
        ]
        return torch.cat(list(map(normalized, frames, configs)), dim=-1) * mask_NT[..., None], mask_NT


def normalized(frames_NTC: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Each section of an encoder's frames at mean 0 and variance 1."""
    parts = frames_NTC.split(list(encoder_of(config).sections(config)), dim=-1)
    return torch.cat([F.layer_norm(part, part.shape[-1:]) for part in parts], dim=-1)


def retime(frames_NUC: Tensor, lengths_N: Tensor, rate_hz: float, num_frames: int, wanted_hz: float) -> Tensor:
    """Frames at another rate [N, T, C]: each is the mean of those that it overlaps, past a clip's end its last one.

    50 Hz to 25:   0 1|2 3|4   ->   (0 1) (2 3) (4)          20 Hz to 50:   0 1 2   ->   0 0 (0 1) 1 1 2 2 ...
    """
    ratio = rate_hz / wanted_hz
    t_T = torch.arange(num_frames, device=frames_NUC.device, dtype=torch.float64)
    start_T = (t_T * ratio + 1e-6).floor().long()
    stop_T = torch.maximum(((t_T + 1) * ratio - 1e-6).ceil().long(), start_T + 1)
    last_N1 = (lengths_N - 1)[:, None]
    start_NT = torch.minimum(start_T.expand(len(lengths_N), -1), last_N1)
    stop_NT = torch.minimum(stop_T, last_N1 + 1).maximum(start_NT + 1)
    total_NTC = torch.zeros(())
    for offset in range(int((stop_NT - start_NT).max())):
        at_NT = torch.minimum(start_NT + offset, last_N1)
        counts_NT1 = (start_NT + offset < stop_NT)[..., None]
        found_NTC = frames_NUC.gather(1, at_NT[..., None].expand(-1, -1, frames_NUC.shape[-1]))
        total_NTC = total_NTC.to(found_NTC) + found_NTC * counts_NT1
    return total_NTC / (stop_NT - start_NT)[..., None]


AutoConfig.register(SideBySideConfig.model_type, SideBySideConfig)
