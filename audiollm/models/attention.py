"""The attention mask of questions that share their audio: trunks and branches in one packed sequence.

 token i sees token j  iff  j <= i, same clip, and branch(j) is 0 (the trunk) or branch(i)

The mask is dense, one for each attention type that the language model has. Shapes: B sequences, S tokens.
"""

from typing import Any

import torch
from torch import Tensor

PADDING = -1
"""The clip id of padding, which sees itself alone (a row that sees nothing would be NaN)."""


def visible(clip_ids_BS: Tensor, branch_ids_BS: Tensor) -> Tensor:
    """Who sees whom [B, S, S], True where row i may look at column j."""
    same_clip = clip_ids_BS[:, :, None] == clip_ids_BS[:, None, :]
    on_path = (branch_ids_BS[:, None, :] == 0) | (branch_ids_BS[:, :, None] == branch_ids_BS[:, None, :])
    S = clip_ids_BS.shape[1]
    causal_SS = torch.ones(S, S, dtype=torch.bool, device=clip_ids_BS.device).tril()
    itself_SS = torch.eye(S, dtype=torch.bool, device=clip_ids_BS.device)
    is_token_B1S = (clip_ids_BS != PADDING)[:, None, :]
    return (same_clip & on_path & causal_SS & is_token_B1S) | itself_SS


def branch_mask(
    text_config: Any, clip_ids_BS: Tensor, branch_ids_BS: Tensor, position_ids_BS: Tensor, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """The mask in the form that the language model takes: [B, 1, S, S], or one for each of its attention types."""
    see_BSS = visible(clip_ids_BS, branch_ids_BS)
    implementation = text_config._attn_implementation

    def finish(see: Tensor) -> Tensor:
        return as_mask(see[:, None], implementation, dtype)

    def windowed() -> Tensor:  # by position: an index also counts the other branches
        distance = position_ids_BS[:, :, None] - position_ids_BS[:, None, :]
        return finish(see_BSS & (distance < text_config.sliding_window))

    layer_types = set(getattr(text_config, "layer_types", None) or ())
    if not layer_types:
        return windowed() if getattr(text_config, "sliding_window", None) else finish(see_BSS)
    if layer_types == {"full_attention"}:
        return finish(see_BSS)
    if layer_types <= {"full_attention", "sliding_attention"}:
        return {"full_attention": finish(see_BSS), "sliding_attention": windowed()}
    raise ValueError(
        f"{text_config.model_type} has layers of type {sorted(layer_types)}, which cannot take the mask of shared audio"
    )


def as_mask(see: Tensor, implementation: str, dtype: torch.dtype) -> Tensor:
    """Boolean for SDPA; added to the scores for eager, which would add True as 1.0."""
    if implementation == "sdpa":
        return see
    if implementation == "eager":
        return torch.zeros_like(see, dtype=dtype).masked_fill(~see, torch.finfo(dtype).min)
    raise ValueError(f"attention {implementation!r} cannot take the mask of shared audio; use sdpa or eager")
