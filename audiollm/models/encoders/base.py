"""What every encoder shares: waveforms in, windows for long clips, the layers that are listened to, frames out.

A family subclasses transformers' model, and says how its frames follow from samples and how a window is heard.
Not here: cutting and joining (windows.py), several encoders side by side (side_by_side.py).
Shapes: N clips, L samples, M windows, T frames, C width of a layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiollm.models.encoders.windows import Windows, cut_windows, join_windows
from audiollm.models.listening import listening
from audiollm.models.settings import SettingError, Settings

SAMPLING_RATE = 16_000
"""Hz of all clips; an encoder that was trained at another resamples in its front end."""


class WaveformEncoder:
    """Mixin of the families: [N, L] float32 at 16 kHz and a mask to frames [N, T, C] and theirs."""

    sampling_rate: ClassVar[int] = SAMPLING_RATE
    FrontEnd: ClassVar[type[Settings] | None] = None
    """Settings of the front end that a checkpoint's feature extractor has and its config has not (loading.py)."""
    more_sizes: ClassVar[tuple[str, ...]] = ("front_end",)
    """Keys of a config from scratch beside those that its `config_class` has."""
    config_class: Any
    config: Any

    # ------------------------------------------------------------------------------------------- a family says these
    @classmethod
    def stride(cls, config: Mapping[str, Any]) -> int:
        """Samples from one frame to the next."""
        raise NotImplementedError

    @classmethod
    def receptive_field(cls, config: Mapping[str, Any]) -> int:
        """Samples that the front end reads for one frame."""
        return cls.stride(config)

    @classmethod
    def num_frames(cls, config: Mapping[str, Any], num_samples: int) -> int:
        """Frames of a clip, at least one: those that have all their samples, here. Windows do not change it."""
        return max(1, (num_samples - cls.receptive_field(config)) // cls.stride(config) + 1)

    @classmethod
    def max_frames(cls, config: Mapping[str, Any]) -> int | None:
        """Frames that the encoder has positions for; None if there is no such bound."""
        return None

    @classmethod
    def layer_width(cls, config: Mapping[str, Any]) -> int:
        """C of one layer."""
        return int(config["hidden_size"])

    @classmethod
    def num_layers(cls, config: Mapping[str, Any]) -> int:
        """Layers that can be tapped."""
        return int(config["num_hidden_layers"])

    @classmethod
    def load(cls, checkpoint: str, revision: str | None = None) -> Any:
        """The pretrained encoder of a public checkpoint or a folder."""
        library: Any = cls
        return library.from_pretrained(checkpoint, revision=revision or "main", dtype="auto")

    @classmethod
    def frequency(cls, config: Mapping[str, Any]) -> str:
        """What becomes of the frequency axis of frames that have one: mean or join; SettingError if none."""
        raise SettingError(
            "encoder.frequency", "is for encoders whose frames are patches of a spectrogram; leave it out"
        )

    def hear(self, windows_ML: Tensor, lengths_M: Tensor, taps: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Windows to the frames of each tapped layer [M, T, C], or of the end, and their mask [M, T].

        A window's result is its own: what lies after its end must not matter.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------ what follows
    @classmethod
    def frame_rate_hz(cls, config: Mapping[str, Any]) -> float:
        """Frames a second."""
        return cls.sampling_rate / cls.stride(config)

    @classmethod
    def sections(cls, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Widths of the layers that stand side by side in a frame."""
        return (cls.layer_width(config),) * max(1, len(listening(config).taps or ()))

    @classmethod
    def width(cls, config: Mapping[str, Any]) -> int:
        """Width of a frame."""
        return sum(cls.sections(config))

    @classmethod
    def taps(cls, config: Mapping[str, Any]) -> list[int]:
        """Numbers of the tapped layers, from 1; empty where the end is heard. SettingError if one is not there."""
        depth = cls.num_layers(config)
        wanted = listening(config).taps or []
        for tap in wanted:
            if not 1 <= abs(tap) <= depth:
                cause = f"names layer {tap}, which is not there; layers are 1 to {depth}, or -{depth} to -1"
                raise SettingError("encoder.taps", cause)
        return [tap if tap > 0 else depth + 1 + tap for tap in wanted]

    @classmethod
    def windows(cls, config: Mapping[str, Any]) -> Windows | None:
        """How long clips are cut; None where clips are heard whole. SettingError for what cannot be cut so."""
        settings, most, rate = listening(config), cls.max_frames(config), cls.frame_rate_hz(config)
        wanted = round(settings.window_s * rate) if settings.window_s else most
        if most is not None and wanted is not None and wanted > most:
            cause = f"is {settings.window_s}, more than the {most / rate:g} s that it can hear; lower it"
            raise SettingError("encoder.window_s", cause)
        if wanted is None:
            if settings.overlap_s:
                raise SettingError("encoder.overlap_s", "is for windows; give `window_s` too")
            return None
        overlap = round(settings.overlap_s * rate)
        if not 0 <= overlap < max(1, wanted):
            cause = f"is {settings.overlap_s}, and must be less than the window, {wanted / rate:g} s"
            raise SettingError("encoder.overlap_s", cause)
        return Windows(max(1, wanted), max(1, wanted) - overlap, cls.stride(config), cls.receptive_field(config))

    def forward(self, input_values: Tensor, input_values_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[N, L] float32 and its bool mask -> frames [N, T, C] (zero after a clip's end) and bool [N, T]."""
        config = self.config.to_dict()
        lengths_N = input_values_mask.sum(-1)
        taps, cut = self.taps(config), self.windows(config)
        if cut is None:
            states, mask = self.hear(input_values[:, : int(lengths_N.max())], lengths_N, taps)
            return self.side_by_side(states, mask, config), mask
        frames_N = torch.tensor([self.num_frames(config, n) for n in lengths_N.tolist()], device=lengths_N.device)
        windows_ML, lengths_M, kept_NK = cut_windows(input_values, lengths_N, frames_N, cut)
        states, mask_MT = self.hear(windows_ML, lengths_M, taps)
        return join_windows(self.side_by_side(states, mask_MT, config), mask_MT, kept_NK, frames_N, cut)

    def side_by_side(self, states: Sequence[Tensor], mask_MT: Tensor, config: Mapping[str, Any]) -> Tensor:
        """The layers that are heard, joined on the feature axis; zero after a window's end."""
        if listening(config).normalize:
            states = [F.layer_norm(state, state.shape[-1:]) for state in states]
        joined = torch.cat(list(states), dim=-1) if len(states) > 1 else states[0]
        after_MT1 = ~mask_MT[..., None]
        return joined.masked_fill(after_MT1, 0) if joined.requires_grad else joined.masked_fill_(after_MT1, 0)


@contextmanager
def caught(blocks: Any, taps: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """What the tapped layers (from 1) of a list of blocks give, while they run inside another module's forward."""
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[tap - 1].register_forward_hook(keep(tap)) for tap in taps]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def frames_mask(frames_M: Tensor, longest: int) -> Tensor:
    """Bool [M, T], True up to each window's number of frames."""
    return torch.arange(longest, device=frames_M.device) < frames_M[:, None]
