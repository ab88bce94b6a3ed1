"""Muon (Jordan et al., 2024): linear layers move by the orthogonal part of their momentum, everything else by AdamW.

torch.optim.Muon computes in bfloat16, which most CPUs only emulate, and takes matrices alone.
Not here: which optimizer a stage has (training/stages.py); learning rates (training/trainer.py).
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that takes singular values towards 1."""
STEPS = 5
"""How often it is applied."""
RMS = 0.2
"""Root mean square of an update before the learning rate: near AdamW's, whose rates then serve (Liu et al., 2025)."""


class Muon(torch.optim.AdamW):
    """AdamW, but for groups of parameters with `muon: true`, which hold matrices [M, N]."""

    def __init__(self, params: Any, *, momentum: float = 0.95, **of_adamw: Any) -> None:
        super().__init__(params, **of_adamw)
        for group in self.param_groups:
            group.setdefault("muon", False)
            group.setdefault("momentum", momentum)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Without AdamW's, which looks for its own state everywhere to bring it out of older forms."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all groups."""
        every = self.param_groups
        self.param_groups = [group for group in every if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = every
        for group in every:
            if group["muon"]:
                self.step_matrices(group)
        return loss

    def step_matrices(self, group: dict[str, Any]) -> None:
        """Those of one shape at once."""
        alike: dict[Any, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[parameter.shape, parameter.device].append(parameter)
        for (shape, _), parameters in alike.items():
            gradients: Any = [parameter.grad for parameter in parameters]
            momenta = [self.momentum(parameter) for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            ahead = torch.stack(gradients).lerp(torch.stack(momenta), group["momentum"])  # Nesterov's
            updates = orthogonal(ahead, torch.float32 if ahead.device.type == "cpu" else torch.bfloat16)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, list(updates), alpha=-group["lr"] * RMS * max(shape) ** 0.5)

    def momentum(self, parameter: Tensor) -> Tensor:
        """The running mean of a parameter's gradient."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def orthogonal(given: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices [K, M, N] with the same singular vectors and singular values near 1, computed in `dtype`."""
    is_tall = given.shape[1] > given.shape[2]
    x = (given.mT if is_tall else given).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    rounds = by_its_square if x.shape[1] < x.shape[2] and dtype != torch.bfloat16 else by_itself
    x = rounds(x)
    return (x.mT if is_tall else x).to(given.dtype)


def by_itself(x: Tensor) -> Tensor:
    """The rounds on matrices [K, M, N]."""
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def by_its_square(x: Tensor) -> Tensor:
    """The same, cheaper where N is much larger than M: all rounds on [K, M, M], which bfloat16 has no digits for.

    A round multiplies x by a polynomial p of its square, and the square, which commutes with p, by p twice.
    """
    a, b, c = COEFFICIENTS
    square = x @ x.mT
    product: Any = None
    for left in reversed(range(STEPS)):
        p = torch.baddbmm(square, square, square, beta=b, alpha=c)
        p.diagonal(dim1=1, dim2=2).add_(a)
        product = p if product is None else p @ product
        if left:
            square = square @ p @ p
    return product @ x


def matrices(model: nn.Module) -> set[Tensor]:
    """What Muon moves: the trainable weights of linear layers, but for one that embeds or gives logits."""
    modules: list[Any] = list(model.modules())
    heads = [module.get_output_embeddings() for module in modules if hasattr(module, "get_output_embeddings")]
    logits = {head.weight for head in heads if isinstance(head, nn.Linear)}
    linear = {module.weight for module in modules if isinstance(module, nn.Linear) and module.weight.requires_grad}
    return linear - logits - {module.weight for module in modules if isinstance(module, nn.Embedding)}
