"""Parakeet's encoder (Fast Conformer): log-mel frames on the model's device, eight in one; 12.5 frames a second.

The weights and layers are transformers' own `ParakeetEncoder`; the front end equals `ParakeetFeatureExtractor`.
Shapes: M windows, L samples, B frequencies, F mel bins, T mel frames, then frames of the encoder, C width.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ParakeetEncoder, ParakeetEncoderConfig

from audiollm.models.encoders.base import caught, frames_mask
from audiollm.models.encoders.filter_bank import slaney_filters
from audiollm.models.encoders.pretrained import SteadyEncoder, own_moments

N_FFT = 512
LENGTH = 400  # samples under the window of a transform
HOP = 160  # samples between two mel frames
PREEMPHASIS = 0.97
FLOOR = 2.0**-24  # is added to each energy before its logarithm
LEAST = 2 * HOP  # samples of two mel frames: the variance of one is none


class ParakeetAudioEncoder(SteadyEncoder, ParakeetEncoder):
    """Parakeet: waveforms [N, L] at 16 kHz to frames [N, T, C] at 12.5 Hz; transformers' own on each clip alone."""

    config_class = ParakeetEncoderConfig

    @classmethod
    def stride(cls, config: Mapping[str, Any]) -> int:
        """Samples from one frame to the next: 1,280, of eight mel frames."""
        return HOP * int(config["subsampling_factor"])

    @classmethod
    def num_frames(cls, config: Mapping[str, Any], num_samples: int) -> int:
        """Frames of a clip: each that is begun by a whole mel frame counts."""
        return -(-(max(num_samples, LEAST) // HOP) // int(config["subsampling_factor"]))

    @classmethod
    def computed(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """What `ParakeetFeatureExtractor` must say."""
        return {
            "feature_size": config["num_mel_bins"], "n_fft": N_FFT, "win_length": LENGTH, "hop_length": HOP,
            "preemphasis": PREEMPHASIS,
        }  # fmt: skip

    def hear(self, windows_ML: Tensor, lengths_M: Tensor, taps: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Normalised log-mel windows to frames; nothing is seen after a window's end."""
        features_MTF, mel_mask_MT = log_mel(windows_ML, lengths_M, self.config.num_mel_bins)
        with caught(self.layers, taps) as found:
            heard = self.library_forward(features_MTF.to(self.dtype), attention_mask=mel_mask_MT)
        return [found[tap] for tap in taps] or [heard.last_hidden_state], heard.attention_mask.bool()


def log_mel(waves_ML: Tensor, lengths_M: Tensor, num_mel_bins: int) -> tuple[Tensor, Tensor]:
    """Log-mel frames, each bin at mean 0 and variance 1 over its clip: [M, T, F], zero after its end, and mask [M, T].

    Equal to transformers' extractor, which centres a frame on each 160th sample among zeros, and drops the one that
    stands at a clip's end. A clip that is too short for two frames is filled with silence.
    """
    waves_ML = F.pad(waves_ML, (0, max(0, LEAST - waves_ML.shape[1]))).float()
    mask_ML = frames_mask(lengths_M, waves_ML.shape[1])
    waves_ML = waves_ML * mask_ML
    treble_ML = (waves_ML - PREEMPHASIS * F.pad(waves_ML, (1, 0))[:, :-1]) * mask_ML
    window = hann(waves_ML.device)
    spectrum = torch.stft(treble_ML, N_FFT, HOP, LENGTH, window, center=True, pad_mode="constant", return_complex=True)
    power_MTB = spectrum.abs().square().transpose(1, 2)
    mel_MTF = (power_MTB @ slaney_filters(num_mel_bins, N_FFT, waves_ML.device).T + FLOOR).log()
    frames_M = lengths_M.clamp(min=LEAST) // HOP
    mask_MT = frames_mask(frames_M, waves_ML.shape[1] // HOP)
    mel_MTF = mel_MTF[:, : mask_MT.shape[1]]
    mean_M1F, variance_M1F = own_moments(mel_MTF, mask_MT[..., None], 1, spared=1)
    return (mel_MTF - mean_M1F) * mask_MT[..., None] / (variance_M1F.sqrt() + 1e-5), mask_MT


@lru_cache
def hann(device: torch.device) -> Tensor:
    """The symmetric Hann window of the transform."""
    return torch.hann_window(LENGTH, periodic=False, device=device)
