"""MLP connector: neighbouring frames joined, then two linear layers. SLAM-LLM's, Audio Flamingo 3's and LLaVA's form.

Shapes: N clips, T frames, C encoder width, k frames joined, K vectors, D language model width.
"""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from transformers.activations import ACT2FN

from audiollm.models.connectors.base import Sizes
from audiollm.models.connectors.windows import FrameNorm, WindowSettings, cut, frame_norm, mean, num_windows


class MLPSettings(WindowSettings):
    """Join k frames, then two layers: k * C -> hidden -> D."""

    stack: PositiveInt = 5
    """Frames joined into one vector: 5 at 50 Hz gives 10 audio tokens a second."""
    join: Literal["stack", "mean"] = "stack"
    """Whether these frames stand side by side, or are averaged."""
    norm: FrameNorm = "none"
    """Layer norm of what was joined: with weights (layer_norm), without (plain), or none."""
    hidden_size: PositiveInt | None = 2048
    """Width between the two layers; null takes the language model's."""
    activation: Literal["gelu", "relu"] = "gelu"
    """What stands between the two layers."""


class MLPConnector(nn.Module):
    """Each `stack` frames become one vector; a last short stack is filled with zeros, or averaged as it is."""

    Settings = MLPSettings

    def __init__(self, settings: MLPSettings, sizes: Sizes) -> None:
        super().__init__()
        self.settings = settings
        joined = sizes.dim_in * (settings.stack if settings.join == "stack" else 1)
        hidden = settings.hidden_size or sizes.dim_out
        self.norm = frame_norm(settings.norm, joined)
        self.input = nn.Linear(joined, hidden)
        self.activation = ACT2FN[settings.activation]
        self.output = nn.Linear(hidden, sizes.dim_out)

    @staticmethod
    def num_tokens(settings: MLPSettings, num_frames: int, frame_rate_hz: float) -> int:
        """T / k, up or down."""
        return num_windows(num_frames, settings.stack, settings.remainder)

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, C] and mask [N, T] -> vectors [N, K, D] and bool mask."""
        windows, heard, kept_NK = cut(frames_NTC, mask_NT, self.settings.stack, self.settings.remainder)
        joined = windows.flatten(-2) if self.settings.join == "stack" else mean(windows, heard)
        return self.output(self.activation(self.input(self.norm(joined)))), kept_NK
