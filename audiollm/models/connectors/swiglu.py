"""SwiGLU connector: neighbouring frames joined, then a gated layer between root-mean-square norms. Ultravox's form.

Shapes: N clips, T frames, C encoder width, k frames joined, K vectors, D language model width.
"""

from typing import Literal

import torch.nn.functional as F
from pydantic import PositiveInt, field_validator
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from audiollm.models.connectors.base import Sizes
from audiollm.models.connectors.windows import WindowSettings, cut, num_windows

NORM_START = 0.4
"""Initial weight of the norms."""


class SwiGLUSettings(WindowSettings):
    """Join k frames, norm, and a gated layer: k * C -> hidden / 2 -> D, without biases."""

    stack: PositiveInt = 8
    """Frames joined into one vector: 8 at 50 Hz gives 6.25 audio tokens a second."""
    hidden_size: PositiveInt = 4096
    """Width of the first layer, one half of which gates the other."""
    norm: Literal["mid", "out"] = "mid"
    """Where the second norm stands: behind the gate (Ultravox 0.5 and later), or at the end (0.4)."""

    @field_validator("hidden_size")
    @classmethod
    def two_halves(cls, hidden_size: int) -> int:
        """Refuse a width that has no two halves."""
        if hidden_size % 2:
            raise ValueError(f"connector.hidden_size={hidden_size} must be even: one half gates the other")
        return hidden_size


class SwiGLUConnector(nn.Module):
    """Each `stack` frames become one vector; a last short stack is filled with zeros."""

    Settings = SwiGLUSettings

    def __init__(self, settings: SwiGLUSettings, sizes: Sizes) -> None:
        super().__init__()
        self.settings = settings
        joined, half = sizes.dim_in * settings.stack, settings.hidden_size // 2
        self.input_norm = rms_norm(joined)
        self.input = nn.Linear(joined, settings.hidden_size, bias=False)
        narrow = nn.Linear(half, sizes.dim_out, bias=False)
        at_the_end = settings.norm == "out"
        self.middle: nn.Module = narrow if at_the_end else rms_norm(half)
        self.output: nn.Module = rms_norm(sizes.dim_out) if at_the_end else narrow

    @staticmethod
    def num_tokens(settings: SwiGLUSettings, num_frames: int, frame_rate_hz: float) -> int:
        """T / k, up or down."""
        return num_windows(num_frames, settings.stack, settings.remainder)

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, C] and mask [N, T] -> vectors [N, K, D] and bool mask."""
        windows, _, kept_NK = cut(frames_NTC, mask_NT, self.settings.stack, self.settings.remainder)
        value, gate = self.input(self.input_norm(windows.flatten(-2))).chunk(2, dim=-1)
        return self.output(self.middle(F.silu(gate) * value)), kept_NK


def rms_norm(width: int) -> LlamaRMSNorm:
    """A root-mean-square norm, in float32 whatever comes in, as Ultravox starts it."""
    norm = LlamaRMSNorm(width, eps=1e-6)
    nn.init.constant_(norm.weight, NORM_START)
    return norm
