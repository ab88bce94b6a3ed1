"""Where audio vectors take the place of placeholders in the prompt. Pure functions.

Shapes: B rows, S tokens, D width, M audio vectors, N clips, K of them kept, T frames, C encoder width.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Kept(NamedTuple):
    """What a frozen encoder made of some clips before: frames [K, T, C], mask [K, T], and which of all clips [N]."""

    frames_KTC: Tensor
    mask_KT: Tensor
    is_kept_N: Tensor


def merge_frames(frames_NTC: Tensor, mask_NT: Tensor, kept: Kept) -> tuple[Tensor, Tensor]:
    """New frames and kept ones in the order of the clips: [N, T, C] and mask, T that of the longest."""
    longest = max(frames_NTC.shape[1], kept.frames_KTC.shape[1])
    merged_NTC = frames_NTC.new_zeros(len(kept.is_kept_N), longest, frames_NTC.shape[2])
    merged_mask_NT = mask_NT.new_zeros(len(kept.is_kept_N), longest)
    for is_here_N, frames, mask in (
        (~kept.is_kept_N, frames_NTC, mask_NT),
        (kept.is_kept_N, kept.frames_KTC, kept.mask_KT),
    ):
        merged_NTC[is_here_N, : frames.shape[1]] = frames.to(frames_NTC.dtype)
        merged_mask_NT[is_here_N, : frames.shape[1]] = mask
    return merged_NTC, merged_mask_NT


def splice(text_BSD: Tensor, is_audio_BS: Tensor, audio_MD: Tensor) -> Tensor:
    """Put M audio vectors, in order, at the M True positions; ValueError with both numbers if they differ."""
    num_slots = int(is_audio_BS.sum())
    if num_slots != len(audio_MD):
        raise ValueError(
            f"prompt has {num_slots} audio slots, connector made {len(audio_MD)} vectors; "
            "both sides must call num_audio_tokens()"
        )
    return text_BSD.masked_scatter(is_audio_BS[..., None], audio_MD.to(text_BSD.dtype))


def repeat_by_row(slots: Sequence[int], vectors: Sequence[int], times: int) -> list[int]:
    """The order of clips when each row is repeated: rows with `slots` placeholders, clips of `vectors` each.

    Row a with clips 0 and 1, row b with clip 2, times=2:   a a b b   ->   0 1 0 1 2 2
    """
    order, clip = [], 0
    for wanted in slots:
        first, found = clip, 0
        while found < wanted and clip < len(vectors):
            found, clip = found + vectors[clip], clip + 1
        order += [*range(first, clip)] * times
    return order
