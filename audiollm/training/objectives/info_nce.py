"""InfoNCE, and the vectors of all ranks as candidates.

Shapes: N queries of this rank, M candidates of all ranks, E width.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def info_nce(scores_NM: Tensor, itself_N: Tensor, same_NM: Tensor) -> Tensor:
    """Nats, summed over queries that are to find their own candidate; others of the same words are no candidates."""
    twins_NM = same_NM.scatter(1, itself_N[:, None], False)
    scores_NM = scores_NM.masked_fill(twins_NM, torch.finfo(scores_NM.dtype).min)
    return F.cross_entropy(scores_NM, itself_N, reduction="sum")


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over ranks; each rank's gradient is the sum of what all make of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The sum, on every rank."""
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Tensor:
        """The sum of the ranks' gradients."""
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def gather(x_NE: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks in their order [M, E], with gradient, and the place of this rank's first.

    Ranks may have unlike numbers of rows, and none; all of them must call it.
    """
    counts = torch.zeros(dist.get_world_size(), dtype=torch.long, device=x_NE.device)
    counts[dist.get_rank()] = len(x_NE)
    dist.all_reduce(counts)
    first = int(counts[: dist.get_rank()].sum())
    after = int(counts.sum()) - first - len(x_NE)
    whole_ME = F.pad(x_NE, (0, 0, first, after))
    return (SumOverRanks.apply(whole_ME) if x_NE.requires_grad else SumOverRanks.forward(None, whole_ME)), first
