"""CLAP's audio tower: sound at 48 kHz, a log-mel image of ten seconds, a Swin transformer (HTSAT), frames in time.

The weights and layers are transformers' own `ClapAudioModel`; what differs is the way in and out: waveforms at 16 kHz,
which are resampled here, windows for audio longer than ten seconds, and frames in time instead of one vector a clip.
A shorter clip is repeated to fill its window, as the model was trained to hear it, each by itself; the frames that
begin within the clip count.

    a window of 4 chunks, stacked        0 1 2 3|4 5 6 7|8 ...          chunk 0:  0  1  2  3  4  5  6  7
    on the frequency axis of the image:                                       1:  8  9 10 ...
Shapes: M windows, L samples, U mel frames, F mel bins, T frames, B bands, C width.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from transformers import ClapAudioConfig, ClapAudioModel
from transformers.audio_utils import mel_filter_bank

from audiollm.models.encoders.base import SAMPLING_RATE, caught, frames_mask
from audiollm.models.encoders.loading import FRONT_END, front_end, load_tower
from audiollm.models.encoders.patches import PatchEncoder
from audiollm.models.encoders.pretrained import SteadyEncoder
from audiollm.models.encoders.resampling import upsampled
from audiollm.models.settings import Settings


class ClapFrontEnd(Settings):
    """What `ClapFeatureExtractor` knows and the model's config does not; the defaults are the published ones."""

    sampling_rate: Literal[16_000, 32_000, 48_000] = 48_000
    """Hz that the spectrogram is made at."""
    max_length_s: PositiveInt = 10
    """Seconds of a window."""
    fft_window_size: PositiveInt = 1024
    """Samples of a transform."""
    hop_length: PositiveInt = 480
    """Samples from one transform to the next."""
    frequency_min: NonNegativeFloat = 0.0
    """Hz where the filters begin."""
    frequency_max: PositiveFloat = 14_000.0
    """Hz where the filters end."""
    truncation: Literal["fusion", "rand_trunc"] = "fusion"
    """Which filters: those of the fused models are HTK's, those of the others Slaney's."""
    padding: Literal["repeatpad", "repeat", "pad"] = "repeatpad"
    """What fills a window: whole repetitions and then zeros, repetitions alone, or zeros alone."""


