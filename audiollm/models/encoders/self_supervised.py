"""wav2vec 2.0 and its kin: convolutions over the waveform, then a transformer; 50 frames a second.

The weights and layers are transformers' own; what differs is the way in: clips that are normalised over their own
samples, a first norm over their own frames, and at least one frame for the shortest.
Not here: w2v-BERT, which hears a filter bank (w2v_bert.py).
Shapes: M windows, L samples, T frames, C width.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    SEWConfig,
    SEWModel,
    UniSpeechConfig,
    UniSpeechModel,
    UniSpeechSatConfig,
    UniSpeechSatModel,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerModel,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from audiollm.models.encoders.base import caught, frames_mask
from audiollm.models.encoders.pretrained import SteadyEncoder, own_moments
from audiollm.models.sharded import is_sharded

DO_NORMALIZE = "do_normalize"
"""The key of the feature extractor's config, and of ours, that says whether clips are normalised."""


class SelfSupervisedEncoder(SteadyEncoder):
    """Waveforms [N, L] at 16 kHz to frames [N, T, C] at 50 Hz; equals transformers' model on each clip alone.

    `do_normalize` stands in a checkpoint's feature extractor; it is read when that is loaded, and kept in our config.
    """

    more_sizes = (DO_NORMALIZE,)

    kept = (DO_NORMALIZE,)
    feature_extractor: Any  # these three as each of the library's models has them
    feature_projection: Any
    encoder: Any

    @classmethod
    def stride(cls, config: Mapping[str, Any]) -> int:
        """Samples from one frame to the next: 320."""
        return math.prod(config["conv_stride"])

    @classmethod
    def receptive_field(cls, config: Mapping[str, Any]) -> int:
        """Samples that the convolutions read for one frame: 400."""
        samples = 1
        for kernel, stride in zip(reversed(config["conv_kernel"]), reversed(config["conv_stride"]), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @classmethod
    def normalizes(cls, config: Mapping[str, Any]) -> bool:
        """Whether clips are brought to mean 0 and variance 1; as the extractor has it where nothing is said."""
        return bool(config.get(DO_NORMALIZE, True))

    @classmethod
    def hears_alone(cls, config: Mapping[str, Any]) -> bool:
        """Whether layers mix frames without a mask, so that a clip would hear the padding after its end."""
        return False

    @classmethod
    def least(cls, config: Mapping[str, Any]) -> int:
        """Samples that the layers need; a shorter clip is filled with silence."""
        return cls.receptive_field(config)

    def hear(self, windows_ML: Tensor, lengths_M: Tensor, taps: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Normalised windows to frames; the positional convolution and attention see nothing after a window's end."""
        config, convolutions = self.config.to_dict(), self.feature_extractor.conv_layers
        frames_M = frames_after(lengths_M.clamp(min=self.receptive_field(config)), convolutions)
        waves_ML, lengths_M = self.front_end(windows_ML, lengths_M, config)
        if self.hears_alone(config):
            return self.hear_each(waves_ML, lengths_M, frames_M, taps), frames_mask(frames_M, int(frames_M.max()))
        x_MTC = convolved(convolutions, waves_ML, lengths_M).transpose(1, 2)
        mask_MT = frames_mask(frames_M, x_MTC.shape[1])
        projected = self.feature_projection(x_MTC)
        x_MTC = projected[0] if isinstance(projected, tuple) else projected
        with caught(self.encoder.layers, taps) as found:
            end_MTC = self.encoder(x_MTC, attention_mask=mask_MT).last_hidden_state
        return [found[tap] for tap in taps] or [end_MTC], mask_MT

    def hear_each(self, waves_ML: Tensor, lengths_M: Tensor, frames_M: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """The frames that `hear` gives, one clip after another through the library's own forward."""
        if is_sharded(self.encoder):
            raise ValueError(
                f"{self.config.model_type} hears one clip after another, and ranks with unlike numbers of clips would "
                "wait for each other's weights; leave FSDP2 or ZeRO-3 out, or take a family that hears them together"
            )
        heard, weights = [], self.feature_extractor.conv_layers[0].conv.weight
        for wave_L, length, frames in zip(
            waves_ML.to(weights.dtype), lengths_M.tolist(), frames_M.tolist(), strict=True
        ):
            with caught(self.encoder.layers, taps) as found:
                end_1TC = self.library_forward(wave_L[None, :length]).last_hidden_state
            heard.append([self.at_full_rate(found[tap][0], frames) for tap in taps] or [end_1TC[0, :frames]])
        return [nn.utils.rnn.pad_sequence(list(states), batch_first=True) for states in zip(*heard, strict=True)]

    def at_full_rate(self, frames_UC: Tensor, num_frames: int) -> Tensor:
        """What a layer gives of a clip, as many frames as its end has."""
        return frames_UC

    def front_end(self, windows_ML: Tensor, lengths_M: Tensor, config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """What the convolutions read, zero after a window's end, and its length: enough for one frame."""
        mask_ML = frames_mask(lengths_M, windows_ML.shape[1])
        waves_ML = normalized(windows_ML, lengths_M) if self.normalizes(config) else windows_ML * mask_ML
        least = self.least(config)
        return F.pad(waves_ML, (0, max(0, least - waves_ML.shape[1]))), lengths_M.clamp(min=least)


def normalized(waves_ML: Tensor, lengths_M: Tensor) -> Tensor:
    """Mean 0 and variance 1 over a clip's own samples, zero after them, as `Wav2Vec2FeatureExtractor` has it."""
    mask_ML = frames_mask(lengths_M, waves_ML.shape[1])
    mean_M1, variance_M1 = own_moments(waves_ML, mask_ML, 1)
    return (waves_ML - mean_M1) * mask_ML / (variance_M1 + 1e-7).sqrt()


def convolved(layers: Any, waves_ML: Tensor, lengths_M: Tensor) -> Tensor:
    """The convolutions over samples: [M, C, T]; a norm over time counts a clip's own frames alone."""
    x_MCT = waves_ML[:, None].to(layers[0].conv.weight.dtype)
    for number, layer in enumerate(layers, 1):
        norm = getattr(layer, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            frames_M = frames_after(lengths_M, layers[:number])
            x_MCT = layer.activation(clip_norm(layer.conv(x_MCT), frames_M, norm))
        else:
            x_MCT = layer(x_MCT)
    return x_MCT


def frames_after(lengths_M: Tensor, layers: Any) -> Tensor:
    """Frames that convolutions without padding make of so many samples."""
    for layer in layers:
        lengths_M = (lengths_M - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
    return lengths_M


def clip_norm(x_MCT: Tensor, frames_M: Tensor, norm: nn.GroupNorm) -> Tensor:
    """The library's norm of each channel over time, over a clip's own frames.

    With those of the padding the mean and the variance would depend on the longest clip of the batch. The base models
    of wav2vec 2.0, HuBERT and WavLM have this norm, and in the library give a padded clip other frames than alone.
    """
    wide_MCT = x_MCT.float()
    mean_MC1, variance_MC1 = own_moments(wide_MCT, frames_mask(frames_M, x_MCT.shape[-1])[:, None], -1)
    scale_MC1 = (variance_MC1 + norm.eps).rsqrt() * norm.weight[:, None]
    return ((wide_MCT - mean_MC1) * scale_MC1 + norm.bias[:, None]).to(x_MCT.dtype)


# ------------------------------------------------------------------------------------------------------- the families
class Wav2Vec2Encoder(SelfSupervisedEncoder, Wav2Vec2Model):
    """wav2vec 2.0, XLS-R and MMS."""

    config_class = Wav2Vec2Config


class HubertEncoder(SelfSupervisedEncoder, HubertModel):
    """HuBERT."""

    config_class = HubertConfig

    @classmethod
    def hears_alone(cls, config: Mapping[str, Any]) -> bool:
        """Where a norm with a bias stands before the positional convolution, silence is not zero there."""
        return bool(config["conv_pos_batch_norm"])


class WavLMEncoder(SelfSupervisedEncoder, WavLMModel):
    """WavLM."""

    config_class = WavLMConfig

    @classmethod
    def normalizes(cls, config: Mapping[str, Any]) -> bool:
        """Published: the large one, with a norm in every convolution, was trained on normalised sound; base was not."""
        return bool(config.get(DO_NORMALIZE, config["feat_extract_norm"] == "layer"))


class UniSpeechEncoder(SelfSupervisedEncoder, UniSpeechModel):
    """UniSpeech."""

    config_class = UniSpeechConfig


class UniSpeechSatEncoder(SelfSupervisedEncoder, UniSpeechSatModel):
    """UniSpeech-SAT."""

    config_class = UniSpeechSatConfig

    def __init__(self, config: UniSpeechSatConfig) -> None:
        super().__init__(config)
        del self.masked_spec_embed  # what stands in the place of masked frames, of which there are none


class Data2VecAudioEncoder(SelfSupervisedEncoder, Data2VecAudioModel):
    """data2vec, whose positions are five convolutions one after another."""

    config_class = Data2VecAudioConfig

    @classmethod
    def hears_alone(cls, config: Mapping[str, Any]) -> bool:
        """Always."""
        return True


class SEWAudioEncoder(SelfSupervisedEncoder, SEWModel):
    """SEW, whose layers hear two frames as one, and whose end has a frame of zeros where one is without a partner."""

    config_class = SEWConfig

    @classmethod
    def hears_alone(cls, config: Mapping[str, Any]) -> bool:
        """Always: a clip's last frame has another partner where more follows."""
        return True

    @classmethod
    def least(cls, config: Mapping[str, Any]) -> int:
        """Samples of the frames that are heard as one."""
        return cls.receptive_field(config) + (int(config["squeeze_factor"]) - 1) * cls.stride(config)

    def at_full_rate(self, frames_UC: Tensor, num_frames: int) -> Tensor:
        """Each frame of a layer for those that it heard, the last one for one without a partner too."""
        at_T = torch.arange(num_frames, device=frames_UC.device) // self.config.squeeze_factor
        return frames_UC[at_T.clamp(max=len(frames_UC) - 1)]


class Wav2Vec2ConformerEncoder(SelfSupervisedEncoder, Wav2Vec2ConformerModel):
    """wav2vec 2.0 with conformer layers."""

    config_class = Wav2Vec2ConformerConfig

    def __init__(self, config: Wav2Vec2ConformerConfig) -> None:
        super().__init__(config)
        del self.encoder.pos_conv_embed  # the library makes it and reads it nowhere: DDP would wait for its gradient

    @classmethod
    def hears_alone(cls, config: Mapping[str, Any]) -> bool:
        """Always: each layer convolves."""
        return True


SELF_SUPERVISED: dict[str, type[SelfSupervisedEncoder]] = {
    "wav2vec2": Wav2Vec2Encoder,
    "hubert": HubertEncoder,
    "wavlm": WavLMEncoder,
    "unispeech": UniSpeechEncoder,
    "unispeech-sat": UniSpeechSatEncoder,
    "data2vec-audio": Data2VecAudioEncoder,
    "sew": SEWAudioEncoder,
    "wav2vec2-conformer": Wav2Vec2ConformerEncoder,
}
"""By `model_type`."""
