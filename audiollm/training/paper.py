"""What a module keeps for the backward pass, found by running it on paper: with shapes and types, and without values.

torch's fake tensors say of each operation what it would give, on a CPU; what autograd saves of them is what a step
keeps. Not here: language models and encoders, whose layers are counted (memory.py), and what is held (memory.py).
Shapes: N recordings, T frames, C width of a frame, M windows, w frames of a window.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.autograd.graph import saved_tensors_hooks

from audiollm.models.connectors.base import Mixed
from audiollm.models.connectors.windows import num_windows

WITH_VALUES = (DataDependentOutputException, DynamicOutputShapeException)
"""What a module is refused with that looks into its tensors."""


def kept_on_paper(make: Callable[[], nn.Module], run: Callable[[Any, int], Tensor], bf16: bool, trains: bool) -> float:
    """Bytes that a module keeps of each recording; what it keeps once, as weights in bfloat16, is not among them.

    `make` gives the module, and `run` what it makes of so many recordings. One of WITH_VALUES where that needs values.
    """
    with FakeTensorMode(), torch.device("cpu"):
        module = make().train().requires_grad_(trains)
        one, two = saved(partial(run, module, 1), bf16), saved(partial(run, module, 2), bf16)
    return float(two - one)


def saved(forward: Callable[[], Tensor], bf16: bool) -> int:
    """Bytes of all that autograd saves in a forward pass, each storage once."""
    storages: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with saved_tensors_hooks(note, lambda tensor: tensor), autocast:
        result = forward()
    assert result is not None  # it holds the graph, and so each storage its number, until here
    return sum(storage.nbytes() for storage in storages.values())


def kept_by_connector(
    make: Callable[[], nn.Module], frames: int, sections: Sequence[int], *, bf16: bool, trains: bool, hears: bool
) -> float:
    """Bytes that a connector keeps of a recording of so many frames; `hears`: whether the encoder trains too."""

    def run(connector: Any, recordings: int) -> Tensor:
        width, kind = sum(sections), connector
        if isinstance(connector, Mixed):
            width, kind = sections[0], connector.connector
        if not hasattr(kind, "read"):
            whole_NTC = torch.zeros(recordings, frames, sum(sections), requires_grad=hears)
            return connector(whole_NTC, torch.ones(recordings, frames, dtype=torch.bool))[0]
        windows = num_windows(frames, kind.window, getattr(kind, "remainder", "pad"))
        frames_MwC = torch.zeros(recordings * windows, kind.window or frames, width, requires_grad=hears)
        return kind.read(frames_MwC, torch.ones(frames_MwC.shape[:2], dtype=torch.bool))

    of_mix = 4 * frames * sum(sections) if len(sections) > 1 else 0
    return of_mix + kept_on_paper(make, run, bf16, trains)
