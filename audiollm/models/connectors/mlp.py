"""MLP connector: neighbouring frames joined, then two linear layers.

Shapes: N clips, T frames, C encoder width, k frames joined, K vectors, D language model width.
"""

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from audiollm.models.connectors.base import ConnectorSettings, Sizes


class MLPSettings(ConnectorSettings):
    """Stack k frames, then two layers: k * C -> hidden -> D."""

    stack: PositiveInt = 5
    """Frames joined into one vector: 5 at 50 Hz gives 10 audio tokens a second."""
    hidden_size: PositiveInt = 2048
    """Width between the two layers."""


class MLPConnector(nn.Module):
    """Each `stack` frames become one vector; a last short stack is filled with zeros."""

    Settings = MLPSettings

    def __init__(self, settings: MLPSettings, sizes: Sizes) -> None:
        super().__init__()
        self.stack = settings.stack
        self.input = nn.Linear(sizes.dim_in * settings.stack, settings.hidden_size)
        self.output = nn.Linear(settings.hidden_size, sizes.dim_out)

    @staticmethod
    def num_tokens(settings: MLPSettings, num_frames: int, frame_rate_hz: float) -> int:
        """ceil(T / k)."""
        return -(-num_frames // settings.stack)

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, C] and mask [N, T] -> vectors [N, ceil(T / k), D] and bool mask."""
        stacked = stack_frames(frames_NTC * mask_NT[..., None], self.stack)
        return self.output(F.gelu(self.input(stacked))), mask_NT[:, :: self.stack]


def stack_frames(x_NTC: Tensor, k: int) -> Tensor:
    """Join k neighbouring frames: [N, T, C] -> [N, ceil(T / k), k * C], zeros at the end."""
    N, T, C = x_NTC.shape
    return F.pad(x_NTC, (0, 0, 0, -T % k)).reshape(N, -1, k * C)
