"""Frames in windows: how many there are, how they are cut, joined and read. What every connector here shares.

Not here: what a window becomes (one file for each connector).
Shapes: N clips, T frames, C width of a frame, K windows of a clip, w frames of a window, M windows that are read,
Q vectors of a window, D language model width.
"""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from audiollm.models.connectors.base import ConnectorSettings

Remainder = Literal["pad", "drop"]
FrameNorm = Literal["none", "layer_norm", "plain"]


class WindowSettings(ConnectorSettings):
    """What a connector's block may say if it cuts clips into windows of frames."""

    remainder: Remainder = "pad"
    """What becomes of frames after the last whole window: they are heard too, filled up where the design needs it
    (pad), or left out as published code does (drop). A clip that is shorter than one window is heard in either case."""


def window_frames(window_s: float | None, frame_rate_hz: float) -> int | None:
    """Frames in a window, at least one: 0.34 s at 50 Hz -> 17. None is the whole clip."""
    return None if window_s is None else max(1, round(window_s * frame_rate_hz))


def num_windows(num_frames: int, window: int | None, remainder: Remainder = "pad") -> int:
    """Windows of a clip, at least one: ceil(T / w), or floor(T / w) where the rest is dropped."""
    if window is None:
        return 1
    return max(1, num_frames // window) if remainder == "drop" else -(-num_frames // window)


def cut(
    frames_NTC: Tensor, mask_NT: Tensor, window: int, remainder: Remainder = "pad"
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows [N, K, w, C], zero where nothing is heard; which of their frames are heard, and which windows kept.

    T=8, w=3:   0 1 2|3 4 5|6 7 .      . = zero; if the remainder is dropped, there are two windows, and of a clip
    that is shorter than the batch only its whole ones are kept
    """
    T = frames_NTC.shape[1]
    pad = num_windows(T, window, remainder) * window - T  # below zero, the rest is cut off
    heard_NKw = F.pad(mask_NT, (0, pad)).unflatten(1, (-1, window))
    frames_NTC = frames_NTC.masked_fill(~mask_NT[..., None], 0.0)
    windows_NKwC = F.pad(frames_NTC, (0, 0, 0, pad)).unflatten(1, (-1, window))
    kept_NK = heard_NKw.any(-1)
    if remainder == "drop":
        kept_NK[:, 1:] = heard_NKw[:, 1:].all(-1)
    return windows_NKwC, heard_NKw, kept_NK


def mean(windows_NKwC: Tensor, heard_NKw: Tensor) -> Tensor:
    """The mean of each window's frames that are heard: [N, K, C]."""
    return windows_NKwC.sum(-2) / heard_NKw.sum(-1, keepdim=True).clamp(min=1)


def frame_norm(kind: FrameNorm, width: int) -> nn.Module:
    """A layer norm with weights or without (plain), or nothing."""
    return nn.Identity() if kind == "none" else nn.LayerNorm(width, elementwise_affine=kind == "layer_norm")


def read_windows(
    frames_NTC: Tensor,
    mask_NT: Tensor,
    window: int | None,
    read: Callable[[Tensor, Tensor], Tensor],
    remainder: Remainder = "pad",
) -> tuple[Tensor, Tensor]:
    """What `read` makes of each window [M, w, C] and its mask, [M, Q, D], put back in order: [N, K * Q, D] and mask.

    A window is `window` frames, or the whole clip; one that is not kept is not computed.
    """
    windows, heard, kept_NK = cut(frames_NTC, mask_NT, window or frames_NTC.shape[1], remainder)
    vectors_MQD = read(windows[kept_NK], heard[kept_NK])
    Q, D = vectors_MQD.shape[1:]
    out = vectors_MQD.new_zeros(*kept_NK.shape, Q, D).masked_scatter(kept_NK[..., None, None], vectors_MQD)
    return out.flatten(1, 2), kept_NK.repeat_interleave(Q, dim=1)
