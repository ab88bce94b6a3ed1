"""Pooling connector: neighbouring frames averaged, then one linear layer. Qwen2-Audio's and LTU's form.

Qwen2-Audio pools before its encoder's last norm: hear the last layer (`encoder.taps: [-1]`) with `norm: layer_norm`.
Shapes: N clips, T frames, C encoder width, k frames averaged, K vectors, D language model width.
"""

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from audiollm.models.connectors.base import Sizes
from audiollm.models.connectors.windows import FrameNorm, WindowSettings, cut, frame_norm, mean, num_windows


class PoolLinearSettings(WindowSettings):
    """Average k frames, norm, and one layer: C -> D."""

    pool: PositiveInt = 2
    """Frames averaged into one vector: 2 at 50 Hz gives 25 audio tokens a second."""
    norm: FrameNorm = "none"
    """Layer norm of the average: with weights (layer_norm), without (plain), or none."""
    divide_by: PositiveFloat = 1.0
    """What the average is divided by before its norm; 50 in LTU."""


class PoolLinear(nn.Module):
    """Each `pool` frames become one vector; a last short pool is the average of what there is."""

    Settings = PoolLinearSettings

    def __init__(self, settings: PoolLinearSettings, sizes: Sizes) -> None:
        super().__init__()
        self.settings = settings
        self.norm = frame_norm(settings.norm, sizes.dim_in)
        self.output = nn.Linear(sizes.dim_in, sizes.dim_out)

    @staticmethod
    def num_tokens(settings: PoolLinearSettings, num_frames: int, frame_rate_hz: float) -> int:
        """T / k, up or down."""
        return num_windows(num_frames, settings.pool, settings.remainder)

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, C] and mask [N, T] -> vectors [N, K, D] and bool mask."""
        windows, heard, kept_NK = cut(frames_NTC, mask_NT, self.settings.pool, self.settings.remainder)
        return self.output(self.norm(mean(windows, heard) / self.settings.divide_by)), kept_NK
