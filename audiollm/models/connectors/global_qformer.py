"""Global Q-Former: learned queries read a whole clip, so that it costs the same however long it is. SLAM-LLM's form.

Shapes: N clips, T frames, C encoder width, w frames a window, M windows, K vectors a clip, Q queries, D language model
width.
"""

from pydantic import PositiveInt
from torch import Tensor, nn

from audiollm.models.connectors.base import Sizes
from audiollm.models.connectors.qformer import QFormerSettings, make_qformer, make_queries
from audiollm.models.connectors.windows import num_windows, read_windows, window_frames


class GlobalQFormerSettings(QFormerSettings):
    """A transformer that reads a whole clip, or long windows of it, with learned queries."""

    num_layers: PositiveInt = 8
    """Layers."""
    cross_attention_every: PositiveInt = 2
    """Frames are read in the first layer, and in every n-th from there."""


class GlobalQFormer(nn.Module):
    """Q vectors for a clip, or for each window of it, normed at the end."""

    Settings = GlobalQFormerSettings

    def __init__(self, settings: GlobalQFormerSettings, sizes: Sizes) -> None:
        super().__init__()
        self.window = window_frames(settings.window_s, sizes.frame_rate_hz)
        self.query = make_queries(settings)
        self.qformer = make_qformer(settings, sizes.dim_in, settings.cross_attention_every)
        self.linear = nn.Linear(settings.hidden_size, sizes.dim_out)
        self.output = nn.LayerNorm(sizes.dim_out)

    @staticmethod
    def num_tokens(settings: GlobalQFormerSettings, num_frames: int, frame_rate_hz: float) -> int:
        """Q, or ceil(T / w) * Q."""
        return num_windows(num_frames, window_frames(settings.window_s, frame_rate_hz)) * settings.num_queries

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, C] and mask [N, T] -> vectors [N, K, D] and bool mask."""
        return read_windows(frames_NTC, mask_NT, self.window, self.read)

    def read(self, frames_MwC: Tensor, heard_Mw: Tensor) -> Tensor:
        """Windows [M, w, C] and their mask -> vectors [M, Q, D]."""
        read = self.qformer(
            query_embeds=self.query.expand(len(frames_MwC), -1, -1),
            encoder_hidden_states=frames_MwC,
            encoder_attention_mask=heard_Mw.to(frames_MwC.dtype),
        )
        return self.output(self.linear(read.last_hidden_state))
