"""The attention of questions that share their audio: trunks and branches in one packed sequence.

 token i sees token j  iff  j <= i, same clip, and branch(j) is 0 (the trunk) or branch(i)

Three ways to it, equal to rounding. `blocks` (what sdpa becomes in training) attends clip by clip, the trunk to itself
and the branches to the whole clip: what nobody sees is not computed, and clips of any length stand in one sequence
without padding; in half precision on an NVIDIA GPU that is one kernel a layer (models/varlen.py). Flex attention does
the same by a block mask, on a GPU alone. A dense mask, one for each attention type of the language model, serves eager
attention.
A model that mixes tokens otherwise than by attention (linear attention, convolutions) takes no such mask: there each
question is a row with its own audio (`layout_of`).
Shapes: B sequences, S tokens, H heads, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from audiollm.models.varlen import Runs, attend_runs, takes_runs

PADDING = -1
"""The clip id of padding, which sees itself alone (a row that sees nothing would be NaN)."""
BLOCKS = "blocks"
"""The name of clip-by-clip attention among the library's implementations; without packed clips it is sdpa."""
WORTH_TWO_CALLS = 256
"""Tokens of a block from which on the trunk is attended by itself; in a short one a second call costs more."""

Layout = Literal["branches", "rows", "varlen"]
"""How questions lie in a batch: sharing their audio; a padded row each; one after another, told apart by lengths."""


@dataclass(frozen=True)
class Block:
    """One clip in a packed sequence: its row, its tokens, and how many of them are the trunk, at its beginning."""

    row: int
    start: int
    stop: int
    trunk: int
    see_SS: Tensor  # bool, within the block
    positions_S: Tensor

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None, **options: Any) -> Tensor:
        """[1, H, S, D] each, of this block."""
        if window is not None:  # by position: an index also counts the other branches
            distance = self.positions_S[:, None] - self.positions_S[None, :]
            return F.scaled_dot_product_attention(query, key, value, self.see_SS & (distance < window), **options)
        t = self.trunk if self.stop - self.start >= WORTH_TWO_CALLS else 0
        parts = []
        if t:
            first = query[:, :, :t], key[:, :, :t], value[:, :, :t]
            parts.append(F.scaled_dot_product_attention(*first, is_causal=True, **options))
        if t < self.stop - self.start:
            parts.append(F.scaled_dot_product_attention(query[:, :, t:], key, value, self.see_SS[t:], **options))
        return torch.cat(parts, dim=2)


def blocks_of(clip_ids_BS: Tensor, branch_ids_BS: Tensor, position_ids_BS: Tensor) -> list[Block]:
    """The blocks of a batch, in the order in which they stand in it; padding is in none."""
    blocks = []
    is_branch_BS = (branch_ids_BS != 0).cpu()
    for row, clip_ids in enumerate(clip_ids_BS.cpu()):
        ends = [*(clip_ids[1:] != clip_ids[:-1]).nonzero().flatten().add(1).tolist(), len(clip_ids)]
        for start, stop in zip([0, *ends], ends, strict=False):
            if clip_ids[start] == PADDING:
                continue
            place = slice(row, row + 1), slice(start, stop)
            see = visible(clip_ids_BS[place], branch_ids_BS[place])[0]
            is_branch = is_branch_BS[row, start:stop]
            trunk = int(is_branch.int().argmax()) if is_branch.any() else stop - start
            blocks.append(Block(row, start, stop, trunk, see, position_ids_BS[row, start:stop]))
    return blocks


