"""Attention by runs: one kernel over trunks and branches, or over the clips of an encoder."""

from itertools import chain

import pytest
import torch

from audiollm.inference import pick_device
from audiollm.models import attention, varlen
from audiollm.models.attention import PADDING, PackedClips, block_attention
from audiollm.models.encoders import clips
from audiollm.models.encoders.clips import Lengths, clip_attention
from audiollm.models.varlen import Runs, attend_runs

CLIPS = [
    [(0, 9), (1, 6), (2, 3)],
    [(3, 4), (4, 11), (PADDING, 3)],
]
BRANCHES = [
    [[0, 0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 2], [0, 0, 0]],  # the last has a trunk alone
    [[1, 1, 2, 2], [0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 3], [0, 0, 0]],  # the first has branches alone
]
POSITIONS = [
    [[0, 1, 2, 3, 4, 5, 4, 5, 6], [0, 1, 2, 3, 4, 3], [0, 1, 2]],
    [[0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7, 5, 5, 6], [0, 0, 0]],
]
CLIP_IDS = torch.tensor([[clip for clip, size in row for _ in range(size)] for row in CLIPS])
BRANCH_IDS, POSITION_IDS = (torch.tensor([[*chain(*row)] for row in ids]) for ids in (BRANCHES, POSITIONS))


def plain(query, key, value, runs, *, causal, window, dropout, scale):
    """The kernel, run by run: the last query of a run sees all of its keys."""
    parts = []
    for run in range(len(runs.query_ends) - 1):
        q = query[runs.query_ends[run] : runs.query_ends[run + 1]].transpose(0, 1)
        k, v = (part[runs.key_ends[run] : runs.key_ends[run + 1]].transpose(0, 1) for part in (key, value))
        k, v = (part.repeat_interleave(len(q) // len(part), 0) for part in (k, v))
        back = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1] - torch.arange(k.shape[1])
        see = (back >= 0) if causal else torch.ones_like(back, dtype=torch.bool)
        if window is not None:
            see &= back < window
        scores = (q @ k.transpose(1, 2)).float() * (scale or q.shape[-1] ** -0.5)
        weights = scores.masked_fill(~see.to(q.device), float("-inf")).softmax(-1).to(v.dtype)
        parts.append((weights @ v).transpose(0, 1))
    return torch.cat(parts)


def heads(seed, shape, num_heads=4, kv=2, width=8):
    """Queries, keys and values [B, H, S, D], leaves of a graph."""
    draw = torch.Generator().manual_seed(seed)
    B, S = shape
    made = [torch.randn(B, n, S, width, generator=draw) for n in (num_heads, kv, kv)]
    return [part.requires_grad_() for part in made]


def both(run, monkeypatch, module, inputs, weight):
    """Output and gradients without the kernel, and with what stands for it."""
    found = []
    for by_runs in (False, True):
        monkeypatch.setattr(module, "takes_runs", lambda *_, by_runs=by_runs: by_runs)
        out = run()
        found.append([out * weight, *torch.autograd.grad((out * weight).sin().sum(), inputs)])
    return zip(*found, strict=True)


@pytest.mark.parametrize("window", [None, 1, 3])
def test_runs_see_what_blocks_see(monkeypatch, window):
    monkeypatch.setattr(varlen, "kernel", plain)
    packed = PackedClips(CLIP_IDS, BRANCH_IDS, POSITION_IDS)
    query, key, value = heads(0, CLIP_IDS.shape)

    def run():
        module = torch.nn.Linear(1, 1)
        return block_attention(module, query, key, value, None, sliding_window=window, scaling=0.3, clips=packed)[0]

    real = (CLIP_IDS != PADDING)[..., None, None]
    for theirs, ours in both(run, monkeypatch, attention, (query, key, value), real):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_runs_of_an_encoder_see_their_clip(monkeypatch):
    monkeypatch.setattr(varlen, "kernel", plain)
    lengths = Lengths([5, 1, 7], torch.device("cpu"))
    query, key, value = heads(1, (1, 13), kv=4)

    def run():
        return clip_attention(None, query, key, value, None, clip_lengths=lengths)[0]

    for theirs, ours in both(run, monkeypatch, clips, (query, key, value), torch.ones(1, 13, 1, 1)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_on_the_cpu_there_is_no_kernel():
    query, _, value = heads(2, (1, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert not varlen.takes_runs(query, value) and varlen.computes_in(query) == torch.bfloat16
    assert varlen.computes_in(query) == torch.float32


def test_sdpa_goes_without_cudnn_where_a_device_is_picked():
    torch.backends.cuda.enable_cudnn_sdp(True)
    pick_device("cpu")
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 128, 80])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 40), (False, None)])
def test_on_a_gpu_the_kernel_is_the_plain_sum(width, causal, window):
    lengths = [200, 30, 41, 7, 300, 1]
    trunk, other = range(200), range(278, 578)
    keys = [trunk, [*trunk, *range(200, 230)], [*trunk, *range(230, 271)], [*trunk, *range(271, 278)], other]
    keys.append([*other, 578])
    shared = causal  # an encoder's clips share nothing
    runs = Runs.of(lengths, keys if shared else None, "cuda")
    draw = torch.Generator().manual_seed(3)
    tokens = [torch.randn(579, n, width, generator=draw) for n in ((4, 2, 2) if shared else (4, 4, 4))]
    weight = torch.randn(579, 4, width, generator=draw).cuda()
    found = []
    for dtype, way in ((torch.bfloat16, varlen.kernel), (torch.float32, plain)):
        leaves = [part.to("cuda", torch.bfloat16).to(dtype).requires_grad_() for part in tokens]
        original, varlen.kernel = varlen.kernel, way
        try:
            out = attend_runs(*leaves, runs, causal=causal, window=window)
        finally:
            varlen.kernel = original
        found.append([out, *torch.autograd.grad((out.float() * weight).sum(), leaves)])
    for ours, theirs in zip(*found, strict=True):
        assert (ours.float() - theirs).norm() / theirs.norm() < 1e-2
