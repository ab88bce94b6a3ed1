"""w2v-BERT 2.0: Kaldi's filter bank on the model's device, two frames in one, then conformer layers; 50 frames/s.

The weights and layers are transformers' own `Wav2Vec2BertModel`; the front end equals `SeamlessM4TFeatureExtractor`.
Shapes: M windows, L samples, W samples of a transform, B frequencies, F mel bins, T frames of the filter bank, then of
the encoder, C width.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel
from transformers.audio_utils import mel_filter_bank, window_function

from audiollm.models.encoders.base import SAMPLING_RATE, caught, frames_mask
from audiollm.models.encoders.pretrained import SteadyEncoder, check_front_end, extractor_settings

LENGTH = 400  # samples of a transform
N_FFT = 512
HOP = 160  # samples between two frames of the filter bank
PAIR = 2  # of them make one frame of the encoder
PREEMPHASIS = 0.97
FLOOR = 1.192092955078125e-07  # of a mel bin's energy, as Kaldi has it: float32's epsilon


class W2vBertEncoder(SteadyEncoder, Wav2Vec2BertModel):
    """Waveforms [N, L] at 16 kHz to frames [N, T, C] at 50 Hz; equals transformers' model on each clip alone."""

    config_class = Wav2Vec2BertConfig

    @classmethod
    def stride(cls, config: Mapping[str, Any]) -> int:
        """Samples from one frame to the next: 320."""
        return PAIR * HOP

    @classmethod
    def receptive_field(cls, config: Mapping[str, Any]) -> int:
        """Samples of two frames of the filter bank: 560."""
        return (PAIR - 1) * HOP + LENGTH

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> Any:
        """The pretrained encoder, without the head of a fine-tuned one."""
        encoder = super().load(checkpoint, revision)
        ours = {"num_mel_bins": num_mel_bins(encoder.config.to_dict()), "stride": PAIR}
        check_front_end(extractor_settings(checkpoint, revision), ours, checkpoint)
        return encoder

    def hear(self, windows_ML: Tensor, lengths_M: Tensor, taps: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Pairs of normalised log-mel frames to frames; the layers see nothing after a window's end."""
        features_MTC, mask_MT = filter_bank_pairs(windows_ML, lengths_M, num_mel_bins(self.config.to_dict()))
        x_MTC, _ = self.feature_projection(features_MTC.to(self.dtype))
        with caught(self.encoder.layers, taps) as found:
            end_MTC = self.encoder(x_MTC, attention_mask=mask_MT).last_hidden_state
        return [found[tap] for tap in taps] or [end_MTC], mask_MT


def num_mel_bins(config: Mapping[str, Any]) -> int:
    """Half of what the encoder reads in a frame: 80."""
    return int(config["feature_projection_input_dim"]) // PAIR


def filter_bank_pairs(waves_ML: Tensor, lengths_M: Tensor, num_mel_bins: int) -> tuple[Tensor, Tensor]:
    """Log-mel frames, each bin at mean 0 and variance 1 over its clip, two in one: [M, T, 2 F] and mask [M, T].

    A clip that is too short for a pair is filled with silence; a last frame without a partner counts for the mean and
    the variance alone, as the extractor has it.
    """
    least = HOP + LENGTH
    waves_ML = F.pad(waves_ML * frames_mask(lengths_M, waves_ML.shape[1]), (0, max(0, least - waves_ML.shape[1])))
    frames_M = (lengths_M.clamp(min=least) - LENGTH) // HOP + 1
    mel_MTF = kaldi_log_mel(waves_ML, num_mel_bins)
    mask_MT1 = frames_mask(frames_M, mel_MTF.shape[1])[..., None]
    count_M11 = frames_M[:, None, None]
    mean_M1F = (mel_MTF * mask_MT1).sum(1, keepdim=True) / count_M11
    centred_MTF = (mel_MTF - mean_M1F) * mask_MT1
    variance_M1F = centred_MTF.square().sum(1, keepdim=True) / (count_M11 - 1)
    normal_MTF = centred_MTF / (variance_M1F + 1e-7).sqrt()
    pairs = mel_MTF.shape[1] // PAIR
    return normal_MTF[:, : PAIR * pairs].reshape(len(waves_ML), pairs, -1), frames_mask(frames_M // PAIR, pairs)


def kaldi_log_mel(waves_ML: Tensor, num_mel_bins: int) -> Tensor:
    """Kaldi's log-mel filter bank [M, T, F]: frames without an offset, with more treble, under a Povey window."""
    frames_MTW = waves_ML.float().unfold(1, LENGTH, HOP) * 2.0**15  # Kaldi reads 16-bit integers
    frames_MTW = frames_MTW - frames_MTW.mean(-1, keepdim=True)
    before_MTW = F.pad(frames_MTW, (1, 0), mode="replicate")[..., :-1]
    frames_MTW = (frames_MTW - PREEMPHASIS * before_MTW) * povey(waves_ML.device)
    power_MTB = torch.fft.rfft(frames_MTW, N_FFT).abs().square()
    return (power_MTB @ kaldi_filters(num_mel_bins, waves_ML.device)).clamp(min=FLOOR).log()


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
def povey(device: torch.device) -> Tensor:
    """The window of the transform: a Hann window to the power of 0.85."""
    return torch.from_numpy(window_function(LENGTH, "povey", periodic=False)).float().to(device)