@dataclass(frozen=True)
class PackedClips:
    """The clips of a packed batch, for whichever way they are attended: found once, used by every layer."""

    clip_ids_BS: Tensor
    branch_ids_BS: Tensor
    position_ids_BS: Tensor

    @cached_property
    def blocks(self) -> list[Block]:
        """A block for each clip."""
        return blocks_of(self.clip_ids_BS, self.branch_ids_BS, self.position_ids_BS)

    @cached_property
    def runs(self) -> Runs:
        """A run for each trunk, which sees itself, and for each branch, which sees its trunk and itself."""
        B, S = self.clip_ids_BS.shape
        clips, branches = self.clip_ids_BS.flatten().cpu(), self.branch_ids_BS.flatten().cpu()
        begins = torch.ones(B * S, dtype=torch.bool)
        begins[1:] = (clips[1:] != clips[:-1]) | (branches[1:] != branches[:-1])
        begins[::S] = True
        starts = begins.nonzero().flatten().tolist()
        lengths, keys = [], []
        trunk: tuple[int, range] = (PADDING, range(0))
        for start, stop in zip(starts, [*starts[1:], B * S], strict=True):
            clip, branch, own = int(clips[start]), int(branches[start]), range(start, stop)
            if branch == 0 or clip != trunk[0] or start % S == 0:
                trunk = (clip, own if branch == 0 else range(0))
            lengths.append(len(own))
            keys.append([*own] if branch == 0 else [*trunk[1], *own])
        return Runs.of(lengths, keys, self.clip_ids_BS.device)


def block_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    clips: PackedClips | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of the library: [B, H, S, D] -> [B, S, H, D]; what padding gives means nothing."""
    if extra := [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]:
        raise ValueError(f"{type(module).__name__} has {extra[0]}, which sdpa has not; use attn_implementation='eager'")
    if clips is None:
        if attention_mask is not None and attention_mask.numel() == 0:
            raise ValueError(f"{type(module).__name__} does not hand on `clips`; use attn_implementation='eager'")
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return out, None
    if takes_runs(query, value):
        q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
        how: dict[str, Any] = {"window": sliding_window, "dropout": dropout, "scale": scaling}
        heard_SHD = attend_runs(q, k, v, clips.runs, causal=True, **how)
        return heard_SHD.unflatten(0, (len(query), -1)), None
    key, value = (repeat_kv(part, query.shape[1] // part.shape[1]) for part in (key, value))
    rows: list[list[Tensor]] = [[] for _ in query]
    filled = [0] * len(rows)

    def pad(row: int, until: int) -> None:
        if filled[row] < until:
            rows[row].append(query.new_zeros(1, query.shape[1], until - filled[row], value.shape[-1]))

    for block in clips.blocks:
        pad(block.row, block.start)
        place = slice(block.row, block.row + 1), slice(None), slice(block.start, block.stop)
        heard = block.attend(query[place], key[place], value[place], sliding_window, dropout_p=dropout, scale=scaling)
        rows[block.row].append(heard)
        filled[block.row] = block.stop
    for row in range(len(rows)):
        pad(row, query.shape[2])
    return torch.cat([torch.cat(parts, dim=2) for parts in rows]).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(BLOCKS, block_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(BLOCKS, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def prefer_blocks(language_model: Any) -> bool:
    """Attend clip by clip where the language model would use sdpa; whether it does."""
    if language_model.config._attn_implementation == "sdpa" and takes_branches(language_model):
        language_model.set_attn_implementation(BLOCKS)
    return bool(language_model.config._attn_implementation == BLOCKS)


def takes_branches(language_model: Any) -> bool:
    """Whether a mask decides all that a token sees: every layer attends, by a function of the library's table."""
    layer_types = set(getattr(language_model.config, "layer_types", None) or ())
    attends_everywhere = language_model._supports_attention_backend and not language_model._is_stateful
    return bool(attends_everywhere and layer_types <= {"full_attention", "sliding_attention"})


def layout_of(language_model: Any) -> Layout:
    """How the questions of a stage must lie for this language model and its attention."""
    if not takes_branches(language_model):
        return "rows"
    return "varlen" if language_model.config._attn_implementation.startswith("flash_attention") else "branches"


