"""Perceiver connector: latents read frames and themselves at once, layer by layer. Flamingo's resampler, for sound.

Shapes: N clips, T frames, C encoder width, w frames a window, M windows, K vectors a clip, Q latents, H width inside,
h heads, D language model width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from transformers.activations import ACT2FN

from audiollm.models.connectors.base import Sizes
from audiollm.models.connectors.qformer import QuerySettings, make_queries
from audiollm.models.connectors.windows import num_windows, read_windows, window_frames


class PerceiverSettings(QuerySettings):
    """Learned latents that read a whole clip, or windows of it, in several layers."""

    num_layers: PositiveInt = 6
    """Layers; each reads the frames."""
    activation: Literal["gelu", "relu"] = "gelu"
    """What stands inside the feed-forward parts."""


class Perceiver(nn.Module):
    """Q vectors for a clip, or for each window of it."""

    Settings = PerceiverSettings

    def __init__(self, settings: PerceiverSettings, sizes: Sizes) -> None:
        super().__init__()
        self.window = window_frames(settings.window_s, sizes.frame_rate_hz)
        self.input = nn.Linear(sizes.dim_in, settings.hidden_size)
        self.query = make_queries(settings)
        self.layers = nn.ModuleList([PerceiverLayer(settings) for _ in range(settings.num_layers)])
        self.norm = nn.LayerNorm(settings.hidden_size)
        self.output = nn.Linear(settings.hidden_size, sizes.dim_out)

    @staticmethod
    def num_tokens(settings: PerceiverSettings, num_frames: int, frame_rate_hz: float) -> int:
        """Q, or ceil(T / w) * Q."""
        return num_windows(num_frames, window_frames(settings.window_s, frame_rate_hz)) * settings.num_queries

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, C] and mask [N, T] -> vectors [N, K, D] and bool mask."""
        return read_windows(frames_NTC, mask_NT, self.window, self.read)

    def read(self, frames_MwC: Tensor, heard_Mw: Tensor) -> Tensor:
        """Windows [M, w, C] and their mask -> vectors [M, Q, D]."""
        frames_MwH = self.input(frames_MwC)
        latents_MQH = self.query.expand(len(frames_MwH), -1, -1)
        reads = F.pad(heard_Mw, (0, latents_MQH.shape[1]), value=True)[:, None, None]  # [M, 1, 1, w + Q]
        for layer in self.layers:
            latents_MQH = layer(latents_MQH, frames_MwH, reads)
        return self.output(self.norm(latents_MQH))


class PerceiverLayer(nn.Module):
    """Latents attend to the frames and to themselves, then a feed-forward part; norms first, no biases."""

    def __init__(self, settings: PerceiverSettings) -> None:
        super().__init__()
        width, inner = settings.hidden_size, settings.intermediate_size
        self.num_heads = settings.num_heads
        self.frame_norm, self.latent_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, inner, bias=False),
            ACT2FN[settings.activation],
            nn.Linear(inner, width, bias=False),
        )

    def forward(self, latents_MQH: Tensor, frames_MwH: Tensor, reads: Tensor) -> Tensor:
        """Latents after one more look at the frames; `reads` [M, 1, 1, w + Q] says which frames and latents count."""
        latents = self.latent_norm(latents_MQH)
        read = torch.cat([self.frame_norm(frames_MwH), latents], dim=1)
        q, k, v = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj, x in ((self.q_proj, latents), (self.k_proj, read), (self.v_proj, read))
        )
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=reads).transpose(1, 2).flatten(-2)
        latents_MQH = latents_MQH + self.o_proj(heard)
        return latents_MQH + self.feed_forward(latents_MQH)
