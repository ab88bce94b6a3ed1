"""Losses over a large vocabulary in chunks of tokens, whose logits are never held together.

The gradient of a chunk is taken as soon as its loss is known, so nothing is computed twice and one chunk of logits is
the most that is held, forward and backward. Shapes: K supervised tokens, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100
CHUNK_VALUES = 2**25
"""Logits of one chunk: 128 MiB in float32. What is smaller is done at once."""


Loss = Callable[[Tensor, slice], Tensor]
"""The sum of a loss over some tokens, from their hidden states [k, D] and their place among all K."""


def cross_entropy_sum(
    project: Callable[[Tensor], Tensor], hidden_KD: Tensor, labels_K: Tensor, vocab_size: int, weights: Sequence[Tensor]
) -> Tensor:
    """The sum of the cross-entropy in nats; `weights` are the parameters that `project` applies."""

    def loss(hidden: Tensor, place: slice) -> Tensor:
        return F.cross_entropy(project(hidden).float(), labels_K[place], reduction="sum")

    return sum_in_chunks(loss, hidden_KD, vocab_size, weights)


def sum_in_chunks(loss: Loss, hidden_KD: Tensor, vocab_size: int, weights: Sequence[Tensor]) -> Tensor:
    """The sum of a loss over all tokens; `weights` are the parameters that it applies.

    A weight that DeepSpeed shards (ZeRO-3) is gathered by the hooks of its module alone: there it is done at once.
    """
    chunk, total = max(CHUNK_VALUES // vocab_size, 1), len(hidden_KD)
    if total <= chunk or any(hasattr(weight, "ds_id") for weight in weights):
        return loss(hidden_KD, slice(0, total))
    if not torch.is_grad_enabled():
        places = [slice(start, start + chunk) for start in range(0, total, chunk)]
        return torch.stack([loss(hidden_KD[place], place) for place in places]).sum()
    trained = [weight for weight in weights if weight.requires_grad]
    return _Chunked.apply(loss, chunk, hidden_KD, *trained)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Loss, chunk: int, hidden_KD: Tensor, *trained: Tensor) -> Tensor:
        total = torch.zeros((), device=hidden_KD.device)
        grad_KD = torch.empty_like(hidden_KD)
        grads = [torch.zeros_like(weight, dtype=torch.float32) for weight in trained]
        for start in range(0, len(hidden_KD), chunk):
            place = slice(start, start + chunk)
            part = hidden_KD[place].detach().requires_grad_()
            with torch.enable_grad():
                of_chunk = loss(part, place)
            of_part, *of_weights = torch.autograd.grad(of_chunk, [part, *trained])
            grad_KD[place] = of_part
            for grad, more in zip(grads, of_weights, strict=True):
                grad += more
            total += of_chunk.detach()
        ctx.save_for_backward(grad_KD, *(g.to(w.dtype) for g, w in zip(grads, trained, strict=True)))
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return None, None, *(grad * upstream[0] for grad in ctx.saved_tensors)


class NextTokenLoss:
    """What a model with a vocabulary projection does with its hidden states: logits, and the loss where it learns."""

    lm_head: Any
    config: Any

    def project(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., V], scaled and capped as the language model's own head does."""
        config = self.config.text_config
        logits = self.lm_head(hidden)
        if scaling := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / scaling
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
            logits = cap * torch.tanh(logits / cap)
        return logits

    def loss(self, hidden_BSD: Tensor, shift_labels_BS: Tensor, num_items: Tensor | int | None) -> Tensor:
        """Cross-entropy in nats: the sum over supervised tokens divided by their number in the whole step."""
        supervised_BS = shift_labels_BS != IGNORE_INDEX
        hidden_KD, labels_K = hidden_BSD[supervised_BS], shift_labels_BS[supervised_BS]
        weights = list(self.lm_head.parameters())
        total = cross_entropy_sum(self.project, hidden_KD, labels_K, self.config.text_config.vocab_size, weights)
        return total / (supervised_BS.sum().clamp(min=1) if num_items is None else num_items)
