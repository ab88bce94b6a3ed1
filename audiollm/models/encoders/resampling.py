"""Clips at a whole multiple of their rate, on the model's device: what an encoder that was trained at 48 kHz hears.

Not here: files at other rates than the model's (audiollm/audio.py, with soxr).
Shapes: M clips, L samples, K outputs for each sample, H samples on one side of the filter.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

HALF = 160  # H: the more, the narrower is the band between what is kept and what is gone
CUTOFF = 0.96  # of half the rate, where the filter has fallen to a half
ROUND = 4096  # samples that a transform is a multiple of, for speed
BETA = 15.0  # of the Kaiser window: images lie 150 dB below


def upsampled(waves_ML: Tensor, factor: int) -> Tensor:
    """[M, L] -> [M, K * L]: a low-pass filter over the samples with zeros between them, zeros being around the clip.

    By Fourier transforms, in the type of the samples on every device: what is left of the images counts in a
    logarithm, and with the short floats that convolutions may take on a GPU it would be a million times stronger.
    """
    if factor == 1:
        return waves_ML
    num_samples = waves_ML.shape[1]
    size = -(-(num_samples + 2 * HALF) // ROUND) * ROUND
    spectrum_M1S = torch.fft.rfft(waves_ML, size)[:, None]
    filters_KS = torch.fft.rfft(phases(factor, waves_ML.device, waves_ML.dtype), size)
    outputs_MKL = torch.fft.irfft(spectrum_M1S * filters_KS, size)[..., HALF : HALF + num_samples]
    return outputs_MKL.transpose(1, 2).flatten(1)


@lru_cache
def phases(factor: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The filter [K, 2 H + 1], one row for each of the K outputs of a sample: a sinc under a Kaiser window."""
    times_KH = np.arange(-HALF, HALF + 1) + np.arange(factor)[:, None] / factor
    taper_KH = np.i0(BETA * np.sqrt(np.clip(1 - (times_KH / (HALF + 1)) ** 2, 0, None))) / np.i0(BETA)
    return torch.from_numpy(CUTOFF * np.sinc(CUTOFF * times_KH) * taper_KH).to(device, dtype)
