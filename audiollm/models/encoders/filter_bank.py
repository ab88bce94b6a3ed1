"""Filters of several families, and Kaldi's log-mel filter bank in a batch, equal to transformers' `spectrogram`.

A frame is 400 samples whole, 160 after the one before; there is none that reaches past the end.
Not here: Whisper's log-mel (whisper.py), CLAP's (clap.py), and what a family does to normalise its features.
Shapes: M clips, L samples, W samples of a transform, B frequencies, F mel bins, T frames.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, window_function

from audiollm.models.encoders.base import SAMPLING_RATE

LENGTH = 400  # samples of a transform: 25 ms
HOP = 160  # samples from one to the next: 10 ms
N_FFT = 512
FLOOR = 1.192092955078125e-07  # of a bin's energy: float32's epsilon


def kaldi_frames(num_samples: Any) -> Any:
    """Frames of a clip, at least one; for tensors."""
    return ((num_samples - LENGTH) // HOP + 1).clamp(min=1)


def kaldi_filter_bank(
    waves_ML: Tensor,
    num_mel_bins: int,
    *,
    window: str = "povey",
    scale: float = 2.0**15,
    preemphasis: float = 0.97,
    remove_dc_offset: bool = True,
    floor: float = FLOOR,
) -> Tensor:
    """Natural logarithms of mel energies [M, T, F]; a clip that is shorter than one transform is filled with zeros.

    `window`: povey or hann. `scale`: Kaldi reads 16-bit integers; 1 leaves samples as they are.
    """
    waves_ML = F.pad(waves_ML.float(), (0, max(0, LENGTH - waves_ML.shape[1])))
    frames_MTW = waves_ML.unfold(1, LENGTH, HOP) * scale
    if remove_dc_offset:
        frames_MTW = frames_MTW - frames_MTW.mean(-1, keepdim=True)
    before_MTW = F.pad(frames_MTW, (1, 0), mode="replicate")[..., :-1]
    frames_MTW = (frames_MTW - preemphasis * before_MTW) * taper(window, waves_ML.device)
    power_MTB = torch.fft.rfft(frames_MTW, N_FFT).abs().square()
    return (power_MTB @ kaldi_filters(num_mel_bins, waves_ML.device)).clamp(min=floor).log()


@lru_cache
def taper(name: str, device: torch.device) -> Tensor:
    """The window of the transform, symmetric as Kaldi has it."""
    return torch.from_numpy(window_function(LENGTH, name, periodic=False)).float().to(device)


@lru_cache
def kaldi_filters(num_mel_bins: int, device: torch.device) -> Tensor:
    """Kaldi's triangular filters [B, F] from 20 Hz to 8 kHz."""
    bank = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=20,
        max_frequency=SAMPLING_RATE // 2,
        sampling_rate=SAMPLING_RATE,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return torch.from_numpy(bank).float().to(device)


@lru_cache
def slaney_filters(num_mel_bins: int, n_fft: int, device: torch.device) -> Tensor:
    """Slaney's triangular filters [F, B] up to 8 kHz, as Whisper and Parakeet use them."""
    bank = mel_filter_bank(
        num_frequency_bins=n_fft // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=SAMPLING_RATE / 2,
        sampling_rate=SAMPLING_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(bank.T.copy()).float().to(device)
