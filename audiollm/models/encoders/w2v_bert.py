"""w2v-BERT 2.0: Kaldi's filter bank on the model's device, two frames in one, then conformer layers; 50 frames/s.

The weights and layers are transformers' own `Wav2Vec2BertModel`; the front end equals `SeamlessM4TFeatureExtractor`.
Shapes: M windows, L samples, F mel bins, T frames of the filter bank, then of the encoder, C width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from audiollm.models.encoders.base import caught, frames_mask
from audiollm.models.encoders.filter_bank import HOP, LENGTH, kaldi_filter_bank
from audiollm.models.encoders.pretrained import SteadyEncoder, own_moments

PAIR = 2  # frames of the filter bank make one frame of the encoder


class W2vBertEncoder(SteadyEncoder, Wav2Vec2BertModel):
    """w2v-BERT 2.0: waveforms [N, L] at 16 kHz to frames [N, T, C] at 50 Hz; transformers' own on each clip alone."""

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
    def computed(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """What `SeamlessM4TFeatureExtractor` must say."""
        return {"num_mel_bins": num_mel_bins(config), "stride": PAIR}

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
    mel_MTF = kaldi_filter_bank(waves_ML, num_mel_bins)
    mask_MT1 = frames_mask(frames_M, mel_MTF.shape[1])[..., None]
    mean_M1F, variance_M1F = own_moments(mel_MTF, mask_MT1, 1, spared=1)
    normal_MTF = (mel_MTF - mean_M1F) * mask_MT1 / (variance_M1F + 1e-7).sqrt()
    pairs = mel_MTF.shape[1] // PAIR
    return normal_MTF[:, : PAIR * pairs].reshape(len(waves_ML), pairs, -1), frames_mask(frames_M // PAIR, pairs)
