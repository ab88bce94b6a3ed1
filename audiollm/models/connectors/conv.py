"""Convolution connector: neighbouring frames convolved into one of the same width, then two layers. SLAM-LLM's form.

Shapes: N clips, T frames, C encoder width, k frames convolved, K vectors, D language model width.
"""

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from audiollm.models.connectors.base import Sizes
from audiollm.models.connectors.windows import WindowSettings, cut, num_windows


class ConvSettings(WindowSettings):
    """Convolve k frames, then two layers: k x C -> C -> hidden -> D, with ReLU between."""

    stack: PositiveInt = 5
    """Width and stride of the convolution, in frames: 5 at 50 Hz gives 10 audio tokens a second."""
    hidden_size: PositiveInt = 2048
    """Width between the two layers."""


class ConvConnector(nn.Module):
    """Each `stack` frames become one vector; a last short stack is filled with zeros."""

    Settings = ConvSettings

    def __init__(self, settings: ConvSettings, sizes: Sizes) -> None:
        super().__init__()
        self.settings = settings
        self.conv = nn.Conv1d(sizes.dim_in, sizes.dim_in, settings.stack, stride=settings.stack)
        self.input = nn.Linear(sizes.dim_in, settings.hidden_size)
        self.output = nn.Linear(settings.hidden_size, sizes.dim_out)

    @staticmethod
    def num_tokens(settings: ConvSettings, num_frames: int, frame_rate_hz: float) -> int:
        """T / k, up or down."""
        return num_windows(num_frames, settings.stack, settings.remainder)

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, C] and mask [N, T] -> vectors [N, K, D] and bool mask."""
        windows, _, kept_NK = cut(frames_NTC, mask_NT, self.settings.stack, self.settings.remainder)
        convolved_NKC = self.conv(windows.flatten(1, 2).transpose(1, 2)).transpose(1, 2)
        return self.output(F.relu(self.input(F.relu(convolved_NKC)))), kept_NK