def packed(
    config: Any,
    clip_ids_BS: Tensor,
    branch_ids_BS: Tensor,
    position_ids_BS: Tensor,
    dtype: torch.dtype,
    *,
    training: bool,
) -> tuple[Any, dict[str, Any]]:
    """The mask of packed sequences for a language model's config, and what its attention takes beside it."""
    if config._attn_implementation == BLOCKS:  # an empty mask, so that the language model makes none of its own
        clips = PackedClips(clip_ids_BS, branch_ids_BS, position_ids_BS)
        return torch.zeros(1, 1, 0, 0, dtype=dtype, device=clip_ids_BS.device), {"clips": clips}
    on_cpu = clip_ids_BS.device.type == "cpu"
    if config._attn_implementation == "flex_attention" and training and on_cpu:
        raise ValueError("flex attention trains on a GPU alone; leave `attn_implementation` out, or use sdpa")
    return branch_mask(config, clip_ids_BS, branch_ids_BS, position_ids_BS, dtype), {}


def who_sees(
    clip_ids_BS: Tensor, branch_ids_BS: Tensor, position_ids_BS: Tensor | None = None, window: int | None = None
) -> Callable[..., Tensor]:
    """The rule as a function of (row, head, i, j), as flex attention takes it; a token of padding sees itself.

    A window is cut by position: an index also counts the other branches.
    """

    def sees(b: Tensor, _: Tensor, i: Tensor, j: Tensor) -> Tensor:
        same_clip = (clip_ids_BS[b, i] == clip_ids_BS[b, j]) & (clip_ids_BS[b, j] != PADDING)
        on_path = (branch_ids_BS[b, j] == 0) | (branch_ids_BS[b, j] == branch_ids_BS[b, i])
        found = same_clip & on_path & (j <= i)
        if window is not None:
            assert position_ids_BS is not None
            found = found & (position_ids_BS[b, i] - position_ids_BS[b, j] < window)
        return found | (i == j)

    return sees


def visible(
    clip_ids_BS: Tensor, branch_ids_BS: Tensor, position_ids_BS: Tensor | None = None, window: int | None = None
) -> Tensor:
    """Who sees whom [B, S, S], True where row i may look at column j."""
    rows, tokens = (torch.arange(size, device=clip_ids_BS.device) for size in clip_ids_BS.shape)
    sees = who_sees(clip_ids_BS, branch_ids_BS, position_ids_BS, window)
    return sees(rows[:, None, None], rows, tokens[None, :, None], tokens[None, None, :])


def branch_mask(
    text_config: Any, clip_ids_BS: Tensor, branch_ids_BS: Tensor, position_ids_BS: Tensor, dtype: torch.dtype
) -> Any:
    """The mask in the form that the language model takes: one, or one for each of its attention types.

    Dense [B, 1, S, S] for sdpa and eager attention, a block mask for flex attention.
    """

    def mask(window: int | None = None) -> Any:
        place = clip_ids_BS, branch_ids_BS, position_ids_BS, window
        if text_config._attn_implementation == "flex_attention":
            B, S = clip_ids_BS.shape
            on_gpu = clip_ids_BS.is_cuda  # uncompiled it would write all S x S pairs out
            make = torch.compile(create_block_mask) if on_gpu else create_block_mask
            return make(who_sees(*place), B, None, S, S, device=clip_ids_BS.device)
        return as_mask(visible(*place)[:, None], text_config._attn_implementation, dtype)

    layer_types = set(getattr(text_config, "layer_types", None) or ())
    if not layer_types:
        return mask(getattr(text_config, "sliding_window", None))
    if layer_types == {"full_attention"}:
        return mask()
    if layer_types <= {"full_attention", "sliding_attention"}:
        return {"full_attention": mask(), "sliding_attention": mask(text_config.sliding_window)}
    raise ValueError(
        f"{text_config.model_type} has layers of type {sorted(layer_types)}, which cannot take the mask of shared audio"
    )


def as_mask(see: Tensor, implementation: str, dtype: torch.dtype) -> Tensor:
    """Boolean for SDPA; added to the scores for eager, which would add True as 1.0."""
    if implementation == "sdpa":
        return see
    if implementation == "eager":
        return torch.zeros_like(see, dtype=dtype).masked_fill(~see, torch.finfo(dtype).min)
    raise ValueError(
        f"attention {implementation!r} cannot take the mask of shared audio; use sdpa, eager or flex_attention"
    )
