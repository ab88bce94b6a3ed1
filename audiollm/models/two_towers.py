"""Two towers: an audio encoder and a text encoder whose clips and texts lie near each other where they mean the same.

    clip ─► encoder ─► mean over time  ─► projection ─┐
                                                      ├─ unit vectors: their product, divided by a temperature
    text ─► text tower ─► pooled states ─► projection ─┘

Not here: making one (towers_parts.py), its processor (towers_processing.py), the loss (training/objectives/towers.py).
Shapes: N clips or texts, L samples, T frames, C encoder width, U tokens, H text width, E shared width.
"""

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from audiollm.models.configuration import AudioTextConfig
from audiollm.models.encoders import encoder_of
from audiollm.models.modeling import AudioLLMModel, is_trainable

LARGEST_SCALE = 100.0
"""One over the lowest temperature, as in CLIP: below it the loss hears nothing but the nearest pair."""


class Projection(nn.Module):
    """The way of both towers into the shared space, and the temperature of what is measured there."""

    def __init__(self, audio_width: int, text_width: int, width: int, temperature: float) -> None:
        super().__init__()
        self.audio = two_layers(audio_width, width)
        self.text = two_layers(text_width, width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    @property
    def scale(self) -> Tensor:
        """One over the temperature."""
        return self.log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()


def two_layers(width_in: int, width: int) -> nn.Sequential:
    """As CLAP projects each of its towers (Wu et al., 2023)."""
    return nn.Sequential(nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width))


class AudioTextModel(PreTrainedModel):
    """Clips and texts to unit vectors of one space."""

    config: AudioTextConfig
    config_class = AudioTextConfig
    main_input_name = "input_values"
    input_modalities = ["audio", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    trained_parts: frozenset[str] | set[str] = frozenset()  # by any stage so far
    lora_config = encoder_lora_config = None
    # It listens as an audio language model does: a frozen encoder keeps no graph, kept frames are taken, and each rank
    # runs what the others run.
    get_audio_frames: Any = AudioLLMModel.get_audio_frames
    all_ranks_must_run: Any = AudioLLMModel.all_ranks_must_run
    trains_on_ranks: Any = AudioLLMModel.trains_on_ranks
    silent_clip: Any = AudioLLMModel.silent_clip

    def __init__(self, config: AudioTextConfig) -> None:
        super().__init__(config)
        self.audio_tower: Any = encoder_of(config.audio_config.to_dict())(config.audio_config)
        self.text_tower: Any = AutoModel.from_config(config.text_config, **without_pooler(config.text_config))
        self.projection = projection_of(config)
        self.post_init()

    @property
    def encoder(self) -> nn.Module:
        """What listens."""
        return self.audio_tower

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a small checkpoint on top of its named bases, or a complete folder as the library does."""
        from audiollm.models.checkpoint import is_small_checkpoint
        from audiollm.models.towers_parts import load_towers  # which builds this class

        if is_small_checkpoint(pretrained_model_name_or_path):
            return load_towers(pretrained_model_name_or_path, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def train(self, mode: bool = True) -> "AudioTextModel":
        """Training mode for the parts that train; a frozen part stays in evaluation mode."""
        super().train(mode)
        for part in (self.audio_tower, self.text_tower, self.projection):
            if not is_trainable(part):
                part.eval()
        return self

    def get_audio_embeds(self, input_values: Tensor, input_values_mask: Tensor) -> Tensor:
        """Clips [N, L] at `sampling_rate`, and their mask, to unit vectors [N, E]."""
        return self.embed_frames(*self.get_audio_frames(input_values, input_values_mask))

    def embed_frames(self, frames_NTC: Tensor, mask_NT: Tensor) -> Tensor:
        """What the encoder made of clips to unit vectors [N, E]: the mean over each clip's time, projected."""
        return self.unit(self.projection.audio, mean_over(frames_NTC, mask_NT))

    def get_text_embeds(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Texts [N, U], padded on the right, and their mask, to unit vectors [N, E]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trainable(self.text_tower)):
            states_NUH = self.text_tower(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            pooled_NH = pool(states_NUH, attention_mask, self.config.pooling)
        return self.unit(self.projection.text, pooled_NH)

    def unit(self, projection: nn.Module, pooled_NC: Tensor) -> Tensor:
        """Pooled states to unit vectors [N, E] in float32, whatever the towers compute in."""
        return F.normalize(projection(pooled_NC.to(self.projection.log_scale.dtype)).float(), dim=-1)

    def forward(
        self, input_values: Tensor, input_values_mask: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """How near each clip is to each text, divided by the temperature: [clips, texts]."""
        audio_NE = self.get_audio_embeds(input_values, input_values_mask)
        return self.projection.scale * audio_NE @ self.get_text_embeds(input_ids, attention_mask).T


def mean_over(states_NTC: Tensor, mask_NT: Tensor) -> Tensor:
    """The mean over each row's states, padding left out, in float32: [N, C]."""
    mask_NT1 = mask_NT[..., None].float()
    return (states_NTC.float() * mask_NT1).sum(1) / mask_NT1.sum(1)


def pool(states_NUH: Tensor, mask_NU: Tensor, pooling: str) -> Tensor:
    """One state for each text: [N, H]."""
    if pooling == "mean":
        return mean_over(states_NUH, mask_NU)
    if pooling == "first":
        return states_NUH[:, 0]
    last_N = mask_NU.sum(-1) - 1
    return states_NUH[torch.arange(len(last_N), device=last_N.device), last_N]


def without_pooler(text_config: Any) -> dict[str, Any]:
    """The option by which BERT and its kin leave out a pooler, which nothing here would train."""
    found: Any = MODEL_MAPPING[type(text_config)]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(found).parameters else {}


def projection_of(config: AudioTextConfig) -> Projection:
    """A new projection that fits the towers of a config."""
    audio_config = config.audio_config.to_dict()
    audio_width, text_width = encoder_of(audio_config).width(audio_config), config.text_config.hidden_size
    return Projection(audio_width, text_width, config.projection_width, config.temperature)


AutoConfig.register(AudioTextConfig.model_type, AudioTextConfig)
AutoModel.register(AudioTextConfig, AudioTextModel)
