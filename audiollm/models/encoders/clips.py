"""An encoder's attention clip by clip: the frames of all clips stand in one sequence, and there is no padding.

    padded    a a a a a         joined    a a a a a b b c c c        lengths 5, 2, 3
              b b . . .
              c c c . .                   each clip sees itself, whole

Linear layers and norms see frames alone, and attention needs no mask; in half precision on an NVIDIA GPU it is one
kernel a layer (models/varlen.py). Not here: the attention of the language model
(models/attention.py), which is causal.
Shapes: M clips, T frames of the longest, S frames of all, H heads, D head width, C width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from audiollm.models.varlen import Runs, attend_runs, takes_runs

CLIPS = "clips"
"""The name of clip-by-clip attention among the library's implementations; without lengths it is sdpa."""


@dataclass(frozen=True)
class Lengths:
    """Frames of each clip; the same for every layer."""

    frames: list[int]
    device: torch.device

    @cached_property
    def runs(self) -> Runs:
        """A run for each clip, which sees itself."""
        return Runs.of(self.frames, None, self.device)


def clip_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    clip_lengths: Lengths | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of the library: [1, H, S, D] -> [1, S, H, D], each clip by itself."""
    if clip_lengths is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return out, None
    if takes_runs(query, value):
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        return attend_runs(q, k, v, clip_lengths.runs, causal=False, dropout=dropout, scale=scaling)[None], None
    queries, keys, values = (part.split(clip_lengths.frames, dim=2) for part in (query, key, value))
    heard = [
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(heard, dim=2).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(CLIPS, clip_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(CLIPS, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def prefer_clips(encoder: Any) -> None:
    """Attend clip by clip where the encoder would use sdpa."""
    if encoder.config._attn_implementation == "sdpa":
        encoder.set_attn_implementation(CLIPS)


def joined(frames_MTC: Tensor, mask_MT: Tensor) -> Tensor:
    """Frames of all clips one after another: [1, S, C]."""
    return frames_MTC[mask_MT][None]


def parted(frames_1SC: Tensor, mask_MT: Tensor) -> Tensor:
    """The inverse of `joined`: [M, T, C], zero after a clip's end."""
    empty_MTC = frames_1SC.new_zeros(*mask_MT.shape, frames_1SC.shape[-1])
    return empty_MTC.masked_scatter(mask_MT[..., None], frames_1SC)


def through_layers(
    layers: Any, norm: Any, config: Any, x_MTC: Tensor, mask_MT: Tensor, taps: Sequence[int]
) -> list[Tensor]:
    """What the tapped layers give, no layer after them being run; or what the last norm gives.

    Clip by clip where `config` says so, and else under a mask: what stands after a clip's end then means nothing.
    """
    if config._attn_implementation == CLIPS:
        lengths = Lengths(mask_MT.sum(-1).tolist(), mask_MT.device)
        states = run_layers(layers, norm, joined(x_MTC, mask_MT), None, taps, clip_lengths=lengths)
        return [parted(state, mask_MT) for state in states]
    attention_mask = create_bidirectional_mask(config, x_MTC, None if bool(mask_MT.all()) else mask_MT)
    return run_layers(layers, norm, x_MTC, attention_mask, taps)


def run_layers(layers: Any, norm: Any, x_MTC: Tensor, mask: Any, taps: Sequence[int], **attention: Any) -> list[Tensor]:
    """The layers one after another."""
    heard = {}
    for number, layer in enumerate(layers[: max(taps, default=None)], 1):
        x_MTC = layer(x_MTC, mask, **attention)
        if number in taps:
            heard[number] = x_MTC
    return [heard[tap] for tap in taps] or [norm(x_MTC)]
