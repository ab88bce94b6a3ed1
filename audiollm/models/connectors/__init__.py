"""The table of connectors: one file and one line adds one.

A connector turns frames [N, T, C] into vectors for the language model [N, K, D]; it declares its settings, and tells
without weights how many vectors a clip becomes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from audiollm.models.connectors.base import ConnectorSettings, Mixed, Sizes, layer_width
from audiollm.models.connectors.conv import ConvConnector
from audiollm.models.connectors.global_qformer import GlobalQFormer
from audiollm.models.connectors.layer_qformer import LayerQFormer
from audiollm.models.connectors.mlp import MLPConnector
from audiollm.models.connectors.perceiver import Perceiver
from audiollm.models.connectors.pool_linear import PoolLinear
from audiollm.models.connectors.swiglu import SwiGLUConnector
from audiollm.models.connectors.window_qformer import WindowQFormer
from audiollm.models.plugins import find_class

__all__ = ["CONNECTORS", "Connector", "ConnectorSettings", "Sizes", "build_connector", "check_connector"]

DEFAULT = "window_qformer"


class Connector(Protocol):
    """What the model asks of a connector; made as `Connector(settings, sizes)`."""

    Settings: ClassVar[type[ConnectorSettings]]
    output: nn.Module  # the last layer, linear or a norm, whose initial weights are scaled to the text embeddings

    @staticmethod
    def num_tokens(settings: Any, num_frames: int, frame_rate_hz: float) -> int:
        """Vectors that a clip of `num_frames` becomes."""
        ...

    def forward(self, frames_NTC: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Frames and their mask -> vectors [N, K, D] and bool [N, K]."""
        ...


CONNECTORS: dict[str, type[Any]] = {
    "conv": ConvConnector,
    "global_qformer": GlobalQFormer,
    "layer_qformer": LayerQFormer,
    "mlp": MLPConnector,
    "perceiver": Perceiver,
    "pool_linear": PoolLinear,
    "swiglu": SwiGLUConnector,
    "window_qformer": WindowQFormer,
}


def connector_class(name: str) -> type[Any]:
    """The class for a connector's name; ValueError names the known ones."""
    return find_class(name, CONNECTORS, "connector")


def connector_settings(config: Mapping[str, Any]) -> Any:
    """A block's settings, checked; ValueError for an unknown name or setting."""
    cls = connector_class(config.get("name", DEFAULT))
    return cls.Settings.model_validate({k: v for k, v in config.items() if k != "name"})


def check_connector(config: Mapping[str, Any]) -> dict[str, Any]:
    """A connector's block with every default filled in; ValueError for an unknown name or setting."""
    return {"name": config.get("name", DEFAULT), **connector_settings(config).model_dump()}


def build_connector(
    config: Mapping[str, Any], *, dim_in: int, dim_out: int, frame_rate_hz: float, sections: Sequence[int] = ()
) -> nn.Module:
    """The connector of a checked block, between an encoder of width `dim_in` and a model of width `dim_out`.

    `sections`: widths of the layers or encoders that stand side by side in a frame; one, if they are not given.
    """
    settings = connector_settings(config)
    sizes = Sizes(dim_in, dim_out, frame_rate_hz, tuple(sections) or (dim_in,))
    make = connector_class(config["name"])
    if settings.mix_layers:
        width = layer_width(sizes.sections, "connector.mix_layers", "adds")
        return Mixed(make(settings, replace(sizes, dim_in=width, sections=(width,))), len(sizes.sections))
    return make(settings, sizes)
