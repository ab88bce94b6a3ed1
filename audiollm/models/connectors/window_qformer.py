"""Window Q-Former: a few learned queries read each short window of frames.

The transformer is transformers' `Blip2QFormerModel`; the queries and the projection are ours.
Shapes: N clips, T frames, C encoder width, w frames a window, K vectors a clip, Q queries, D language model width.
"""

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from audiollm.models.connectors.base import ConnectorSettings, Sizes


class WindowQFormerSettings(ConnectorSettings):
    """One short transformer that reads each window of frames with a few learned queries."""

    window_s: PositiveFloat = 0.34
    """Window length in seconds; 0.34 s at 50 Hz is 17 frames."""
    num_queries: PositiveInt = 1
    """Learned queries a window, which is also the number of audio tokens that a window costs."""
    hidden_size: PositiveInt = 768
    """Width of the Q-Former."""
    num_layers: PositiveInt = 2
    """Layers; each reads the frames."""
    num_heads: PositiveInt = 12
    """Attention heads."""
    intermediate_size: PositiveInt = 3072
    """Inner width of the feed-forward part."""
    dropout: NonNegativeFloat = 0.1
    """Dropout inside the Q-Former, in training."""

    @model_validator(mode="after")
    def heads_divide_width(self) -> "WindowQFormerSettings":
        """Refuse a width that the heads cannot share."""
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"connector.hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}"
            )
        return self


class WindowQFormer(nn.Module):
    """Q vectors for each window of frames; windows do not see each other."""

    Settings = WindowQFormerSettings

    def __init__(self, settings: WindowQFormerSettings, sizes: Sizes) -> None:
        super().__init__()
        self.window = window_frames(settings.window_s, sizes.frame_rate_hz)
        config = Blip2QFormerConfig(
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            intermediate_size=settings.intermediate_size,
            encoder_hidden_size=sizes.dim_in,
            cross_attention_frequency=1,
            hidden_dropout_prob=settings.dropout,
            attention_probs_dropout_prob=settings.dropout,
        )
        self.input_norm = nn.LayerNorm(sizes.dim_in)
        self.query = nn.Parameter(torch.empty(1, settings.num_queries, settings.hidden_size))
        nn.init.normal_(self.query, std=0.02)
        self.qformer = Blip2QFormerModel(config)
        self.output = nn.Linear(settings.hidden_size, sizes.dim_out)

    @staticmethod
    def num_tokens(settings: WindowQFormerSettings, num_frames: int, frame_rate_hz: float) -> int:
        """ceil(T / w) * Q."""
        return -(-num_frames // window_frames(settings.window_s, frame_rate_hz)) * settings.num_queries

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, C] and mask [N, T] -> vectors [N, ceil(T / w) * Q, D] and bool mask.

        T=8, w=3, Q=1:   0 1 2|3 4 5|6 7 .      -> 3 vectors; . = padding, masked
        """
        N, T, C = frames_NTC.shape
        frames_NTC = self.input_norm(frames_NTC)
        pad = -T % self.window
        windows = F.pad(frames_NTC, (0, 0, 0, pad)).reshape(-1, self.window, C)
        mask = F.pad(mask_NT, (0, pad)).reshape(-1, self.window)
        hears = mask.any(-1)  # windows after a clip's end are not computed
        read = self.qformer(
            query_embeds=self.query.expand(int(hears.sum()), -1, -1),
            encoder_hidden_states=windows[hears],
            encoder_attention_mask=mask[hears].to(windows.dtype),
        ).last_hidden_state
        vectors = self.output(read)
        out = vectors.new_zeros(len(windows), *vectors.shape[1:]).masked_scatter(hears[:, None, None], vectors)
        Q, D = vectors.shape[1:]
        return out.view(N, -1, D), hears.view(N, -1).repeat_interleave(Q, dim=1)


def window_frames(window_s: float, frame_rate_hz: float) -> int:
    """Frames in a window, at least one: 0.34 s at 50 Hz -> 17."""
    return max(1, round(window_s * frame_rate_hz))
