"""Whisper's encoder on the clip's real length, with the log-mel front end on the model's device.

The weights and layers are transformers' own `WhisperEncoder`; what differs is the way in: waveforms instead of
features, no padding to 30 s or to the longest clip, and windows for audio longer than the position table.
Shapes: N clips, L samples, M windows, F mel bins, T frames, C width.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import WhisperConfig
from transformers.audio_utils import mel_filter_bank
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperModel

from audiollm.models.encoders.clips import CLIPS, joined, parted, prefer_clips

N_FFT = 400
HOP = 160  # samples between two mel frames, as every published Whisper has it; `hop_length` of a config changes it
STRIDE = 2  # of the second convolution: two mel frames make one output frame


class WhisperAudioEncoder(WhisperEncoder):
    """Waveforms [N, L] at 16 kHz to frames [N, T, C] at 50 Hz; equals transformers' encoder at the full window.

    An encoder that is made from scratch may have a longer `hop_length` in its config: 320 gives 25 frames a second.
    """

    sampling_rate: ClassVar[int] = 16_000
    config_class = WhisperConfig

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.hop = hop_length(config.to_dict())
        prefer_clips(self)

    @staticmethod
    def frame_rate_hz(config: Mapping[str, Any]) -> float:
        """Output frames a second: 50, or what `hop_length` makes of it."""
        return 16_000 / hop_length(config) / STRIDE

    @staticmethod
    def num_frames(config: Mapping[str, Any], num_samples: int) -> int:
        """Output frames of a clip: whole windows of `max_source_positions`, then what is left."""
        hop = hop_length(config)
        whole, rest = divmod(num_samples, window_length(config["max_source_positions"], hop))
        return whole * config["max_source_positions"] + output_frames(rest, hop)

    @staticmethod
    def width(config: Mapping[str, Any]) -> int:
        """C, the width of a frame."""
        return config["d_model"]

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> "WhisperAudioEncoder":
        """The encoder of a Whisper checkpoint by hub name or folder; its decoder is read and dropped."""
        whole: Any = WhisperModel.from_pretrained(checkpoint, revision=revision or "main", dtype="auto")
        encoder: Any = cls(whole.config)
        encoder.to(whole.dtype)
        encoder.load_state_dict(whole.encoder.state_dict())
        return encoder

    def forward(self, input_values: Tensor, input_values_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[N, L] float32 and its bool mask -> frames [N, T, C] (zero after a clip's end) and bool [N, T]."""
        window_samples = window_length(self.config.max_source_positions, self.hop)
        lengths_N = input_values_mask.sum(-1)
        windows_ML, lengths_M, kept_NK = cut_windows(input_values, lengths_N, window_samples)
        mel_MFT = log_mel(windows_ML, lengths_M, window_samples, self.config.num_mel_bins, self.hop)
        frames_MTC, mask_MT = self.encode(mel_MFT, mel_frames(lengths_M, self.hop))
        return join_windows(frames_MTC, mask_MT, kept_NK)

    def encode(self, mel_MFT: Tensor, mel_lengths_M: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel windows to frames; the convolutions and attention see zeros or nothing after a window's end."""
        mel_mask_MT = torch.arange(mel_MFT.shape[-1], device=mel_MFT.device) < mel_lengths_M[:, None]
        x_MCT = F.gelu(self.conv1(mel_MFT.to(self.conv1.weight.dtype))) * mel_mask_MT[:, None]
        x_MTC = F.gelu(self.conv2(x_MCT)).transpose(1, 2)
        x_MTC = x_MTC + self.embed_positions.weight[: x_MTC.shape[1]]
        x_MTC = F.dropout(x_MTC, p=self.dropout, training=self.training)
        mask_MT = mel_mask_MT[:, ::STRIDE]
        if self.config._attn_implementation == CLIPS:
            return self.encode_joined(x_MTC, mask_MT), mask_MT
        attention_mask = create_bidirectional_mask(self.config, x_MTC, None if bool(mask_MT.all()) else mask_MT)
        for layer in self.layers:
            x_MTC = layer(x_MTC, attention_mask)
        return self.layer_norm(x_MTC) * mask_MT[..., None], mask_MT

    def encode_joined(self, x_MTC: Tensor, mask_MT: Tensor) -> Tensor:
        """The layers over the frames of all windows in one sequence: [M, T, C] -> [M, T, C], zero after the end."""
        x_1SC, lengths = joined(x_MTC, mask_MT), mask_MT.sum(-1).tolist()
        for layer in self.layers:
            x_1SC = layer(x_1SC, None, clip_lengths=lengths)
        return parted(self.layer_norm(x_1SC), mask_MT)


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


def output_frames(num_samples: int, hop: int = HOP) -> int:
    """Encoder frames of a part of one window."""
    return -(-mel_frames(num_samples, hop) // STRIDE)


def cut_windows(waves_NL: Tensor, lengths_N: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut clips into windows that hold sound: [M, min(L, window)], lengths [M], and which of [N, K] were kept.

    window=4:   a a a a|a a . .   ->   a a a a / a a . . / b b b .       . = padding
                b b b .|. . . .
    """
    N, L = waves_NL.shape
    if window >= L:
        return waves_NL, lengths_N, lengths_N[:, None] >= 0
    K = -(-L // window)
    windows = F.pad(waves_NL, (0, K * window - L)).view(N, K, window)
    starts_K = torch.arange(K, device=waves_NL.device) * window
    lengths_NK = (lengths_N[:, None] - starts_K).clamp(0, window)
    kept_NK = lengths_NK > 0
    return windows[kept_NK], lengths_NK[kept_NK], kept_NK


def join_windows(frames_MTC: Tensor, mask_MT: Tensor, kept_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Put the windows of each clip one after another: [N, K * T, C] and mask; the inverse of `cut_windows`."""
    N, K = kept_NK.shape
    if K == 1:
        return frames_MTC, mask_MT
    _, T, C = frames_MTC.shape
    frames = frames_MTC.new_zeros(N, K, T, C).masked_scatter(kept_NK[..., None, None], frames_MTC)
    mask = mask_MT.new_zeros(N, K, T).masked_scatter(kept_NK[..., None], mask_MT)
    return frames.view(N, K * T, C), mask.view(N, K * T)


def log_mel(waves_ML: Tensor, lengths_M: Tensor, window: int, num_mel_bins: int, hop: int = HOP) -> Tensor:
    """Whisper's log-mel features [M, F, ceil(L / hop)] of clips that end at `lengths_M`, zero after the end.

    Equal to transformers' extractor: reflected at the start; after the end zeros before the transform, or a reflection
    where a clip fills the whole window; the dynamic range is cut 8 decades below the clip's own maximum.
    """
    half = N_FFT // 2
    mask_ML = torch.arange(waves_ML.shape[1], device=waves_ML.device) < lengths_M[:, None]
    waves_ML = F.pad(waves_ML.float() * mask_ML, (0, max(0, N_FFT - waves_ML.shape[1])))
    tail = torch.zeros(len(waves_ML), N_FFT, device=waves_ML.device)
    full_M1 = (lengths_M == window)[:, None]
    tail[:, :half] = waves_ML[:, -half - 1 : -1].flip(-1) * full_M1
    padded = torch.cat([waves_ML[:, 1 : half + 1].flip(-1), waves_ML, tail], dim=1)
    spectrum = torch.stft(padded, N_FFT, hop, window=hann(waves_ML.device), center=False, return_complex=True)
    power_MBT = spectrum.abs().square()
    mel_MFT = (mel_filters(num_mel_bins, waves_ML.device) @ power_MBT).clamp(min=1e-10).log10()
    num_frames = mel_frames(mask_ML.shape[1], hop)
    # every frame that touches the clip counts, but the one past the full window, which the extractor drops
    loudest_M11 = mel_MFT[..., : window // hop].amax(dim=(1, 2), keepdim=True)
    mel_MFT = (torch.maximum(mel_MFT, loudest_M11 - 8.0) + 4.0) / 4.0
    mel_mask = torch.arange(num_frames, device=waves_ML.device) < mel_frames(lengths_M, hop)[:, None]
    return mel_MFT[..., :num_frames] * mel_mask[:, None]


@lru_cache
def mel_filters(num_mel_bins: int, device: torch.device) -> Tensor:
    """Slaney's triangular filters [F, N_FFT // 2 + 1] up to 8 kHz, as every Whisper uses."""
    bank = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=16_000,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(bank.T.copy()).float().to(device)


@lru_cache
def hann(device: torch.device) -> Tensor:
    """The periodic Hann window of the transform."""
    return torch.hann_window(N_FFT, device=device)
