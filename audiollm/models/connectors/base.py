"""What every connector shares: its sizes, two settings, and a learned mix of the layers that it is given.

Shapes: N clips, T frames, C width of a frame, S layers side by side in it, W width of one, D language model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiollm.models.settings import SettingError, Settings


@dataclass(frozen=True)
class Sizes:
    """What stands on both sides of a connector."""

    dim_in: int  # C
    dim_out: int  # D
    frame_rate_hz: float
    sections: tuple[int, ...]  # widths of the layers or encoders that stand side by side in a frame; their sum is C


class ConnectorSettings(Settings):
    """What a connector's block may say, whatever its kind."""

    init: Literal["text", "published"] = "text"
    """Whether the last layer's initial weights are scaled until audio vectors are as loud as text embeddings, or left
    as the design was published."""
    mix_layers: bool = False
    """Whether the encoder's tapped layers are first summed with learned weights, into a frame of one layer's width."""


class Mixed(nn.Module):
    """A connector behind a learned mix of layers: weights that sum to one, equal at the start."""

    def __init__(self, connector: nn.Module, num_layers: int) -> None:
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))
        self.connector: Any = connector

    @property
    def output(self) -> nn.Module:
        """The connector's last layer."""
        return self.connector.output

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, T, S * W] and mask -> what the connector makes of [N, T, W]."""
        weights_S = self.layer_logits.softmax(0)
        layers_NTSW = frames_NTC.unflatten(-1, (len(weights_S), -1))
        return self.connector((layers_NTSW * weights_S[:, None]).sum(-2), mask_NT)


def layer_width(sections: Sequence[int], key: str, does: str) -> int:
    """Width of one of several layers; SettingError where there is one alone, or where they differ.

    `key`, `does`: the setting that asks for them, and what it does with them, for the message.
    """
    if len(sections) < 2:
        raise SettingError(key, f"{does} several layers, and one is heard; name several under `encoder.taps`")
    if len(set(sections)) > 1:
        raise SettingError(key, f"{does} layers of one width, and these have {', '.join(map(str, sections))}")
    return sections[0]
