"""How an encoder is listened to, whatever its family: settings that its config carries along.

Not here: what they do (encoders/base.py).
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from audiollm.models.settings import Settings

LISTENING = "listening"
"""The key under which an encoder's config keeps the settings below."""


class ListeningSettings(Settings):
    """How an encoder is listened to, whatever its family."""

    taps: list[int] | None = None
    """Layers whose output is heard, side by side in a frame: 1 is the first, -1 the last, as they leave the layer,
    before any last norm. Null hears what the encoder gives at its end."""
    normalize: bool = False
    """Whether each layer that is heard is brought to mean 0 and variance 1 in each frame, without weights."""
    window_s: PositiveFloat | None = None
    """Seconds that are heard at once; null takes as many as the encoder has positions for, or the whole clip."""
    overlap_s: NonNegativeFloat = 0.0
    """Seconds that neighbouring windows share; each gives the half that is nearer to its middle."""
    frequency: Literal["mean", "join"] | None = None
    """Of patches at one time (AST, CLAP): whether those of all frequencies are averaged into a frame, which is what
    null means, or stand side by side in it."""


def listening(config: Mapping[str, Any]) -> ListeningSettings:
    """How the encoder of this config is listened to."""
    return ListeningSettings.model_validate(config.get(LISTENING) or {})
