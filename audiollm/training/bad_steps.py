"""Steps whose loss or gradient is not finite are skipped and named; too many in a row stop the stage."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from audiollm.training.ranks import gathered
from audiollm.training.sharding import local_gradients

NAMED = 8  # rows that a message names; all of them are in the record


class BadSteps(TrainerCallback):
    """Looks at each step before the optimizer does: a bad one changes no weight."""

    def __init__(self, stage: str, limit: int) -> None:
        self.stage = stage
        self.limit = limit
        self.found: list[dict[str, Any]] = []  # {"step", "rows"}, those of all ranks
        self.in_a_row = 0
        self.rows: list[str] = []
        self.finite: Tensor | None = None
        self.accelerator: Any = None  # the trainer's
        self.sharded_norm: Callable[[], float | None] | None = None  # of the gradients that DeepSpeed holds

    def note(self, rows: list[str], loss: Tensor) -> Tensor:
        """One micro-batch: remember its rows, and return its loss, 0 where that is no number."""
        self.rows += rows
        finite = torch.isfinite(loss.detach())
        self.finite = finite if self.finite is None else self.finite & finite
        return torch.where(finite, loss, 0.0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take a bad step's gradients away, so that the optimizer finds nothing to do; DeepSpeed does that itself."""
        rows, self.rows = self.rows, []
        if self.accelerator.scaler is not None:
            return  # float16: the scaler skips such steps itself, and expects some while it finds its scale
        parameters = [p for group in kwargs["optimizer"].param_groups for p in group["params"]]
        if self.is_finite(parameters):
            self.in_a_row = 0
            for parameter in parameters if self.sharded_norm is None else ():
                if parameter.grad is None:  # a step without audio: the encoder's momentum goes on, as it does on ranks
                    parameter.grad = torch.zeros_like(parameter)
            return
        for parameter in parameters:
            parameter.grad = None
        rows = gathered(rows, self.accelerator)
        self.in_a_row += 1
        self.found.append({"step": state.global_step + 1, "rows": rows})
        named = ", ".join(rows[:NAMED]) + (" ..." if len(rows) > NAMED else "")
        where = f"stage {self.stage}, step {state.global_step + 1}"
        if self.in_a_row >= self.limit:
            raise ValueError(
                f"{where}: the loss or its gradient was not finite in {self.in_a_row} steps in a row "
                f"(max_bad_steps={self.limit}), so the weights have most likely diverged: lower the learning rate; "
                f"or look at the rows: {named}"
            )
        print(f"{where}: the loss or its gradient is not finite; rows: {named}; the step is skipped", flush=True)

    def since(self, step: int) -> int:
        """Bad steps after one."""
        return sum(one["step"] > step for one in self.found)

    def is_finite(self, parameters: list[Any]) -> bool:
        """Whether every gradient and every loss of the step is finite, on all ranks."""
        finite = torch.tensor(True) if self.finite is None else self.finite
        self.finite = None
        gradients = local_gradients(parameters)
        if gradients:
            norms = torch.stack([norm.to(finite.device) for norm in torch._foreach_norm(gradients)])
            finite = finite & torch.isfinite(norms).all()
        if self.sharded_norm is not None:
            finite = finite & math.isfinite(self.sharded_norm() or 0.0)
        if self.accelerator.num_processes > 1:
            finite = self.accelerator.reduce(finite.int(), "sum") == self.accelerator.num_processes
        return bool(finite)
