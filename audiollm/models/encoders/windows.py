"""Long clips in windows: cut so that each window's frames are whole, encoded, and joined as if there had been none.

Shapes: N clips, L samples, M windows of all clips, K windows of a clip, T frames, C width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Windows(NamedTuple):
    """How clips are cut. A frame reads `receptive` samples and the next one begins `stride` samples later."""

    frames: int  # of a full window
    hop: int  # frames from the start of a window to the start of the next; fewer than `frames` overlap
    stride: int
    receptive: int

    @property
    def samples(self) -> int:
        """Samples of a full window."""
        return (self.frames - 1) * self.stride + self.receptive

    def windows_of(self, num_frames: Tensor) -> Tensor:
        """Windows of clips of so many frames."""
        return 1 + (-(-(num_frames - self.frames) // self.hop)).clamp(min=0)


def cut_windows(waves_NL: Tensor, lengths_N: Tensor, frames_N: Tensor, cut: Windows) -> tuple[Tensor, Tensor, Tensor]:
    """Clips to windows that hold sound: [M, L'], lengths [M], and which of [N, K] there are.

    frames=4, hop=4, stride=receptive=1:   a a a a|a a . .   ->   a a a a / a a . . / b b b .       . = padding
                                           b b b .|. . . .
    """
    counts_N = cut.windows_of(frames_N)
    K = int(counts_N.max())
    waves_NL = waves_NL[:, : int(lengths_N.max())]
    kept_NK = torch.arange(K, device=waves_NL.device) < counts_N[:, None]
    if K == 1:
        return waves_NL, lengths_N, kept_NK
    step = cut.hop * cut.stride
    missing = max(0, (K - 1) * step + cut.samples - waves_NL.shape[1])
    windows_NKL = F.pad(waves_NL, (0, missing)).unfold(1, cut.samples, step)[:, :K]
    lengths_NK = (lengths_N[:, None] - torch.arange(K, device=waves_NL.device) * step).clamp(0, cut.samples)
    return windows_NKL[kept_NK], lengths_NK[kept_NK], kept_NK


def join_windows(
    frames_MTC: Tensor, mask_MT: Tensor, kept_NK: Tensor, frames_N: Tensor, cut: Windows
) -> tuple[Tensor, Tensor]:
    """The frames of each clip's windows one after another: [N, T, C] and mask; the inverse of `cut_windows`.

    Where windows overlap, the first half of what two share is the earlier one's, which knows more of what came before:

        frames=6, hop=4:   0 1 2 3 4|5
                                   4|5 6 7 8 9
    """
    if kept_NK.shape[1] == 1:
        return frames_MTC, mask_MT
    half = (cut.frames - cut.hop) // 2
    number_NK = torch.arange(kept_NK.shape[1], device=kept_NK.device).expand_as(kept_NK)
    is_first_M1 = (number_NK == 0)[kept_NK][:, None]
    is_last_M1 = (number_NK == kept_NK.sum(-1, keepdim=True) - 1)[kept_NK][:, None]
    t_T = torch.arange(mask_MT.shape[1], device=mask_MT.device)
    taken_MT = mask_MT & (is_first_M1 | (t_T >= half)) & (is_last_M1 | (t_T < cut.hop + half))
    mask_NT = torch.arange(int(frames_N.max()), device=mask_MT.device) < frames_N[:, None]
    assert int(taken_MT.sum()) == int(mask_NT.sum())
    frames_NTC = frames_MTC.new_zeros(*mask_NT.shape, frames_MTC.shape[-1])
    return frames_NTC.masked_scatter(mask_NT[..., None], frames_MTC[taken_MT]), mask_NT
