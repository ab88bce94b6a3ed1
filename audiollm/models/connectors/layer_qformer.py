"""Layer Q-Former: queries of its own read each tapped layer of the encoder, and the answers are mixed. DeSTA2.5's form.

Shapes: N clips, T frames, C width of a frame, S layers side by side in it, W width of one, w frames a window,
M windows, K vectors a clip, Q queries of a layer, H width inside, D language model width.
"""

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from audiollm.models.connectors.base import Sizes, layer_width
from audiollm.models.connectors.qformer import QFormerSettings, make_qformer, make_queries
from audiollm.models.connectors.windows import num_windows, read_windows, window_frames


class LayerQFormerSettings(QFormerSettings):
    """A transformer that reads each tapped layer of a whole clip, or of long windows of it."""

    hidden_size: PositiveInt = 1280
    """Width inside."""
    num_layers: PositiveInt = 6
    """Layers; each reads the frames."""
    num_heads: PositiveInt = 20
    """Attention heads."""

    @field_validator("mix_layers")
    @classmethod
    def mixes_by_itself(cls, mix_layers: bool) -> bool:
        """Refuse a mix before this one."""
        if mix_layers:
            raise ValueError("is not for layer_qformer, which mixes layers itself; leave it out")
        return mix_layers


class LayerQFormer(nn.Module):
    """Q vectors for a clip, or for each window of it: for each a learned mix of what the layers answered."""

    Settings = LayerQFormerSettings

    def __init__(self, settings: LayerQFormerSettings, sizes: Sizes) -> None:
        super().__init__()
        width = layer_width(sizes.sections, "connector.name", "is layer_qformer, which reads")
        self.window = window_frames(settings.window_s, sizes.frame_rate_hz)
        self.query = make_queries(settings, sets=len(sizes.sections))
        self.layer_logits = nn.Parameter(torch.zeros(settings.num_queries, len(sizes.sections)))
        self.qformer = make_qformer(settings, width).encoder  # its queries are not normed first
        self.norm = nn.LayerNorm(settings.hidden_size)
        self.output = nn.Linear(settings.hidden_size, sizes.dim_out)

    @staticmethod
    def num_tokens(settings: LayerQFormerSettings, num_frames: int, frame_rate_hz: float) -> int:
        """Q, or ceil(T / w) * Q."""
        return num_windows(num_frames, window_frames(settings.window_s, frame_rate_hz)) * settings.num_queries

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, S * W] and mask [N, T] -> vectors [N, K, D] and bool mask."""
        return read_windows(frames_NTC, mask_NT, self.window, self.read)

    def read(self, frames_MwC: Tensor, heard_Mw: Tensor) -> Tensor:
        """Windows [M, w, S * W] and their mask -> vectors [M, Q, D]; all layers of all windows are read at once."""
        M, (S, Q, _) = len(frames_MwC), self.query.shape
        layers = frames_MwC.unflatten(-1, (S, -1)).movedim(2, 1).flatten(0, 1)  # [M * S, w, W]
        queries = self.query.expand(M, -1, -1, -1).flatten(0, 1)  # [M * S, Q, H]
        heard = heard_Mw.repeat_interleave(S, dim=0)
        mask = create_bidirectional_mask(self.qformer.config, queries, heard, encoder_hidden_states=layers)
        read = self.qformer(queries, encoder_hidden_states=layers, encoder_attention_mask=mask, query_length=Q)
        answers_MSQH = read.last_hidden_state.unflatten(0, (M, S))
        weights_SQ1 = self.layer_logits.softmax(-1).T[..., None]
        return self.output(self.norm((answers_MSQH * weights_SQ1).sum(1)))
