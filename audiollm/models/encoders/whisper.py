"""Whisper's encoder on the clip's real length, with the log-mel front end on the model's device.

The weights and layers are transformers' own `WhisperEncoder`; what differs is the way in: waveforms instead of
features, no padding to 30 s or to the longest clip, and windows for audio longer than the position table.
Not here: checkpoints of the `whisper` package (openai_whisper.py), towers with Whisper's layers (pooled_whisper.py).
Shapes: N clips, L samples, M windows, F mel bins, T frames, C width.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiollm.models.encoders.base import WaveformEncoder, frames_mask
from audiollm.models.encoders.clips import prefer_clips, through_layers
from audiollm.models.encoders.filter_bank import slaney_filters
from audiollm.models.encoders.loading import load_tower

N_FFT = 400
HOP = 160  # samples between two mel frames, as every published Whisper has it; `hop_length` of a config changes it
STRIDE = 2  # of the second convolution: two mel frames make one output frame


class WhisperLayers(WaveformEncoder):
    """What every encoder with Whisper's front end and layers shares; a family adds transformers' own class."""

    silence: ClassVar[int] = 0
    """Mel frames after a clip's end that the convolutions still see, as the silence that they are; then nothing."""
    conv1: Any
    conv2: Any
    embed_positions: Any
    layers: Any
    layer_norm: Any
    training: bool

    def __init__(self, config: Any) -> None:
        library: Any = super()
        library.__init__(config)
        self.hop = hop_length(config.to_dict())
        prefer_clips(self)

    @classmethod
    def stride(cls, config: Mapping[str, Any]) -> int:
        """Samples from one output frame to the next: 320, or what `hop_length` makes of it."""
        return STRIDE * hop_length(config)

    @classmethod
    def num_frames(cls, config: Mapping[str, Any], num_samples: int) -> int:
        """Output frames of a clip: each begun one counts."""
        return -(-num_samples // cls.stride(config))

    @classmethod
    def max_frames(cls, config: Mapping[str, Any]) -> int:
        """Rows of the position table: 1,500 (30 s) in every published Whisper."""
        return int(config["max_source_positions"])

    @classmethod
    def layer_width(cls, config: Mapping[str, Any]) -> int:
        """C of one layer."""
        return int(config["d_model"])

    @classmethod
    def num_layers(cls, config: Mapping[str, Any]) -> int:
        """Layers of the encoder alone."""
        return int(config["encoder_layers"])

    def hear(self, windows_ML: Tensor, lengths_M: Tensor, taps: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Log-mel windows to frames; the convolutions and attention see silence or nothing after a window's end."""
        x_MTC, mask_MT = self.begin(windows_ML, lengths_M)
        return through_layers(self.layers, self.layer_norm, self.config, x_MTC, mask_MT, taps), mask_MT

    def begin(self, windows_ML: Tensor, lengths_M: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layer reads, and its mask: mel, two convolutions, positions."""
        most = window_length(self.config.max_source_positions, self.hop)
        windows_ML, lengths_M = windows_ML[:, :most], lengths_M.clamp(max=most)
        mel_MFT = log_mel(windows_ML, lengths_M, most, self.config.num_mel_bins, self.hop, self.silence)
        seen_MT = frames_mask(mel_frames(lengths_M, self.hop) + self.silence, mel_MFT.shape[-1])
        x_MCT = F.gelu(self.conv1(mel_MFT.to(self.conv1.weight.dtype))) * seen_MT[:, None]
        x_MTC = F.gelu(self.conv2(x_MCT)).transpose(1, 2)[:, : -(-windows_ML.shape[1] // (STRIDE * self.hop))]
        x_MTC = x_MTC + self.embed_positions.weight[: x_MTC.shape[1]]
        x_MTC = F.dropout(x_MTC, p=self.config.dropout, training=self.training)
        return x_MTC, frames_mask(-(-lengths_M // (STRIDE * self.hop)), x_MTC.shape[1])


class WhisperAudioEncoder(WhisperLayers, WhisperEncoder):
    """Whisper: waveforms [N, L] at 16 kHz to frames [N, T, C] at 50 Hz; transformers' own at the full window.

    An encoder that is made from scratch may have a longer `hop_length` in its config: 320 gives 25 frames a second.
    """

    config_class = WhisperConfig
    more_sizes = ("hop_length",)
    _keys_to_ignore_on_load_unexpected: Any = (r"^decoder\.", r"^model\.decoder\.", r"^proj_out\.")

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> Any:
        """The encoder of a Whisper checkpoint by hub name or folder, without its decoder."""
        return load_tower(cls, checkpoint, revision, within="encoder")


def hop_length(config: Mapping[str, Any]) -> int:
    """Samples from one mel frame to the next; ValueError where the transform's window would leave sound out."""
    hop = config.get("hop_length", HOP)
    if not isinstance(hop, int) or not 1 <= hop <= N_FFT:
        raise ValueError(
            f"whisper: hop_length is {hop!r}; it is a number of samples from 1 to {N_FFT}, {HOP} as a rule"
        )
    return hop


def window_length(max_source_positions: int, hop: int = HOP) -> int:
    """Samples that fill the position table: 480,000 (30 s) for every published Whisper."""
    return max_source_positions * STRIDE * hop


def mel_frames(num_samples: Any, hop: int = HOP) -> Any:
    """Mel frames of a clip: ceil(L / hop); for numbers and tensors."""
    return -(-num_samples // hop)


def log_mel(
    waves_ML: Tensor, lengths_M: Tensor, window: int, num_mel_bins: int, hop: int = HOP, silence: int = 0
) -> Tensor:
    """Whisper's log-mel features [M, F, ceil(L / hop)] of clips that end at `lengths_M`, zero after the end.

    Equal to transformers' extractor: reflected at the start; after the end zeros before the transform, or a reflection
    where a clip fills the whole window; the dynamic range is cut 8 decades below the clip's own maximum. `silence`: so
    many frames after the end, within the window, are what the extractor makes of the zeros there.
    """
    half = N_FFT // 2
    mask_ML = torch.arange(waves_ML.shape[1], device=waves_ML.device) < lengths_M[:, None]
    waves_ML = F.pad(waves_ML.float() * mask_ML, (0, max(0, N_FFT - waves_ML.shape[1])))
    tail = torch.zeros(len(waves_ML), N_FFT + silence * hop, device=waves_ML.device)
    full_M1 = (lengths_M == window)[:, None]
    tail[:, :half] = waves_ML[:, -half - 1 : -1].flip(-1) * full_M1
    padded = torch.cat([waves_ML[:, 1 : half + 1].flip(-1), waves_ML, tail], dim=1)
    spectrum = torch.stft(padded, N_FFT, hop, window=hann(waves_ML.device), center=False, return_complex=True)
    power_MBT = spectrum.abs().square()
    mel_MFT = (slaney_filters(num_mel_bins, N_FFT, waves_ML.device) @ power_MBT).clamp(min=1e-10).log10()
    num_frames = min(mel_frames(mask_ML.shape[1], hop) + silence, window // hop)
    # every frame that touches the clip counts, but the one past the full window, which the extractor drops
    loudest_M11 = mel_MFT[..., : window // hop].amax(dim=(1, 2), keepdim=True)
    mel_MFT = (torch.maximum(mel_MFT, loudest_M11 - 8.0) + 4.0) / 4.0
    return mel_MFT[..., :num_frames] * frames_mask(mel_frames(lengths_M, hop) + silence, num_frames)[:, None]


@lru_cache
def hann(device: torch.device) -> Tensor:
    """The periodic Hann window of the transform."""
    return torch.hann_window(N_FFT, device=device)
