"""The towers of Qwen2-Audio and Audio Flamingo 3: Whisper's layers, then pairs of frames averaged and a last norm.

The weights and layers are transformers' own; the way in is Whisper's (whisper.py), but that a clip is followed by
silence, as these models were trained to hear it.
Shapes: N clips, M windows, L samples, T frames of Whisper's, P frames of pairs, C width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig
from transformers.models.audioflamingo3 import AudioFlamingo3Encoder, AudioFlamingo3EncoderConfig

from audiollm.models.encoders.base import frames_mask
from audiollm.models.encoders.clips import through_layers
from audiollm.models.encoders.loading import load_tower
from audiollm.models.encoders.whisper import STRIDE, WhisperLayers, hop_length

PAIR = 2  # frames that are averaged into one


class PooledWhisper(WhisperLayers):
    """Waveforms [N, L] at 16 kHz to frames [N, P, C] at 25 Hz; equals transformers' tower on the frames of a clip.

    Lengths are those of the library's `_get_feat_extract_output_lengths`: a last frame of Whisper's without a partner
    is left out. A clip of one such frame (up to 20 ms), of which the library makes none, has one: that frame.
    Tapped layers are averaged too, so that they come at the same rate.
    """

    silence = 2  # mel frames that the two convolutions of a clip's last frame reach beyond its end
    _keys_to_ignore_on_load_unexpected: Any = (
        r"^(model\.)?language_model\.",
        r"^(model\.)?multi_modal_projector\.",
        "lm_head",
    )

    @classmethod
    def stride(cls, config: Mapping[str, Any]) -> int:
        """Samples from one frame to the next: 640."""
        return PAIR * super().stride(config)

    @classmethod
    def num_frames(cls, config: Mapping[str, Any], num_samples: int) -> int:
        """Pairs of Whisper's frames, at least one."""
        return max(1, -(-num_samples // (STRIDE * hop_length(config))) // PAIR)

    @classmethod
    def max_frames(cls, config: Mapping[str, Any]) -> int:
        """Pairs of rows of the position table: 750 (30 s)."""
        return super().max_frames(config) // PAIR

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> Any:
        """The tower of a checkpoint by hub name or folder, without the language model around it."""
        return load_tower(cls, checkpoint, revision, within="audio_tower")

    def hear(self, windows_ML: Tensor, lengths_M: Tensor, taps: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Log-mel windows to the averages of pairs."""
        x_MTC, mask_MT = self.begin(windows_ML, lengths_M)
        states = through_layers(self.layers, lambda end: end, self.config, x_MTC, mask_MT, taps)
        pairs = [averaged(state, mask_MT) for state in states]
        frames_M = (mask_MT.sum(-1) // PAIR).clamp(min=1)
        return pairs if taps else [self.layer_norm(pairs[0])], frames_mask(frames_M, pairs[0].shape[1])


def averaged(frames_MTC: Tensor, mask_MT: Tensor) -> Tensor:
    """The means of neighbours: [M, T, C] -> [M, ceil(T / 2), C]; of a clip that is a single frame, that frame."""
    frames_MTC = F.pad(frames_MTC * mask_MT[..., None], (0, 0, 0, -frames_MTC.shape[1] % PAIR))
    is_single_M11 = (mask_MT.sum(-1) == 1)[:, None, None]
    return frames_MTC.unflatten(1, (-1, PAIR)).mean(2) * (1 + is_single_M11)


class Qwen2AudioTower(PooledWhisper, Qwen2AudioEncoder):
    """Qwen2-Audio's tower: 25 frames a second."""

    config_class = Qwen2AudioEncoderConfig


class AudioFlamingo3Tower(PooledWhisper, AudioFlamingo3Encoder):
    """Audio Flamingo 3's tower: 25 frames a second."""

    config_class = AudioFlamingo3EncoderConfig

    @classmethod
    def layer_width(cls, config: Mapping[str, Any]) -> int:
        """C of one layer."""
        return int(config["hidden_size"])

    @classmethod
    def num_layers(cls, config: Mapping[str, Any]) -> int:
        """Layers of the tower."""
        return int(config["num_hidden_layers"])
