"""The table of audio encoders: one file and one line adds one.

An encoder is a `PreTrainedModel` that takes waveforms [N, L] with a mask and gives frames [N, T, C] with a mask. It
owns its front end, and tells without weights how long its output is.
"""

from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from audiollm.models.encoders.whisper import WhisperAudioEncoder


class AudioEncoder(Protocol):
    """What the model asks of an encoder."""

    sampling_rate: ClassVar[int]  # Hz
    config_class: ClassVar[type]

    @staticmethod
    def frame_rate_hz(config: Any) -> float:
        """Output frames a second, for the plain dictionary of the encoder's config."""
        ...

    @staticmethod
    def num_frames(config: Any, num_samples: int) -> int:
        """Output frames for a clip of `num_samples`; `config` is the plain dictionary of the encoder's config."""
        ...

    @staticmethod
    def width(config: Any) -> int:
        """C, the width of a frame."""
        ...

    @classmethod
    def load(cls, checkpoint: str, revision: str | None) -> nn.Module:
        """The pretrained encoder of a public checkpoint or a folder."""
        ...

    def forward(self, input_values: Tensor, input_values_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[N, L] float32 and bool -> frames [N, T, C] and bool [N, T]."""
        ...


ENCODERS: dict[str, type[Any]] = {"whisper": WhisperAudioEncoder}


def encoder_class(name: str) -> type[Any]:
    """The class for an encoder's name (its config's `model_type`); ValueError names the known ones."""
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; known: {', '.join(sorted(ENCODERS))}")
    return ENCODERS[name]
