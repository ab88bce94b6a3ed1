"""An encoder and a connector of one's own: the example of docs/writing_a_part.md."""

# --8<-- [start:encoder]
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from audiollm.models.encoders.base import WaveformEncoder, frames_mask


class LoudnessConfig(PreTrainedConfig):
    model_type = "loudness"
    hidden_size: int = 64
    num_hidden_layers: int = 1


class LoudnessEncoder(WaveformEncoder, PreTrainedModel):
    config_class = LoudnessConfig

    def __init__(self, config):
        super().__init__(config)
        self.project = nn.Linear(320, config.hidden_size)
        self.post_init()

    @classmethod
    def stride(cls, config):
        return 320  # samples a frame: 50 frames a second at 16 kHz

    def hear(self, windows_ML, lengths_M, taps):
        inside_ML = frames_mask(lengths_M, windows_ML.shape[1])
        waves_ML = F.pad(windows_ML * inside_ML, (0, -windows_ML.shape[1] % 320))
        frames_MTC = torch.tanh(self.project(waves_ML.unflatten(1, (-1, 320))))
        counts_M = (lengths_M // 320).clamp(min=1)  # as num_frames() says: whole frames, at least one
        longest = int(counts_M.max())
        states = [
            frames_MTC[:, :longest] for _ in taps or [1]
        ]  # it has one layer; here each tapped one's output stands
        return states, frames_mask(counts_M, longest)


# --8<-- [end:encoder]
# --8<-- [start:connector]
from audiollm.models.connectors import ConnectorSettings, Sizes  # noqa: E402


class EveryOtherSettings(ConnectorSettings):
    every: int = 2
    """Takes one frame of so many."""


class EveryOther(nn.Module):
    Settings = EveryOtherSettings

    def __init__(self, settings: EveryOtherSettings, sizes: Sizes):
        super().__init__()
        self.every = settings.every
        self.output = nn.Linear(sizes.dim_in, sizes.dim_out)

    @staticmethod
    def num_tokens(settings, num_frames, frame_rate_hz):
        return -(-num_frames // settings.every)

    def forward(self, frames_NTC, mask_NT):
        return self.output(frames_NTC[:, :: self.every]), mask_NT[:, :: self.every]


# --8<-- [end:connector]
