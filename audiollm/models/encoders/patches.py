"""What encoders of spectrogram patches share: a grid of time and frequency becomes frames in time.

Not here: the families (spectrogram_transformer.py, clap.py).
Shapes: M windows, T frames, B bands of frequency, C width of a patch.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from audiollm.models.encoders.base import WaveformEncoder
from audiollm.models.listening import listening


class PatchEncoder(WaveformEncoder):
    """A family whose positions are a grid; `frequency` says whether its bands are averaged, as LTU does, or joined."""

    @classmethod
    def bands(cls, config: Mapping[str, Any]) -> int:
        """B: patches at one time."""
        raise NotImplementedError

    @classmethod
    def frequency(cls, config: Mapping[str, Any]) -> str:
        """Mean, or join."""
        return listening(config).frequency or "mean"

    @classmethod
    def in_a_frame(cls, config: Mapping[str, Any], width: int) -> int:
        """Width of a frame of patches of this width."""
        return width * (cls.bands(config) if cls.frequency(config) == "join" else 1)

    def framed(self, grid_MTBC: Tensor) -> Tensor:
        """Patches to frames [M, T, C] or [M, T, B * C]."""
        if self.frequency(self.config.to_dict()) == "join":
            return grid_MTBC.flatten(2)
        return grid_MTBC.mean(2)
