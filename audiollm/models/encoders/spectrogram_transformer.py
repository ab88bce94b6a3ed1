"""The Audio Spectrogram Transformer on the clip's real length: Kaldi's filter bank, patches of 16 x 16, a transformer.

The weights and layers are transformers' own `ASTModel`; what differs is the way in and out: waveforms instead of
features, the first columns of the position table for a shorter clip, windows for a longer one, and frames in time
instead of one vector a clip.

    table of positions:  bands     0  . . . . . . .     a clip of 3 frames takes the columns | . . . |,
                         of       ..  . . . . . . .     and the two tokens before them
                         frequency 11 . . . . . . .
                            frame     0 1 2 ... 100
Shapes: M windows, L samples, F mel bins, U frames of the filter bank, T frames, B bands, S tokens, C width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ASTConfig, ASTModel

from audiollm.models.encoders.base import frames_mask
from audiollm.models.encoders.clips import prefer_clips, through_layers
from audiollm.models.encoders.filter_bank import HOP, LENGTH, kaldi_filter_bank, kaldi_frames
from audiollm.models.encoders.loading import FRONT_END, front_end, load_tower
from audiollm.models.encoders.patches import PatchEncoder
from audiollm.models.settings import Settings

TOKENS = 2  # before the patches: of the class, and of the distillation


class ASTFrontEnd(Settings):
    """What `ASTFeatureExtractor` knows and the model's config does not; the defaults are AudioSet's."""

    sampling_rate: Literal[16_000] = 16_000
    """Hz."""
    do_normalize: bool = True
    """Whether the spectrogram is normalised: (x - mean) / (2 std)."""
    mean: float = -4.2677393
    """Mean of the data that the model was trained on."""
    std: float = 4.5689974
    """Standard deviation of that data."""


class ASTAudioEncoder(PatchEncoder, ASTModel):
    """The Audio Spectrogram Transformer (AST): 10 frames a second.

    Waveforms [N, L] at 16 kHz to frames [N, T, C]; equals transformers' model at the full window. The last mel frames,
    if they do not fill a patch, are in no frame, as there.
    """

    config_class = ASTConfig
    FrontEnd = ASTFrontEnd

    def __init__(self, config: ASTConfig) -> None:
        super().__init__(config)
        self.front_end = front_end(ASTFrontEnd, config.to_dict())
        setattr(config, FRONT_END, self.front_end.model_dump())
        prefer_clips(self)

    @classmethod
    def stride(cls, config: Mapping[str, Any]) -> int:
        """Samples from one patch to the next: 1,600."""
        return int(config["time_stride"]) * HOP

    @classmethod
    def receptive_field(cls, config: Mapping[str, Any]) -> int:
        """Samples of a patch: 2,800."""
        return (int(config["patch_size"]) - 1) * HOP + LENGTH

    @classmethod
    def max_frames(cls, config: Mapping[str, Any]) -> int:
        """Columns of the position table: 101 for 10.24 s."""
        return (config["max_length"] - config["patch_size"]) // config["time_stride"] + 1

    @classmethod
    def bands(cls, config: Mapping[str, Any]) -> int:
        """Rows of the position table: 12."""
        return (config["num_mel_bins"] - config["patch_size"]) // config["frequency_stride"] + 1

    @classmethod
    def layer_width(cls, config: Mapping[str, Any]) -> int:
        """Width of one layer, or that of all bands side by side."""
        return cls.in_a_frame(config, int(config["hidden_size"]))

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> Any:
        """The encoder of a checkpoint by hub name or folder, without its classifier."""
        return load_tower(cls, checkpoint, revision, library=ASTModel)

    def hear(self, windows_ML: Tensor, lengths_M: Tensor, taps: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Windows to patches to frames; attention sees nothing after a window's end."""
        sizes = self.config.to_dict()
        frames_M = ((lengths_M - self.receptive_field(sizes)) // self.stride(sizes) + 1).clamp(
            1, self.max_frames(sizes)
        )
        T, B = int(frames_M.max()), self.bands(sizes)
        x_MSC = self.tokens(self.spectrogram(windows_ML, lengths_M, T), T)
        mask_MS = frames_mask(TOKENS + frames_M * B, x_MSC.shape[1])
        states = through_layers(self.layers, self.layernorm, self.config, x_MSC, mask_MS, taps)
        return [self.framed(state[:, TOKENS:].unflatten(1, (T, B))) for state in states], frames_mask(frames_M, T)

    def spectrogram(self, waves_ML: Tensor, lengths_M: Tensor, num_frames: int) -> Tensor:
        """What `ASTFeatureExtractor` gives, as long as so many patches: [M, U, F]; after a clip's end its padding."""
        span = (num_frames - 1) * self.config.time_stride + self.config.patch_size
        waves_ML = waves_ML * frames_mask(lengths_M, waves_ML.shape[1])
        mel_MUF = kaldi_filter_bank(waves_ML, self.config.num_mel_bins, window="hann", scale=1.0)[:, :span]
        mel_MUF = mel_MUF * frames_mask(kaldi_frames(lengths_M), mel_MUF.shape[1])[..., None]
        mel_MUF = F.pad(mel_MUF, (0, 0, 0, span - mel_MUF.shape[1]))
        if not self.front_end.do_normalize:
            return mel_MUF
        return (mel_MUF - self.front_end.mean) / (2 * self.front_end.std)

    def tokens(self, mel_MUF: Tensor, num_frames: int) -> Tensor:
        """What the first layer reads [M, S, C]: two tokens, then the bands of each frame, each with its position."""
        embeddings = self.embeddings
        conv = embeddings.patch_embeddings.projection
        grid_MCBT = conv(mel_MUF[:, None].transpose(2, 3).to(conv.weight.dtype))
        table_1SC = embeddings.position_embeddings
        places_CBT = table_1SC[0, TOKENS:].T.unflatten(1, (grid_MCBT.shape[2], -1))[..., :num_frames]
        patches_MSC = (grid_MCBT + places_CBT).permute(0, 3, 2, 1).flatten(1, 2)
        first_1SC = torch.cat([embeddings.cls_token, embeddings.distillation_token], dim=1) + table_1SC[:, :TOKENS]
        return embeddings.dropout(torch.cat([first_1SC.expand(len(patches_MSC), -1, -1), patches_MSC], dim=1))
