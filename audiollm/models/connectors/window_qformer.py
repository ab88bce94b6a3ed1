"""Window Q-Former: a few learned queries read each short window of frames. SALMONN's and Granite Speech's form.

Shapes: N clips, T frames, C encoder width, w frames a window, M windows, K vectors a clip, Q queries, D language model
width.
"""

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from audiollm.models.connectors.base import Sizes
from audiollm.models.connectors.qformer import QFormerSettings, make_qformer, make_queries
from audiollm.models.connectors.windows import WindowSettings, num_windows, read_windows, window_frames


class WindowQFormerSettings(QFormerSettings, WindowSettings):
    """One short transformer that reads each window of frames with a few learned queries."""

    window_s: PositiveFloat = 0.34
    """Window length in seconds; 0.34 s at 50 Hz is 17 frames."""
    num_queries: PositiveInt = 1
    """Learned queries a window, which is also the number of audio tokens that a window costs."""
    query_std: PositiveFloat = 0.02
    """Standard deviation from which the queries start."""
    input_norm: bool = True
    """Whether frames go through a layer norm first."""


class WindowQFormer(nn.Module):
    """Q vectors for each window of frames; windows do not see each other, and a short last one is read as it is."""

    Settings = WindowQFormerSettings

    def __init__(self, settings: WindowQFormerSettings, sizes: Sizes) -> None:
        super().__init__()
        self.window = window_frames(settings.window_s, sizes.frame_rate_hz)
        self.remainder = settings.remainder
        self.input_norm = nn.LayerNorm(sizes.dim_in) if settings.input_norm else nn.Identity()
        self.query = make_queries(settings)
        self.qformer = make_qformer(settings, sizes.dim_in)
        self.output = nn.Linear(settings.hidden_size, sizes.dim_out)

    @staticmethod
    def num_tokens(settings: WindowQFormerSettings, num_frames: int, frame_rate_hz: float) -> int:
        """T / w, up or down, * Q."""
        window = window_frames(settings.window_s, frame_rate_hz)
        return num_windows(num_frames, window, settings.remainder) * settings.num_queries

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, C] and mask [N, T] -> vectors [N, K, D] and bool mask."""
        return read_windows(frames_NTC, mask_NT, self.window, self.read, self.remainder)

    def read(self, frames_MwC: Tensor, heard_Mw: Tensor) -> Tensor:
        """Windows [M, w, C] and their mask -> vectors [M, Q, D]."""
        read = self.qformer(
            query_embeds=self.query.expand(len(frames_MwC), -1, -1),
            encoder_hidden_states=self.input_norm(frames_MwC),
            encoder_attention_mask=heard_Mw.to(frames_MwC.dtype),
        )
        return self.output(read.last_hidden_state)
