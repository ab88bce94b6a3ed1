"""Attention over runs of unlike length in one kernel: FlashAttention, as torch carries it, on an NVIDIA GPU.

    queries   T T T T | a a | b b b          a trunk and its branches: runs of 4, 2 and 3
    keys      T T T T | T T T T a a | T T T T b b b

Each run of queries sees its own keys alone; where it is causal the last query sees them all, the one before all but
one, and so on. SDPA would be a call for each clip.
Not here: what sees what (models/attention.py for the language model, models/encoders/clips.py for encoders).
Shapes: S tokens, K keys, H heads, D head width, R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

WIDEST = 256
"""The widest head that the kernel takes."""
OLDEST = (8, 0)
"""The compute capability from which on it runs: Ampere."""


@dataclass(frozen=True)
class Runs:
    """Runs of queries that stand one after another, and the keys of each.

    `query_ends` and `key_ends` are int32 [R + 1], the sums of lengths from 0 on; `keys_K` are the tokens that the keys
    of all runs are taken from, or None where these are the queries' own.
    """

    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int
    keys_K: Tensor | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], keys: Sequence[Sequence[int]] | None, device: Any) -> "Runs":
        """From the length of each run, and the tokens that it sees where these are others."""
        seen = lengths if keys is None else [len(run) for run in keys]
        query_ends, key_ends = (
            torch.tensor([0, *accumulate(numbers)], dtype=torch.int32).to(device, non_blocking=True)
            for numbers in (lengths, seen)
        )
        index = None if keys is None else torch.tensor([token for run in keys for token in run]).to(device)
        return cls(query_ends, key_ends, max(lengths, default=0), max(seen, default=0), index)


def leave_cudnn_out() -> None:
    """SDPA without cuDNN in this process, which it prefers on new GPUs.

    cuDNN plans anew for each length: in generation at every token, in training for every clip (benchmarks/decode.py).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def computes_in(query: Tensor) -> torch.dtype:
    """The precision in which attention computes: autocast's, where it is on."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def takes_runs(query: Tensor, value: Tensor) -> bool:
    """Whether the kernel is to be had for heads like these."""
    return (
        query.is_cuda
        and torch.version.hip is None
        and computes_in(query) in (torch.bfloat16, torch.float16)
        and query.shape[-1] == value.shape[-1] <= WIDEST
        and query.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= OLDEST
    )


def attend_runs(
    query_SHD: Tensor,
    key_SHD: Tensor,
    value_SHD: Tensor,
    runs: Runs,
    *,
    causal: bool,
    window: int | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """What each run of queries makes of its keys: [S, H, D]; keys may have fewer heads. `window` counts keys back."""
    dtype = computes_in(query_SHD)
    query_SHD, key_KHD, value_KHD = (part.to(dtype) for part in (query_SHD, key_SHD, value_SHD))
    if runs.keys_K is not None:
        key_KHD, value_KHD = (_Take.apply(part, runs.keys_K) for part in (key_KHD, value_KHD))
    return kernel(query_SHD, key_KHD, value_KHD, runs, causal=causal, window=window, dropout=dropout, scale=scale)


def kernel(
    query_SHD: Tensor,
    key_KHD: Tensor,
    value_KHD: Tensor,
    runs: Runs,
    *,
    causal: bool,
    window: int | None,
    dropout: float,
    scale: float | None,
) -> Tensor:
    """FlashAttention over the keys of all runs, one run's after another's."""
    left, right = (None, None) if window is None else (window - 1, 0)
    out_SHD: Tensor = torch.ops.aten._flash_attention_forward(
        query_SHD, key_KHD, value_KHD, runs.query_ends, runs.key_ends, runs.longest_query, runs.longest_key,
        dropout, causal, False, scale=scale, window_size_left=left, window_size_right=right,
    )[0]  # fmt: skip
    return out_SHD


class _Take(torch.autograd.Function):
    """Rows by index, a row as often as it is named; their gradients are added up in float32."""

    @staticmethod
    def forward(ctx: Any, x_SHD: Tensor, index_K: Tensor) -> Tensor:
        ctx.save_for_backward(index_K)
        ctx.num_rows = len(x_SHD)
        return x_SHD[index_K]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index_K,), (grad_KHD,) = ctx.saved_tensors, grads
        sums = torch.zeros(ctx.num_rows, *grad_KHD.shape[1:], dtype=torch.float32, device=grad_KHD.device)
        return sums.index_add_(0, index_K, grad_KHD.float()).to(grad_KHD.dtype), None
