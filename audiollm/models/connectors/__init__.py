"""The table of connectors: one file and one line adds one.

A connector turns frames [N, T, C] into vectors for the language model [N, K, D]; it declares its settings, and tells
without weights how many vectors a clip becomes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from audiollm.models.connectors.mlp import MLPConnector
from audiollm.models.connectors.window_qformer import WindowQFormer
from audiollm.models.settings import Settings


class Connector(Protocol):
    """What the model asks of a connector."""

    Settings: ClassVar[type[Settings]]
    output: nn.Linear  # the last layer, whose initial weights are scaled to the text embeddings

    @staticmethod
    def num_tokens(settings: Any, num_frames: int, frame_rate_hz: float) -> int:
        """Vectors that a clip of `num_frames` becomes."""
        ...

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames and their mask -> vectors [N, K, D] and bool [N, K]."""
        ...


CONNECTORS: dict[str, type[Any]] = {"mlp": MLPConnector, "window_qformer": WindowQFormer}


def connector_class(name: str) -> type[Any]:
    """The class for a connector's name; ValueError names the known ones."""
    if name not in CONNECTORS:
        raise ValueError(f"unknown connector {name!r}; known: {', '.join(sorted(CONNECTORS))}")
    return CONNECTORS[name]


def check_connector(config: Mapping[str, Any]) -> dict[str, Any]:
    """A connector's block with every default filled in; ValueError for an unknown name or setting."""
    cls = connector_class(config.get("name", "window_qformer"))
    settings = cls.Settings.model_validate({k: v for k, v in config.items() if k != "name"})
    return {"name": config.get("name", "window_qformer"), **settings.model_dump()}


def build_connector(config: Mapping[str, Any], *, dim_in: int, dim_out: int, frame_rate_hz: float) -> nn.Module:
    """The connector of a checked block, between an encoder of width `dim_in` and a model of width `dim_out`."""
    cls = connector_class(config["name"])
    settings = cls.Settings.model_validate({k: v for k, v in config.items() if k != "name"})
    return cls(settings, dim_in=dim_in, dim_out=dim_out, frame_rate_hz=frame_rate_hz)
