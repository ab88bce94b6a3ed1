"""How the language model computes in training: its attention, and Liger's kernels where a stage asks for them.

Not here: the attention itself (models/attention.py).
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

from audiollm.models.attention import layout_of, prefer_blocks


def prepare_attention(language_model: Any, wanted: str | None, *, shares_audio: bool = True) -> None:
    """The attention that training goes by; ValueError where the model has not the one that is asked for.

    Where the questions of a clip cannot share it, as where `shares_audio` is false, a line says so.
    """
    if wanted is not None:
        try:
            language_model.set_attn_implementation(wanted)
        except (ImportError, ValueError) as error:
            raise ValueError(f"model.attn_implementation={wanted} is not to be had here: {error}") from error
        if language_model.config._attn_implementation != wanted:
            raise ValueError(f"{language_model.config.model_type} has no attention {wanted!r}; leave it out")
    if shares_audio:
        prefer_blocks(language_model)
    reason = {
        "rows": "it mixes tokens otherwise than by attention, so that no mask can keep questions apart",
        "varlen": "flash attention knows no mask; flex_attention or sdpa would do",
    }.get(layout_of(language_model))
    if reason is None and not shares_audio:
        reason = "it is used in a way that was not shown to be exact with shared audio"
    if reason:
        print(
            f"the questions of a clip do not share it, each hears it by itself: the language model is of type "
            f"{language_model.config.model_type}, and {reason}"
        )


def require_liger() -> None:
    """ValueError, with the way out, where Liger's kernels are not installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        raise ValueError(
            "trainer.use_liger_kernel needs the package liger-kernel; install it, or leave the key out: "
            "pip install 'audiollm[liger]'"
        )


def apply_liger(language_model: Any, settings: Mapping[str, bool] | None) -> None:
    """Liger's norms, rotary embeddings and feed-forward layers in the language model; ValueError where it has none.

    Its losses are left out: the model computes its own, at the supervised positions alone. They belong to a causal
    model besides, and would take the place of the forward of the one that is inside ours.
    """
    require_liger()
    from liger_kernel.transformers import monkey_patch

    kind = language_model.config.model_type
    if kind not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"trainer.use_liger_kernel: Liger has no kernels for {kind}; leave the key out")
    losses = {"fused_linear_cross_entropy": False, "cross_entropy": False}
    monkey_patch._apply_liger_kernel_to_instance(model=language_model, **{**(settings or {}), **losses})