class ClapTower(PatchEncoder, SteadyEncoder, ClapAudioModel):
    """CLAP's audio tower (HTSAT): 3.2 frames a second.

    Waveforms [N, L] at 16 kHz to frames [N, T, C]; equals transformers' model on each window. Where its extractor takes
    one clip of a batch at random to be longer than it is, for the fused models, none is here. A tapped layer is a stage
    of the Swin transformer, averaged to the grid of the last one.
    """

    config_class = ClapAudioConfig
    FrontEnd = ClapFrontEnd
    _keys_to_ignore_on_load_unexpected: Any = (r"^(audio|text)_(model|projection)\.", r"^logit_scale_")

    def __init__(self, config: ClapAudioConfig) -> None:
        super().__init__(config)
        self.front_end = front_end(ClapFrontEnd, config.to_dict())
        setattr(config, FRONT_END, self.front_end.model_dump())

    @classmethod
    def stride(cls, config: Mapping[str, Any]) -> int:
        """Samples of a window for each of its frames: 5,000."""
        samples, frames = front_end(ClapFrontEnd, config).max_length_s * SAMPLING_RATE, cls.max_frames(config)
        if samples % frames:
            raise ValueError(f"clap: a window of {samples} samples is no whole number of samples for {frames} frames")
        return samples // frames

    @classmethod
    def num_frames(cls, config: Mapping[str, Any], num_samples: int) -> int:
        """Frames that begin within the clip."""
        return -(-num_samples // cls.stride(config))

    @classmethod
    def max_frames(cls, config: Mapping[str, Any]) -> int:
        """Columns of the last grid times the chunks above each other: 32."""
        return chunks(config) * grid(config, len(config["depths"]))

    @classmethod
    def bands(cls, config: Mapping[str, Any]) -> int:
        """Rows of the last grid in a chunk: 2."""
        return grid(config, len(config["depths"])) // chunks(config)

    @classmethod
    def num_layers(cls, config: Mapping[str, Any]) -> int:
        """Stages."""
        return len(config["depths"])

    @classmethod
    def layer_width(cls, config: Mapping[str, Any]) -> int:
        """Width of the last stage, or that of all bands side by side."""
        return cls.in_a_frame(config, stage_width(config, len(config["depths"])))

    @classmethod
    def sections(cls, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Widths of the tapped stages, or of the last."""
        taps = cls.taps(config)
        return tuple(cls.in_a_frame(config, stage_width(config, tap)) for tap in taps) or (cls.layer_width(config),)

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> Any:
        """The tower of a checkpoint by hub name or folder, without its text tower."""
        return load_tower(cls, checkpoint, revision, within="audio_model")

    def hear(self, windows_ML: Tensor, lengths_M: Tensor, taps: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Windows to spectrograms to grids to frames."""
        sizes = self.config.to_dict()
        weight = self.audio_encoder.patch_embed.proj.weight
        mel_M1UF = self.spectrogram(self.filled(windows_ML, lengths_M)).to(weight.dtype)[:, None]
        is_longer_M = torch.zeros(len(mel_M1UF), dtype=torch.bool, device=mel_M1UF.device)
        with caught(self.audio_encoder.layers, taps) as found:
            end_MCBT = self.audio_encoder(mel_M1UF, is_longer=is_longer_M).last_hidden_state
        B, T = end_MCBT.shape[2:]
        grids = [unstacked(found[tap], chunks(sizes), (B, T)) for tap in taps] or [end_MCBT]
        frames_M = (-(-lengths_M // self.stride(sizes))).clamp(max=self.max_frames(sizes))
        longest = int(frames_M.max())
        states = [self.framed(grid_MCBT.permute(0, 3, 2, 1)[:, :longest]) for grid_MCBT in grids]
        return states, frames_mask(frames_M, longest)

    def filled(self, waves_ML: Tensor, lengths_M: Tensor) -> Tensor:
        """Windows at the model's own rate [M, L'], full: of repetitions and zeros, as `padding` has it."""
        rate = self.front_end.sampling_rate
        factor, window = rate // SAMPLING_RATE, self.front_end.max_length_s * SAMPLING_RATE
        lengths_M1 = lengths_M.clamp(max=window)[:, None]
        waves_ML = F.pad(waves_ML.to(exact(waves_ML.device)), (0, max(0, window - waves_ML.shape[1])))[:, :window]
        waves_ML = upsampled(waves_ML * frames_mask(lengths_M1[:, 0], window), factor)
        time_L = torch.arange(window * factor, device=waves_ML.device)
        period_M1 = lengths_M1 * factor
        repeated_ML = waves_ML.gather(1, time_L % period_M1)
        if self.front_end.padding == "repeat":
            return repeated_ML
        times_M1 = window * factor // period_M1 if self.front_end.padding == "repeatpad" else 1
        return repeated_ML * (time_L < times_M1 * period_M1)

    def spectrogram(self, waves_ML: Tensor) -> Tensor:
        """What `ClapFeatureExtractor` makes of full windows: [M, U, F] in decibels."""
        said, device = self.front_end, waves_ML.device
        size, hop = said.fft_window_size, said.hop_length
        taper = torch.hann_window(size, device=device, dtype=waves_ML.dtype)
        spectrum_MFU = torch.stft(waves_ML, size, hop, window=taper, pad_mode="reflect", return_complex=True)
        mel_MFU = clap_filters(said, self.config.num_mel_bins, device) @ spectrum_MFU.abs().square()
        return 10 * mel_MFU.clamp(min=1e-10).log10().transpose(1, 2).float()


def chunks(config: Mapping[str, Any]) -> int:
    """Pieces of a window that lie above each other in the image: 4."""
    return int(config["spec_size"]) // int(config["num_mel_bins"])


def grid(config: Mapping[str, Any], stage: int) -> int:
    """Rows, and columns, of the grid that a stage gives: each stage but the last halves it."""
    stride = config["patch_stride"]
    side = int(config["spec_size"]) // (stride if isinstance(stride, int) else int(stride[0]))
    return side >> min(stage, len(config["depths"]) - 1)


def stage_width(config: Mapping[str, Any], stage: int) -> int:
    """C of the patches that a stage gives: each stage but the last doubles it."""
    return int(config["patch_embeds_hidden_size"]) << min(stage, len(config["depths"]) - 1)


def unstacked(patches_MGC: Tensor, num_chunks: int, shape: tuple[int, int]) -> Tensor:
    """A stage's patches in the order of time: [M, C, B, T], averaged to the bands and frames of the last stage."""
    side = round(patches_MGC.shape[1] ** 0.5)
    image_MCKBT = patches_MGC.transpose(1, 2).unflatten(2, (num_chunks, side // num_chunks, side))
    return F.adaptive_avg_pool2d(image_MCKBT.transpose(2, 3).flatten(3), shape)


@lru_cache
def clap_filters(said: ClapFrontEnd, num_mel_bins: int, device: torch.device) -> Tensor:
    """The mel filters [F, frequencies]."""
    scale = "htk" if said.truncation == "fusion" else "slaney"
    bank = mel_filter_bank(
        num_frequency_bins=said.fft_window_size // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=said.frequency_min,
        max_frequency=said.frequency_max,
        sampling_rate=said.sampling_rate,
        norm=None if scale == "htk" else "slaney",
        mel_scale=scale,
    )
    return torch.from_numpy(bank.T.copy()).to(device, exact(device))


def exact(device: torch.device) -> torch.dtype:
    """The type of the front end: the extractor's own, where the device has it.

    Above 8 kHz a clip at 16 kHz has nothing, and decibels of nothing are decibels of rounding.
    """
    return torch.float32 if device.type == "mps" else torch.float64
